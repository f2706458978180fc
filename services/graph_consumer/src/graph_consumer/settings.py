"""The graph consumer's settings, from the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, FilePath, model_validator

from banking.streaming.leg import LegSettings


class GraphSettings(LegSettings):
    """Where JanusGraph is and how it is asked. Each attribute is the environment variable in lower case."""

    janusgraph_host: str = Field("localhost", min_length=1)
    """Gremlin Server's host."""
    janusgraph_port: int = Field(8182, ge=1, le=65535)
    """Its port."""
    janusgraph_use_ssl: bool = False
    """Whether to speak TLS; the certificate is always verified."""
    janusgraph_ca_file: FilePath | None = None
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

    @model_validator(mode="after")
    def _username_with_password(self) -> Self:
        if (self.janusgraph_username is None) != (self.janusgraph_password_file is None):
            raise ValueError("JANUSGRAPH_USERNAME and JANUSGRAPH_PASSWORD_FILE: set both or neither")
        return self
