"""How far a reindex is: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from rich.console import Console

    from vector_consumer.copying import Progress

_LINE_SECONDS = 5.0


class ReindexDisplay:
    """Shows what a `Reindexer` tells.

    Args:
        console: Where to.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._spoken: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def say(self, sentence: str) -> None:
        """Print a line."""
        self._console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    def show(self, progress: Progress) -> None:
        """Tell how far one index is."""
        name = f"{progress.source} → {progress.target}"
        if self._console.is_terminal:
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(name)
            self._bars.update(self._tasks[name], completed=progress.done, total=progress.total)
            return
        now = time.monotonic()
        if progress.done >= progress.total or now - self._spoken.get(name, -_LINE_SECONDS) >= _LINE_SECONDS:
            self._spoken[name] = now
            self.say(f"{name}: {progress.done:,} of {progress.total:,} documents")
