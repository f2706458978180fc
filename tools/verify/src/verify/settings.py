"""When the fleet is audited without being asked, from the environment."""

from __future__ import annotations

from pydantic import Field

from banking.streaming.settings import ServiceSettings


class AuditSettings(ServiceSettings):
    """How often `banking-verify watch` audits. Each attribute is the environment variable in lower case."""

    audit_interval_seconds: float = Field(3600, ge=1, le=7 * 86_400)
    """From the end of one audit to the start of the next. Each reads all topics and both stores."""
