"""What OpenSearch's answer to one item of a bulk request means for its event."""

from __future__ import annotations

import re
from typing import Any

from banking.streaming.entities import ENTITY_MODELS, EntityType
from banking.streaming.sink import APPLIED, STALE, Outcome, RejectionReason, rejected, retry
from vector_consumer.documents import EXPECTED

INDEX_NOT_FOUND = "index_not_found_exception"

# Refusals that have nothing to do with the document: the state of the index or the rights of the service.
_NOT_THE_DOCUMENT = frozenset(
    {INDEX_NOT_FOUND, "cluster_block_exception", "index_closed_exception", "security_exception"}
)
_FIELD_ERRORS = frozenset({"mapper_parsing_exception", "document_parsing_exception"})
_FIELD = re.compile(r'field(?: \[|=")([^\]"]+)')


def outcome_of(entity_type: EntityType, item: dict[str, Any]) -> Outcome:
    """The outcome of an event by its item's answer: the one place that decides what is retried.

    Details name fields and never their values: they end in logs.
    """
    status = int(item["status"])
    if status in (200, 201):
        return APPLIED
    error = item.get("error") or {}
    kind = str(error.get("type", "unknown error"))
    if kind in _NOT_THE_DOCUMENT or status == 429 or status >= 500:
        return retry(f"OpenSearch answered {status} {kind}")
    if status == 409:
        return STALE
    reason = str(error.get("reason", ""))
    if kind in _FIELD_ERRORS or "immense term" in reason:
        return rejected(RejectionReason.INVALID_FIELD, _describe_field(entity_type, reason, kind))
    return rejected(RejectionReason.REFUSED_BY_STORE, f"OpenSearch answered {status} {kind}")


def lacks_index(item: dict[str, Any]) -> bool:
    """Whether the item was refused because its index is not there."""
    error = item.get("error") or {}
    return bool(error.get("type") == INDEX_NOT_FOUND)


def _describe_field(entity_type: EntityType, reason: str, kind: str) -> str:
    match = _FIELD.search(reason)
    if match is None:
        return f"payload: OpenSearch answered {kind}"
    path = match[1]
    for field in ENTITY_MODELS[entity_type].fields:
        if field.name == path.partition(".")[0]:
            return f"payload.{field.name}: expected {EXPECTED[field.kind]}"
    return f"{path.removesuffix('._valueAndPath').removesuffix('._value')}: OpenSearch answered {kind}"
