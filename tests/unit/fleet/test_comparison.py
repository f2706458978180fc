"""The comparison finds what is missing, old, other, dead or alive; a check that finds nothing proves nothing."""

from __future__ import annotations

import pytest

from banking.streaming.entities import EntityType
from banking.streaming.events import content_hash, create_event, create_person_event
from fleet.comparison import Expectation, compare, wait_until_equal
from fleet.stores import Held

EVENT = create_person_event("p-1", "Ann", source="test", version=5)
HASH = content_hash(EVENT)


class Reader:
    name = "Store"

    def __init__(self, **held):
        self.held = held

    async def lookup(self, entity_type, ids):
        assert entity_type is EntityType.PERSON
        return {entity_id: self.held[entity_id] for entity_id in ids if entity_id in self.held}

    async def close(self):
        """Nothing is open."""


def expectation(*events):
    expected = Expectation()
    expected.add_all(events)
    return expected


async def test_what_is_equal_is_counted():
    comparison = await compare(Reader(**{"p-1": Held(5, HASH, False)}), expectation(EVENT))
    assert (comparison.different, comparison.differences) == (0, [])
    assert comparison.equal == {EntityType.PERSON: 1}


@pytest.mark.parametrize(
    ("held", "problem"),
    [
        ({}, "missing, expected version 5"),
        ({"p-1": Held(4, HASH, False)}, "version 4, expected 5"),
        ({"p-1": Held(5, "other", False)}, "other content under version 5"),
        ({"p-1": Held(5, HASH, True)}, "deleted, expected alive"),
    ],
)
async def test_each_kind_of_difference_is_found_and_named(held, problem):
    comparison = await compare(Reader(**held), expectation(EVENT))
    assert comparison.different == 1
    assert comparison.differences == [f"Store: person p-1: {problem}"]


async def test_a_deleted_entity_that_came_back_is_found():
    gone = create_event("person", "p-1", source="test", event_type="delete", version=6)
    comparison = await compare(Reader(**{"p-1": Held(6, content_hash(gone), False)}), expectation(EVENT, gone))
    assert comparison.differences == ["Store: person p-1: alive, expected deleted"]


async def test_the_newest_of_what_was_published_is_expected_whatever_the_order():
    older = create_person_event("p-1", "Bea", source="test", version=4)
    assert expectation(EVENT, older).entities == expectation(older, EVENT).entities
    assert expectation(older, EVENT).entities[EntityType.PERSON]["p-1"] == Held(5, HASH, False)


async def test_waiting_ends_when_nothing_differs_and_when_time_is_up():
    reader = Reader()
    seen = []

    def progress(comparison):
        seen.append(comparison.different)
        reader.held["p-1"] = Held(5, HASH, False)

    assert (await wait_until_equal(reader, expectation(EVENT), 10, progress)).different == 0
    assert seen == [1, 0]
    assert (await wait_until_equal(Reader(), expectation(EVENT), 0)).different == 1
