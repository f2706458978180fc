"""The embedder that asks an OpenAI-compatible service, against a real HTTP server of the test's own."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from aiohttp import web
from prometheus_client import REGISTRY

from banking.streaming.sink import BatchFailedError, SinkUnavailableError
from vector_consumer.embedder import make_embedder
from vector_consumer.embedders.openai import OpenAIEmbedder
from vector_consumer.settings import EmbedderKind, VectorSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

KEY = "sk-s3cret"
Reply = Callable[["Service", list[str]], Awaitable[web.StreamResponse]]


class Service:
    """An embeddings API that gives the vector (length of the text, 3), and before that whatever it was told to."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.times: list[float] = []
        self.keys: list[str | None] = []
        self.bodies: list[dict[str, Any]] = []
        self.replies: list[Reply] = []
        self.always: Reply | None = None
        self.open = 0
        self.most_open = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.asked.append(body["input"])
        self.times.append(time.monotonic())
        self.keys.append(request.headers.get("Authorization"))
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            if self.replies:
                return await self.replies.pop(0)(self, body["input"])
            if self.always is not None:
                return await self.always(self, body["input"])
            return self.vectors(body["input"])
        finally:
            self.open -= 1

    def vectors(self, texts: list[str]) -> web.Response:
        data = [
            {"object": "embedding", "index": index, "embedding": [len(text), 3]} for index, text in enumerate(texts)
        ]
        # The order is the index's, not the list's.
        return web.json_response({"object": "list", "data": data[::-1], "model": "m", "usage": {"total_tokens": 1}})


def status(code: int, **headers: str) -> Reply:
    async def reply(service: Service, texts: list[str]) -> web.StreamResponse:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.json_response({"error": {"message": f"about {texts[0]}"}}, status=code, headers=names)

    return reply


def text(content: str) -> Reply:
    async def reply(service: Service, texts: list[str]) -> web.StreamResponse:
        return web.Response(text=content, content_type="application/json")

    return reply


async def cut_off(service: Service, texts: list[str]) -> web.StreamResponse:
    """An answer whose connection ends in its middle."""
    response = web.Response(text='{"data":[{"index":0,"embed')
    response.content_length = 1000
    response.force_close()
    return response


async def slow(service: Service, texts: list[str]) -> web.StreamResponse:
    await asyncio.sleep(30)
    return service.vectors(texts)


def refusing(bad: str) -> Reply:
    async def reply(service: Service, texts: list[str]) -> web.StreamResponse:
        if bad in texts:
            return web.json_response({"error": {"message": "too many tokens"}}, status=400)
        return service.vectors(texts)

    return reply


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    service = Service()
    application = web.Application(client_max_size=10**9)
    application.router.add_post("/v1/embeddings", service.handle)
    runner = web.AppRunner(application, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    service.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    yield service
    await runner.cleanup()


@asynccontextmanager
async def embedder_of(url: str, **options: Any) -> AsyncIterator[OpenAIEmbedder]:
    settings = {"embedding_model": "m", "embedding_dimension": 2, "embedding_timeout_seconds": 20, **options}
    embedder = OpenAIEmbedder(VectorSettings(embedder=EmbedderKind.OPENAI, embedding_url=url, **settings))
    try:
        async with asyncio.timeout(30):
            yield embedder
    finally:
        await embedder.close()


def requests(answer: str) -> float:
    return REGISTRY.get_sample_value("vector_embedding_requests_total", {"answer": answer}) or 0.0


async def test_vectors_by_one_request_in_the_order_of_the_texts(service: Service) -> None:
    before = requests("ok")
    async with embedder_of(service.url + "/") as embedder:
        assert (embedder.name, embedder.dimension) == ("m", 2)
        vectors = await embedder.embed(["abcd", "Zürich 😀", "x" * 100_000])
    assert service.bodies == [{"model": "m", "input": ["abcd", "Zürich 😀", "x" * 100_000]}]
    assert service.keys == [None]
    expected = [[0.8, 0.6], [8 / 73**0.5, 3 / 73**0.5], [1.0, 0.00003]]
    for vector, numbers in zip(vectors, expected, strict=True):
        assert vector is not None
        assert vector.dtype == np.float32
        assert vector.tolist() == pytest.approx(numbers, abs=1e-5)
    assert requests("ok") - before == 1


async def test_opening_asks_for_one_vector_once(service: Service) -> None:
    async with embedder_of(service.url) as embedder:
        await asyncio.gather(embedder.open(), embedder.open())
        await embedder.open()
    assert [len(texts) for texts in service.asked] == [1]


async def test_a_vector_without_a_direction_is_none(service: Service) -> None:
    service.always = text('{"data":[{"index":0,"embedding":[0,0.0]}]}')
    async with embedder_of(service.url) as embedder:
        assert await embedder.embed(["unknown"]) == [None]


async def test_the_key_is_read_each_time_and_kept_secret(service: Service, tmp_path: Path) -> None:
    async def check(service: Service, texts: list[str]) -> web.StreamResponse:
        return service.vectors(texts) if service.keys[-1] == f"Bearer {KEY}" else await status(401)(service, texts)

    service.always = check
    key_file = tmp_path / "key"
    key_file.write_text("wrong\n")
    async with embedder_of(service.url, embedding_key_file=key_file) as embedder:
        with pytest.raises(SinkUnavailableError, match=r"401; is EMBEDDING_KEY_FILE right\?") as caught:
            await embedder.embed(["a"])
        assert "wrong" not in str(caught.value)
        assert len(service.asked) == 1  # the same key is refused again: no repetition
        key_file.write_text(f" {KEY}\r\n")
        assert len(await embedder.embed(["a"])) == 1
        key_file.unlink()
        with pytest.raises(SinkUnavailableError, match="EMBEDDING_KEY_FILE cannot be read"):
            await embedder.embed(["a"])


async def test_a_private_authority_can_be_trusted(localhost_certificate: tuple[Path, Path]) -> None:
    service = Service()
    application = web.Application()
    application.router.add_post("/embeddings", service.handle)
    runner = web.AppRunner(application, shutdown_timeout=1)
    await runner.setup()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*localhost_certificate)
    await web.TCPSite(runner, "localhost", 0, ssl_context=context).start()
    url = f"https://localhost:{runner.addresses[0][1]}"
    try:
        async with embedder_of(url, embedding_ca_file=localhost_certificate[0]) as embedder:
            assert len(await embedder.embed(["a"])) == 1
        async with embedder_of(url, embedding_timeout_seconds=0.5) as embedder:
            with pytest.raises(SinkUnavailableError, match="certificate"):
                await embedder.embed(["a"])
    finally:
        await runner.cleanup()


class TestRepetition:
    @pytest.mark.parametrize(
        "reply", [status(500), status(503), status(408), status(429), cut_off, text('{"data":['), text("<html>")]
    )
    async def test_what_may_pass_is_asked_again(self, service: Service, reply: Reply) -> None:
        service.replies = [reply, reply]
        async with embedder_of(service.url) as embedder:
            assert len(await embedder.embed(["a"])) == 1
        assert service.asked == [["a"]] * 3

    async def test_what_does_not_pass_is_a_pause(self, service: Service) -> None:
        service.always = status(502)
        before = requests("busy")
        async with embedder_of(service.url) as embedder:
            with pytest.raises(SinkUnavailableError, match="it answered 502"):
                await embedder.embed(["hunter2"])
        assert 2 <= len(service.asked) <= 6
        assert requests("busy") - before == len(service.asked)

    async def test_a_slow_answer_is_a_pause(self, service: Service) -> None:
        service.always = slow
        started = time.monotonic()
        async with embedder_of(service.url, embedding_timeout_seconds=0.3) as embedder:
            with pytest.raises(SinkUnavailableError, match="no answer"):
                await embedder.embed(["a"])
        assert time.monotonic() - started < 15

    async def test_nobody_there_is_a_pause(self) -> None:
        async with embedder_of("http://127.0.0.1:1/v1", embedding_timeout_seconds=0.5) as embedder:
            with pytest.raises(SinkUnavailableError, match=r"embedding service http://127\.0\.0\.1:1/v1/embeddings"):
                await embedder.embed(["a"])

    async def test_it_waits_as_long_as_it_is_asked_to(self, service: Service) -> None:
        service.replies = [status(429, Retry_After="2")]
        async with embedder_of(service.url) as embedder:
            await embedder.embed(["a"])
        assert service.times[1] - service.times[0] >= 2.0

    async def test_it_waits_until_the_moment_it_is_told(self, service: Service) -> None:
        moment = datetime.now(UTC) + timedelta(seconds=3)  # dates have whole seconds
        service.replies = [status(503, Retry_After=format_datetime(moment, usegmt=True))]
        async with embedder_of(service.url) as embedder:
            await embedder.embed(["a"])
        assert service.times[1] - service.times[0] >= 1.9

    @pytest.mark.parametrize("value", ["-5", "soon", "Wed, 21 Oct 2015 07:28:00 GMT", "", "1.5e9"])
    async def test_other_wishes_are_no_wait(self, service: Service, value: str) -> None:
        service.replies = [status(429, Retry_After=value)]
        async with embedder_of(service.url) as embedder:
            await embedder.embed(["a"])
        assert service.times[1] - service.times[0] < 2.0

    async def test_a_long_wait_is_a_pause_that_asks_nothing(self, service: Service) -> None:
        service.replies = [status(429, Retry_After="60")]
        async with embedder_of(service.url) as embedder:
            for _ in range(3):
                with pytest.raises(SinkUnavailableError, match=r"left alone for another (60|59) s"):
                    await embedder.embed(["a"])
        assert len(service.asked) == 1


class TestWrongSetUp:
    @pytest.mark.parametrize(
        ("reply", "problem"),
        [
            (status(401), "EMBEDDING_KEY_FILE"),
            (status(403), "EMBEDDING_KEY_FILE"),
            (status(404), "EMBEDDING_URL and EMBEDDING_MODEL"),
            (status(405), "EMBEDDING_URL"),
            (status(301, Location="/elsewhere"), "301"),
            (status(204), "204"),
            (text('{"data":[{"index":0,"embedding":[1,2,3]}]}'), "3 dimensions, EMBEDDING_DIMENSION says 2"),
            (text('{"data":[]}'), "0 vectors for 1 texts"),
            (text('{"data":[{"index":0,"embedding":[1,2]},{"index":1,"embedding":[1,2]}]}'), "2 vectors for 1 texts"),
            (text('{"data":[{"index":7,"embedding":[1,2]}]}'), "1 vectors for 1 texts"),
            (text('{"data":[{"index":0,"embedding":[null,2]}]}'), "cannot be read"),
            (text('{"data":[{"index":0,"embedding":"AAAA"}]}'), "cannot be read"),
            (status(400), "refuses any text"),
            (status(422), "refuses any text"),
        ],
    )
    async def test_it_is_a_pause_that_says_what_to_look_at(self, service: Service, reply: Reply, problem: str) -> None:
        service.always = reply
        async with embedder_of(service.url) as embedder:
            for ask in (embedder.open(), embedder.embed(["hunter2"])):
                with pytest.raises(SinkUnavailableError, match=problem) as caught:
                    await ask
                assert "hunter2" not in str(caught.value)

    async def test_a_later_success_opens(self, service: Service) -> None:
        service.replies = [status(401)]
        async with embedder_of(service.url) as embedder:
            with pytest.raises(SinkUnavailableError):
                await embedder.open()
            await embedder.open()


class TestRefusals:
    async def test_a_text_that_is_refused_alone_is_to_blame(self, service: Service) -> None:
        service.always = refusing("bad")
        async with embedder_of(service.url) as embedder:
            with pytest.raises(BatchFailedError, match=r"text_for_embedding: .* refused it with 400"):
                await embedder.embed(["good", "bad"])
            assert len(service.asked) == 1  # nothing is known yet of either
            with pytest.raises(BatchFailedError, match="text_for_embedding"):
                await embedder.embed(["bad"])
            assert service.asked[2] not in (["good"], ["bad"])  # another text, which is taken
            assert len(await embedder.embed(["good"])) == 1

    async def test_a_service_that_is_busy_when_asked_for_another_text_is_a_pause(self, service: Service) -> None:
        service.replies = [status(413), status(404)]
        async with embedder_of(service.url) as embedder:
            with pytest.raises(SinkUnavailableError, match="404"):
                await embedder.embed(["a"])


class TestBehindTheCache:
    def settings(self, service: Service, **options: Any) -> VectorSettings:
        return VectorSettings(
            embedder=EmbedderKind.OPENAI,
            embedding_url=service.url,
            embedding_model="m",
            embedding_dimension=2,
            **options,
        )

    async def test_requests_are_bounded_in_size_and_number(self, service: Service) -> None:
        async def take_time(service: Service, texts: list[str]) -> web.StreamResponse:
            await asyncio.sleep(0.05)
            return service.vectors(texts)

        service.always = take_time
        embedder = make_embedder(self.settings(service, embedding_batch_texts=10, embedding_requests_in_flight=3))
        try:
            texts = [f"text {number}" for number in range(95)]
            vectors = await embedder.embed([*texts, "", texts[0]])
            again = await embedder.embed(texts)
        finally:
            await embedder.close()
        assert sorted(len(texts) for texts in service.asked) == [5] + [10] * 9
        assert service.most_open == 3
        assert vectors[-2] is None
        assert vectors[-1] is vectors[0] is again[0]

    async def test_a_limited_service_gets_everything_done_in_the_end(self, service: Service) -> None:
        budget = 2

        async def limited(service: Service, texts: list[str]) -> web.StreamResponse:
            nonlocal budget
            if not budget:
                return await status(429, Retry_After="60")(service, texts)
            budget -= 1
            return service.vectors(texts)

        service.always = limited
        embedder = make_embedder(self.settings(service, embedding_batch_texts=10, embedding_requests_in_flight=1))
        texts = [f"text {number}" for number in range(50)]
        try:
            with pytest.raises(SinkUnavailableError):
                await embedder.embed(texts)
            assert budget == 0
            embedder._embedder._rest_until = 0.0  # a minute later
            budget = 3
            assert len(await embedder.embed(texts)) == 50
        finally:
            await embedder.close()
