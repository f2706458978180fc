"""The audit: everything that was published, against everything that both stores hold.

In this order, so that a fleet at work is not called broken:

1. how far each leg has come. What it has acknowledged by now its store must hold, or it is a dead letter;
2. the stores, while the topics are read beside them;
3. the letters, and the rest of the topics: whatever a store holds was published before it was read.

What is wrong then is looked at again, by id and in the same order, until nothing more of it turns out to be right: a
page of a store may have been read in the middle of a write, and a letter may have been on its way between two topics.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING

from banking.streaming.entities import EntityType
from banking.streaming.topics import ENTITY_TOPICS, short_name
from verify.entities import LEGS, TYPES, UNKNOWN_TYPE, Key, LetterState
from verify.graph import GraphStore
from verify.index import IndexStore
from verify.judging import DIFFERENCES, Judge, Word, contradiction, is_overtaken
from verify.letters import Letters, noted
from verify.problems import UNREADABLE, describe
from verify.published import to_published
from verify.repairing import write_again
from verify.report import TOPICS, Finding, Report, is_listed
from verify.scratch import Scratch
from verify.topics import EventReader, Topics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from banking.streaming.events import EntityEvent
    from banking.streaming.sink import Leg
    from verify.entities import Place
    from verify.judging import Verdict
    from verify.letters import LetterMessage
    from verify.scratch import Entity
    from verify.stores import Store
    from verify.systems import Systems
    from verify.topics import Acknowledged

_ROUNDS = 4
_PAUSE_SECONDS = 2.0
_LOOK_AT_ONCE = 2000


@dataclass(frozen=True, slots=True)
class Scope:
    """What an audit looks at.

    Attributes:
        entity_types: Of these types.
        prefix: Entities whose ids begin so.
        contents: Whether what the stores hold is compared, and not the hash alone that they keep beside it.
        limit: Entities that are named of each word, type and leg, at most.
        repair: Whether to mend what can be.
    """

    entity_types: tuple[EntityType, ...] = tuple(EntityType)
    prefix: str = ""
    contents: bool = False
    limit: int = 20
    repair: bool = False

    def holds(self, key: Key) -> bool:
        """Whether an entity is in it. What says of no entity which it is belongs to every scope but a narrowed one."""
        return key.entity_id.startswith(self.prefix) and (
            key.entity_type in self.entity_types
            or (len(self.entity_types) == len(EntityType) and key.entity_type in TYPES)
        )


async def run_audit(systems: Systems, scope: Scope, say: Callable[[str], None] = lambda _step: None) -> Report:
    """Audit a running fleet. What cannot be read makes a report with that problem."""
    report = Report(as_of=datetime.now(UTC))
    started = time.monotonic()
    stores = (
        GraphStore(systems.graph, contents=scope.contents),
        IndexStore(systems.vector, scope.entity_types, contents=scope.contents),
    )
    try:
        with Scratch() as scratch:
            async with (
                Topics(systems.letters) as topics,
                EventReader(topics, systems.letters, [ENTITY_TOPICS[kind] for kind in scope.entity_types]) as reader,
            ):
                letters = Letters(topics, systems.letters.broker, systems.letters.archive())
                await _Audit(systems, scope, report, scratch, stores, reader, letters, say).run()
    except* UNREADABLE as errors:
        report.problem = describe(errors)
    finally:
        for store in stores:
            await store.close()
    report.seconds = time.monotonic() - started
    return report


class _Audit:
    """One audit."""

    def __init__(
        self,
        systems: Systems,
        scope: Scope,
        report: Report,
        scratch: Scratch,
        stores: tuple[GraphStore, IndexStore],
        reader: EventReader,
        letters: Letters,
        say: Callable[[str], None],
    ) -> None:
        self._systems = systems
        self._scope = scope
        self._report = report
        self._scratch = scratch
        self._graph = stores[0]
        self._stores: tuple[Store, ...] = stores
        self._reader = reader
        self._letters = letters
        self._say = say

    async def run(self) -> None:
        acknowledged = await self._reader.acknowledged()
        self._report.as_of = datetime.now(UTC)
        self._say("reading the topics and both stores")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._reader.read(self._take_events))
            for store in self._stores:
                tasks.create_task(self._scan(store))
        await self._read_letters()
        await self._reader.read(self._take_events)
        self._say(f"comparing {self._reader.events:,} events")
        await asyncio.to_thread(self._scratch.sort)
        await asyncio.to_thread(self._judge_all, acknowledged)
        await self._look_again()
        await self._note_limits()
        if self._scope.repair:
            self._report.repaired = await self._repair()

    def _take_events(self, events: list[tuple[EntityEvent, Place, int]]) -> None:
        rows = []
        for event, place, published_ms in events:
            key = Key(event.entity_type.value, event.entity_id)
            if self._scope.holds(key):
                rows.append((key, to_published(event, place, published_ms, contents=self._scope.contents)))
        self._scratch.add_published(rows)

    async def _scan(self, store: Store) -> None:
        async for page in store.scan():
            rows = [row for row in page if self._scope.holds(row[0])]
            await asyncio.to_thread(self._scratch.add_held, store.leg, rows)

    async def _read_letters(self) -> None:
        def take(found: Iterator[LetterMessage]) -> None:
            rows = (noted(message.letter, LetterState.WAITING) for message in found)
            self._scratch.add_letters([row for row in rows if row is not None and self._scope.holds(row[0])])

        self._scratch.forget_letters()
        await self._letters.read_waiting(take)
        async for letter in self._letters.archived():
            row = noted(letter, LetterState.ARCHIVED)
            if row is not None and self._scope.holds(row[0]):
                self._scratch.add_letters([row])

    def _judge_all(self, acknowledged: dict[Leg, Acknowledged]) -> None:
        """Count everything that is in order, and put aside what is not."""
        report = self._report
        judges = self._judges(acknowledged)
        suspects: list[Key] = []
        for entity in self._scratch.entities():
            if entity.published:
                report.published[entity.key.entity_type] += 1
                if is_overtaken(entity.published):
                    report.overtaken[entity.key.entity_type] += 1
            verdicts = _verdicts(entity, judges)
            if not _are_wrong(verdicts):
                self._note(entity, verdicts)
                continue
            suspects.append(entity.key)
            if len(suspects) == _LOOK_AT_ONCE:
                self._scratch.suspect(suspects)
                suspects.clear()
        self._scratch.suspect(suspects)

    async def _look_again(self) -> None:
        """Look at what is wrong until that which is left stays so, and note it."""
        left = self._scratch.next_suspects()
        for round_number in range(_ROUNDS):
            if not left:
                return
            self._say(f"looking again at {left:,} entities")
            await asyncio.sleep(_PAUSE_SECONDS if round_number else 0)
            acknowledged = await self._reader.acknowledged()
            for store in self._stores:
                await self._look_in(store)
            await self._read_letters()
            await self._reader.read(self._take_events)
            before, is_last = left, round_number == _ROUNDS - 1
            judges = self._judges(acknowledged)
            await asyncio.to_thread(self._judge_suspects, judges, is_last=is_last)
            left = self._scratch.next_suspects()
            if left == before and round_number > 0 and not is_last:
                # Nothing of it was in motion: what is said of it now holds.
                await asyncio.to_thread(self._judge_suspects, judges, is_last=True)
                return

    def _judge_suspects(self, judges: Sequence[Judge], *, is_last: bool) -> None:
        for entity in self._scratch.entities(suspects=True):
            verdicts = _verdicts(entity, judges)
            if not is_last and _are_wrong(verdicts):
                self._scratch.suspect([entity.key])
            else:
                self._note(entity, verdicts)

    async def _look_in(self, store: Store) -> None:
        keys = self._scratch.suspects()
        while part := list(islice(keys, _LOOK_AT_ONCE)):
            places = [place for key in part for place in self._scratch.places_of(key, store.leg)]
            found = await store.look(part, places)
            self._scratch.replace_held(store.leg, part, found)

    def _judges(self, acknowledged: dict[Leg, Acknowledged]) -> list[Judge]:
        forgotten = self._systems.forgotten_before_ms()
        return [Judge(leg, acknowledged[leg], forgotten) for leg in LEGS]

    def _note(self, entity: Entity, verdicts: Sequence[tuple[Leg, Verdict]]) -> None:
        """Count an entity, and name it where something is wrong with it."""
        report, kind = self._report, entity.key.entity_type
        for leg, verdict in verdicts:
            if verdict.since_ms is not None:
                since = datetime.fromtimestamp(verdict.since_ms / 1000, UTC)
                report.behind_since[leg, kind] = min(since, report.behind_since.get((leg, kind), since))
            repair = self._plan_repair(entity.key, leg, verdict) if self._scope.repair else ""
            self._count(entity.key, leg.value, verdict.word, verdict.detail, repair)
        if entity.published and (problem := contradiction(entity.published)):
            self._count(entity.key, TOPICS, Word.CONTRADICTED, problem)

    def _count(self, key: Key, leg: str, word: Word, detail: str, repair: str = "") -> None:
        counted = self._report.words[leg, key.entity_type, word] + 1
        self._report.words[leg, key.entity_type, word] = counted
        if is_listed(word) and counted <= self._scope.limit:
            self._report.findings.append(Finding(*key, leg, word, detail, repair))

    def _plan_repair(self, key: Key, leg: Leg, verdict: Verdict) -> str:
        """Note what mends something that is wrong; in words what that is."""
        if verdict.word not in DIFFERENCES:
            return ""
        if verdict.mend is not None:
            self._scratch.add_repairs([(verdict.mend.place, leg)])
            return f"{verdict.mend.version} written again"
        if verdict.word is Word.DANGLING and key.entity_type != UNKNOWN_TYPE:
            self._scratch.add_stub(key)
            return "stub removed"
        return "left alone"

    async def _repair(self) -> int:
        """Do what was noted; how many events were written again and stubs removed."""
        self._say("writing again what can be mended")
        repaired = await write_again(self._systems.letters.broker, self._reader.partitions, self._scratch)
        stubs = self._scratch.stubs()
        while part := list(islice(stubs, _LOOK_AT_ONCE)):
            repaired += await self._graph.remove_stubs(part)
        return repaired

    async def _note_limits(self) -> None:
        """Say what of the topics could not be read."""
        report = self._report
        report.events = self._reader.events
        report.unreadable = self._reader.unreadable
        trimmed = await self._reader.trimmed()
        type_of = {topic: entity_type.value for entity_type, topic in ENTITY_TOPICS.items()}
        report.trimmed_types = frozenset(type_of[short_name(partition)] for partition in trimmed)
        for partition, lack in trimmed.items():
            gone = f"{lack.entries:,} of its entries are gone" if lack.entries else "older events may be gone"
            reason = "; the retention is limited" if lack.may_be else ""
            report.notes.append(f"{partition}: {gone}{reason}. What is extra may have been published there")


def _verdicts(entity: Entity, judges: Sequence[Judge]) -> list[tuple[Leg, Verdict]]:
    """What is said of an entity in each store; nothing where neither the topics nor the store have it."""
    return [
        (judge.leg, judge.judge(entity.published, entity.held[judge.leg], entity.letters[judge.leg]))
        for judge in judges
        if entity.published or entity.held[judge.leg]
    ]


def _are_wrong(verdicts: Sequence[tuple[Leg, Verdict]]) -> bool:
    return any(verdict.word in DIFFERENCES for _, verdict in verdicts)
