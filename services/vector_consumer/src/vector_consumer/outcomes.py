"""What OpenSearch's answer to one item of a bulk request means for its event."""

from __future__ import annotations

import re
from typing import Any

from banking.streaming.entities import ENTITY_MODELS, EntityType
from banking.streaming.payloads import EXPECTED
from banking.streaming.sink import APPLIED, STALE, Outcome, RejectionReason, rejected, retry

# The state of the index: another one may serve instead.
_NO_PLACE = frozenset({"index_not_found_exception", "cluster_block_exception", "index_closed_exception"})
# Rights, and indices and shards that are away or not yet back: nothing that a document is to blame for.
_NOT_THE_DOCUMENT = frozenset({401, 403, 404, 408, 429})
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
    if kind in _NO_PLACE or status in _NOT_THE_DOCUMENT or status >= 500:
        return retry(f"OpenSearch answered {status} {kind}")
    if status == 409:
        return STALE
    reason = str(error.get("reason", ""))
    if kind in _FIELD_ERRORS or "immense term" in reason:
        return rejected(RejectionReason.INVALID_FIELD, _describe_field(entity_type, reason, kind))
    return rejected(RejectionReason.REFUSED_BY_STORE, f"OpenSearch answered {status} {kind}")


def lacks_place(item: dict[str, Any]) -> bool:
    """Whether the item was refused because its index is gone or takes no writes: another one may serve instead."""
    error = item.get("error") or {}
    return error.get("type") in _NO_PLACE


def _describe_field(entity_type: EntityType, reason: str, kind: str) -> str:
    match = _FIELD.search(reason)
    if match is None:
        return f"payload: OpenSearch answered {kind}"
    path = match[1]
    for field in ENTITY_MODELS[entity_type].fields:
        if field.name == path.partition(".")[0]:
            return f"payload.{field.name}: expected {EXPECTED[field.kind]}"
    return f"{path.removesuffix('._valueAndPath').removesuffix('._value')}: OpenSearch answered {kind}"
