"""Lines out of chunks."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.lines import LineSplitter


def split(chunks, **options):
    splitter = LineSplitter(**options)
    lines = [line for chunk in chunks for line in splitter.feed(chunk)]
    return lines + list(splitter.finish())


@given(st.binary(max_size=60), st.lists(st.integers(0, 60)))
def test_where_the_chunks_are_cut_makes_no_difference(data, cuts):
    places = [0, *sorted(cuts), len(data)]
    chunks = [data[start:end] for start, end in pairwise(places)]
    expected = [(number, line) for number, line in enumerate(data.split(b"\n"), 1) if line and not line.isspace()]
    assert split(chunks) == expected


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_line_that_is_too_long_is_told_and_not_kept(size):
    data = b"short\n" + b"x" * 100 + b"\nlast"
    chunks = [data[start : start + size] for start in range(0, len(data), size)]
    assert split(chunks, max_line_bytes=10) == [(1, b"short"), (2, None), (3, b"last")]


def test_nothing_is_held_of_a_line_that_is_too_long():
    splitter = LineSplitter(max_line_bytes=100)
    for _ in range(50):
        assert list(splitter.feed(b"x" * 10)) == []
    assert splitter._held == []
