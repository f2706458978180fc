"""What keeps an audit from judging: something that cannot be read."""

from __future__ import annotations

from banking.streaming.archive import ArchiveUnavailableError
from banking.streaming.broker import BrokerError
from verify.stores import UnreadableStoreError

UNREADABLE = (BrokerError, ArchiveUnavailableError, UnreadableStoreError)
"""The errors of the broker, of the archive and of the stores."""


def describe(errors: BaseExceptionGroup[Exception]) -> str:
    """The first of them; where several things are read side by side, the others often follow from it."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error)
