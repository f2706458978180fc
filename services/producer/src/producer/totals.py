"""A producer that keeps the hash of the ids that the broker has stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from banking.streaming.producer import EntityProducer, EventsNotPublishedError, FlushTimeoutError
from producer.intake import IdHash

if TYPE_CHECKING:
    from banking.streaming.broker import BrokerOptions
    from banking.streaming.events import EntityEvent


class TotallingProducer(EntityProducer):
    """An `EntityProducer` for the generator, whose summary is checked like that of a file.

    Args:
        broker: How to reach the broker.
    """

    def __init__(self, broker: BrokerOptions) -> None:
        super().__init__(broker=broker)
        self._ids = IdHash()
        self._known = True

    @property
    def accepted_ids_hash(self) -> str | None:
        """The hash of the accepted ids, as `ControlTotals` has it; None where not every failed event is known."""
        return self._ids.hex() if self._known else None

    def send(self, event: EntityEvent) -> None:
        """Hand one event over; its id counts unless a `flush` says that it failed."""
        super().send(event)
        self._ids.add(event.entity_id)

    def flush(self, timeout_seconds: float = 30.0) -> None:
        """Wait for the receipts, and take out the ids of the events that failed."""
        try:
            super().flush(timeout_seconds)
        except EventsNotPublishedError as error:
            for failure in error.report.failures:
                self._ids.remove(failure.entity_id)
            self._known = self._known and error.report.failed == len(error.report.failures)
            raise
        except FlushTimeoutError:
            self._known = False
            raise
