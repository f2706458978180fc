"""Reading in a thread of its own, so that a slow file or pipe never holds up the event loop."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

T = TypeVar("T")

_GATHER_SECONDS = 0.005


class ReadAhead(Generic[T]):
    """Gives out what a thread has read meanwhile, in lists: one hop between the threads for all that has gathered.

    Args:
        items: What to read; iterated in the thread, which is a daemon: a blocked read does not hold up the exit.
        weigh: The weight of an item, such as its bytes.
        max_weight: What may be read ahead; one heavier item still goes alone.
    """

    def __init__(self, items: Iterable[T], weigh: Callable[[T], int], max_weight: int = 8 * 1024 * 1024) -> None:
        self._items = items
        self._weigh = weigh
        self._max_weight = max_weight
        self._changed = threading.Condition()
        self._gathered: list[T] = []
        self._weight = 0
        self._finished = False
        self._closed = False
        self._error: BaseException | None = None
        self._woken = False
        self._ready = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def batches(self) -> AsyncIterator[list[T]]:
        """Lists of items, in order. What the reading raises is raised here, after all that was read before."""
        thread = threading.Thread(target=self._run, name="read-ahead", daemon=True)
        thread.start()
        try:
            while True:
                await self._ready.wait()
                if not self._finished:
                    # Waking the loop costs more than an item: let some gather first.
                    await asyncio.sleep(_GATHER_SECONDS)
                self._ready.clear()
                with self._changed:
                    gathered, self._gathered, self._weight = self._gathered, [], 0
                    self._woken = False
                    finished = self._finished
                    self._changed.notify()
                if gathered:
                    yield gathered
                if finished:
                    break
            if self._error is not None:
                raise self._error
        finally:
            with self._changed:
                self._closed = True
                self._changed.notify()

    def end(self) -> None:
        """Let `batches` end, even while the thread waits for a pipe."""
        self._finished = True
        self._ready.set()

    def _run(self) -> None:
        try:
            for item in self._items:
                if not self._put(item):
                    return
        except BaseException as error:  # noqa: BLE001 - it is raised again in the loop
            self._error = error
        with self._changed:
            self._finished = True
        self._wake()

    def _put(self, item: T) -> bool:
        weight = self._weigh(item)
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._weight or self._weight < self._max_weight)
            if self._closed:
                return False
            self._gathered.append(item)
            self._weight += weight
            wake, self._woken = not self._woken, True
        if wake:
            self._wake()
        return True

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._ready.set)
        except RuntimeError:  # the loop has closed, so nobody waits
            self._closed = True
