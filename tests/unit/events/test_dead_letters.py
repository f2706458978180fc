"""A dead letter keeps its bytes, its key and its history through every hop."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

import pytest

from banking.streaming.dead_letters import MAX_ERROR_BYTES, received_letter, rejected_letter, retried_letter
from banking.streaming.sink import Leg, RejectionReason
from banking.streaming.testing import InMemorySource

FIRST = datetime(2026, 1, 1, tzinfo=UTC)


def hop(message):
    """What the other side receives of a message."""
    return InMemorySource().put(message.data, topic=message.topic, key=message.key, properties=message.properties)


def test_a_letter_keeps_its_id_and_its_first_failure_through_every_retry():
    data = b"\xff"
    delivery = InMemorySource().put(data, topic="persistent://public/banking/persons-events", key="p-1")
    letter = rejected_letter(delivery, Leg.VECTOR, RejectionReason.INVALID_FIELD, "email: no text", FIRST)
    assert letter.letter_id == f"vector:persons-events:1:{hashlib.blake2b(data, digest_size=4).hexdigest()}"
    received = received_letter(hop(letter.to_dead_letter_message()))
    assert received == letter
    retry = received.to_retry_message(timedelta(seconds=60))
    assert (retry.topic, retry.data, retry.key) == ("vector-retry-events", b"\xff", "p-1")
    assert retry.deliver_after == timedelta(seconds=60)
    again = rejected_letter(hop(retry), Leg.VECTOR, RejectionReason.REFUSED_BY_STORE, "still", FIRST + timedelta(1))
    assert (again.letter_id, again.topic, again.attempt) == (letter.letter_id, "persons-events", 1)
    assert (again.first_failure, again.last_failure) == (FIRST, FIRST + timedelta(1))
    assert again.reason is RejectionReason.REFUSED_BY_STORE


def test_a_broker_that_counts_its_messages_anew_makes_no_ids_that_were_there_before():
    """As after its volume was lost, while the archive still holds the letters of before."""
    before, after = (InMemorySource().put(data, topic="persons-events") for data in (b"old", b"new"))
    assert before.message_id == after.message_id
    ids = {rejected_letter(one, Leg.GRAPH, RejectionReason.UNDECODABLE, "e").letter_id for one in (before, after)}
    assert len(ids) == 2


def test_properties_on_an_entity_topic_are_not_believed():
    forged = {"dlq-attempt": "3", "dlq-letter-id": "x"}
    delivery = InMemorySource().put(b"x", topic="persons-events", properties=forged)
    assert retried_letter(delivery) is None
    assert rejected_letter(delivery, Leg.GRAPH, RejectionReason.UNDECODABLE, "e").attempt == 0


def test_a_message_put_on_a_retry_topic_by_hand_starts_its_own_history():
    delivery = InMemorySource().put(b"x", topic="graph-retry-events", properties={"dlq-attempt": "many"})
    assert rejected_letter(delivery, Leg.GRAPH, RejectionReason.UNDECODABLE, "e").attempt == 0


def test_a_message_without_the_properties_is_named_as_no_letter():
    with pytest.raises(ValueError, match="dlq-letter-id is missing"):
        received_letter(InMemorySource().put(b"x", topic="dlq-events"))


def test_a_long_error_is_cut_between_characters():
    delivery = InMemorySource().put(b"x")
    error = rejected_letter(delivery, Leg.GRAPH, RejectionReason.UNDECODABLE, "ä" * 2000).error
    assert len(error.encode()) <= MAX_ERROR_BYTES
    assert error == "ä" * 512


def test_a_key_of_megabytes_is_cut_so_that_the_letter_can_be_stored():
    delivery = InMemorySource().put(b"x", topic="persons-events", key="k" * 5_000_000)
    assert rejected_letter(delivery, Leg.GRAPH, RejectionReason.UNDECODABLE, "e").key == "k" * 1024
