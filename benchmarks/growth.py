"""How the fleet's rate changes as the stores fill, with more replicas, and with larger payloads, batches and queues.

    .venv/bin/python benchmarks/growth.py [filling] [replicas] [payloads] [batches] [queues]
                                          [--events 20000] [--total 1000000]

Brings up a stack of its own, warms it up and removes it again. Every rate is from the first event published to the last
that is settled, and every event is then looked up in both stores. Only `batches` and `queues` are of one leg after the
other, as a process of its own: they change a setting of theirs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from typing import TYPE_CHECKING, Any

from datasets import mixed
from draining import Leg
from draining import stack as bare_stack
from end_to_end import LEGS, RESULTS, drain
from machine import Meter, describe
from rich.console import Console
from rich.table import Table

from banking.streaming.events import create_person_event

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from banking.streaming.events import EntityEvent
    from fleet.compose import Stack

PARTS = ("filling", "replicas", "payloads", "batches", "queues")
REPLICAS = (1, 2, 4)
PAYLOAD_BYTES = (300, 1_000, 10_000, 100_000)
BATCHES = (50, 100, 250, 500, 1000)
QUEUE_MEBIBYTES = (1024, 64, 16, 4)  # the first one bounds nothing
_MOST_BYTES = 100_000_000
_WORDS = [bytes(random.Random(number).choices(b"abcdefghijklmnopqrstuvwxyz", k=8)).decode() for number in range(5000)]

Row = dict[str, Any]


class Growth:
    """One run on one stack.

    Args:
        stack: Whose fleet.
        events: How many are published at a time.
        total: How many the stores hold in the end of `filling`.
    """

    def __init__(self, stack: Stack, events: int, total: int) -> None:
        self._stack = stack
        self._events = events
        self._total = total
        self._seed = int(time.time())

    def warm_up(self) -> None:
        """Both legs and both stores at work once, until their code is compiled."""
        self._scale(1)
        for _ in range(2):
            drain(self._stack, self._mixed(self._events))

    def filling(self) -> Iterator[Row]:
        """Round after round of new entities into the same stores."""
        self._scale(1)
        stored = 0
        while stored < self._total:
            events = self._mixed(min(self._events, self._total - stored))
            rate, usage = drain(self._stack, events)
            stored += len(events)
            micros = {name: used / len(events) * 1e6 for name, used in usage.cpu_seconds.items()}
            yield {"stored": stored, "events/s": rate, **{name: micros[name] for name in ("janusgraph", "opensearch")}}

    def replicas(self) -> Iterator[Row]:
        """The same with several of each leg."""
        for number in REPLICAS:
            self._scale(number)
            rate, usage = drain(self._stack, self._mixed(self._events))
            yield {"replicas": number, "events/s": rate, **{f"{leg}, share": usage.share(leg) for leg in LEGS}}
        self._scale(1)

    def payloads(self) -> Iterator[Row]:
        """Events of one size; the legs are started anew for each, so that their memory is that size's."""
        for size in PAYLOAD_BYTES:
            self._scale(0)
            self._scale(1)
            events = sized(min(self._events, _MOST_BYTES // size), size, self._next_seed())
            rate, _ = drain(self._stack, events)
            peaks = Meter(self._stack).peak_bytes()
            yield {
                "bytes": size,
                "events/s": rate,
                "MB/s": rate * size / 1e6,
                **{f"{leg}, peak MB": peaks[leg] / 1e6 for leg in LEGS},
            }

    def batches(self) -> Iterator[Row]:
        """Each leg alone, with more and more events in a batch."""
        self._scale(0)
        for size in BATCHES:
            yield {"batch": size, **self._alone({"BATCH_MAX_EVENTS": str(size)}, self._mixed(self._events))}

    def queues(self) -> Iterator[Row]:
        """Each leg alone, with fewer and fewer bytes in its receiver queue: of mixed events, and of large ones."""
        self._scale(0)
        large = PAYLOAD_BYTES[-1]
        for mebibytes in QUEUE_MEBIBYTES:
            for size, events in (
                (0, self._mixed(self._events)),
                (large, sized(_MOST_BYTES // large, large, self._next_seed())),
            ):
                setting = {"RECEIVER_QUEUE_BYTES": str(mebibytes * 1024 * 1024)}
                yield {"queue MiB": mebibytes, "payload bytes": size or "mixed", **self._alone(setting, events)}

    def _alone(self, setting: dict[str, str], events: Sequence[EntityEvent]) -> Row:
        """What each leg makes of it as a process of its own, one after the other."""
        row: Row = {}
        for number, service in enumerate(LEGS):
            leg = Leg(service, self._stack, setting)
            row[f"{service}, events/s"] = leg.drain(events, published=number > 0)
            row[f"{service}, peak MB"] = leg.peak_bytes / 1e6
        return row

    def _scale(self, replicas: int) -> None:
        for leg in LEGS:
            self._stack.scale(leg, replicas)

    def _mixed(self, number: int) -> list[EntityEvent]:
        return list(mixed(number, self._next_seed()))

    def _next_seed(self) -> int:
        self._seed += 1
        return self._seed


def sized(number: int, size: int, seed: int) -> list[EntityEvent]:
    """Persons whose payload is about as many bytes long."""
    draw = random.Random(seed)
    words = (size - 60) // 9
    return [
        create_person_event(
            f"{seed}-{index}", f"Ann {index}", {"notes": " ".join(draw.choices(_WORDS, k=words))}, source="benchmark"
        )
        for index in range(number)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--total", type=int, default=1_000_000)
    arguments = parser.parse_args()
    console = Console(width=120)
    found: dict[str, Any] = {"machine": describe(), "events": arguments.events}
    RESULTS.mkdir(exist_ok=True)
    with bare_stack() as stack:
        growth = Growth(stack, arguments.events, arguments.total)
        growth.warm_up()
        for part in arguments.parts or PARTS:
            rows = found[part] = []
            for row in getattr(growth, part)():
                rows.append(row)
                console.print({name: _text(value) for name, value in row.items()})
                (RESULTS / "growth.json").write_text(json.dumps(found, indent=1) + os.linesep, encoding="utf-8")
            show(part, rows, console)


def show(part: str, rows: list[Row], console: Console) -> None:
    """One part as a table."""
    table = Table(*rows[0], title=part)
    for row in rows:
        table.add_row(*map(_text, row.values()))
    console.print(table)


def _text(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.2f}" if value < 10 and isinstance(value, float) else f"{value:,.0f}"


if __name__ == "__main__":
    main()
