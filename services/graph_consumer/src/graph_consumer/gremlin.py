"""A Gremlin client in the caller's own event loop: one WebSocket, any number of requests in flight on it.

gremlinpython supplies the serialisation only: its driver runs a loop of its own per connection in a thread pool.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp
from gremlin_python.driver.request import RequestMessage
from gremlin_python.process.traversal import Traverser
from janusgraph_python.driver.serializer import JanusGraphBinarySerializersV1

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

_OK, _NO_CONTENT, _PARTIAL, _UNAUTHORIZED, _AUTHENTICATE = 200, 204, 206, 401, 407
_MAX_RESPONSE_BYTES = 64 * 1024 * 1024
_HEARTBEAT_SECONDS = 30.0
_REQUEST_ID = slice(2, 18)  # in a GraphBinary response: after the version and the flag that it is not null

# It logs whole Java stack traces; the errors below say the same once.
logging.getLogger("gremlinpython").disabled = True


class GremlinError(Exception):
    """Base of the errors that this module raises."""


class ConnectionFailedError(GremlinError):
    """There is no connection to the server, or it broke before the answer came: what became of it is not known."""


class RequestTimeoutError(GremlinError):
    """No answer within the request's time: what became of it is not known."""


class ResponseError(GremlinError):
    """The server answered with an error.

    Attributes:
        code: The Gremlin Server status code.
        exceptions: The names of the Java exceptions behind it, outermost first.
    """

    def __init__(self, code: int, message: str, exceptions: tuple[str, ...] = ()) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.exceptions = exceptions


class AuthenticationError(ResponseError):
    """The server did not accept the user name and password, or wants some and none are set."""


class UnreadableResponseError(GremlinError):
    """The answer holds a value of a type that is not known here."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user name and password, for SASL PLAIN."""

    username: str
    password: str = field(repr=False)

    def token(self) -> str:
        """The SASL response."""
        return base64.b64encode(f"\0{self.username}\0{self.password}".encode()).decode()


class GremlinClient:
    """Sends scripts to one Gremlin Server.

    It connects when first used and again when the connection is gone. A lost connection fails the requests that were
    in flight on it; nothing is sent twice.

    Args:
        url: Such as `ws://localhost:8182/gremlin`, or `wss://…`.
        credentials: Asked for at each connection that needs them; None where there are none.
        ssl_context: How a `wss` server is verified; None is the system's way.
        connect_timeout_seconds: How long opening a connection may take.
        request_timeout_seconds: How long the answer to a request may take, unless the request says otherwise.
    """

    def __init__(
        self,
        url: str,
        *,
        credentials: Callable[[], Credentials] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        connect_timeout_seconds: float = 10.0,
        request_timeout_seconds: float = 60.0,
    ) -> None:
        self.url = url
        self._credentials = credentials
        self._ssl_context = ssl_context
        self._connect_timeout_seconds = connect_timeout_seconds
        self._request_timeout_seconds = request_timeout_seconds
        self._connecting = asyncio.Lock()
        self._http: aiohttp.ClientSession | None = None
        self._connection: _Connection | None = None

    async def submit(
        self, script: str, bindings: Mapping[str, Any] | None = None, *, timeout_seconds: float | None = None
    ) -> list[Any]:
        """Run a script on the server and return its results.

        Args:
            script: Gremlin. Keep it constant and pass values as bindings: it is compiled once, and values stay inert.
            bindings: The script's variables.
            timeout_seconds: For the answer, once connected; None is the client's own.

        Raises:
            GremlinError: One of the types above.
        """
        connection = await self._connected()
        return await connection.submit(script, bindings or {}, timeout_seconds or self._request_timeout_seconds)

    async def close(self) -> None:
        """Close the connection; requests in flight fail."""
        if self._connection is not None:
            await self._connection.close()
        if self._http is not None:
            await self._http.close()
        self._connection = self._http = None

    async def _connected(self) -> _Connection:
        async with self._connecting:
            if self._connection is None or self._connection.is_closed:
                self._connection = await self._connect()
            return self._connection

    async def _connect(self) -> _Connection:
        if self._http is None:
            self._http = aiohttp.ClientSession()
        try:
            credentials = self._credentials() if self._credentials is not None else None
            async with asyncio.timeout(self._connect_timeout_seconds):
                socket = await self._http.ws_connect(
                    self.url,
                    ssl=self._ssl_context or True,
                    max_msg_size=_MAX_RESPONSE_BYTES,
                    heartbeat=_HEARTBEAT_SECONDS,
                )
        except (aiohttp.ClientError, OSError) as error:  # a timeout is an OSError too
            problem = str(error) or f"no connection within {self._connect_timeout_seconds:g} s"
            raise ConnectionFailedError(f"{self.url}: {problem}") from error
        return _Connection(socket, credentials)


@dataclass(slots=True)
class _Pending:
    answer: asyncio.Future[list[Any]]
    results: list[Any] = field(default_factory=list)


class _Connection:
    """One open WebSocket and the requests in flight on it."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, credentials: Credentials | None) -> None:
        self._socket = socket
        self._credentials = credentials
        self._serializer = JanusGraphBinarySerializersV1()
        self._pending: dict[str, _Pending] = {}
        self._reader = asyncio.create_task(self._read(), name="gremlin-reader")

    @property
    def is_closed(self) -> bool:
        return self._socket.closed or self._reader.done()

    async def submit(self, script: str, bindings: Mapping[str, Any], timeout_seconds: float) -> list[Any]:
        request_id = str(uuid.uuid4())
        arguments = {"gremlin": script, "bindings": dict(bindings), "language": "gremlin-groovy"}
        message = self._serializer.serialize_message(request_id, RequestMessage("", "eval", arguments))
        answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._pending[request_id] = _Pending(answer)
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._send(message)
                return await answer
        except TimeoutError as error:
            raise RequestTimeoutError(f"no answer within {timeout_seconds:g} s") from error
        finally:
            self._pending.pop(request_id, None)

    async def close(self) -> None:
        await self._socket.close()
        await self._reader

    async def _send(self, message: bytes) -> None:
        if self.is_closed:
            raise ConnectionFailedError("the connection is closed")
        try:
            await self._socket.send_bytes(message)
        except (aiohttp.ClientError, ConnectionError) as error:
            raise ConnectionFailedError(f"the connection broke: {error}") from error

    async def _read(self) -> None:
        """Hand out answers until the connection ends; then fail what still waits, whatever the reason."""
        error: GremlinError = ConnectionFailedError("the connection was closed")
        try:
            async for message in self._socket:
                if message.type is aiohttp.WSMsgType.BINARY:
                    await self._receive(message.data)
        except (GremlinError, aiohttp.ClientError, OSError) as broken:
            error = ConnectionFailedError(f"the connection broke: {broken}")
        finally:
            for pending in self._pending.values():
                if not pending.answer.done():
                    pending.answer.set_exception(error)
            await self._socket.close()

    async def _receive(self, data: bytes) -> None:
        try:
            response = self._serializer.deserialize_message(data)
        except Exception as error:  # noqa: BLE001 - the deserialiser raises whatever the value makes it raise
            self._settle(
                str(uuid.UUID(bytes=data[_REQUEST_ID])), UnreadableResponseError(f"unreadable answer: {error}")
            )
            return
        request_id, status = response["requestId"], response["status"]
        pending = self._pending.get(request_id)
        if pending is None:  # it timed out
            return
        code = status["code"]
        if code in {_OK, _PARTIAL, _NO_CONTENT}:
            pending.results.extend(_flatten(response["result"]["data"] or []))
            if code != _PARTIAL:
                self._settle(request_id, None)
        elif code == _AUTHENTICATE and self._credentials is not None:
            arguments = {"sasl": self._credentials.token()}
            message = RequestMessage("traversal", "authentication", arguments)
            await self._send(self._serializer.serialize_message(request_id, message))
        elif code in {_UNAUTHORIZED, _AUTHENTICATE}:
            problem = status["message"] or "the server wants a user name and a password"
            self._settle(request_id, AuthenticationError(code, problem))
            # The server answers nothing more on it, and the next connection reads the password anew.
            await self._socket.close()
        else:
            exceptions = tuple(status["attributes"].get("exceptions") or ())
            self._settle(request_id, ResponseError(code, status["message"] or "", exceptions))

    def _settle(self, request_id: str, error: GremlinError | None) -> None:
        pending = self._pending.get(request_id)
        if pending is None or pending.answer.done():
            return
        if error is None:
            pending.answer.set_result(pending.results)
        else:
            pending.answer.set_exception(error)


def _flatten(data: list[Any]) -> list[Any]:
    """Results of traversals come as traversers that stand for several equal ones."""
    flat: list[Any] = []
    for item in data:
        if isinstance(item, Traverser):
            flat.extend([item.object] * item.bulk)
        else:
            flat.append(item)
    return flat
