"""What an error answer means: try again, wait for the storage, or blame the batch."""

from __future__ import annotations

import pytest

from graph_consumer.failures import is_contention, is_of_storage
from graph_consumer.gremlin import ConnectionFailedError, ResponseError


@pytest.mark.parametrize(
    "error",
    [
        ResponseError(597, "(JE 18.3.12) Deadlock was detected.", ("com.sleepycat.je.DeadlockException",)),
        ResponseError(597, "stayed locked", ("java.lang.RuntimeException", "fleet.WriterBusyException")),
        ResponseError(
            597,
            "Could not successfully complete multi-query. 5 individual queries failed.",
            ("org.janusgraph.core.JanusGraphException",),
        ),
    ],
)
def test_what_another_transaction_did_is_contention(error: ResponseError) -> None:
    assert is_contention(error)


@pytest.mark.parametrize(
    "error",
    [
        ResponseError(598, "evaluation exceeded the configured threshold"),
        ResponseError(597, "gone", ("com.sleepycat.je.EnvironmentFailureException",)),
        ResponseError(500, "away", ("org.janusgraph.diskstorage.TemporaryBackendException",)),
    ],
)
def test_what_the_storage_did_is_not_contention(error: ResponseError) -> None:
    assert is_of_storage(error)
    assert not is_contention(error)


def test_other_errors_are_neither() -> None:
    error = ResponseError(597, "No such property: wrtier", ("groovy.lang.MissingPropertyException",))
    assert not is_contention(error)
    assert not is_of_storage(error)
    assert not is_contention(ConnectionFailedError("gone"))
