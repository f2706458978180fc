"""Names and keys of the topics."""

from __future__ import annotations

from banking.streaming.entities import EntityType
from banking.streaming.topics import ENTITY_TOPICS, TOPIC_SUBSCRIPTIONS, full_name, ordering_key, short_name


def test_the_topics_are_those_that_users_know():
    assert {entity_type.value: topic for entity_type, topic in ENTITY_TOPICS.items()} == {
        "person": "persons-events",
        "account": "accounts-events",
        "transaction": "transactions-events",
        "company": "companies-events",
        "communication": "communications-events",
    }
    assert TOPIC_SUBSCRIPTIONS["persons-events"] == ("graph-consumer", "vector-consumer")
    assert TOPIC_SUBSCRIPTIONS["dlq-events"] == ("dlq-worker",)
    assert TOPIC_SUBSCRIPTIONS["graph-retry-events"] == ("graph-consumer",)
    assert TOPIC_SUBSCRIPTIONS["producer-requests"] == ()
    assert len(TOPIC_SUBSCRIPTIONS) == len(EntityType) + 4


def test_a_short_name_forgets_the_namespace_and_the_partition():
    assert full_name("persons-events") == "persistent://public/banking/persons-events"
    assert short_name("persistent://public/banking/persons-events-partition-12") == "persons-events"
    assert short_name(full_name("dlq-events")) == "dlq-events"


def test_ordering_keys_are_stable_and_few():
    keys = {ordering_key(f"person-{number}") for number in range(5000)}
    assert keys == {str(bucket) for bucket in range(64)}
    # CRC-32 (ISO 3309) of "123456789" is 0xCBF43926, the check value of the standard.
    assert ordering_key("123456789") == str(0xCBF43926 % 64)
