from __future__ import annotations

from typing import Any

import pytest

from banking.streaming.entities import EntityType
from banking.streaming.sink import RejectionReason, Status
from vector_consumer.outcomes import lacks_place, outcome_of


def answer(status: int, kind: str = "", reason: str = "") -> dict[str, Any]:
    return {"status": status, "error": {"type": kind, "reason": reason}} if kind else {"status": status}


@pytest.mark.parametrize(
    ("item", "status"),
    [
        (answer(200), Status.APPLIED),
        (answer(201), Status.APPLIED),
        (answer(409, "version_conflict_engine_exception", "current version [3]"), Status.STALE),
        (answer(429, "opensearch_rejected_execution_exception"), Status.RETRY),
        (answer(429, "circuit_breaking_exception"), Status.RETRY),
        (answer(429, "cluster_block_exception", "flood-stage"), Status.RETRY),
        (answer(403, "cluster_block_exception", "FORBIDDEN/5/index read-only (api)"), Status.RETRY),
        (answer(500, "internal_error"), Status.RETRY),
        (answer(503, "unavailable_shards_exception"), Status.RETRY),
        (answer(404, "index_not_found_exception"), Status.RETRY),
        # After a full disk, while the shard is opened anew.
        (answer(404, "shard_not_found_exception"), Status.RETRY),
        (answer(404, "illegal_index_shard_state_exception"), Status.RETRY),
        (answer(408, "timeout_exception"), Status.RETRY),
        (answer(401, "security_exception"), Status.RETRY),
        (answer(400, "index_closed_exception"), Status.RETRY),
        (answer(403, "security_exception"), Status.RETRY),
        (answer(400, "illegal_argument_exception", "something"), Status.REJECTED),
        (answer(400), Status.REJECTED),
    ],
)
def test_every_answer_has_its_outcome(item: dict[str, Any], status: Status) -> None:
    assert outcome_of(EntityType.PERSON, item).status is status


@pytest.mark.parametrize(
    ("reason", "detail"),
    [
        (
            "failed to parse field [email] of type [keyword] in document with id 'x'. Preview of field's value: 'PII'",
            "payload.email: expected a string",
        ),
        (
            "failed to parse field [balance.number] of type [double] in document with id 'field [x]'",
            "payload.balance: expected a decimal string such as 12.50",
        ),
        (
            'Document contains at least one immense term in field="payload._valueAndPath" (whose UTF8 …PII',
            "payload: OpenSearch answered mapper_parsing_exception",
        ),
        ("failed to parse", "payload: OpenSearch answered mapper_parsing_exception"),
        (
            "failed to parse field [embedding] of type [knn_vector]",
            "embedding: OpenSearch answered mapper_parsing_exception",
        ),
    ],
)
def test_a_field_that_does_not_fit_is_named_without_its_value(reason: str, detail: str) -> None:
    entity_type = EntityType.ACCOUNT if "balance" in reason else EntityType.PERSON
    outcome = outcome_of(
        entity_type,
        answer(400, "mapper_parsing_exception", reason),
    )
    assert (outcome.status, outcome.reason, outcome.detail) == (
        Status.REJECTED,
        RejectionReason.INVALID_FIELD,
        detail,
    )


def test_another_refusal_is_the_stores_own() -> None:
    outcome = outcome_of(EntityType.PERSON, answer(400, "illegal_argument_exception", "PII"))
    assert outcome.reason is RejectionReason.REFUSED_BY_STORE
    assert outcome.detail == "OpenSearch answered 400 illegal_argument_exception"


def test_an_index_that_takes_no_writes_is_told_apart() -> None:
    assert lacks_place(answer(404, "index_not_found_exception"))
    assert lacks_place(answer(403, "cluster_block_exception", "index write (api)"))
    assert lacks_place(answer(400, "index_closed_exception"))
    assert not lacks_place(answer(201))
    assert not lacks_place(answer(503, "unavailable_shards_exception"))
    assert not lacks_place(answer(403, "security_exception"))
