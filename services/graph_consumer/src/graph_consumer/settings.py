"""The graph consumer's settings, from the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from banking.streaming.leg import LegSettings
from banking.streaming.settings import ExistingFile, HostList, parse_hosts


class GraphSettings(LegSettings):
    """Where JanusGraph is and how it is asked. Each attribute is the environment variable in lower case."""

    janusgraph_host: HostList = "localhost"
    """Gremlin Server's host; or the hosts of all servers of one graph on Cassandra, such as `graph-1,graph-2`."""
    janusgraph_port: int = Field(8182, ge=1, le=65535)
    """Its port; a host may name one of its own, as in `graph-1:8183`."""
    janusgraph_use_ssl: bool = False
    """Whether to speak TLS; the certificate is always verified."""
    janusgraph_ca_file: ExistingFile | None = None
    """The authority that signed the server's certificate; the system's own where it is not set."""
    janusgraph_username: str | None = None
    """The user, where the server wants one."""
    janusgraph_password_file: Path | None = None
    """Read anew at each connection, so that a changed password needs no restart."""
    janusgraph_connect_timeout_seconds: float = Field(10.0, gt=0)
    """How long opening a connection, or a health query, may take."""
    janusgraph_request_timeout_seconds: float = Field(60.0, gt=0)
    """How long the answer to a batch may take before the store counts as away."""
    janusgraph_max_request_bytes: int = Field(16 * 1024 * 1024, ge=64 * 1024)
    """The server's `maxContentLength`. The largest event needs half of the default."""

    @property
    def janusgraph_servers(self) -> list[tuple[str, int]]:
        """Host and port of each server, in the order given."""
        return parse_hosts(self.janusgraph_host, self.janusgraph_port)

    @model_validator(mode="after")
    def _username_with_password(self) -> Self:
        if (self.janusgraph_username is None) != (self.janusgraph_password_file is None):
            raise ValueError("JANUSGRAPH_USERNAME and JANUSGRAPH_PASSWORD_FILE: set both or neither")
        return self
