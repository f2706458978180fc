"""What a store offers to the audit: all that it holds, page by page, and what it holds of some entities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from banking.streaming.sink import Leg
    from verify.entities import Held, Key


class UnreadableStoreError(Exception):
    """A store that cannot be read, so that nothing can be said of it; the message says why."""


class Store(Protocol):
    """One of the two stores; both raise `UnreadableStoreError`."""

    leg: Leg

    def scan(self) -> AsyncIterator[Sequence[tuple[Key, Held]]]:
        """All that it holds, by no index that might hide something."""

    async def look(self, keys: Sequence[Key], places: Sequence[str]) -> Sequence[tuple[Key, Held]]:
        """What it holds of some entities now, and at the places where it had them."""

    async def close(self) -> None:
        """Release connections."""
