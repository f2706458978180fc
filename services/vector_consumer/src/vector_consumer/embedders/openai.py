"""A server that speaks OpenAI's embeddings API: OpenAI itself, vLLM, Ollama, Text Embeddings Inference and others."""

from __future__ import annotations

import asyncio
import ssl
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import stamina
from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector

from banking.streaming.settings import read_secret
from banking.streaming.sink import BatchFailedError, SinkUnavailableError
from vector_consumer.embedder import unit_vector
from vector_consumer.metrics import EMBEDDING_REQUESTS, Answer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vector_consumer.embedder import Vector
    from vector_consumer.settings import VectorSettings

_ATTEMPTS = 4
_LONGEST_WAIT_SECONDS = 5.0
_LONGEST_REST_SECONDS = 3600.0
_PROBE = "text"
_TEXTS_TO_BLAME = frozenset({400, 413, 422})
_BUSY = frozenset({408, 425, 429})
_HINTS = {
    401: "is EMBEDDING_KEY_FILE right?",
    403: "is EMBEDDING_KEY_FILE right?",
    404: "are EMBEDDING_URL and EMBEDDING_MODEL right?",
}


class _Item(msgspec.Struct):
    index: int
    embedding: msgspec.Raw


class _Embeddings(msgspec.Struct):
    data: list[_Item]


class _TransientError(Exception):
    """The service may well answer the same request in a moment."""


# In two steps: numbers by the ten thousand in one go would hold the interpreter, and so the event loop, for long.
_decode = msgspec.json.Decoder(_Embeddings).decode
_decode_numbers = msgspec.json.Decoder(list[float]).decode


class OpenAIEmbedder:
    """Asks an OpenAI-compatible endpoint, some requests side by side, and scales its vectors to length 1.

    A service that is away, busy or wrongly set up is a pause, never the fault of a text. That a text is refused is
    believed only of a service that takes another one.

    Args:
        settings: Where it is, which model it is asked for, and how patiently.
    """

    def __init__(self, settings: VectorSettings) -> None:
        assert settings.embedding_url is not None  # noqa: S101 - the settings were checked
        assert settings.embedding_model is not None  # noqa: S101
        assert settings.embedding_dimension is not None  # noqa: S101
        self.name = settings.embedding_model
        self.dimension = settings.embedding_dimension
        self._settings = settings
        self._url = f"{settings.embedding_url.rstrip('/')}/embeddings"
        self._session: ClientSession | None = None
        self._connecting = asyncio.Lock()
        self._opening = asyncio.Lock()
        self._opened = False
        self._slots = asyncio.Semaphore(settings.embedding_requests_in_flight)
        self._reading = asyncio.Lock()  # one thread at a time, for the same reason
        self._rest_until = 0.0

    async def open(self) -> None:
        """Ask for one vector, so that a wrong setting shows before the first event.

        Raises:
            SinkUnavailableError: The service gives none of the right dimension.
        """
        async with self._opening:
            if not self._opened:
                await self._probe()
                self._opened = True

    async def embed(self, texts: Sequence[str]) -> Sequence[Vector | None]:
        """One vector per text, by one request; see `Embedder`."""
        try:
            return await self._ask(texts)
        except BatchFailedError:
            # A service that refuses whatever it is asked refuses the settings, not this text.
            if len(texts) == 1:
                await self._probe()
            raise

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _probe(self) -> None:
        try:
            await self._ask([_PROBE])
        except BatchFailedError as error:
            raise SinkUnavailableError(f"{self._where}: it refuses any text; is EMBEDDING_MODEL right?") from error

    async def _ask(self, texts: Sequence[str]) -> list[Vector | None]:
        """Send one request, and again where that may help."""
        body = msgspec.json.encode({"model": self.name, "input": texts})
        try:
            async for attempt in stamina.retry_context(
                on=_TransientError,
                attempts=_ATTEMPTS,
                timeout=self._settings.embedding_timeout_seconds,
                wait_initial=0.2,
                wait_max=_LONGEST_WAIT_SECONDS,
                wait_jitter=0.5,
            ):
                with attempt:
                    async with self._slots:
                        await self._rest()
                        answer = await self._post(body)
                    async with self._reading:
                        vectors = await asyncio.to_thread(self._read, answer, len(texts))
        except _TransientError as error:
            raise SinkUnavailableError(f"{self._where}: {error}") from error
        return vectors

    async def _rest(self) -> None:
        """Wait for as long as the service asked for, where that is not too long to wait for here."""
        seconds = self._rest_until - time.monotonic()
        if seconds > self._settings.embedding_timeout_seconds:
            raise SinkUnavailableError(f"{self._where}: it asked to be left alone for another {seconds:.0f} s")
        await asyncio.sleep(max(0.0, seconds))

    async def _post(self, body: bytes) -> bytes:
        """One request; the body of its answer."""
        try:
            session = await self._connected()
            async with session.post(self._url, data=body, headers=self._headers(), allow_redirects=False) as response:
                content = await response.read()
        except (ClientError, TimeoutError) as error:
            EMBEDDING_REQUESTS.labels(Answer.NONE.value).inc()
            raise _TransientError(f"no answer: {str(error) or type(error).__name__}") from error
        status = response.status
        if status == 200:
            EMBEDDING_REQUESTS.labels(Answer.OK.value).inc()
            return content
        # What the answer says is not repeated: it may quote the text.
        if status in _BUSY or status >= 500:
            EMBEDDING_REQUESTS.labels(Answer.BUSY.value).inc()
            self._rest_until = max(self._rest_until, time.monotonic() + _retry_after(response.headers))
            raise _TransientError(f"it answered {status}")
        EMBEDDING_REQUESTS.labels(Answer.REFUSED.value).inc()
        if status in _TEXTS_TO_BLAME:
            raise BatchFailedError(f"text_for_embedding: the embedding service refused it with {status}")
        raise SinkUnavailableError(
            f"{self._where}: it answered {status}; {_HINTS.get(status, 'is EMBEDDING_URL right?')}"
        )

    def _read(self, answer: bytes, count: int) -> list[Vector | None]:
        """The vectors of an answer, in the order of the texts."""
        try:
            found = {
                item.index: np.array(_decode_numbers(item.embedding), dtype=np.float32) for item in _decode(answer).data
            }
        except msgspec.MsgspecError as error:
            raise _TransientError(f"its answer cannot be read: {error}") from error
        if found.keys() != set(range(count)):
            raise SinkUnavailableError(f"{self._where}: it answered {len(found)} vectors for {count} texts")
        for vector in found.values():
            if len(vector) != self.dimension:
                raise SinkUnavailableError(
                    f"{self._where}: its vectors have {len(vector)} dimensions, "
                    f"EMBEDDING_DIMENSION says {self.dimension}"
                )
        return [unit_vector(found[index]) for index in range(count)]

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        try:
            key = read_secret(self._settings.embedding_key_file)  # each time: keys are exchanged while services run
        except OSError as error:
            raise SinkUnavailableError(f"EMBEDDING_KEY_FILE cannot be read: {error.strerror}") from error
        if key:
            headers["Authorization"] = f"Bearer {key}"
        return headers

    async def _connected(self) -> ClientSession:
        async with self._connecting:
            if self._session is None:
                # It reads all of the system's authorities: off the event loop.
                context = await asyncio.to_thread(ssl.create_default_context, cafile=self._settings.embedding_ca_file)
                self._session = ClientSession(
                    connector=TCPConnector(ssl=context),
                    timeout=ClientTimeout(total=self._settings.embedding_timeout_seconds),
                )
            return self._session

    @property
    def _where(self) -> str:
        return f"embedding service {self._url}"


def _retry_after(headers: Mapping[str, str]) -> float:
    """For how many seconds the service wants to be left alone; it says so as a number or as a date."""
    value = headers.get("Retry-After", "")
    if value.isdecimal():
        seconds = float(value)
    else:
        try:
            moment = parsedate_to_datetime(value)
        except ValueError:
            return 0.0
        seconds = (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(max(0.0, seconds), _LONGEST_REST_SECONDS)
