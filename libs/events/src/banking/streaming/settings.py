"""Settings from the environment and from secret files, checked at start."""

from __future__ import annotations

import re
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from banking.streaming.broker import BrokerOptions
from banking.streaming.dead_letters import DEFAULT_RETRY_DELAYS
from banking.streaming.topics import NamespacePolicies, TopicProvisioner

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


def _pulsar_url(value: str) -> str:
    if re.fullmatch(r"pulsar(\+ssl)?://[!-~]+", value) is None:
        raise ValueError("expected pulsar://host:port or pulsar+ssl://host:port")
    return value


def _http_url(value: str) -> str:
    if re.fullmatch(r"https?://[!-~]+", value) is None:
        raise ValueError("expected http://host:port or https://host:port")
    return value


def _or_none(value: object) -> object:
    """An empty text, which compose files give where a variable is not set, is none."""
    return (value.strip() or None) if isinstance(value, str) else value


def _collector_url(value: str | None) -> str | None:
    return None if value is None else _http_url(value)


def _listed(value: object) -> object:
    """`60,120,300` → its numbers; an empty text is a schedule without retries."""
    return [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value


_HOST = re.compile(r"(?P<host>[^\s:,\[\]]+|\[[^\s\[\]]+\])(?::(?P<port>[0-9]{1,5}))?")
"""A name or an address, one of IPv6 in brackets, and perhaps a port."""

_MAX_PORT = 65535


def _hosts(hosts: str) -> str:
    for host in hosts.split(","):
        found = _HOST.fullmatch(host.strip())
        if (
            found is None
            or not hosts.isascii()
            or not hosts.isprintable()
            or not 0 < int(found["port"] or 1) <= _MAX_PORT
        ):
            raise ValueError(f"expected HOST or HOST:PORT, several with commas between them, got {host.strip()!r:.80}")
    return hosts


HostList = Annotated[str, Field(min_length=1), AfterValidator(_hosts)]
"""The hosts of one or several servers, with commas between them, each perhaps with a port."""


def parse_hosts(hosts: HostList, port: int) -> list[tuple[str, int]]:
    """Host and port of each server, in the order given; `port` is that of those that name none."""
    found = [_HOST.fullmatch(host.strip()) for host in hosts.split(",")]
    return [(host["host"], int(host["port"] or port)) for host in found if host is not None]


def _file(path: Path) -> Path:
    try:
        is_file = path.is_file()
    except OSError as error:  # such as a name that is too long
        raise ValueError(f"cannot be looked at: {error.strerror}") from None
    if not is_file:
        raise ValueError("expected a file")
    return path


ExistingFile = Annotated[Path, AfterValidator(_file)]
"""The path of a file that is there."""


class ServiceSettings(BaseSettings):
    """What every service reads from its environment; each service adds its own. Names are the fields' in capitals."""

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", str_strip_whitespace=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    pulsar_url: Annotated[str, AfterValidator(_pulsar_url)] = "pulsar://localhost:6650"
    """Address of the broker."""
    pulsar_admin_url: Annotated[str, AfterValidator(_http_url)] = "http://localhost:8080"
    """Address of the broker's admin API."""
    pulsar_token_file: ExistingFile | None = None
    """File that holds the token for the broker, where authentication is on."""
    pulsar_tls_trust_certs_file: ExistingFile | None = None
    """CA certificates for `pulsar+ssl` and `https` addresses."""
    provision_topics: bool = True
    """Whether this service makes the namespace, topics and subscriptions that are missing."""
    topic_partitions: int = Field(0, ge=0, le=1000)
    """Partitions of each entity topic; 0 makes topics that are not partitioned."""
    retention_minutes: int = Field(-1, ge=-1)
    """How long acknowledged events are kept; -1 for ever, so that a store can be rebuilt from them."""
    retention_megabytes: int = Field(-1, ge=-1)
    """How much of them is kept, per topic; -1 without limit."""
    http_host: str = Field("0.0.0.0", pattern=r"^[\w.:%-]*$")  # noqa: S104 - inside the service's container
    """Address that health, metrics and API listen on."""
    http_port: int = Field(8001, ge=0, le=65535)
    """Port of health, metrics and API; 0 takes a free one."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """The least severe log lines that are written."""
    tracing_endpoint: Annotated[str | None, BeforeValidator(_or_none), AfterValidator(_collector_url)] = None
    """Where an OTLP/HTTP collector takes traces, such as `http://collector:4318/v1/traces`; not set, there are none."""
    tracing_sample_ratio: float = Field(1.0, ge=0, le=1)
    """The share of requests and commands that are traced as they publish; a caller's `traceparent` decides itself."""

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
            tls_trust_certs_file=self.pulsar_tls_trust_certs_file,
        )


class TombstoneSettings(ServiceSettings):
    """What the consumers and the dead-letter worker agree on: what comes late must still meet its tombstone."""

    dlq_retry_delays_seconds: Annotated[
        tuple[Annotated[float, Field(ge=0, le=30 * 86_400)], ...], NoDecode, BeforeValidator(_listed)
    ] = DEFAULT_RETRY_DELAYS
    """The delay before each retry, such as `60,120,300`; after as many failures a letter is archived."""
    tombstone_retention_days: float = Field(30, gt=0, le=36_500)
    """How long both stores keep the tombstones of deleted entities: an older event may bring one back."""

    @property
    def tombstone_retention(self) -> timedelta:
        """The same as a duration."""
        return timedelta(days=self.tombstone_retention_days)

    @model_validator(mode="after")
    def _retention_outlasts_retries(self) -> Self:
        schedule = timedelta(seconds=sum(self.dlq_retry_delays_seconds))
        if self.tombstone_retention <= schedule:
            raise ValueError(
                f"TOMBSTONE_RETENTION_DAYS: expected more than the retries of DLQ_RETRY_DELAYS_SECONDS take, {schedule}"
            )
        return self


def read_secret(path: Path | None) -> str | None:
    """The secret that a file holds, without the white space around it; None for no file."""
    return None if path is None else path.read_text(encoding="utf-8").strip()


Settings = TypeVar("Settings", bound=ServiceSettings)


def load_settings(kind: type[Settings]) -> Settings:
    """Read settings from the environment, or stop the process with one line that names the variables that are wrong."""
    try:
        return kind()
    except ValidationError as error:
        problems = "; ".join(_describe(item) for item in error.errors())
        sys.stderr.write(f"wrong setting: {problems}\n")
        raise SystemExit(2) from None


def _describe(item: ErrorDetails) -> str:
    if not item["loc"]:  # several settings together; the message names them
        return item["msg"].removeprefix("Value error, ")
    return f"{'.'.join(str(part) for part in item['loc']).upper()}: {item['msg']}, got {item['input']!r:.80}"
