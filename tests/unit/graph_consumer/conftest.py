"""A small Gremlin Server, enough to test the client against: real WebSocket, real GraphBinary, scripted answers."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from aiohttp import WSMsgType, web
from aiohttp.test_utils import TestServer
from gremlin_python.structure.io.graphbinaryV1 import GraphBinaryReader, GraphBinaryWriter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

_MIME = 1 + len("application/vnd.graphbinary-v1.0")


class Request:
    """A decoded request and the ways to answer it."""

    def __init__(self, socket: web.WebSocketResponse, data: bytes) -> None:
        self.socket = socket
        body = memoryview(data)[_MIME + 1 :]
        self.request_id = UUID(bytes=bytes(body[:16]))
        body = body[16:]
        self.op, body = _text(body)
        _, body = _text(body)
        (count,) = struct.unpack_from(">i", body)
        self.arguments = _values(bytes(body[4:]), count)

    @property
    def script(self) -> str:
        return str(self.arguments.get("gremlin"))

    async def answer(self, results: list[Any] | None, code: int = 200) -> None:
        await self._send(code, "", {}, results)

    async def fail(self, code: int, message: str, exceptions: list[str] | None = None) -> None:
        await self._send(code, message, {"exceptions": exceptions} if exceptions else {}, None)

    async def _send(self, code: int, message: str, attributes: dict[str, Any], results: list[Any] | None) -> None:
        writer = GraphBinaryWriter()
        data = bytearray(b"\x81\x00" + self.request_id.bytes + struct.pack(">i", code) + b"\x00")
        data += struct.pack(">i", len(message.encode())) + message.encode()
        for pairs in (attributes, {}):
            data += struct.pack(">i", len(pairs))
            for key, value in pairs.items():
                writer.to_dict(key, data)
                writer.to_dict(value, data)
        writer.to_dict(results, data)
        await self.socket.send_bytes(bytes(data))


class GremlinServer:
    """Answers each request by `handle`; tests set it."""

    def __init__(self) -> None:
        self.handle: Callable[[Request], Awaitable[None]] = self.ok
        self.connections = 0
        self.sockets: list[web.WebSocketResponse] = []
        self.requests: list[Request] = []
        self._arrival = asyncio.Condition()
        app = web.Application()
        app.router.add_get("/gremlin", self._serve)
        self._app = app

    async def start(self, port: int | None = None) -> None:
        self._server = TestServer(self._app, port=port)
        await self._server.start_server()

    async def stop(self) -> None:
        for socket in self.sockets:
            with contextlib.suppress(ConnectionError):
                await socket.close()
        await self._server.close()

    @property
    def port(self) -> int:
        return int(self._server.port or 0)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/gremlin"

    async def received(self, count: int) -> None:
        """Wait until so many requests have arrived."""
        async with self._arrival:
            await self._arrival.wait_for(lambda: len(self.requests) >= count)

    async def ok(self, request: Request) -> None:
        await request.answer([request.script])

    async def _serve(self, http: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(http)
        self.connections += 1
        self.sockets.append(socket)
        tasks = []
        async for message in socket:
            if message.type is WSMsgType.BINARY:
                request = Request(socket, message.data)
                async with self._arrival:
                    self.requests.append(request)
                    self._arrival.notify_all()
                tasks.append(asyncio.create_task(self._run(request)))
        for task in tasks:
            task.cancel()
        return socket

    async def _run(self, request: Request) -> None:
        with contextlib.suppress(ConnectionError):
            await self.handle(request)


@pytest.fixture
async def server() -> AsyncIterator[GremlinServer]:
    server = GremlinServer()
    await server.start()
    yield server
    await server.stop()


def _text(body: memoryview) -> tuple[str, memoryview]:
    (length,) = struct.unpack_from(">i", body)
    return bytes(body[4 : 4 + length]).decode(), body[4 + length :]


def _values(body: bytes, count: int) -> dict[str, Any]:
    import io

    stream, reader = io.BytesIO(body), GraphBinaryReader()
    return {reader.to_object(stream): reader.to_object(stream) for _ in range(count)}
