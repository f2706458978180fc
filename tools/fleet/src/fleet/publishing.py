"""Publishing through the producer service: events as NDJSON over HTTP, answered with control totals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiohttp

from banking.streaming.events import encode_event

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from banking.streaming.events import EntityEvent

_EVENTS_A_CHUNK = 500


class PublishingError(Exception):
    """The producer service did not take the events; the message is its answer."""


async def publish(
    producer_url: str,
    events: Iterable[EntityEvent],
    *,
    api_key: str | None = None,
    on_event: Callable[[EntityEvent], None] = lambda _event: None,
    timeout_seconds: float = 1800.0,
) -> dict[str, Any]:
    """Post events to a producer service and wait until the broker has stored them, with constant memory.

    Args:
        producer_url: Such as `http://127.0.0.1:8000`.
        events: What to publish.
        api_key: Where the service wants one.
        on_event: Called with each event as it is sent.
        timeout_seconds: For the whole request.

    Returns:
        The control totals: `read`, `accepted`, `rejected`, `unconfirmed` and more.

    Raises:
        PublishingError: The service is away or refused the request.
    """

    async def body() -> AsyncIterator[bytes]:
        lines: list[bytes] = []
        for event in events:
            lines.append(encode_event(event) + b"\n")
            on_event(event)
            if len(lines) == _EVENTS_A_CHUNK:
                yield b"".join(lines)
                lines.clear()
        if lines:
            yield b"".join(lines)

    timeout = aiohttp.ClientTimeout(total=timeout_seconds)
    headers = {"Content-Type": "application/x-ndjson"}
    if api_key is not None:
        headers["Authorization"] = f"Bearer {api_key}"
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as http,
            http.post(f"{producer_url}/v1/events", data=body(), headers=headers) as response,
        ):
            answer: dict[str, Any] = await response.json(content_type=None)
            if response.status != 202:
                raise PublishingError(f"the producer answered {response.status}: {answer}")
            return answer
    except (aiohttp.ClientError, TimeoutError) as error:
        raise PublishingError(f"the producer at {producer_url} did not answer: {error}") from error
