"""The graph consumer's settings, from the environment."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from banking.streaming.leg import LegSettings
from banking.streaming.settings import ExistingFile

_HOST = re.compile(r"(?P<host>[^\s:,\[\]]+|\[[^\s\[\]]+\])(?::(?P<port>[0-9]{1,5}))?")
"""A name or an address, one of IPv6 in brackets, and perhaps a port."""

_MAX_PORT = 65535


class GraphSettings(LegSettings):
    """Where JanusGraph is and how it is asked. Each attribute is the environment variable in lower case."""

    janusgraph_host: str = Field("localhost", min_length=1)
    """Gremlin Server's host; or the hosts of all servers of one graph on Cassandra, such as `graph-1,graph-2`."""
    janusgraph_port: int = Field(8182, ge=1, le=_MAX_PORT)
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

    @field_validator("janusgraph_host")
    @classmethod
    def _hosts_with_ports(cls, hosts: str) -> str:
        for host in hosts.split(","):
            found = _HOST.fullmatch(host.strip())
            if found is None or not hosts.isascii() or not 0 < int(found["port"] or 1) <= _MAX_PORT:
                raise ValueError(
                    f"expected HOST or HOST:PORT, several with commas between them, got {host.strip()!r:.80}"
                )
        return hosts

    @property
    def janusgraph_servers(self) -> list[tuple[str, int]]:
        """Host and port of each server, in the order given."""
        found = [_HOST.fullmatch(host.strip()) for host in self.janusgraph_host.split(",")]
        return [(host["host"], int(host["port"] or self.janusgraph_port)) for host in found if host is not None]

    @model_validator(mode="after")
    def _username_with_password(self) -> Self:
        if (self.janusgraph_username is None) != (self.janusgraph_password_file is None):
            raise ValueError("JANUSGRAPH_USERNAME and JANUSGRAPH_PASSWORD_FILE: set both or neither")
        return self
