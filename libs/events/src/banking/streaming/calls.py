"""Blocking calls from asyncio that can be given up, for a client of which some never return."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_Result = TypeVar("_Result")


class CallThread:
    """Makes one call after the other in a thread of its own.

    Not an executor: those wait for their threads when the process ends, and one that never returns would keep it.

    Args:
        name: The thread's.
    """

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[tuple[asyncio.Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._waiting: set[asyncio.Future[Any]] = set()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    async def call(self, function: Callable[..., _Result], *arguments: Any) -> _Result:
        """The result of a call, or its error; or the error that it is given up with."""
        future: asyncio.Future[_Result] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        self._calls.put((future, partial(function, *arguments)))
        try:
            return await future
        finally:
            self._waiting.discard(future)

    def give_up(self, error: Exception) -> None:
        """End every call with an error, and the thread as soon as the one that it is in returns, if ever."""
        for future in self._waiting:
            if not future.done():
                future.set_exception(error)
        self._calls.put(None)

    def _run(self) -> None:
        while (item := self._calls.get()) is not None:
            future, call = item
            if future.done():  # given up, or whoever waited was cancelled
                continue
            result, failure = None, None
            try:
                result = call()
            except Exception as error:  # noqa: BLE001 - it is the caller's, who awaits it
                failure = error
            try:
                future.get_loop().call_soon_threadsafe(_settle, future, result, failure)
            except RuntimeError:  # the loop has closed, so nobody waits
                return


def _settle(future: asyncio.Future[Any], result: Any, failure: Exception | None) -> None:
    if future.done():
        return
    if failure is None:
        future.set_result(result)
    else:
        future.set_exception(failure)
