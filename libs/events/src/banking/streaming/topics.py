"""The topics and subscriptions of `public/banking`, their keys, and the provisioner that makes them exist."""

from __future__ import annotations

import ssl
import zlib
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import aiohttp
import stamina

from banking.streaming.entities import ENTITY_MODELS, EntityType
from banking.streaming.sink import Leg

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

NAMESPACE = "public/banking"
ORDERING_BUCKETS = 64

DLQ_TOPIC = "dlq-events"
DLQ_SUBSCRIPTION = "dlq-worker"

REQUESTS_TOPIC = "producer-requests"
"""The producer's log of requests with an `Idempotency-Key`; it is read from a time on, without a subscription."""

ENTITY_TOPICS: Mapping[EntityType, str] = MappingProxyType(
    {entity_type: f"{model.plural}-events" for entity_type, model in ENTITY_MODELS.items()}
)
RETRY_TOPICS: Mapping[Leg, str] = MappingProxyType({leg: f"{leg}-retry-events" for leg in Leg})
LEG_SUBSCRIPTIONS: Mapping[Leg, str] = MappingProxyType({leg: f"{leg}-consumer" for leg in Leg})

TOPIC_SUBSCRIPTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        **{topic: tuple(LEG_SUBSCRIPTIONS.values()) for topic in ENTITY_TOPICS.values()},
        DLQ_TOPIC: (DLQ_SUBSCRIPTION,),
        **{RETRY_TOPICS[leg]: (LEG_SUBSCRIPTIONS[leg],) for leg in Leg},
        REQUESTS_TOPIC: (),
    }
)
"""Every topic with the subscriptions that must exist before its first message: a topic without one retains nothing."""


def full_name(topic: str) -> str:
    """`persons-events` → `persistent://public/banking/persons-events`."""
    return f"persistent://{NAMESPACE}/{topic}"


def short_name(full: str) -> str:
    """`persistent://public/banking/persons-events-partition-3` → `persons-events`."""
    return full.rsplit("/", 1)[-1].partition("-partition-")[0]


def ordering_key(partition_key: str) -> str:
    """The bucket that keeps an entity's messages together while a batch still holds many entities."""
    return str(zlib.crc32(partition_key.encode()) % ORDERING_BUCKETS)


class Right(StrEnum):
    """What a role may do with a topic, in Pulsar's words."""

    PRODUCE = "produce"
    CONSUME = "consume"


class ProvisioningError(Exception):
    """The broker could not be asked, or refused, to make a namespace, topic or subscription."""


class _BusyError(ProvisioningError):
    """The broker is at something else with that topic."""


@dataclass(frozen=True, slots=True)
class NamespacePolicies:
    """What the namespace is made with; a namespace that exists keeps its own settings.

    Attributes:
        retention_minutes: How long acknowledged events are kept; -1 for ever, so that a store can be rebuilt.
        retention_megabytes: How much of them; -1 without limit.
        backlog_bytes: The backlog at which producers are held; -1 without limit.
    """

    retention_minutes: int = -1
    retention_megabytes: int = -1
    backlog_bytes: int = -1

    def as_json(self) -> dict[str, Any]:
        """The policies as Pulsar's admin API takes them."""
        return {
            "retention_policies": {
                "retentionTimeInMinutes": self.retention_minutes,
                "retentionSizeInMB": self.retention_megabytes,
            },
            "backlog_quota_map": {
                "destination_storage": {
                    "limitSize": self.backlog_bytes,
                    "limitTime": -1,
                    "policy": "producer_request_hold",
                }
            },
            "delayed_delivery_policies": {"active": True, "tickTime": 1000},
            "autoTopicCreationOverride": {"allowAutoTopicCreation": False},
        }


def admin_session(
    token: str | None, tls_trust_certs_file: Path | None, timeout_seconds: float
) -> aiohttp.ClientSession:
    """A session for Pulsar's admin API; certificates are always verified.

    Args:
        token: Where authentication is on.
        tls_trust_certs_file: CA certificates for an `https` address; None trusts the system's own.
        timeout_seconds: The limit of each request.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=tls_trust_certs_file)),
        headers={"Authorization": f"Bearer {token}"} if token else {},
        timeout=aiohttp.ClientTimeout(total=timeout_seconds),
    )


class TopicProvisioner:
    """Makes namespace, topics and subscriptions through Pulsar's admin API; idempotent, safe to run in many services.

    Args:
        admin_url: The broker's HTTP address, such as `http://localhost:8080`.
        partitions: Partitions of each entity topic; 0 makes topics that are not partitioned.
        policies: What the namespace is made with.
        token: A token for the admin API where authentication is on.
        tls_trust_certs_file: CA certificates for an `https` address; None trusts the system's own.
        timeout_seconds: The limit of each request.
    """

    def __init__(
        self,
        admin_url: str,
        *,
        partitions: int = 0,
        policies: NamespacePolicies | None = None,
        token: str | None = None,
        tls_trust_certs_file: Path | None = None,
        timeout_seconds: float = 10.0,
    ) -> None:
        self._base = f"{admin_url.rstrip('/')}/admin/v2"
        self._partitions = partitions
        self._policies = policies or NamespacePolicies()
        self._token = token
        self._tls_trust_certs_file = tls_trust_certs_file
        self._timeout_seconds = timeout_seconds
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> TopicProvisioner:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Release the connections to the admin API."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def ensure(self) -> bool:
        """Make what is missing and say whether anything was.

        Raises:
            ProvisioningError: The admin API is away or refused; the message says which request.
        """
        made = False
        present = await self._present_topics()
        if present is None:
            made |= await self._create(f"/namespaces/{NAMESPACE}", self._policies.as_json())
            present = await self._present_topics() or set()
        for topic, subscriptions in TOPIC_SUBSCRIPTIONS.items():
            if topic not in present:
                made |= await self._create_topic(topic)
            held = await self._get(f"/persistent/{NAMESPACE}/{topic}/subscriptions") or []
            for subscription in subscriptions:
                if subscription not in held:
                    made |= await self._create_subscription(topic, subscription)
        return made

    async def grant(self, rights: Mapping[str, Mapping[str, frozenset[Right]]]) -> None:
        """Give each role these rights, and take from these roles what they have beyond them.

        Args:
            rights: By role and by topic; the topics exist.

        Raises:
            ProvisioningError: The admin API is away or refused; the message says which request.
        """
        # A role may read by subscriptions only whose names begin with its own.
        await self._expect_no_content("POST", f"/namespaces/{NAMESPACE}/subscriptionAuthMode", "Prefix")
        for topic in TOPIC_SUBSCRIPTIONS:
            path = f"/persistent/{NAMESPACE}/{topic}/permissions"
            status, held = await self._request("GET", path, None)
            if status != 200 or not isinstance(held, dict):
                raise ProvisioningError(f"GET {path}: {status} {held}")
            for role, by_topic in rights.items():
                wanted = by_topic.get(topic, frozenset())
                if set(held.get(role, ())) == wanted:
                    continue
                if wanted:
                    await self._expect_no_content("POST", f"{path}/{role}", sorted(wanted))
                else:
                    await self._expect_no_content("DELETE", f"{path}/{role}", None)

    async def _expect_no_content(self, method: str, path: str, body: object) -> None:
        status, answer = await self._request(method, path, body)
        if status != 204:
            raise ProvisioningError(f"{method} {path}: {status} {answer}")

    async def _present_topics(self) -> set[str] | None:
        """The topics that exist, None where the namespace does not."""
        plain = await self._get(f"/persistent/{NAMESPACE}")
        if plain is None:
            return None
        partitioned = await self._get(f"/persistent/{NAMESPACE}/partitioned") or []
        return {name.rsplit("/", 1)[-1] for name in (*plain, *partitioned)}

    async def _create_topic(self, topic: str) -> bool:
        path = f"/persistent/{NAMESPACE}/{topic}"
        if self._partitions and topic in ENTITY_TOPICS.values():
            return await self._create(f"{path}/partitions", self._partitions)
        return await self._create(path, None)

    async def _create_subscription(self, topic: str, subscription: str) -> bool:
        earliest = {"ledgerId": -1, "entryId": -1, "partitionIndex": -1}
        return await self._create(f"/persistent/{NAMESPACE}/{topic}/subscription/{subscription}", earliest)

    async def _get(self, path: str) -> list[str] | None:
        """A list from the admin API; None for 404."""
        status, body = await self._request("GET", path, None)
        if status == 404:
            return None
        if status != 200 or not isinstance(body, list):
            raise ProvisioningError(f"GET {path}: {status} {body}")
        return body

    async def _create(self, path: str, body: object) -> bool:
        """Create; False where another service was faster."""
        # 412 says "busy": another request, such as a deletion, has not ended on that topic.
        async for attempt in stamina.retry_context(on=_BusyError, attempts=8, wait_initial=0.1, wait_max=1.0):
            with attempt:
                status, answer = await self._request("PUT", path, body)
                if status == 412:
                    raise _BusyError(f"PUT {path}: {status} {answer}")
        if status == 409:
            return False
        if status not in {200, 204}:
            raise ProvisioningError(f"PUT {path}: {status} {answer}")
        return True

    async def _request(self, method: str, path: str, body: object) -> tuple[int, Any]:
        if self._session is None:
            self._session = admin_session(self._token, self._tls_trust_certs_file, self._timeout_seconds)
        # A PUT without a body still needs the JSON content type, or the broker answers 415.
        options: dict[str, Any] = {"headers": {"Content-Type": "application/json"}} if body is None else {"json": body}
        try:
            async with self._session.request(method, self._base + path, **options) as response:
                is_json = response.content_type == "application/json"
                answer = await (response.json() if is_json else response.text())
                return response.status, answer
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise ProvisioningError(f"{method} {path}: {type(error).__name__} {error}") from error
