"""The sink against a server of the test's own: what a healthy OpenSearch does not show."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from banking.streaming.entities import EntityType
from banking.streaming.events import create_person_event
from banking.streaming.sink import BatchFailedError, RejectionReason, SinkUnavailableError, Status
from vector_consumer.bulk import split
from vector_consumer.client import connect
from vector_consumer.settings import VectorSettings
from vector_consumer.sink import Row, VectorSink

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

EVENT = create_person_event("p-1", "Ann", source="test", version=1)


INDEX = {
    "aliases": {"banking-persons": {"filter": {}}},
    "mappings": {"_meta": {"model": "none", "dimension": 2, "mapping_version": 1}},
    "settings": {"index": {"refresh_interval": "1000ms", "uuid": "u-1", "number_of_shards": "1"}},
}


class NoEmbedder:
    name = "none"
    dimension = 2

    async def open(self) -> None: ...

    async def embed(self, texts: Sequence[str]) -> Sequence[None]:
        return [None for _ in texts]

    async def close(self) -> None: ...


@asynccontextmanager
async def sink_of(bulk: Callable[[web.Request], Awaitable[web.Response]], **options: Any) -> AsyncIterator[VectorSink]:
    """A connected sink of a server that answers bulk requests as it is told."""

    application = web.Application(client_max_size=10**9)

    async def handle(request: web.Request) -> web.Response:
        return await bulk(request)

    application.router.add_post("/_bulk", handle)
    application.router.add_get("/{index}", held_indices)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "localhost", 0).start()
    settings = VectorSettings(
        opensearch_host="localhost", opensearch_port=runner.addresses[0][1], opensearch_use_ssl=False, **options
    )
    sink = VectorSink(settings, NoEmbedder())
    sink._client = connect(settings)
    sink._indices[EntityType.PERSON] = "banking-persons-v1"
    try:
        yield sink
    finally:
        await sink.close()
        await runner.cleanup()


async def held_indices(request: web.Request) -> web.Response:
    return await answer({"banking-persons-v1": INDEX})


async def answer(body: Any, status: int = 200) -> web.Response:
    return web.json_response(body, status=status)


@pytest.mark.parametrize(
    ("status", "kind", "error"),
    [
        (400, "illegal_argument_exception", BatchFailedError),
        (413, "too large", BatchFailedError),
        (429, "circuit_breaking_exception", SinkUnavailableError),
        (429, "cluster_block_exception", SinkUnavailableError),
        (401, "unauthorized", SinkUnavailableError),
        (403, "security_exception", SinkUnavailableError),
        (404, "no such path", SinkUnavailableError),
        (500, "internal", SinkUnavailableError),
        (503, "unavailable", SinkUnavailableError),
    ],
)
async def test_a_request_that_fails_as_a_whole(status: int, kind: str, error: type[Exception]) -> None:
    async with sink_of(lambda request: answer({"error": {"type": kind}, "status": status}, status)) as sink:
        with pytest.raises(error, match=f"{status}"):
            await sink.write([EVENT])


async def test_an_answer_that_is_no_json() -> None:
    async def page(request: web.Request) -> web.Response:
        return web.Response(text="<html>", content_type="application/json")

    async with sink_of(page) as sink:
        with pytest.raises(SinkUnavailableError, match="no answer that can be read"):
            await sink.write([EVENT])


async def test_an_answer_that_is_too_short() -> None:
    async with sink_of(lambda request: answer({"errors": False, "items": []})) as sink:
        with pytest.raises(SinkUnavailableError, match="0 of 1"):
            await sink.write([EVENT])


async def test_a_server_that_is_too_slow() -> None:
    async def slow(request: web.Request) -> web.Response:
        await asyncio.sleep(5)
        return await answer({})

    async with sink_of(slow, opensearch_request_timeout_seconds=0.2) as sink:
        with pytest.raises(SinkUnavailableError):
            await sink.write([EVENT])


async def test_the_server_is_asked_to_give_up_first() -> None:
    seen: list[str] = []

    async def note(request: web.Request) -> web.Response:
        seen.append(request.query["timeout"])
        return await answer({"errors": False, "items": [{"index": {"status": 201}}]})

    async with sink_of(note, opensearch_request_timeout_seconds=30) as sink:
        assert [outcome.status for outcome in await sink.write([EVENT])] == [Status.APPLIED]
    assert seen == ["15000ms"]


async def test_an_index_that_stays_missing_is_a_retry() -> None:
    item = {"index": {"status": 404, "error": {"type": "index_not_found_exception", "reason": "no such index"}}}
    requests: list[bytes] = []

    async def lost(request: web.Request) -> web.Response:
        requests.append(await request.read())
        return await answer({"errors": True, "items": [item]})

    async with sink_of(lost) as sink:
        assert [outcome.status for outcome in await sink.write([EVENT])] == [Status.RETRY]
    assert len(requests) == 2
    assert json.loads(requests[0].splitlines()[0])["index"]["_index"] == "banking-persons-v1"


async def test_a_payload_that_cannot_be_written_is_rejected_alone() -> None:
    async with sink_of(lambda request: answer({"errors": False, "items": [{"index": {"status": 201}}]})) as sink:
        odd = create_person_event("p-2", "Ann", {"odd": object()}, source="test")
        outcomes = await sink.write([odd, EVENT])
    assert [outcome.status for outcome in outcomes] == [Status.REJECTED, Status.APPLIED]
    assert outcomes[0].reason is RejectionReason.INVALID_FIELD


async def test_before_it_is_open() -> None:
    sink = VectorSink(VectorSettings(), NoEmbedder())
    with pytest.raises(SinkUnavailableError, match="not connected"):
        await sink.check()
    await sink.close()


async def test_nothing_to_write() -> None:
    async with sink_of(lambda request: answer({})) as sink:
        assert await sink.write([]) == []


def test_requests_are_bounded_by_number_and_bytes() -> None:
    rows = [Row(number, EVENT, b"x" * size) for number, size in enumerate([10, 10, 10, 100, 1, 1, 1, 1])]
    parts = [[row.position for row in part] for part in split(rows, 3, 25)]
    assert parts == [[0, 1], [2], [3], [4, 5, 6], [7]]
    assert list(split([], 3, 25)) == []


async def test_what_one_node_does_not_answer_the_next_one_does() -> None:
    async def tell(_request: web.Request) -> web.Response:
        return await answer({"name": "second"})

    application = web.Application()
    application.router.add_get("/", tell)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    hosts = f"127.0.0.1:1,127.0.0.1:{runner.addresses[0][1]}"
    client = connect(VectorSettings(opensearch_host=hosts, opensearch_use_ssl=False))
    try:
        async with asyncio.timeout(30):
            assert [(await client.info())["name"] for _ in range(4)] == ["second"] * 4
    finally:
        await client.close()
        await runner.cleanup()
