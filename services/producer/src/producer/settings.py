"""Settings of the producer service, from its environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo

from banking.streaming.broker import BrokerOptions
from banking.streaming.settings import ServiceSettings
from producer.api_keys import ApiKeys
from producer.drafts import MAX_CLOCK_SKEW_SECONDS


def _readable_keys(path: Path | None, info: ValidationInfo) -> Path | None:
    if path is not None:
        ApiKeys.read(path)
    elif info.data.get("api_authentication"):
        raise ValueError("needed, since API_AUTHENTICATION is not false")
    return path


class ProducerSettings(ServiceSettings):
    """What the producer service reads from its environment."""

    http_port: int = Field(8000, ge=0, le=65535)
    """Port of the API, health and metrics; 0 takes a free one."""
    api_authentication: bool = True
    """Whether callers of the API need a key. Off only where everybody who reaches the port may publish."""
    api_keys_file: Annotated[Path | None, AfterValidator(_readable_keys)] = Field(None, validate_default=True)
    """File with one API key a line."""
    default_source: str = Field("http", min_length=1, max_length=256)
    """The `source` of events that name none."""
    max_body_bytes: int = Field(16 * 1024 * 1024, ge=1024)
    """Bytes of an `application/json` body, unpacked, at most."""
    max_stream_bytes: int = Field(0, ge=0)
    """Bytes of an `application/x-ndjson` body, unpacked, at most; 0 without limit."""
    max_concurrent_requests: int = Field(16, ge=1)
    """Requests that publish at the same time, at most; more are answered 429."""
    max_rejections_per_request: int = Field(10_000, ge=1)
    """Rejected events at which a request is ended that is answered with one JSON object: it names every one of them."""
    idempotency_window_seconds: float = Field(86_400, gt=0)
    """How long an `Idempotency-Key` is remembered, from its first request on."""
    max_idempotency_keys: int = Field(100_000, ge=1)
    """Idempotency keys that are remembered, at most; the oldest ones are forgotten first."""
    body_idle_seconds: float = Field(30, gt=0)
    """How long a caller may send nothing in the middle of a body."""
    send_timeout_seconds: float = Field(30, gt=0)
    """How long the broker may take to confirm an event, reconnections included."""
    max_in_flight_events: int = Field(5000, ge=1)
    """Events without a receipt, at most, over all requests."""
    max_clock_skew_seconds: float = Field(MAX_CLOCK_SKEW_SECONDS, ge=0)
    """A time-like version further ahead than this is rejected."""

    @property
    def broker(self) -> BrokerOptions:
        """How to reach the broker."""
        options = super().broker
        return BrokerOptions(
            url=options.url,
            token=options.token,
            tls_trust_certs_file=options.tls_trust_certs_file,
            operation_timeout_seconds=10,
            send_timeout_seconds=self.send_timeout_seconds,
        )

    def api_keys(self) -> ApiKeys | None:
        """The keys that callers may use; None where they need none."""
        if not self.api_authentication or self.api_keys_file is None:
            return None
        return ApiKeys.read(self.api_keys_file)
