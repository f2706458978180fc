"""Settings from the environment and from secret files, checked at start."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from banking.streaming.broker import BrokerOptions
from banking.streaming.topics import NamespacePolicies, TopicProvisioner


def _pulsar_url(value: str) -> str:
    if not value.startswith(("pulsar://", "pulsar+ssl://")):
        raise ValueError("expected pulsar://host:port or pulsar+ssl://host:port")
    return value


def _http_url(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError("expected http://host:port or https://host:port")
    return value


class ServiceSettings(BaseSettings):
    """What every service reads from its environment; each service adds its own. Names are the fields' in capitals."""

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", str_strip_whitespace=True, use_attribute_docstrings=True
    )

    pulsar_url: Annotated[str, AfterValidator(_pulsar_url)] = "pulsar://localhost:6650"
    """Address of the broker."""
    pulsar_admin_url: Annotated[str, AfterValidator(_http_url)] = "http://localhost:8080"
    """Address of the broker's admin API."""
    pulsar_token_file: Path | None = None
    """File that holds the token for the broker, where authentication is on."""
    pulsar_tls_trust_certs_file: Path | None = None
    """CA certificates for a `pulsar+ssl` address."""
    provision_topics: bool = True
    """Whether this service makes the namespace, topics and subscriptions that are missing."""
    topic_partitions: int = Field(0, ge=0, le=1000)
    """Partitions of each entity topic; 0 makes topics that are not partitioned."""
    retention_minutes: int = Field(-1, ge=-1)
    """How long acknowledged events are kept; -1 for ever, so that a store can be rebuilt from them."""
    retention_megabytes: int = Field(-1, ge=-1)
    """How much of them is kept, per topic; -1 without limit."""
    http_host: str = "0.0.0.0"  # noqa: S104 - inside the service's container
    """Address that health, metrics and API listen on."""
    http_port: int = Field(8001, ge=0, le=65535)
    """Port of health, metrics and API; 0 takes a free one."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """The least severe log lines that are written."""

    @property
    def broker(self) -> BrokerOptions:
        """How to reach the broker."""
        return BrokerOptions(
            url=self.pulsar_url,
            token=read_secret(self.pulsar_token_file),
            tls_trust_certs_file=str(self.pulsar_tls_trust_certs_file) if self.pulsar_tls_trust_certs_file else None,
        )

    def provisioner(self) -> TopicProvisioner:
        """What makes topics and subscriptions exist."""
        return TopicProvisioner(
            self.pulsar_admin_url,
            partitions=self.topic_partitions,
            policies=NamespacePolicies(self.retention_minutes, self.retention_megabytes),
            token=read_secret(self.pulsar_token_file),
        )


def read_secret(path: Path | None) -> str | None:
    """The secret that a file holds, without the white space around it; None for no file."""
    return None if path is None else path.read_text(encoding="utf-8").strip()


Settings = TypeVar("Settings", bound=ServiceSettings)


def load_settings(kind: type[Settings]) -> Settings:
    """Read settings from the environment, or stop the process with one line that names the variables that are wrong."""
    try:
        return kind()
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in item['loc']).upper()}: {item['msg']}, got {item['input']!r:.80}"
            for item in error.errors()
        )
        sys.stderr.write(f"wrong setting: {problems}\n")
        raise SystemExit(2) from None
