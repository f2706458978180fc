"""Files as they come: plain, gzip or zstd, told apart by their first bytes."""

from __future__ import annotations

import gzip
import io
from typing import TYPE_CHECKING, BinaryIO, cast

import zstandard

if TYPE_CHECKING:
    from typing_extensions import Buffer

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_CHUNK_BYTES = 64 * 1024
# The library bounds no output: 16 KiB of a stream can hold half a gigabyte, a slice of this size 16 MiB.
_ZSTD_SLICE_BYTES = 512


def unpacked(raw: BinaryIO) -> io.BufferedIOBase:
    """The content of a stream, whatever it is packed with."""
    buffered = io.BufferedReader(cast("io.RawIOBase", raw), _CHUNK_BYTES)
    magic = buffered.peek(len(_ZSTD))
    if magic.startswith(_GZIP):
        return gzip.GzipFile(fileobj=buffered)
    if magic.startswith(_ZSTD):
        return io.BufferedReader(_ZstdFrames(buffered), _CHUNK_BYTES)
    return buffered


class _ZstdFrames(io.RawIOBase):
    """Unpacks zstd frames. Unlike zstandard's own reader it tells a file that was cut off from one that has ended."""

    def __init__(self, packed: io.BufferedIOBase) -> None:
        self._packed = packed
        self._decompressor = zstandard.ZstdDecompressor()
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._plain = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, target: Buffer) -> int:
        """Fill a buffer.

        Raises:
            EOFError: The file ends within a frame.
            zstandard.ZstdError: The content is no zstd.
        """
        while not self._plain:
            packed = self._packed.read1(_ZSTD_SLICE_BYTES)
            if not packed:
                if self._frame is not None:
                    raise EOFError("the file ends in the middle of a zstd frame")
                return 0
            self._plain = memoryview(self._unpack(packed))
        view = memoryview(target).cast("B")
        count = min(len(view), len(self._plain))
        view[:count] = self._plain[:count]
        self._plain = self._plain[count:]
        return count

    def _unpack(self, packed: bytes) -> bytes:
        plain = []
        while packed:
            frame = self._frame = self._frame or self._decompressor.decompressobj()
            plain.append(frame.decompress(packed))
            packed = b""
            if frame.eof:
                packed, self._frame = frame.unused_data, None
        return b"".join(plain)
