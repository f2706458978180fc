"""What the audit says of an entity in a store, by what was published, acknowledged, held and refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banking.streaming.sink import Leg
from verify.entities import Held, LetterState, Place, Published
from verify.judging import DIFFERENCES, Judge, Word, contradiction, is_overtaken

DAY = 86_400_000
NOW = 1_000 * DAY
KEEP = NOW - 30 * DAY
ALL, NOTHING = (lambda _place: True), (lambda _place: False)


def event(version, *, entry=None, at=NOW, deleted=False, content=b"a", graph=b""):
    place = Place(0, 7, version if entry is None else entry, -1)
    return Published(version, place, at, deleted, content, graph)


def held(version, *, place="1", deleted=False, content=b"a", state=b"", referred=False):
    return Held(place, version, deleted, content, state, referred)


def say(published, found, letters=None, acknowledged=ALL):
    return Judge(Leg.GRAPH, acknowledged, KEEP).judge(published, found, letters or {})


def unacknowledged(*versions):
    return lambda place: place.entry not in versions


@pytest.mark.parametrize(
    ("published", "found", "word"),
    [
        ([event(1)], [held(1)], Word.IN_STEP),
        ([event(1), event(2)], [held(2)], Word.IN_STEP),
        ([event(1, deleted=True)], [held(1, deleted=True)], Word.IN_STEP),
        ([event(1), event(1, entry=5)], [held(1)], Word.IN_STEP),
        ([event(1)], [], Word.MISSING),
        ([], [held(3)], Word.EXTRA),
        ([], [held(3, deleted=True)], Word.EXTRA),
        ([event(1)], [held(1), held(1, place="2")], Word.DUPLICATED),
        ([], [held(1), held(None, place="2")], Word.DUPLICATED),
        ([event(1), event(2)], [held(1)], Word.VERSION_DIFFERS),
        ([event(1)], [held(9)], Word.VERSION_DIFFERS),
        ([event(1), event(5)], [held(3)], Word.VERSION_DIFFERS),
        ([event(1)], [held(1, content=b"b")], Word.CONTENT_DIFFERS),
        ([event(1)], [held(1, deleted=True)], Word.CONTENT_DIFFERS),
        ([event(1, graph=b"x")], [held(1, state=b"y")], Word.CONTENT_DIFFERS),
        ([event(1, graph=b"x")], [held(1, state=b"x")], Word.IN_STEP),
        ([event(1), event(2, deleted=True)], [held(2)], Word.RESURRECTED),
        ([event(1), event(2, deleted=True)], [held(1)], Word.RESURRECTED),
        ([event(1)], [held(None, referred=True)], Word.DANGLING),
        ([], [held(None)], Word.DANGLING),
        ([], [held(None, referred=True)], Word.STUB),
    ],
)
def test_a_word_for_each_way_of_being_wrong(published, found, word):
    assert say(published, found).word is word


@pytest.mark.parametrize("found", [[], [held(1)], [held(None, referred=True)], [held(None)]])
def test_what_the_leg_has_not_acknowledged_waits(found):
    published = [event(1), event(2, at=NOW - 5), event(3, at=NOW - 9)]
    expected = unacknowledged(2, 3) if found == [held(1)] else NOTHING
    verdict = say(published, found, acknowledged=expected)
    assert verdict.word is Word.BEHIND
    assert verdict.since_ms == NOW - 9


def test_what_was_acknowledged_once_is_due_however_often_it_is_published_again():
    published = [event(1), event(1, entry=8)]
    assert say(published, [], acknowledged=unacknowledged(8)).word is Word.MISSING
    assert say(published, [], acknowledged=NOTHING).word is Word.BEHIND


@pytest.mark.parametrize("state", list(LetterState))
def test_what_was_refused_is_a_dead_letter_and_not_missing(state):
    verdict = say([event(1), event(2)], [held(1)], {2: state})
    assert verdict.word is Word.DEAD_LETTER
    assert verdict.detail.startswith(state.value)
    assert say([event(1)], [], {1: state}).word is Word.DEAD_LETTER
    assert say([event(1)], [held(None, referred=True)], {1: state}).word is Word.DEAD_LETTER


def test_a_letter_of_the_newest_does_not_excuse_what_came_before_it():
    verdict = say([event(1), event(2), event(3)], [held(1)], {3: LetterState.WAITING})
    assert (verdict.word, verdict.mend.version) == (Word.VERSION_DIFFERS, 2)
    assert say([event(1), event(2)], [held(1, content=b"b")], {2: LetterState.WAITING}).word is Word.CONTENT_DIFFERS


def test_an_old_tombstone_may_be_purged_and_a_young_one_may_not():
    old, young = event(2, at=KEEP - 1, deleted=True), event(2, at=KEEP + 1, deleted=True)
    assert say([event(1, at=1), old], []).word is Word.IN_STEP
    assert say([event(1, at=1), young], []).word is Word.MISSING
    assert say([event(1, at=1), old], [held(1)]).word is Word.RESURRECTED


def test_what_mends_is_the_event_itself_and_a_newer_store_is_left_alone():
    published = [event(1), event(2)]
    assert say(published, []).mend == published[1]
    assert say(published, [held(2, content=b"b")]).mend == published[1]
    assert say(published, [held(9)]).mend is None
    assert say([], [held(9)]).mend is None
    assert say(published, [held(2), held(2, place="2")]).mend is None


def test_two_contents_under_the_newest_version_are_told_and_either_is_accepted():
    published = [event(1, content=b"x"), event(2, content=b"a"), event(2, entry=9, content=b"b")]
    assert contradiction(published)
    assert say(published, [held(2, content=b"b")]).word is Word.IN_STEP
    assert not contradiction([event(1, content=b"a"), event(1, entry=9, content=b"a")])
    assert not contradiction([event(1, content=b"a"), event(1, entry=9, content=b"b"), event(2)])


def test_an_older_version_that_is_published_later_is_overtaken():
    assert is_overtaken([event(1, entry=3), event(2)])
    assert not is_overtaken([event(1), event(2)])
    assert not is_overtaken([event(2), event(2, entry=9)])
    assert say([event(1, entry=9, at=NOW + 1), event(2)], [held(2)]).word is Word.IN_STEP


@st.composite
def histories(draw):
    """Events of one entity as a leg meets them, what it makes of them, and what its store then holds."""
    versions = draw(st.lists(st.integers(0, 6), min_size=1, max_size=8))
    refused = draw(st.sets(st.sampled_from(versions)))
    contents = {version: (draw(st.booleans()), bytes([version])) for version in versions}
    published = [
        event(version, entry=place, deleted=contents[version][0], content=contents[version][1])
        for place, version in enumerate(versions)
    ]
    done = draw(st.integers(0, len(versions)))  # so many are acknowledged
    ahead = draw(st.integers(done, len(versions)))  # and so many are written
    store = []
    for made in published[:ahead]:
        if made.version not in refused and (not store or store[0].version < made.version):
            store = [held(made.version, deleted=made.deleted, content=made.content)]
    letters = {made.version: LetterState.WAITING for made in published[:ahead] if made.version in refused}
    return sorted(published), store, letters, lambda place: place.entry < done


@given(histories())
def test_a_leg_that_keeps_its_promise_is_never_called_wrong(history):
    published, store, letters, acknowledged = history
    assert say(published, store, letters, acknowledged).word not in DIFFERENCES


@given(histories())
def test_a_store_that_loses_what_was_acknowledged_is_always_called_wrong(history):
    published, _, letters, acknowledged = history
    due = [made for made in published if acknowledged(made.place) and made.version not in letters]
    verdict = say(published, [], letters, acknowledged)
    assert (verdict.word in DIFFERENCES) == bool(due)
    if due:
        assert verdict.mend.version == due[-1].version


@given(histories(), st.binary(min_size=2, max_size=4))
def test_a_store_whose_content_was_changed_is_always_called_wrong(history, content):
    published, store, letters, acknowledged = history
    changed = [one._replace(content=content) for one in store]
    verdict = say(published, changed, letters, acknowledged)
    assert (verdict.word in DIFFERENCES) == bool(store)
