"""The body of a request: how it is written and packed, and its bytes as they come."""

from __future__ import annotations

import asyncio
import hashlib
import zlib
from enum import StrEnum
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

import zstandard
from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage

from producer.problems import Problem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

JSON = "application/json"
NDJSON = "application/x-ndjson"
NDJSON_TYPES = (NDJSON, "application/ndjson", "application/jsonl", "application/x-jsonlines")
CODINGS = ("gzip", "zstd")

_LOOK_SECONDS = 1.0
_PIECE_BYTES = 256 * 1024
_ZSTD_SLICE_BYTES = 512
_ZSTD_WINDOW_BYTES = 8 * 1024 * 1024  # RFC 9659: what a receiver of HTTP content has to hold at most


class Form(StrEnum):
    """How a body is written."""

    JSON = "json"
    NDJSON = "ndjson"


class Coding(StrEnum):
    """What a body is packed with."""

    NONE = "identity"
    GZIP = "gzip"
    ZSTD = "zstd"


def form_of(request: web.Request) -> Form:
    """How the body is written, by its content type.

    Raises:
        Problem: 415.
    """
    content_type = request.content_type if "Content-Type" in request.headers else ""
    if (request.charset or "utf-8").lower().replace("_", "-") not in {"utf-8", "utf8", "us-ascii"}:
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"expected UTF-8, got {request.charset}")
    if content_type == JSON:
        return Form.JSON
    if content_type in NDJSON_TYPES:
        return Form.NDJSON
    raise Problem(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        f"expected {JSON} or {NDJSON}, got {content_type or 'no content type'}",
        headers={"Accept-Post": f"{JSON}, {NDJSON}"},
    )


def coding_of(request: web.Request) -> Coding:
    """What the body is packed with.

    Raises:
        Problem: 415.
    """
    said = request.headers.get("Content-Encoding", Coding.NONE).strip().lower().removeprefix("x-")
    try:
        return Coding(said or Coding.NONE)
    except ValueError:
        raise Problem(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"expected the content encoding {' or '.join(CODINGS)} or none, got {said:.80}",
            headers={"Accept-Encoding": ", ".join(CODINGS)},
        ) from None


class Body:
    """The unpacked bytes of a request's body.

    Args:
        request: The request.
        coding: What it is packed with.
        limit_bytes: How many bytes it may have, unpacked; 0 without limit.
        idle_seconds: How long nothing may come.
        stop: Ends the reading.
    """

    def __init__(
        self, request: web.Request, coding: Coding, *, limit_bytes: int, idle_seconds: float, stop: asyncio.Event
    ) -> None:
        self._request = request
        self._unpacker = _UNPACKERS[coding]()
        self._limit_bytes = limit_bytes
        self._idle_seconds = idle_seconds
        self._stop = stop
        self._digest = hashlib.blake2b(digest_size=16)

    @property
    def digest(self) -> str:
        """A hash of the bytes given out, in hex."""
        return self._digest.hexdigest()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes as they come; an empty chunk now and then while nothing comes.

        Raises:
            Problem: 400 for a body that cannot be read or unpacked, 408 when nothing came for too long, 413 at the
                limit, 503 when the service is stopping.
        """
        read = 0
        async for packed in self._packed():
            try:
                for chunk in self._unpacker.feed(packed) if packed else (b"",):
                    read += len(chunk)
                    if self._limit_bytes and read > self._limit_bytes:
                        raise too_large(self._limit_bytes)
                    self._digest.update(chunk)
                    yield chunk
            except (zlib.error, zstandard.ZstdError) as error:
                raise Problem(HTTPStatus.BAD_REQUEST, f"the body cannot be unpacked: {error}") from None
        if self._unpacker.unfinished:
            raise Problem(HTTPStatus.BAD_REQUEST, "the body cannot be unpacked: it ends too early")

    async def _packed(self) -> AsyncIterator[bytes]:
        content, idle_seconds = self._request.content, 0.0
        while True:
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    chunk = await content.readany()
            except TimeoutError:
                idle_seconds += _LOOK_SECONDS
                if self._stop.is_set():
                    raise unavailable("the service is stopping") from None
                if idle_seconds >= self._idle_seconds:
                    raise Problem(HTTPStatus.REQUEST_TIMEOUT, f"nothing came for {self._idle_seconds:g} s") from None
                yield b""
                continue
            except (BadHttpMessage, web.RequestPayloadError, ConnectionError) as error:
                raise Problem(HTTPStatus.BAD_REQUEST, f"the body cannot be read: {error}") from None
            if chunk:
                idle_seconds = 0.0
                yield chunk
            elif content.at_eof():
                return


def too_large(limit_bytes: int) -> Problem:
    """The answer to a body of more bytes than that."""
    return Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body has more than {limit_bytes:,} bytes")


RETRY_AFTER_SECONDS = 5
"""When a caller should come back while the broker is away."""


def unavailable(detail: str, next_place: int | None = None) -> Problem:
    """The answer to what may well be possible a little later."""
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers=headers, next_place=next_place)


class _Unpacker(Protocol):
    """Unpacks a stream in pieces whose size is bounded, whatever the stream claims to hold."""

    @property
    def unfinished(self) -> bool:
        """Whether the stream would end in the middle if it ended here."""

    def feed(self, packed: bytes) -> Iterator[bytes]:
        """The content of the next bytes."""


class _Plain:
    unfinished = False

    def feed(self, packed: bytes) -> Iterator[bytes]:
        yield packed


class _Gzip:
    """One gzip member after the other."""

    def __init__(self) -> None:
        self._member = self._new_member()
        self._begun = False

    @staticmethod
    def _new_member() -> zlib._Decompress:
        return zlib.decompressobj(wbits=31)

    @property
    def unfinished(self) -> bool:
        return self._begun

    def feed(self, packed: bytes) -> Iterator[bytes]:
        self._begun = self._begun or bool(packed)
        while True:
            plain = self._member.decompress(packed, _PIECE_BYTES)
            if plain:
                yield plain
            packed = self._member.unconsumed_tail
            if self._member.eof:
                packed, self._member = self._member.unused_data, self._new_member()
                self._begun = bool(packed)
            if not packed and len(plain) < _PIECE_BYTES:
                return


class _Zstd:
    """One zstd frame after the other. Fed in slices, since the library bounds no output."""

    def __init__(self) -> None:
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
        self._frame: zstandard.ZstdDecompressionObj | None = None

    @property
    def unfinished(self) -> bool:
        return self._frame is not None

    def feed(self, packed: bytes) -> Iterator[bytes]:
        plain: list[bytes] = []
        held_bytes = 0
        for start in range(0, len(packed), _ZSTD_SLICE_BYTES):
            piece = packed[start : start + _ZSTD_SLICE_BYTES]
            while piece:
                frame = self._frame = self._frame or self._decompressor.decompressobj()
                plain.append(frame.decompress(piece))
                held_bytes += len(plain[-1])
                piece = b""
                if frame.eof:
                    piece, self._frame = frame.unused_data, None
            if held_bytes >= _PIECE_BYTES:
                yield b"".join(plain)
                plain.clear()
                held_bytes = 0
        if held_bytes:
            yield b"".join(plain)


_UNPACKERS: dict[Coding, type[_Plain | _Gzip | _Zstd]] = {
    Coding.NONE: _Plain,
    Coding.GZIP: _Gzip,
    Coding.ZSTD: _Zstd,
}
