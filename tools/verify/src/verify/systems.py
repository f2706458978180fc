"""Where everything is that an audit reads."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dlq_worker.settings import DlqWorkerSettings
    from graph_consumer.settings import GraphSettings
    from vector_consumer.settings import VectorSettings


@dataclass(frozen=True, slots=True)
class Systems:
    """The settings of the services, by which the audit finds what they read and write.

    Attributes:
        graph: JanusGraph.
        vector: OpenSearch.
        letters: The broker and the archive.
    """

    graph: GraphSettings
    vector: VectorSettings
    letters: DlqWorkerSettings

    def forgotten_before_ms(self) -> int:
        """What was deleted before this moment, in milliseconds since 1970, the stores may have forgotten."""
        forgotten = datetime.now(UTC) - self.letters.tombstone_retention
        return int(forgotten.timestamp() * 1000)
