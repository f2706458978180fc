"""What the log of keyed requests says, and the keys themselves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.idempotency import Attempt, Entry, Finished, RequestIndex, key_of
from producer.intake import ControlTotals
from producer.problems import Problem

SECOND = 1_000_000


def began(name, at, number=0):
    return Entry(name, f"{name}-{at}-{number}", at)


def ended(name, at, digest):
    return Entry(name, f"{name}-{at}-end", at, Finished(digest, ControlTotals(read=1, accepted=1), at))


def test_the_first_beginning_and_the_first_end_count():
    index = RequestIndex(60, 10)
    index.apply([began("a", 5), began("a", 7), ended("a", 8, "one"), ended("a", 9, "two"), began("a", 10)])
    assert index.get("a") == Attempt("a", 5, Finished("one", ControlTotals(read=1, accepted=1), 8))
    assert index.get("b") is None


def test_an_end_without_a_beginning_is_nothing():
    index = RequestIndex(60, 10)
    index.apply([ended("a", 8, "one")])
    assert index.get("a") is None


def test_a_key_is_forgotten_after_the_window_of_its_beginning():
    index = RequestIndex(60, 10)
    index.apply([began("a", 0), ended("a", 1, "one"), began("a", 60 * SECOND)])
    assert index.get("a").finished.digest == "one"
    index.apply([began("a", 60 * SECOND + 1)])
    assert index.get("a") == Attempt("a", 60 * SECOND + 1)
    index.apply([began("b", 200 * SECOND)])
    assert (index.get("a"), len(index)) == (None, 1)


def test_the_oldest_keys_are_forgotten_first_when_there_are_too_many():
    index = RequestIndex(60, 2)
    index.apply([began("a", 1), began("b", 2), began("c", 3)])
    assert [name for name in "abc" if index.get(name)] == ["b", "c"]


@given(
    st.lists(
        st.one_of(
            st.builds(began, st.sampled_from("abc"), st.integers(0, 200 * SECOND)),
            st.builds(ended, st.sampled_from("abc"), st.integers(0, 200 * SECOND), st.sampled_from("xy")),
        )
    ),
    st.integers(0, 20),
)
def test_the_same_entries_say_the_same_however_they_are_cut(entries, cut):
    whole, parts = RequestIndex(60, 2), RequestIndex(60, 2)
    whole.apply(entries)
    parts.apply(entries[:cut])
    parts.apply(entries[cut:])
    assert [whole.get(name) for name in "abc"] == [parts.get(name) for name in "abc"]


def test_ids_and_times_follow_from_the_key_its_time_and_the_place():
    attempt = Attempt("name", 1_772_323_200_000_000)
    assert attempt.timestamp(2).isoformat() == "2026-03-01T00:00:00.000002+00:00"
    ids = {attempt.event_id(place) for place in range(100)}
    assert len(ids) == 100
    assert attempt.event_id(7) == Attempt("name", 1_772_323_200_000_000).event_id(7)
    assert attempt.event_id(7) != Attempt("name", 1_772_323_200_000_001).event_id(7)
    assert attempt.event_id(7) != Attempt("other", 1_772_323_200_000_000).event_id(7)


def test_a_key_may_stand_in_quotes_and_belongs_to_its_caller():
    assert key_of([], "me") is None
    assert key_of(['"abc"'], "me") == key_of(["abc"], "me") == key_of([" abc "], "me")
    assert key_of(["abc"], "me") != key_of(["abc"], "you")
    assert key_of(["abc"], "me") != key_of(["abd"], "me")
    assert "abc" not in key_of(["abc"], "me")


@pytest.mark.parametrize("values", [[""], ['""'], ["a", "b"], ["a b"], ['"a'], ["é"], ["x" * 256], ['"a\\"']])
def test_what_is_no_key_is_refused(values):
    with pytest.raises(Problem, match="1 to 255 printable ASCII") as caught:
        key_of(values, "me")
    assert caught.value.status == 400
