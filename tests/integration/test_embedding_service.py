"""The vector leg's loop with an embedding service that fails: real OpenSearch, and a service of the test's own."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from opensearchpy import AsyncOpenSearch
from prometheus_client import CollectorRegistry

from banking.streaming.consumer import PAUSED, BatchConsumer, ConsumerOptions
from banking.streaming.events import create_communication_event
from banking.streaming.health import Health
from banking.streaming.metrics import StreamingMetrics
from banking.streaming.testing import InMemoryDeadLetters, InMemorySource
from vector_consumer.settings import EmbedderKind, VectorSettings
from vector_consumer.sink import VectorSink

OPTIONS = ConsumerOptions(retry_base_seconds=0.1, retry_max_seconds=0.5, drain_seconds=10.0)
BAD = "a text that no model takes"


class Service:
    """An embeddings API that refuses one text, and is away when told so."""

    def __init__(self):
        self.status = None

    async def handle(self, request):
        texts = (await request.json())["input"]
        if self.status is not None:
            return web.json_response({}, status=self.status)
        if BAD in texts:
            return web.json_response({"error": {"message": "too many tokens"}}, status=400)
        data = [{"index": index, "embedding": [len(text), 3]} for index, text in enumerate(texts)]
        return web.json_response({"data": data})


@pytest.fixture
async def service():
    service = Service()
    application = web.Application()
    application.router.add_post("/v1/embeddings", service.handle)
    runner = web.AppRunner(application, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    service.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    yield service
    await runner.cleanup()


@pytest.fixture
async def settings(opensearch_address, service):
    host, port = opensearch_address
    settings = VectorSettings(
        opensearch_host=host,
        opensearch_port=port,
        opensearch_use_ssl=False,
        index_prefix=f"test-{uuid.uuid4().hex[:12]}",
        embedder=EmbedderKind.OPENAI,
        embedding_url=service.url,
        embedding_model="of-the-test",
        embedding_dimension=2,
        embedding_timeout_seconds=0.5,
        embedding_batch_texts=8,
    )
    yield settings
    async with client_of(settings) as client:
        await client.indices.delete(index=f"{settings.index_prefix}-*")
        await client.indices.delete_index_template(name=f"{settings.index_prefix}-*", params={"ignore": 404})


def client_of(settings):
    return AsyncOpenSearch(hosts=[{"host": settings.opensearch_host, "port": settings.opensearch_port}], timeout=60)


class Leg:
    """The loop of the vector leg, with its events and dead letters in memory."""

    def __init__(self, settings):
        self.source = InMemorySource(100)
        self.dead = InMemoryDeadLetters()
        self.health = Health()
        self._stop = asyncio.Event()
        self._consumer = BatchConsumer(
            VectorSink(settings),
            [self.source],
            self.dead,
            self.health,
            OPTIONS,
            metrics=StreamingMetrics(CollectorRegistry()),
        )

    def put(self, entity_id, text):
        event = create_communication_event(entity_id, {}, "test", text_for_embedding=text)
        self.source.put(event.to_bytes(), topic="communications-events", key=entity_id)

    @asynccontextmanager
    async def running(self):
        task = asyncio.create_task(self._consumer.run(self._stop))
        try:
            yield
        finally:
            self._stop.set()
            await asyncio.wait_for(task, 30)

    async def until(self, condition):
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.02)


async def documents(settings):
    async with client_of(settings) as client:
        alias = f"{settings.index_prefix}-communications"
        await client.indices.refresh(index=alias)
        answer = await client.search(index=alias, body={"size": 1000})
    return {hit["_id"]: hit["_source"] for hit in answer["hits"]["hits"]}


async def test_a_text_that_is_refused_is_a_dead_letter_and_alone(service, settings):
    leg = Leg(settings)
    for number in range(40):
        leg.put(f"c-{number}", BAD if number == 17 else f"text {number}")
    leg.put("c-empty", "")
    async with leg.running():
        await leg.until(lambda: len(leg.source.acknowledged) == 41)
    assert [letter.key for letter in leg.dead.letters] == ["c-17"]
    assert leg.dead.letters[0].error.startswith("text_for_embedding: ")
    held = await documents(settings)
    assert held.keys() == {f"c-{number}" for number in range(40) if number != 17} | {"c-empty"}
    assert [key for key, document in held.items() if "embedding" not in document] == ["c-empty"]


@pytest.mark.parametrize(
    ("status", "problem"), [(500, "500"), (429, "429"), (401, "EMBEDDING_KEY_FILE"), (400, "any text")]
)
async def test_a_service_that_fails_is_a_pause_that_ends_by_itself(service, settings, status, problem):
    leg = Leg(settings)
    async with leg.running():
        leg.put("c-1", "a text")
        await leg.until(lambda: len(leg.source.acknowledged) == 1)
        service.status = status
        leg.put("c-2", "another text")
        await leg.until(lambda: problem in leg.health.problems.get(PAUSED, ""))
        assert "another text" not in leg.health.problems[PAUSED]
        service.status = None
        await leg.until(lambda: len(leg.source.acknowledged) == 2)
        await leg.until(lambda: leg.health.ready)
    assert leg.dead.letters == []
    assert (await documents(settings)).keys() == {"c-1", "c-2"}


async def test_it_waits_for_a_service_that_is_not_there_yet(service, settings):
    service.status = 503
    leg = Leg(settings)
    leg.put("c-1", "a text")
    async with leg.running():
        await leg.until(lambda: "503" in " ".join(leg.health.problems.values()))
        service.status = None
        await leg.until(lambda: len(leg.source.acknowledged) == 1)
    assert leg.dead.letters == []
