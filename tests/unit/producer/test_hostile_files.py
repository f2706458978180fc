"""Files from anybody: every record is an event or a rejection with its reason, whatever the file holds."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import tracemalloc
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banking.streaming.events import encode_event
from producer.cli import _print_reports
from producer.intake import ControlTotals, Rejection
from producer.lines import MAX_LINE_BYTES
from producer.mapping import RowMapping
from producer.publishing import PublishReport, SourceFile, choose_format, publish_records
from producer.records import CsvRows, InputError, RejectsFile
from producer.unpacking import unpacked
from tests.hostile import NO_EVENTS, STRANGE_EVENTS, TEXTS, zeros_packed

MAPPING = """
entity_type = "transaction"
id = "t-{row}-{digest}"
other_columns = "keep"
timestamp = { field = "when", base = 2024-01-01T00:00:00Z, unit = "days" }
[payload]
amount = "amount"
description = "note"
rate = { field = "rate", type = "number" }
details = { field = "details", type = "json" }
"""
COLUMNS = ("when", "amount", "note", "rate", "details", "_row")
CELLS = {
    "huge_exponent": "1e999999",
    "no_exponent": "1e99999999999999999999",
    "many_digits": "9" * 5000,
    "not_a_number": "NaN",
    "signalling": "sNaN",
    "infinity": "-Infinity",
    "other_digits": "\uff11\uff12",
    "deep": "[" * 100_000,
    "out_of_range": '{"a":1e400}',
    "no_utf_8": "\udcff",
    "encoded_surrogate": b"\xed\xa0\x80".decode("utf-8", "surrogateescape"),
} | TEXTS


class Target:
    def __init__(self):
        self.events = []

    async def submit(self, event, receipt):
        encode_event(event)
        self.events.append(event)
        asyncio.get_running_loop().call_soon(receipt, None)


async def publish(path, content, **options):
    path.write_bytes(content)
    target = Target()
    with SourceFile(path, choose_format(path, **options)) as file:
        return await publish_records(file, target, rejects_folder=path.parent), target.events


@pytest.fixture
def mapping(tmp_path):
    path = tmp_path / "mapping.toml"
    path.write_text(MAPPING)
    return path


def quoted(cell):
    return '"' + cell.replace('"', '""') + '"'


@pytest.mark.parametrize("column", COLUMNS)
async def test_a_cell_is_taken_or_refused_with_its_column_and_the_next_row_is_read(tmp_path, mapping, column):
    # An empty number of a row is no number, so every row has one.
    filler = {name: "7" if name == "_row" else "" for name in COLUMNS}
    good = ",".join(filler.values())
    for name, cell in CELLS.items():
        row = ",".join(quoted(cell if each == column else filler[each]) for each in COLUMNS)
        content = f"{','.join(COLUMNS)}\n{row}\n{good}\n".encode("utf-8", "surrogateescape")
        report, events = await publish(tmp_path / "rows.csv", content, mapping=mapping)
        assert report.ended is None, name
        assert (report.totals.read, report.totals.accepted + report.totals.rejected) == (2, 2), name
        assert events[-1].entity_id.startswith("t-7-")
        if report.totals.rejected:
            (reason,) = map(json.loads, (tmp_path / "rows.rejects.csv.reasons.ndjson").read_bytes().splitlines())
            fields = {"when": ("timestamp",), "note": ("payload.description", "text_for_embedding")}
            assert reason["field"] in (*fields.get(column, ()), column, f"payload.{column}"), name


async def test_columns_named_in_another_encoding(tmp_path):
    content = b"id,name,\xff\xfe\na,b,c\n,,\n\xff,2,3\n"
    report, events = await publish(tmp_path / "rows.csv", content, entity_type="person", id_field="id")
    assert report.totals.rejected == 3
    assert events == []
    reasons = (tmp_path / "rows.rejects.csv.reasons.ndjson").read_text().splitlines()
    assert json.loads(reasons[0])["field"] == "payload.\\udcff\\udcfe"


@given(content=st.binary(max_size=200))
def test_arbitrary_bytes_are_rows_or_a_file_that_cannot_be_read(content):
    rows = CsvRows(RowMapping.of_columns("person", "id"), "test")
    try:
        records = list(rows.read(io.BufferedReader(io.BytesIO(b"id,name\n" + content))))
    except InputError:
        return
    assert all((record.event is None) != (record.error is None) for record in records)


async def test_lines_of_any_bytes(tmp_path):
    good = b'{"entity_id":"good-%d","entity_type":"account"}'
    corpus = {**NO_EVENTS, **STRANGE_EVENTS}
    content = b"\n".join(
        line for number, hostile in enumerate(corpus.values()) for line in (hostile.replace(b"\n", b" "), good % number)
    )
    report, events = await publish(tmp_path / "events.ndjson", content)
    assert report.ended is None
    assert report.totals.read == report.totals.accepted + report.totals.rejected
    published = {event.entity_id for event in events}
    assert published >= {f"good-{number}" for number in range(len(corpus))}
    assert report.totals.rejected > 40


@pytest.mark.parametrize("value", [b"1e999999", b"9" * 5000, b"[" * 5000, b'"\\ud800"', b"true", b'"1e999999"'])
async def test_rows_of_json(tmp_path, mapping, value):
    content = b"".join(b'{"%s":%s}\n' % (column.encode(), value) for column in COLUMNS)
    report, _ = await publish(tmp_path / "rows.ndjson", content, mapping=mapping)
    assert report.ended is None
    assert report.totals.read == report.totals.accepted + report.totals.rejected == len(COLUMNS)


@pytest.mark.parametrize("pack", ["gzip", "zstd"])
def test_a_bomb_is_unpacked_piece_by_piece(pack):
    packed = zeros_packed(pack, 150)
    tracemalloc.start()
    with closing(unpacked(io.BytesIO(packed))) as stream:
        length = 0
        while piece := stream.read1(1 << 16):
            length += len(piece)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert length == 150_000_000
    assert peak < 48_000_000


async def test_a_row_without_an_end_is_refused_and_takes_no_memory(tmp_path):
    for name, head in (("long.csv", b"id,name\n"), ("quoted.csv", b'id,name\na,"')):
        packed = gzip.compress(head) + zeros_packed("gzip", 60) + gzip.compress(b"\na,b\n")
        tracemalloc.start()
        report, events = await publish(tmp_path / name, packed, entity_type="person", id_field="id")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert f"the row has more than {MAX_LINE_BYTES:,} characters" in report.rejections[0].problem
        assert [event.entity_id for event in events] == ["a"], name
        assert peak < 48_000_000


def test_a_quotation_mark_that_nothing_closes_does_not_swallow_the_file(monkeypatch):
    monkeypatch.setattr("producer.records.MAX_LINE_BYTES", 1000)
    rows = CsvRows(RowMapping.of_columns("person", "id"), "test")
    content = b'id,name\n"' + b"a,b\n" * 1000
    records = list(rows.read(io.BufferedReader(io.BytesIO(content))))
    # The open field takes 250 of the lines with it, and one more to tell.
    assert [record.number for record in records if record.error is not None] == [1]
    assert sum(record.event is not None for record in records) == 750


@pytest.mark.parametrize("name", ["../../escape.csv", "..%2f..%2fescape.csv", "$(id).csv"])
def test_rejected_records_stay_in_their_folder(tmp_path, name):
    source = tmp_path / "in"
    source.mkdir()
    path = source / name.replace("/", "_")
    path.write_bytes(b"")
    rejects = SourceFile(path, CsvRows(RowMapping.of_columns("person", "id"), "t")).rejects(tmp_path / "out")
    assert isinstance(rejects, RejectsFile)
    assert rejects.path.parent == rejects.reasons_path.parent == tmp_path / "out"


def test_what_is_printed_of_a_rejection_does_not_steer_the_terminal(capsys):
    report = PublishReport(
        "rows.csv", ControlTotals(), 1.0, [Rejection(line=1, field=TEXTS["terminal"], problem=TEXTS["markup"])]
    )
    _print_reports([report])
    error = capsys.readouterr().err
    assert "\x1b" not in error
    assert "\x9b" not in error
    assert TEXTS["markup"] in error
