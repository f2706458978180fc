"""The audit's memory on disk: a temporary SQLite file that is read back in the order of the entities.

What is read comes in any order and is more than memory holds. It is appended, sorted once, and from then on every
entity is one group of neighbouring rows. Safe to write to from several threads.
"""

from __future__ import annotations

import sqlite3
import threading
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from banking.streaming.sink import Leg
from verify.entities import LEGS, Held, Key, LetterState, Place, Published

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from types import TracebackType

    _Row = tuple[Any, ...]
    _Group = tuple[Key, list[_Row]]

_CACHE_KIBIBYTES = 32 * 1024
_ROWS_AT_ONCE = 5000

_PUBLISHED = "type, id, version, part, ledger, entry, batch, at, deleted, content, graph_state, vector_state"
_LETTER = "type, id, leg, version, state"
_HELD = "type, id, leg, place, version, deleted, content, state, referred"

_TABLES = f"""
CREATE TABLE published_raw ({_PUBLISHED});
CREATE TABLE held_raw ({_HELD});
CREATE TABLE published ({_PUBLISHED}, PRIMARY KEY (type, id, version, part, ledger, entry, batch)) WITHOUT ROWID;
CREATE TABLE held ({_HELD}, PRIMARY KEY (type, id, leg, place)) WITHOUT ROWID;
CREATE TABLE letters (type, id, leg, version, state, PRIMARY KEY (type, id, leg, version)) WITHOUT ROWID;
CREATE TABLE suspects (type, id, PRIMARY KEY (type, id)) WITHOUT ROWID;
CREATE TABLE next_suspects (type, id, PRIMARY KEY (type, id)) WITHOUT ROWID;
CREATE TABLE stubs (type, id, PRIMARY KEY (type, id)) WITHOUT ROWID;
CREATE TABLE repairs (part, ledger, entry, batch, leg, PRIMARY KEY (part, ledger, entry, batch, leg)) WITHOUT ROWID;
"""


class Entity(NamedTuple):
    """All that is known of one entity.

    Attributes:
        key: Its identity.
        published: Its events, by version and then by place.
        held: What each store holds of it.
        letters: Each leg's dead letters of it, by version.
    """

    key: Key
    published: list[Published]
    held: Mapping[Leg, list[Held]]
    letters: Mapping[Leg, dict[int, LetterState]]


class Scratch:
    """The audit's tables, in the system's folder for temporary files. They are gone however the audit ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Without a name it is a file that is unlinked as soon as it is open.
        self._database = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._database.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA temp_store=FILE;"
            f"PRAGMA cache_size=-{_CACHE_KIBIBYTES}; {_TABLES}"
        )
        self._sorted = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A thread may be at work still, when what waited for it was cancelled: to close beside it ends the process.
        self._database.interrupt()
        with self._lock:
            self._database.close()

    @property
    def size_bytes(self) -> int:
        """How large it is."""
        ((pages, page_bytes),) = self._query("SELECT * FROM pragma_page_count, pragma_page_size")
        return int(pages) * int(page_bytes)

    def add_published(self, events: Sequence[tuple[Key, Published]]) -> None:
        """Note events of the topics."""
        self._insert("published", _PUBLISHED, ((*key, *_event_row(event)) for key, event in events))

    def add_held(self, leg: Leg, rows: Sequence[tuple[Key, Held]]) -> None:
        """Note vertices or documents."""
        self._insert("held", _HELD, ((*key, leg.value, *row) for key, row in rows))

    def add_letters(self, letters: Iterable[tuple[Key, Leg, int, LetterState]]) -> None:
        """Note dead letters; one that waits and is in the archive too, waits."""
        with self._lock:
            self._database.execute("BEGIN")
            self._database.executemany(
                "INSERT INTO letters VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET state = excluded.state "
                "WHERE excluded.state = 'waiting'",
                ((*key, leg.value, version, state.value) for key, leg, version, state in letters),
            )
            self._database.execute("COMMIT")

    def forget_letters(self) -> None:
        """Forget the letters: they are about to be read anew."""
        self._run("DELETE FROM letters")

    def sort(self) -> None:
        """Bring what was read into the order of the entities; what comes later is put in its place."""
        for table, columns in (("published", _PUBLISHED), ("held", _HELD)):
            # A page that was asked for again stands twice.
            self._run(f"INSERT OR IGNORE INTO {table} SELECT {columns} FROM {table}_raw ORDER BY type, id")  # noqa: S608
            self._run(f"DROP TABLE {table}_raw")
        self._sorted = True

    def suspect(self, keys: Iterable[Key]) -> None:
        """Note entities that are to be looked at again, once `next_suspects` was called."""
        with self._lock:
            self._database.executemany("INSERT OR IGNORE INTO next_suspects VALUES (?, ?)", keys)

    def next_suspects(self) -> int:
        """Make those that were noted since the last call the ones that are looked at; how many they are."""
        self._run("DELETE FROM suspects")
        self._run("INSERT INTO suspects SELECT * FROM next_suspects")
        self._run("DELETE FROM next_suspects")
        ((count,),) = self._query("SELECT count(*) FROM suspects")
        return int(str(count))

    def suspects(self) -> Iterator[Key]:
        """The entities that are looked at again, in order."""
        return (Key(*row) for row in self._query("SELECT type, id FROM suspects ORDER BY type, id"))

    def places_of(self, key: Key, leg: Leg) -> list[str]:
        """Where a store had this entity when it was last read."""
        rows = self._query("SELECT place FROM held WHERE type = ? AND id = ? AND leg = ?", (*key, leg.value))
        return [place for (place,) in rows]

    def replace_held(self, leg: Leg, keys: Sequence[Key], rows: Sequence[tuple[Key, Held]]) -> None:
        """Put what a store holds of some entities in place of what it held."""
        with self._lock:
            self._database.executemany(
                f"DELETE FROM held WHERE type = ? AND id = ? AND leg = '{leg.value}'",  # noqa: S608 - a fixed word
                keys,
            )
        self.add_held(leg, rows)

    def entities(self, *, suspects: bool = False) -> Iterator[Entity]:
        """Every entity in order, or only those that are looked at again."""
        # A cross join is done from left to right, so that the order is there already.
        source = "suspects CROSS JOIN {} USING (type, id)" if suspects else "{}"
        published = self._groups(f"SELECT {_PUBLISHED} FROM {source.format('published')} ORDER BY type, id")  # noqa: S608
        held = self._groups(f"SELECT {_HELD} FROM {source.format('held')} ORDER BY type, id")  # noqa: S608
        letters = self._groups(f"SELECT {_LETTER} FROM {source.format('letters')} ORDER BY type, id")  # noqa: S608
        return _merged(published, held, letters)

    def add_repairs(self, repairs: Iterable[tuple[Place, Leg]]) -> None:
        """Note events that are to be written again."""
        with self._lock:
            self._database.executemany(
                "INSERT OR IGNORE INTO repairs VALUES (?, ?, ?, ?, ?)", ((*place, leg.value) for place, leg in repairs)
            )

    def add_stub(self, key: Key) -> None:
        """Note an endpoint that is to be removed."""
        with self._lock:
            self._database.execute("INSERT OR IGNORE INTO stubs VALUES (?, ?)", key)

    def stubs(self) -> Iterator[Key]:
        """The endpoints that are to be removed."""
        return (Key(*row) for row in self._query("SELECT type, id FROM stubs ORDER BY type, id"))

    def repairs(self, partition: int) -> Iterator[tuple[Place, Leg]]:
        """The events of a partition that are to be written again, in order."""
        rows = self._query("SELECT * FROM repairs WHERE part = ? ORDER BY ledger, entry, batch, leg", (partition,))
        return ((Place(*row[:4]), Leg(row[4])) for row in rows)

    def _insert(self, table: str, columns: str, rows: Iterable[tuple[object, ...]]) -> None:
        marks = ", ".join("?" * (columns.count(",") + 1))
        target = table if self._sorted else f"{table}_raw"
        with self._lock:
            self._database.execute("BEGIN")
            self._database.executemany(f"INSERT OR REPLACE INTO {target} VALUES ({marks})", rows)  # noqa: S608
            self._database.execute("COMMIT")

    def _run(self, statement: str) -> None:
        with self._lock:
            self._database.execute(statement)

    def _query(self, statement: str, values: Sequence[object] = ()) -> Iterator[_Row]:
        """Rows, some at a time, so that nobody else waits for long."""
        cursor = self._database.cursor()
        with self._lock:
            cursor.execute(statement, values)
        while True:
            with self._lock:
                rows = cursor.fetchmany(_ROWS_AT_ONCE)
            if not rows:
                return
            yield from rows

    def _groups(self, statement: str) -> Iterator[_Group]:
        """Rows that begin with type and id, by entity."""
        for key, rows in groupby(self._query(statement), key=itemgetter(0, 1)):
            yield Key(*key), [row[2:] for row in rows]


def _merged(published: Iterator[_Group], held: Iterator[_Group], letters: Iterator[_Group]) -> Iterator[Entity]:
    """What three tables say, entity by entity."""
    sources = (published, held, letters)
    heads = [next(source, None) for source in sources]
    while left := [head[0] for head in heads if head is not None]:
        key = min(left)
        rows: list[list[_Row]] = [[], [], []]
        for index, head in enumerate(heads):
            if head is not None and head[0] == key:
                rows[index] = head[1]
                heads[index] = next(sources[index], None)
        yield Entity(key, [_event_of(row) for row in rows[0]], _held_of(rows[1]), _letters_of(rows[2]))


def _event_row(event: Published) -> _Row:
    place = event.place
    states = (event.content, event.graph_state, event.vector_state)
    return (event.version, *place, event.published_ms, event.deleted, *states)


def _event_of(row: _Row) -> Published:
    version, part, ledger, entry, batch, at, deleted, *states = row
    return Published(version, Place(part, ledger, entry, batch), at, bool(deleted), *states)


def _held_of(rows: list[_Row]) -> dict[Leg, list[Held]]:
    held: dict[Leg, list[Held]] = {leg: [] for leg in LEGS}
    for leg, place, version, deleted, content, state, referred in rows:
        held[Leg(leg)].append(Held(place, version, bool(deleted), content, state, bool(referred)))
    return held


def _letters_of(rows: list[_Row]) -> dict[Leg, dict[int, LetterState]]:
    letters: dict[Leg, dict[int, LetterState]] = {leg: {} for leg in LEGS}
    for leg, version, state in rows:
        letters[Leg(leg)][version] = LetterState(state)
    return letters
