from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING

import pytest

from graph_consumer.gremlin import (
    AuthenticationError,
    ConnectionFailedError,
    Credentials,
    GremlinClient,
    RequestTimeoutError,
    ResponseError,
    UnreadableResponseError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .conftest import GremlinServer, Request


@pytest.fixture
async def client(server: GremlinServer) -> AsyncIterator[GremlinClient]:
    client = GremlinClient(server.url, connect_timeout_seconds=2, request_timeout_seconds=5)
    yield client
    await client.close()


async def test_a_script_and_its_bindings_arrive(server: GremlinServer, client: GremlinClient) -> None:
    assert await client.submit("1 + x", {"x": "text\u20ac"}) == ["1 + x"]
    assert server.requests[0].op == "eval"
    assert server.requests[0].arguments["bindings"] == {"x": "text\u20ac"}


async def test_requests_share_a_connection_and_are_answered_in_any_order(
    server: GremlinServer, client: GremlinClient
) -> None:
    waiting: list[Request] = []

    async def backwards(request: Request) -> None:
        waiting.append(request)
        if len(waiting) == 10:
            for held in reversed(waiting):
                await held.answer([held.script])

    server.handle = backwards
    answers = await asyncio.gather(*(client.submit(str(number)) for number in range(10)))
    assert answers == [[str(number)] for number in range(10)]
    assert server.connections == 1


async def test_partial_answers_are_put_together(server: GremlinServer, client: GremlinClient) -> None:
    async def parts(request: Request) -> None:
        await request.answer([1, 2], code=206)
        await request.answer([3], code=200)

    server.handle = parts
    assert await client.submit("x") == [1, 2, 3]


async def test_no_content_is_no_result(server: GremlinServer, client: GremlinClient) -> None:
    server.handle = lambda request: request.answer(None, code=204)
    assert await client.submit("x") == []


async def test_an_error_says_its_code_and_exceptions(server: GremlinServer, client: GremlinClient) -> None:
    server.handle = lambda request: request.fail(597, "no such thing", ["a.B", "c.D"])
    with pytest.raises(ResponseError, match="597: no such thing") as caught:
        await client.submit("x")
    assert (caught.value.code, caught.value.exceptions) == (597, ("a.B", "c.D"))
    server.handle = server.ok
    assert await client.submit("y") == ["y"]


async def test_a_lost_connection_fails_what_is_in_flight_and_the_next_request_connects_anew(
    server: GremlinServer, client: GremlinClient
) -> None:
    async def never(request: Request) -> None:
        await asyncio.sleep(60)

    server.handle = never
    requests = [asyncio.create_task(client.submit("x")) for _ in range(5)]
    await server.received(5)
    await server.sockets[0].close()
    results = await asyncio.gather(*requests, return_exceptions=True)
    assert [type(result) for result in results] == [ConnectionFailedError] * 5
    server.handle = server.ok
    assert await client.submit("again") == ["again"]
    assert server.connections == 2


async def test_a_request_without_an_answer_times_out_alone(server: GremlinServer, client: GremlinClient) -> None:
    async def sometimes(request: Request) -> None:
        if request.script == "slow":
            await asyncio.sleep(0.3)
        await request.answer([request.script])

    server.handle = sometimes
    with pytest.raises(RequestTimeoutError, match=r"0\.1 s"):
        await client.submit("slow", timeout_seconds=0.1)
    assert await client.submit("quick") == ["quick"]
    await asyncio.sleep(0.3)  # the late answer is nobody's
    assert await client.submit("quick") == ["quick"]
    assert server.connections == 1


async def test_nobody_listening_is_a_failed_connection() -> None:
    client = GremlinClient("ws://127.0.0.1:9/gremlin", connect_timeout_seconds=1)
    with pytest.raises(ConnectionFailedError, match="127"):
        await client.submit("x")
    await client.close()


async def test_a_server_that_accepts_and_says_nothing_is_a_failed_connection() -> None:
    silent = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    client = GremlinClient(f"ws://127.0.0.1:{port}/gremlin", connect_timeout_seconds=0.2)
    with pytest.raises(ConnectionFailedError, match=r"within 0\.2 s"):
        await client.submit("x")
    await client.close()
    silent.close()


async def test_an_answer_that_cannot_be_read_fails_its_request_only(
    server: GremlinServer, client: GremlinClient
) -> None:
    async def rubbish(request: Request) -> None:
        await request.socket.send_bytes(b"\x81\x00" + request.request_id.bytes + b"\xff" * 40)

    server.handle = rubbish
    with pytest.raises(UnreadableResponseError):
        await client.submit("x")
    server.handle = server.ok
    assert await client.submit("y") == ["y"]
    assert server.connections == 1


async def authenticate(request: Request) -> None:
    if request.op == "eval":
        await request.fail(407, "")
    elif request.arguments["sasl"] == base64.b64encode(b"\0ann\0secret").decode():
        await request.answer(["welcome"])
    else:
        await request.fail(401, "Username and/or password are incorrect")


async def test_a_server_that_asks_for_a_password_gets_it(server: GremlinServer) -> None:
    server.handle = authenticate
    client = GremlinClient(server.url, credentials=lambda: Credentials("ann", "secret"))
    assert await client.submit("x") == ["welcome"]
    await client.close()


async def test_a_wrong_or_missing_password_is_an_error_of_its_own(server: GremlinServer) -> None:
    server.handle = authenticate
    for credentials in (lambda: Credentials("ann", "guess"), None):
        client = GremlinClient(server.url, credentials=credentials)
        with pytest.raises(AuthenticationError):
            await client.submit("x")
        await client.close()
    assert "guess" not in repr(Credentials("ann", "guess"))


async def test_after_a_wrong_password_the_next_request_connects_anew_with_the_password_of_then(
    server: GremlinServer,
) -> None:
    server.handle = authenticate
    passwords = iter(["guess", "secret"])
    client = GremlinClient(server.url, credentials=lambda: Credentials("ann", next(passwords)))
    with pytest.raises(AuthenticationError, match="incorrect"):
        await client.submit("x")
    async with asyncio.timeout(5):
        assert await client.submit("x") == ["welcome"]
    assert server.connections == 2
    await client.close()


async def test_a_closed_client_fails_what_is_in_flight(server: GremlinServer, client: GremlinClient) -> None:
    async def never(request: Request) -> None:
        await asyncio.sleep(60)

    server.handle = never
    request = asyncio.create_task(client.submit("x"))
    await server.received(1)
    await client.close()
    with pytest.raises(ConnectionFailedError):
        await request
