"""What an error answer of JanusGraph means, by the names of the Java exceptions behind it."""

from __future__ import annotations

from graph_consumer.gremlin import ResponseError

_CONTENTION_SIGNS = (
    "WriterBusyException",
    "com.sleepycat.je.DeadlockException",
    "com.sleepycat.je.LockConflictException",
    "com.sleepycat.je.LockTimeoutException",
    "com.sleepycat.je.TransactionTimeoutException",
    "LockingException",
)
"""Parts of the names of exceptions by which two transactions got into each other's way."""

_READS_FAILED = "Could not successfully complete multi-query"
"""The message of reads that run side by side when some fail, nearly always by a deadlock: JanusGraph keeps the reasons
to itself."""

_STORAGE_SIGNS = (
    "ForeignEntityException",  # another server still writes some of this batch
    "com.sleepycat.",
    "com.datastax.",
    "org.janusgraph.diskstorage.",
    "java.io.",
    "java.lang.InterruptedException",
    "java.lang.OutOfMemoryError",
    "java.util.concurrent.TimeoutException",
)
"""Parts of the names of exceptions that come from the storage or the servers, never from a row."""

_TIMED_OUT = 598


def is_contention(error: Exception) -> bool:
    """Whether two transactions got into each other's way, readers too: the same request again, after a moment."""
    return isinstance(error, ResponseError) and (_has_sign(error, _CONTENTION_SIGNS) or _READS_FAILED in str(error))


def is_of_storage(error: ResponseError) -> bool:
    """Whether the storage or the machine failed, or the time was up: no row is to blame."""
    return error.code == _TIMED_OUT or _has_sign(error, _STORAGE_SIGNS)


def _has_sign(error: ResponseError, signs: tuple[str, ...]) -> bool:
    return any(sign in name for name in error.exceptions for sign in signs)
