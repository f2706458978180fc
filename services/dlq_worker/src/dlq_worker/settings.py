"""The dead-letter worker's settings, from the environment."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import obstore
from obstore.exceptions import BaseError
from pydantic import AfterValidator, BeforeValidator, Field, FilePath
from pydantic_settings import NoDecode

from banking.streaming.archive import DeadLetterArchive
from banking.streaming.dlq_handler import DEFAULT_ARCHIVE_URL, DEFAULT_RETRY_DELAYS, dead_letter_subscription
from banking.streaming.settings import ServiceSettings

if TYPE_CHECKING:
    from pathlib import Path

    from banking.streaming.broker import SubscriptionOptions

_SCHEMES = "file:///folder, s3://bucket/prefix, gs://bucket/prefix or az://account/container/prefix"


def _listed(value: object) -> object:
    """`60,120,300` → its numbers; an empty text is a schedule without retries."""
    return [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _archive_url(value: str) -> str:
    try:
        scheme = obstore.parse_scheme(value)
    except (BaseError, ValueError):
        scheme = None
    if scheme is None or scheme == "http":  # plain HTTP stores cannot be listed
        raise ValueError(f"expected {_SCHEMES}")
    return value


def _options(path: Path) -> Path:
    """Check a file of store settings without repeating its content, which is secret."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        raise ValueError("expected a readable file with one JSON object")  # noqa: TRY004 - pydantic takes ValueError
    return path


class DlqWorkerSettings(ServiceSettings):
    """How letters are retried and where they are kept. Each attribute is the environment variable in lower case."""

    dlq_retry_delays_seconds: Annotated[
        tuple[Annotated[float, Field(ge=0, le=30 * 86_400)], ...], NoDecode, BeforeValidator(_listed)
    ] = DEFAULT_RETRY_DELAYS
    """The delay before each retry, such as `60,120,300`; after as many failures a letter is archived."""
    archive_url: Annotated[str, AfterValidator(_archive_url)] = DEFAULT_ARCHIVE_URL
    """Where the archive is. Credentials come from the provider's usual variables or from `archive_options_file`."""
    archive_options_file: Annotated[FilePath, AfterValidator(_options)] | None = None
    """A JSON object of the store's settings and secrets, such as `endpoint`, `access_key_id`, `allow_http`."""
    archive_batch_letters: int = Field(200, ge=1, le=10_000)
    """Letters that are settled together, and so stand in one object of the archive, at most."""
    archive_batch_bytes: int = Field(8 * 1024 * 1024, ge=1024)
    """Their bytes, at most, save a single larger letter."""
    archive_batch_wait_seconds: float = Field(2, gt=0, le=60)
    """How long a batch may wait to fill."""
    archive_timeout_seconds: float = Field(60, gt=0)
    """A write to the archive that takes longer counts as an archive that is away."""
    tombstone_retention_days: float = Field(30, gt=0)
    """How long both stores keep the tombstones of deleted entities: an older event may bring one back."""

    def archive(self) -> DeadLetterArchive:
        """The archive."""
        options: dict[str, Any] = {}
        if self.archive_options_file is not None:
            options = json.loads(self.archive_options_file.read_text(encoding="utf-8"))
        return DeadLetterArchive(self.archive_url, options, timeout_seconds=self.archive_timeout_seconds)

    def subscription(self) -> SubscriptionOptions:
        """What the worker receives."""
        return dead_letter_subscription(
            batch_letters=self.archive_batch_letters,
            batch_bytes=self.archive_batch_bytes,
            batch_wait_seconds=self.archive_batch_wait_seconds,
        )
