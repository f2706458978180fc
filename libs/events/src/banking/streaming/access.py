"""Who may do what on the broker where authorisation is on: the services' roles and their least rights.

A role is the subject of a token. The namespace's subscription mode is `Prefix`: a role reads by subscriptions whose
names begin with its own, so a leg's role is called like its subscription, and nobody takes from somebody else's.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from banking.streaming.sink import Leg
from banking.streaming.topics import (
    DLQ_SUBSCRIPTION,
    DLQ_TOPIC,
    ENTITY_TOPICS,
    LEG_SUBSCRIPTIONS,
    REQUESTS_TOPIC,
    RETRY_TOPICS,
    Right,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

PRODUCER_ROLE = "producer"
DLQ_ROLE = DLQ_SUBSCRIPTION
LEG_ROLES = LEG_SUBSCRIPTIONS


def _leg_rights(leg: Leg) -> Mapping[str, frozenset[Right]]:
    reads = dict.fromkeys((*ENTITY_TOPICS.values(), RETRY_TOPICS[leg]), frozenset({Right.CONSUME}))
    return {**reads, DLQ_TOPIC: frozenset({Right.PRODUCE})}


RIGHTS: Mapping[str, Mapping[str, frozenset[Right]]] = MappingProxyType(
    {
        PRODUCER_ROLE: {
            **dict.fromkeys(ENTITY_TOPICS.values(), frozenset({Right.PRODUCE})),
            # Every replica reads what the others wrote there.
            REQUESTS_TOPIC: frozenset({Right.PRODUCE, Right.CONSUME}),
        },
        **{LEG_ROLES[leg]: _leg_rights(leg) for leg in Leg},
        DLQ_ROLE: {
            DLQ_TOPIC: frozenset({Right.CONSUME}),
            # It counts the letters that wait there, by a reader.
            **dict.fromkeys(RETRY_TOPICS.values(), frozenset({Right.PRODUCE, Right.CONSUME})),
        },
    }
)
"""The rights of each role by topic; what is not named is denied."""
