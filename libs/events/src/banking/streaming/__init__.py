"""Event-sourced ingestion of banking entities: the contract, the producers and the consumer loop.

Names are imported when they are first used, so that `import banking.streaming` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from banking.streaming.dlq_handler import AsyncDLQHandler, DLQHandler
    from banking.streaming.entities import EntityType
    from banking.streaming.entity_converter import (
        convert_entities_to_events,
        convert_entity_to_event,
        entity_to_dict,
        get_entity_id,
        get_entity_type,
        get_text_for_embedding,
    )
    from banking.streaming.events import (
        EntityEvent,
        EntityEventBatch,
        EventDecodeError,
        EventType,
        InvalidEventError,
        create_account_event,
        create_communication_event,
        create_company_event,
        create_event,
        create_person_event,
        create_transaction_event,
    )
    from banking.streaming.metrics import StreamingMetrics, get_metrics_output
    from banking.streaming.producer import AsyncEntityProducer, EntityProducer, MockEntityProducer, get_producer
    from banking.streaming.streaming_orchestrator import StreamingConfig, StreamingOrchestrator, StreamingStats
    from banking.streaming.tracing import start_tracing

_HOMES = {
    "dlq_handler": ("AsyncDLQHandler", "DLQHandler"),
    "entities": ("EntityType",),
    "entity_converter": (
        "convert_entities_to_events",
        "convert_entity_to_event",
        "entity_to_dict",
        "get_entity_id",
        "get_entity_type",
        "get_text_for_embedding",
    ),
    "events": (
        "EntityEvent",
        "EntityEventBatch",
        "EventDecodeError",
        "EventType",
        "InvalidEventError",
        "create_account_event",
        "create_communication_event",
        "create_company_event",
        "create_event",
        "create_person_event",
        "create_transaction_event",
    ),
    "metrics": ("StreamingMetrics", "get_metrics_output"),
    "producer": ("AsyncEntityProducer", "EntityProducer", "MockEntityProducer", "get_producer"),
    "streaming_orchestrator": ("StreamingConfig", "StreamingOrchestrator", "StreamingStats"),
    "tracing": ("start_tracing",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AsyncDLQHandler",
    "AsyncEntityProducer",
    "DLQHandler",
    "EntityEvent",
    "EntityEventBatch",
    "EntityProducer",
    "EntityType",
    "EventDecodeError",
    "EventType",
    "InvalidEventError",
    "MockEntityProducer",
    "StreamingConfig",
    "StreamingMetrics",
    "StreamingOrchestrator",
    "StreamingStats",
    "convert_entities_to_events",
    "convert_entity_to_event",
    "create_account_event",
    "create_communication_event",
    "create_company_event",
    "create_event",
    "create_person_event",
    "create_transaction_event",
    "entity_to_dict",
    "get_entity_id",
    "get_entity_type",
    "get_metrics_output",
    "get_producer",
    "get_text_for_embedding",
    "start_tracing",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
