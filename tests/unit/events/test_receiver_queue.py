"""The length of a subscription's queue follows the sizes of what comes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banking.streaming.events import MAX_EVENT_BYTES
from banking.streaming.receiver_queue import ReceiverQueue

TOPICS = ("persons-events", "accounts-events")
MEBIBYTE = 1024 * 1024


def queue(most=1000, most_bytes=16 * MEBIBYTE):
    return ReceiverQueue(len(TOPICS), most, most_bytes)


def receive(ahead, topic, size, number=1):
    for _ in range(number):
        ahead.note(topic, size)


def follow(ahead, size, rounds=20):
    """Receive whatever is fetched ahead again and again; the lengths it had."""
    lengths = [ahead.length]
    for _ in range(rounds):
        for topic in TOPICS:
            receive(ahead, topic, size, ahead.length)
        if ahead.wanted != ahead.length:
            ahead.resize()
            lengths.append(ahead.length)
    return lengths


def test_it_begins_with_what_fits_were_every_event_of_the_largest_size():
    assert MAX_EVENT_BYTES == 4 * MEBIBYTE
    assert queue().length == 2
    assert queue(most_bytes=64 * MEBIBYTE).length == 8
    assert queue(most_bytes=1024).length == 1
    assert queue(most=3, most_bytes=1024 * MEBIBYTE).length == 3


def test_with_small_events_it_grows_step_by_step_to_the_most():
    assert follow(queue(), 600) == [2, 32, 512, 1000]


def test_nothing_changes_before_as_many_were_seen_as_are_fetched_ahead():
    ahead = queue()
    receive(ahead, TOPICS[0], 600, 3)
    assert ahead.wanted == 2
    receive(ahead, TOPICS[1], 600)
    assert ahead.wanted == 32


def test_large_events_make_it_short_at_once():
    ahead = queue()
    follow(ahead, 600)
    receive(ahead, TOPICS[0], 4 * MEBIBYTE)
    assert ahead.wanted * (4 * MEBIBYTE / 32) * len(TOPICS) <= 16 * MEBIBYTE


def test_each_topic_has_its_own_mean():
    """A thousand of the large ones may wait, however few of those that came were large."""
    ahead = queue()
    follow(ahead, 600)
    receive(ahead, TOPICS[0], 600, 5000)
    receive(ahead, TOPICS[1], 100_000, 300)
    assert 70 < ahead.wanted < 90


@given(size=st.integers(1, MAX_EVENT_BYTES), most_bytes=st.integers(1024, 64 * MEBIBYTE))
def test_events_of_one_size_never_take_more_than_is_allowed(size, most_bytes):
    lengths = follow(queue(most_bytes=most_bytes), size, rounds=8)
    assert all(length == 1 or length * len(TOPICS) * size <= most_bytes for length in lengths)
    assert all(later <= 16 * earlier for earlier, later in pairwise(lengths))


@pytest.mark.parametrize("size", [100, 10_000, 1_000_000])
def test_sizes_that_stay_the_same_let_it_rest(size):
    ahead = queue()
    follow(ahead, size)
    assert follow(ahead, size) == [ahead.length]
