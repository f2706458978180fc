"""The dead-letter worker's settings, from the environment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import obstore
from obstore.exceptions import BaseError
from pydantic import AfterValidator, Field

from banking.streaming.archive import DeadLetterArchive, read_store_options
from banking.streaming.dlq_handler import DEFAULT_ARCHIVE_URL, dead_letter_subscription
from banking.streaming.settings import ExistingFile, TombstoneSettings

if TYPE_CHECKING:
    from pathlib import Path

    from banking.streaming.broker import SubscriptionOptions

_SCHEMES = "file:///folder, s3://bucket/prefix, gs://bucket/prefix or az://account/container/prefix"


def _archive_url(value: str) -> str:
    try:
        scheme = obstore.parse_scheme(value)
    except (BaseError, ValueError):
        scheme = None
    if scheme is None or scheme == "http":  # plain HTTP stores cannot be listed
        raise ValueError(f"expected {_SCHEMES}")
    return value


def _options(path: Path) -> Path:
    read_store_options(path)
    return path


class DlqWorkerSettings(TombstoneSettings):
    """How letters are retried and where they are kept. Each attribute is the environment variable in lower case."""

    archive_url: Annotated[str, AfterValidator(_archive_url)] = DEFAULT_ARCHIVE_URL
    """Where the archive is. Credentials come from the provider's usual variables or from `archive_options_file`."""
    archive_options_file: Annotated[ExistingFile, AfterValidator(_options)] | None = None
    """A JSON object of the store's settings and secrets, such as `endpoint`, `access_key_id`, `allow_http`."""
    archive_batch_letters: int = Field(200, ge=1, le=10_000)
    """Letters that are settled together, and so stand in one object of the archive, at most."""
    archive_batch_bytes: int = Field(8 * 1024 * 1024, ge=1024, le=64 * 1024 * 1024)
    """Their bytes, at most, save a single larger letter."""
    archive_batch_wait_seconds: float = Field(2, gt=0, le=60)
    """How long a batch may wait to fill."""
    archive_timeout_seconds: float = Field(60, gt=0)
    """A write to the archive that takes longer counts as an archive that is away."""

    def archive(self) -> DeadLetterArchive:
        """The archive."""
        options = {} if self.archive_options_file is None else read_store_options(self.archive_options_file)
        return DeadLetterArchive(self.archive_url, options, timeout_seconds=self.archive_timeout_seconds)

    def subscription(self) -> SubscriptionOptions:
        """What the worker receives."""
        return dead_letter_subscription(
            batch_letters=self.archive_batch_letters,
            batch_bytes=self.archive_batch_bytes,
            batch_wait_seconds=self.archive_batch_wait_seconds,
        )
