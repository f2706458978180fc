"""The audit's tables: in whatever order they are filled, they come back entity by entity."""

from __future__ import annotations

import random
import sqlite3
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banking.streaming.sink import Leg
from verify.entities import Held, Key, LetterState, Place, Published
from verify.scratch import Scratch


def published(version, entry):
    return Published(version, Place(0, 1, entry, -1), 5, False, b"c", b"g", b"v")


KEYS = st.builds(Key, st.sampled_from(["person", "account"]), st.text("ab~!", min_size=1, max_size=3))


@given(
    st.dictionaries(KEYS, st.lists(st.integers(0, 5), max_size=4), max_size=12),
    st.dictionaries(KEYS, st.sampled_from([1, 2, None]), max_size=12),
    st.randoms(use_true_random=False),
)
def test_entities_come_back_whole_and_in_order(events, vertices, chance):
    rows = [
        (key, published(version, place)) for key, versions in events.items() for place, version in enumerate(versions)
    ]
    late = [row for row in rows if chance.random() < 0.3]
    early = [row for row in rows if row not in late]
    chance.shuffle(early)
    with Scratch() as scratch:
        scratch.add_published(early)
        scratch.add_held(Leg.GRAPH, [(key, Held("1", version, content=b"c")) for key, version in vertices.items()])
        scratch.sort()
        scratch.add_published(late)
        found = list(scratch.entities())
    assert [entity.key for entity in found] == sorted({key for key, _ in rows} | vertices.keys())
    for entity in found:
        assert [one.version for one in entity.published] == sorted(events.get(entity.key, []))
        assert [one.version for one in entity.held[Leg.GRAPH]] == (
            [vertices[entity.key]] if entity.key in vertices else []
        )
        assert entity.held[Leg.VECTOR] == []


def test_what_is_looked_at_again_takes_the_place_of_what_was_held():
    ann, bob = Key("person", "ann"), Key("person", "bob")
    with Scratch() as scratch:
        scratch.add_held(Leg.GRAPH, [(ann, Held("1", 1)), (ann, Held("2", 1)), (bob, Held("3", 1))])
        scratch.add_held(Leg.VECTOR, [(ann, Held("ann", 1))])
        scratch.sort()
        scratch.suspect([ann])
        assert scratch.next_suspects() == 1
        assert scratch.places_of(ann, Leg.GRAPH) == ["1", "2"]
        scratch.replace_held(Leg.GRAPH, [ann], [(ann, Held("2", 4))])
        (entity,) = scratch.entities(suspects=True)
        assert entity.key == ann
        assert entity.held == {Leg.GRAPH: [Held("2", 4)], Leg.VECTOR: [Held("ann", 1)]}
        assert [one.key for one in scratch.entities()] == [ann, bob]
        assert scratch.next_suspects() == 0


def test_a_letter_that_waits_and_is_archived_too_waits():
    ann = Key("person", "ann")
    with Scratch() as scratch:
        scratch.add_letters([(ann, Leg.GRAPH, 1, LetterState.WAITING), (ann, Leg.VECTOR, 1, LetterState.ARCHIVED)])
        scratch.add_letters([(ann, Leg.GRAPH, 1, LetterState.ARCHIVED), (ann, Leg.VECTOR, 1, LetterState.WAITING)])
        scratch.sort()
        (entity,) = scratch.entities()
        assert entity.letters == {Leg.GRAPH: {1: LetterState.WAITING}, Leg.VECTOR: {1: LetterState.WAITING}}
        scratch.forget_letters()
        assert list(scratch.entities()) == []


def test_repairs_come_back_in_the_order_of_the_topic():
    places = [Place(0, ledger, entry, batch) for ledger in (3, 12) for entry in (2, 10) for batch in (-1, 0, 11)]
    shuffled = random.Random(1).sample(places, len(places))
    with Scratch() as scratch:
        scratch.add_repairs((place, Leg.GRAPH) for place in shuffled)
        scratch.add_repairs([(places[0], Leg.VECTOR), (Place(1, 1, 1, 1), Leg.GRAPH), (places[0], Leg.GRAPH)])
        assert list(scratch.repairs(0)) == [
            (places[0], Leg.GRAPH),
            (places[0], Leg.VECTOR),
            *((place, Leg.GRAPH) for place in places[1:]),
        ]


def test_the_file_grows_and_memory_does_not():
    with Scratch() as scratch:
        before = scratch.size_bytes
        scratch.add_published([(Key("person", f"{number:036}"), published(1, number)) for number in range(20_000)])
        scratch.sort()
        assert scratch.size_bytes > before + 20_000 * 60
        assert sum(1 for _ in scratch.entities()) == 20_000


def test_an_audit_that_is_broken_off_ends_what_a_thread_does_with_it():
    """Closed beside a statement at work, SQLite would take the process along."""
    errors = []

    def sort(scratch):
        try:
            scratch.sort()
        except sqlite3.Error as error:
            errors.append(str(error))

    with Scratch() as scratch:
        scratch.add_held(Leg.GRAPH, [(Key("person", f"{number % 7919:05}"), Held("1", 1)) for number in range(200_000)])
        working = threading.Thread(target=sort, args=[scratch])
        working.start()
        working.join(0.05)
        assert working.is_alive()
    working.join(30)
    assert len(errors) == 1
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        scratch.forget_letters()
