"""How a running stack is reached from the host: the ports that its compose file publishes, and the secrets it wants."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from banking.streaming.broker import BrokerOptions
from banking.streaming.settings import read_secret
from fleet.keyring import GRAPH_USER, OPERATOR
from graph_consumer.settings import GraphSettings
from vector_consumer.settings import VectorSettings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

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
        secrets: The operator's folder of a secured stack; None of one that everybody on this host may use.
    """

    pulsar: int = 6650
    pulsar_admin: int = 8080
    janusgraph: int = 8182
    opensearch: int = 9200
    prometheus: int = 9090
    producer: int = 8000
    secrets: Path | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ, *, secrets: Path | None = None) -> Addresses:
        """The ports by the variables that the compose file reads, or its defaults."""
        variables = {
            "pulsar": "PULSAR_PORT",
            "pulsar_admin": "PULSAR_ADMIN_PORT",
            "janusgraph": "JANUSGRAPH_HOST_PORT",
            "opensearch": "OPENSEARCH_PORT",
            "prometheus": "PROMETHEUS_PORT",
            "producer": "PRODUCER_PORT",
        }
        ports = {name: int(environment[key]) for name, key in variables.items() if environment.get(key)}
        return cls(**ports, secrets=secrets)

    @property
    def pulsar_url(self) -> str:
        """The broker, for clients."""
        scheme = "pulsar" if self.secrets is None else "pulsar+ssl"
        return f"{scheme}://localhost:{self.pulsar}"

    @property
    def pulsar_admin_url(self) -> str:
        """The broker's admin API."""
        scheme = "http" if self.secrets is None else "https"
        return f"{scheme}://{HOST}:{self.pulsar_admin}"

    @property
    def prometheus_url(self) -> str:
        """Prometheus."""
        return f"http://{HOST}:{self.prometheus}"

    @property
    def producer_url(self) -> str:
        """The producer's API."""
        return f"http://{HOST}:{self.producer}"

    @property
    def broker(self) -> BrokerOptions:
        """How the broker is reached."""
        if self.secrets is None:
            return BrokerOptions(self.pulsar_url)
        token = read_secret(self.secrets / "pulsar-token")
        return BrokerOptions(self.pulsar_url, token, str(self.secrets / "ca.pem"))

    @property
    def api_key(self) -> str | None:
        """A key of the producer's API; None where it needs none."""
        return None if self.secrets is None else read_secret(self.secrets / "api-key")

    def graph_settings(self) -> GraphSettings:
        """How JanusGraph is reached."""
        secured: dict[str, Any] = {}
        if self.secrets is not None:
            secured = {
                "janusgraph_use_ssl": True,
                "janusgraph_ca_file": self.secrets / "ca.pem",
                "janusgraph_username": GRAPH_USER,
                "janusgraph_password_file": self.secrets / "janusgraph-password",
            }
        return GraphSettings(janusgraph_host=HOST, janusgraph_port=self.janusgraph, **secured)

    def vector_settings(self) -> VectorSettings:
        """How OpenSearch is reached: in plain text where the stack is not secured."""
        secured: dict[str, Any] = {"opensearch_use_ssl": False}
        if self.secrets is not None:
            secured = {
                "opensearch_use_ssl": True,
                "opensearch_ca_file": self.secrets / "ca.pem",
                "opensearch_user": OPERATOR,
                "opensearch_password_file": self.secrets / "opensearch-password",
            }
        return VectorSettings(opensearch_host=HOST, opensearch_port=self.opensearch, **secured)
