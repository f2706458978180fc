"""One entity's story: what was published of it, what each store holds, and its dead letters."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from banking.streaming.events import content_hash
from banking.streaming.topics import ENTITY_TOPICS, short_name
from dlq_worker.inventory import Selection, State, find
from verify.entities import LEGS, Held, Key, LetterState
from verify.graph import GraphStore
from verify.index import IndexStore
from verify.judging import DIFFERENCES, Judge, Word, contradiction
from verify.letters import Letters, event_of
from verify.problems import UNREADABLE, describe
from verify.published import to_published
from verify.report import Status
from verify.topics import EventReader, Topics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from banking.streaming.archive import LetterRecord
    from banking.streaming.entities import EntityType
    from banking.streaming.events import EntityEvent
    from banking.streaming.sink import Leg
    from verify.entities import Place
    from verify.letters import LetterMessage
    from verify.systems import Systems
    from verify.topics import Acknowledged


@dataclass(frozen=True, slots=True)
class EventLine:
    """An event that was published.

    Attributes:
        version: Its version.
        event_type: Create, update or delete.
        event_id: Its id.
        source: Where it comes from.
        event_time: When it happened.
        published: When the broker took it.
        topic: Where it stands, and at which message.
        message_id: The message.
        content_hash: The hash of what it says.
        acknowledged: By which legs.
    """

    version: int
    event_type: str
    event_id: str
    source: str
    event_time: datetime
    published: datetime
    topic: str
    message_id: str
    content_hash: str
    acknowledged: list[Leg]


@dataclass(frozen=True, slots=True)
class HeldLine:
    """A vertex or document: where it stands, and what it says of itself."""

    place: str
    version: int | None
    deleted: bool
    content_hash: str


@dataclass(frozen=True, slots=True)
class StoreLine:
    """What is said of the entity in a store, and what that holds."""

    leg: Leg
    word: Word
    detail: str
    held: list[HeldLine]


@dataclass(frozen=True, slots=True)
class LetterLine:
    """A dead letter, as a topic or the archive holds it.

    Attributes:
        leg: Who refused it.
        version: The event's version; None where the archive's manifest does not tell.
        where: The topic, or the archive.
        state: `waiting`, `settled`, `archived` or `replayed`.
        attempt: How many retries it has had.
        reason: Why it was refused.
        error: And more closely.
        first_failure: When it was first refused.
        last_failure: When it was last refused.
        letter_id: Its id.
    """

    leg: str
    version: int | None
    where: str
    state: str
    attempt: int
    reason: str
    error: str
    first_failure: datetime
    last_failure: datetime
    letter_id: str


@dataclass(slots=True)
class EntityStory:
    """All that is known of one entity."""

    entity_type: str
    entity_id: str
    events: list[EventLine] = field(default_factory=list)
    stores: list[StoreLine] = field(default_factory=list)
    letters: list[LetterLine] = field(default_factory=list)
    contradiction: str = ""


@dataclass(slots=True)
class Story:
    """The entities of one id, since one id under two types is two entities.

    Attributes:
        entity_id: The id.
        as_of: The moment of which it is told.
        entities: Those of which anything is known.
        problem: Why nothing can be said; empty where something can.
    """

    entity_id: str
    as_of: datetime
    entities: list[EntityStory] = field(default_factory=list)
    problem: str = ""

    @property
    def status(self) -> Status:
        """What it comes to."""
        if self.problem or not self.entities:
            return Status.NOT_JUDGED
        wrong = any(
            entity.contradiction or any(store.word in DIFFERENCES for store in entity.stores)
            for entity in self.entities
        )
        return Status.DIFFERENCES if wrong else Status.IN_STEP


async def run_trace(
    systems: Systems,
    entity_id: str,
    entity_types: Sequence[EntityType],
    say: Callable[[str], None] = lambda _step: None,
) -> Story:
    """Tell the story of an id. What cannot be read makes a story with that problem."""
    story = Story(entity_id, datetime.now(UTC))
    graph, index = GraphStore(systems.graph), IndexStore(systems.vector, entity_types)
    try:
        async with (
            Topics(systems.letters) as topics,
            EventReader(topics, systems.letters, [ENTITY_TOPICS[kind] for kind in entity_types], entity_id) as reader,
        ):
            letters = Letters(topics, systems.letters.broker, systems.letters.archive())
            await _Trace(systems, story, entity_types, reader, letters, say).run(graph, index)
        if not story.entities:
            story.problem = f"nothing is known of {entity_id}"
    except* UNREADABLE as errors:
        story.problem = describe(errors)
    finally:
        await graph.close()
        await index.close()
    return story


class _Trace:
    """One story in the making."""

    def __init__(
        self,
        systems: Systems,
        story: Story,
        entity_types: Sequence[EntityType],
        reader: EventReader,
        letters: Letters,
        say: Callable[[str], None],
    ) -> None:
        self._systems = systems
        self._story = story
        self._types = entity_types
        self._reader = reader
        self._letters = letters
        self._say = say
        self._events: list[tuple[EntityEvent, Place, int]] = []
        self._letter_lines: list[tuple[str, LetterLine]] = []

    async def run(self, graph: GraphStore, index: IndexStore) -> None:
        """Read in the order of an audit, then tell."""
        acknowledged = await self._reader.acknowledged()
        keys = [Key(kind.value, self._story.entity_id) for kind in self._types]
        held = {store.leg: await store.look(keys, []) for store in (graph, index)}
        self._say("reading the letters")
        await self._letters.read_waiting(self._take_letters, settled=True)
        self._say("reading the topics")
        await self._reader.read(self._take_events)
        await self._read_archive()
        for key in keys:
            self._tell(
                key, acknowledged, {leg: [row for found, row in rows if found == key] for leg, rows in held.items()}
            )

    def _take_events(self, events: list[tuple[EntityEvent, Place, int]]) -> None:
        self._events += [row for row in events if row[0].entity_id == self._story.entity_id]

    def _take_letters(self, found: Iterator[LetterMessage]) -> None:
        for message in found:
            letter = message.letter
            event = event_of(letter)
            if event is None or event.entity_id != self._story.entity_id:
                continue
            line = LetterLine(
                letter.leg.value,
                event.version,
                f"{message.topic} {message.message_id}",
                "waiting" if message.waits else "settled",
                letter.attempt,
                letter.reason.value,
                letter.error,
                letter.first_failure,
                letter.last_failure,
                letter.letter_id,
            )
            if (event.entity_type.value, line) not in self._letter_lines:  # the dead-letter topic is looked at twice
                self._letter_lines.append((event.entity_type.value, line))

    async def _read_archive(self) -> None:
        """Letters of the archive by their manifests alone: by key, or by an event that the topics have."""
        versions = {event.event_id: event.version for event, _, _ in self._events}
        kinds = frozenset(kind.value for kind in self._types)
        for letter in await find(self._letters.archive, Selection(entity_types=kinds)):
            record = letter.record
            if record.key != self._story.entity_id and record.event_id not in versions:
                continue
            state = "archived" if letter.state is State.WAITING else "replayed"
            version = versions.get(record.event_id or "")
            self._letter_lines.append((record.entity_type, _archived_line(record, version, state)))

    def _tell(self, key: Key, acknowledged: Mapping[Leg, Acknowledged], held: Mapping[Leg, list[Held]]) -> None:
        rows = sorted((row for row in self._events if row[0].entity_type == key.entity_type), key=lambda row: row[1])
        letters = sorted(
            (line for kind, line in self._letter_lines if kind == key.entity_type), key=lambda line: line.last_failure
        )
        if not rows and not letters and not any(held.values()):
            return
        story = EntityStory(*key, letters=letters)
        story.events = [self._event_line(row, acknowledged) for row in rows]
        published = sorted(to_published(*row, contents=False) for row in rows)
        for leg in LEGS:
            judge = Judge(leg, acknowledged[leg], self._systems.forgotten_before_ms())
            verdict = judge.judge(published, held[leg], _states(letters, leg))
            lines = [HeldLine(one.place, one.version, one.deleted, one.content.hex()) for one in held[leg]]
            story.stores.append(StoreLine(leg, verdict.word, verdict.detail, lines))
        story.contradiction = contradiction(published) if published else ""
        self._story.entities.append(story)

    def _event_line(self, row: tuple[EntityEvent, Place, int], acknowledged: Mapping[Leg, Acknowledged]) -> EventLine:
        event, place, published_ms = row
        topic = self._reader.partitions[place.partition]
        number = topic.removeprefix(f"{short_name(topic)}-partition-") if topic != short_name(topic) else "-1"
        return EventLine(
            event.version,
            event.event_type.value,
            event.event_id,
            event.source,
            event.timestamp,
            datetime.fromtimestamp(published_ms / 1000, UTC),
            topic,
            f"({place.ledger},{place.entry},{number},{place.batch})",
            content_hash(event),
            [leg for leg in LEGS if acknowledged[leg](place)],
        )


def _archived_line(record: LetterRecord, version: int | None, state: str) -> LetterLine:
    return LetterLine(
        record.leg or "",
        version,
        "archive",
        state,
        record.attempt,
        record.reason,
        record.error,
        record.first_failure,
        record.last_failure,
        record.letter_id,
    )


def _states(letters: Sequence[LetterLine], leg: Leg) -> dict[int, LetterState]:
    """The letters of a leg that are not settled, by version; what waits and is archived too, waits."""
    states: dict[int, LetterState] = {}
    for line in letters:
        if line.leg == leg and line.version is not None and line.state in set(LetterState):
            state = LetterState(line.state)
            states[line.version] = min(state, states.get(line.version, state), key=list(LetterState).index)
    return states
