"""How many messages a client fetches ahead, so that they stay within some bytes, however large they are.

Pulsar's client bounds what it fetches ahead by number alone, for each topic. How large messages are shows once they are
there; so the queue begins with as few as fit at the largest size, and grows while they turn out smaller.
"""

from __future__ import annotations

from banking.streaming.events import MAX_EVENT_BYTES

_GROWTH = 16
"""Sizes seen say little of what is to come: the queue grows by so much at a time."""

_WEIGHT = 1 / 32
"""Of a message in its partition's mean size."""


class ReceiverQueue:
    """The length of the queue of one subscription, which has one for each of its topics.

    Args:
        topics: How many topics.
        most: Messages for each topic, at most.
        most_bytes: What all queues together may hold. One message for each topic is always fetched.

    Attributes:
        length: Messages for each topic.
    """

    def __init__(self, topics: int, most: int, most_bytes: int) -> None:
        self._topics = topics
        self._most = most
        self._most_bytes = most_bytes
        self._means: dict[str, float] = {}
        self._seen = 0
        self.length = self._fitting(MAX_EVENT_BYTES * topics)

    def note(self, partition: str, size: int) -> None:
        """Take the size of a received message into account, in bytes; each partition has a mean of its own."""
        mean = self._means.get(partition, size)
        self._means[partition] = mean + (size - mean) * _WEIGHT
        self._seen += 1

    @property
    def wanted(self) -> int:
        """What the length should be; the present one while that is near enough."""
        if not self._means:
            return self.length
        row_bytes = sum(self._means.values()) * self._topics / len(self._means)  # of a message from each topic
        if self.length * row_bytes > self._most_bytes:
            return self._fitting(2 * row_bytes)  # with room, so that the next change is far
        if self._seen < self.length * self._topics:
            return self.length
        wanted = min(self._fitting(2 * row_bytes), self.length * _GROWTH)
        return wanted if wanted == self._most or wanted >= 2 * self.length else self.length

    def resize(self) -> None:
        """Take the wanted length."""
        self.length = self.wanted
        self._seen = 0

    def _fitting(self, row_bytes: float) -> int:
        return max(1, min(self._most, int(self._most_bytes / row_bytes)))
