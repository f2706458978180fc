"""Unpacking a body piece by piece."""

import gzip
import random

import pytest
import zstandard

from producer.body import _UNPACKERS, Coding

CONTENT = random.Random(1).randbytes(300_000) + b"x" * 3_000_000
PACK = {Coding.NONE: bytes, Coding.GZIP: gzip.compress, Coding.ZSTD: zstandard.compress}


def unpack(coding, packed, step):
    unpacker = _UNPACKERS[coding]()
    pieces = [piece for start in range(0, len(packed), step) for piece in unpacker.feed(packed[start : start + step])]
    return unpacker, pieces


@pytest.mark.parametrize("coding", list(Coding))
@pytest.mark.parametrize("step", [7_001, 10_000_000])
def test_what_was_packed_comes_out(coding, step):
    unpacker, pieces = unpack(coding, PACK[coding](CONTENT), step)
    assert b"".join(pieces) == CONTENT
    assert not unpacker.unfinished


@pytest.mark.parametrize("coding", [Coding.GZIP, Coding.ZSTD])
def test_several_members_are_one_body(coding):
    unpacker, pieces = unpack(coding, PACK[coding](b"one") + PACK[coding](b"two"), 5)
    assert b"".join(pieces) == b"onetwo"
    assert not unpacker.unfinished


@pytest.mark.parametrize("coding", [Coding.GZIP, Coding.ZSTD])
def test_a_body_that_was_cut_off_is_unfinished(coding):
    assert unpack(coding, PACK[coding](CONTENT)[:-1], 1000)[0].unfinished
    assert not unpack(coding, b"", 1000)[0].unfinished


@pytest.mark.parametrize("coding", [Coding.GZIP, Coding.ZSTD])
def test_a_bomb_comes_out_in_pieces_of_a_bounded_size(coding):
    packed = PACK[coding](bytes(200_000_000))
    pieces = _UNPACKERS[coding]().feed(packed)
    sizes = [len(piece) for piece in pieces]
    assert sum(sizes) == 200_000_000
    # A slice of a zstd stream may hold that many blocks of 128 KiB; nothing bounds it closer.
    assert max(sizes) <= 18 * 1024 * 1024
