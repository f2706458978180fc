"""Where a running stack is reached from the host: the ports that its compose file publishes on the loopback."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graph_consumer.settings import GraphSettings
from vector_consumer.settings import VectorSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Addresses:
    """The published ports of a stack.

    Attributes:
        pulsar: Pulsar's binary protocol.
        pulsar_admin: Pulsar's admin API.
        janusgraph: Gremlin Server.
        opensearch: OpenSearch.
        prometheus: Prometheus.
        producer: The producer's API.
    """

    pulsar: int = 6650
    pulsar_admin: int = 8080
    janusgraph: int = 8182
    opensearch: int = 9200
    prometheus: int = 9090
    producer: int = 8000

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Addresses:
        """The ports by the variables that the compose file reads, or its defaults."""
        variables = {
            "pulsar": "PULSAR_PORT",
            "pulsar_admin": "PULSAR_ADMIN_PORT",
            "janusgraph": "JANUSGRAPH_HOST_PORT",
            "opensearch": "OPENSEARCH_PORT",
            "prometheus": "PROMETHEUS_PORT",
            "producer": "PRODUCER_PORT",
        }
        return cls(**{name: int(environment[key]) for name, key in variables.items() if environment.get(key)})

    @property
    def pulsar_url(self) -> str:
        """The broker, for clients."""
        return f"pulsar://localhost:{self.pulsar}"

    @property
    def pulsar_admin_url(self) -> str:
        """The broker's admin API."""
        return f"http://{HOST}:{self.pulsar_admin}"

    @property
    def prometheus_url(self) -> str:
        """Prometheus."""
        return f"http://{HOST}:{self.prometheus}"

    @property
    def producer_url(self) -> str:
        """The producer's API."""
        return f"http://{HOST}:{self.producer}"

    def graph_settings(self) -> GraphSettings:
        """How JanusGraph is reached."""
        return GraphSettings(janusgraph_host=HOST, janusgraph_port=self.janusgraph)

    def vector_settings(self) -> VectorSettings:
        """How OpenSearch is reached: the development stack speaks plain HTTP."""
        return VectorSettings(opensearch_host=HOST, opensearch_port=self.opensearch, opensearch_use_ssl=False)
