"""Publishing files to a target in memory: formats, rejects that can be corrected, rates, and how it ends."""

import asyncio
import gzip
import io
import json
import os
import time

import pytest
import zstandard

from banking.streaming.broker import BrokerUnavailableError, PublishError
from producer.mapping import MappingError
from producer.publishing import SourceFile, choose_format, publish_records
from producer.read_ahead import ReadAhead
from producer.unpacking import unpacked

MAPPING = """
entity_type = "transaction"
id = "t-{row}-{digest}"
[payload]
amount = { field = "amount", required = true }
description = "note"
"""


class Target:
    def __init__(self):
        self.events = []
        self.away_from = None
        self.unconfirmed = set()

    async def submit(self, event, receipt):
        if self.away_from is not None and len(self.events) >= self.away_from:
            raise BrokerUnavailableError("the broker is away")
        self.events.append(event)
        error = PublishError("timed out") if event.entity_id in self.unconfirmed else None
        asyncio.get_running_loop().call_soon(receipt, error)

    @property
    def amounts(self):
        return [event.payload["amount"] for event in self.events]


@pytest.fixture
def mapping(tmp_path):
    path = tmp_path / "mapping.toml"
    path.write_text(MAPPING)
    return path


async def publish(path, target=None, *, rejects_folder=None, max_rate=None, stop=None, on_progress=None, **options):
    target = target or Target()
    with SourceFile(path, choose_format(path, **options)) as file:
        report = await publish_records(
            file,
            target,
            rejects_folder=rejects_folder,
            max_events_per_second=max_rate,
            stop=stop,
            on_progress=on_progress,
        )
    return report, target


def written(path, content):
    path.write_bytes(content)
    return path


def event_lines(count):
    return b"".join(b'{"entity_id":"a-%d","entity_type":"account"}\n' % number for number in range(count))


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
async def test_events_however_they_are_packed(tmp_path, pack):
    report, target = await publish(written(tmp_path / "e.ndjson", pack(event_lines(5_000))))
    assert report.complete
    assert report.totals.accepted == 5_000
    assert [event.entity_id for event in target.events] == [f"a-{number}" for number in range(5_000)]
    assert {event.source for event in target.events} == {"e.ndjson"}


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
async def test_a_file_that_was_cut_off_is_told_after_what_it_held(tmp_path, pack):
    content = pack(
        b"".join(b'{"entity_id":"%s","entity_type":"account"}\n' % os.urandom(20).hex().encode() for _ in range(9_000))
    )
    report, target = await publish(written(tmp_path / "e.ndjson", content[: len(content) // 2]))
    assert "cannot be read on" in report.ended
    assert not report.complete
    assert 0 < report.totals.accepted == len(target.events) < 9_000


def test_several_zstd_frames_and_gzip_members_are_one_content():
    for pack in (gzip.compress, zstandard.compress):
        stream = unpacked(io.BytesIO(pack(b"one,") + pack(b"two")))
        assert stream.read() == b"one,two"


async def test_rows_of_csv(tmp_path, mapping):
    content = b'\xef\xbb\xbfamount,note\n1.50,"two\nlines, and a comma"\n\n2,\n'
    report, target = await publish(written(tmp_path / "p.csv", content), mapping=mapping)
    assert report.complete
    assert [event.payload for event in target.events] == [
        {"amount": "1.50", "description": "two\nlines, and a comma"},
        {"amount": "2"},
    ]


async def test_rows_of_another_encoding_and_delimiter(tmp_path, mapping):
    mapping.write_text(MAPPING + '[csv]\ndelimiter = ";"\nencoding = "latin-1"\ndecimal_separator = ","\n')
    content = "amount;note\n1,50;Zürich\nx;Köln\n".encode("latin-1")
    report, target = await publish(written(tmp_path / "p.csv", content), mapping=mapping, rejects_folder=tmp_path)
    assert target.events[0].payload == {"amount": "1.50", "description": "Zürich"}
    assert (tmp_path / "p.rejects.csv").read_text("latin-1") == "_row;amount;note\n2;x;Köln\n"
    assert report.totals.rejected == 1


async def test_rows_of_json_lines(tmp_path, mapping):
    content = b'{"amount": 12.10, "note": "n"}\n{"amount": 1e2}\n7\n'
    report, target = await publish(written(tmp_path / "p.ndjson", content), mapping=mapping)
    assert target.amounts == ["12.10", "100"]
    assert report.rejections[0].line == 3


async def test_rows_without_a_mapping(tmp_path):
    content = b"account_id,balance,branch\nA1,10.00,Basel\n"
    report, target = await publish(
        written(tmp_path / "a.csv", content), entity_type="account", id_field="account_id", source="core"
    )
    assert report.complete
    [event] = target.events
    assert (event.entity_id, event.source, event.payload) == ("A1", "core", {"balance": "10.00", "branch": "Basel"})


@pytest.mark.parametrize("suffix", ["csv", "ndjson"])
async def test_rejected_rows_can_be_corrected_and_get_the_ids_they_would_have_had(tmp_path, mapping, suffix):
    def table(*amounts):
        if suffix == "csv":
            return b"amount,note\n" + b"".join(b"%s,n\n" % amount for amount in amounts)
        return b"".join(b'{"amount":"%s","note":"n"}\n' % amount for amount in amounts)

    folder = tmp_path / "rejects"
    folder.mkdir()
    path = written(tmp_path / f"p.{suffix}", table(b"1", b"x", b"3", b"y"))
    report, _ = await publish(path, mapping=mapping, rejects_folder=folder)
    assert (report.totals.accepted, report.totals.rejected, report.complete) == (2, 2, False)
    assert [(item.line, item.field) for item in report.rejections] == [(2, "payload.amount"), (4, "payload.amount")]
    rejects = folder / f"p.rejects.{suffix}"
    assert report.rejects_file == str(rejects)
    reasons = [
        json.loads(line) for line in rejects.with_name(rejects.name + ".reasons.ndjson").read_text().splitlines()
    ]
    assert [(reason["number"], reason["field"]) for reason in reasons] == [(2, "payload.amount"), (4, "payload.amount")]

    rejects.write_bytes(rejects.read_bytes().replace(b"x", b"2"))
    again, corrected = await publish(rejects, mapping=mapping, rejects_folder=folder)
    assert (again.totals.accepted, again.totals.rejected) == (1, 1)
    _, whole = await publish(written(tmp_path / f"q.{suffix}", table(b"1", b"2", b"3", b"4")), mapping=mapping)
    assert corrected.events[0].entity_id == whole.events[1].entity_id
    assert (folder / f"p.rejects.rejects.{suffix}").read_bytes().splitlines()[-1] == rejects.read_bytes().splitlines()[
        -1
    ]


async def test_no_rejects_no_file(tmp_path):
    report, _ = await publish(written(tmp_path / "e.ndjson", event_lines(1)), rejects_folder=tmp_path)
    assert report.rejects_file is None
    assert [path.name for path in tmp_path.iterdir()] == ["e.ndjson"]


async def test_rows_that_are_no_rows_are_rejected_alone(tmp_path, mapping):
    content = b'amount,note\n1\n"a" b,n\n2,\xff\n3,n\n'
    report, target = await publish(written(tmp_path / "p.csv", content), mapping=mapping)
    assert target.amounts[-1] == "3"
    assert [item.line for item in report.rejections][:2] == [1, 2]


async def test_a_file_without_the_columns_is_not_begun(tmp_path, mapping):
    for content, problem in ((b"a,b\n1,2\n", "no column 'amount'"), (b"", "is empty"), (b"a,a\n", "twice")):
        report, target = await publish(written(tmp_path / "p.csv", content), mapping=mapping)
        assert problem in report.ended
        assert target.events == []


async def test_a_broker_that_goes_away_ends_it_and_says_where(tmp_path):
    target = Target()
    target.away_from = 3
    report, _ = await publish(written(tmp_path / "e.ndjson", event_lines(5)), target)
    assert report.ended.startswith("from number 4 on nothing was published")
    assert (report.totals.read, report.totals.accepted) == (3, 3)


async def test_events_that_are_not_confirmed_are_rejects_too(tmp_path):
    target = Target()
    target.unconfirmed = {"a-1"}
    report, _ = await publish(written(tmp_path / "e.ndjson", event_lines(3)), target, rejects_folder=tmp_path)
    assert (report.totals.accepted, report.totals.unconfirmed, report.complete) == (2, 1, False)
    assert b'"a-1"' in (tmp_path / "e.rejects.ndjson").read_bytes()


async def test_a_rate_is_not_exceeded(tmp_path):
    started = time.monotonic()
    report, _ = await publish(written(tmp_path / "e.ndjson", event_lines(100)), max_rate=200)
    assert report.complete
    assert 0.45 < time.monotonic() - started < 5


async def test_progress_is_told(tmp_path):
    seen = []
    await publish(
        written(tmp_path / "e.ndjson", event_lines(1_000)), on_progress=lambda totals: seen.append(totals.accepted)
    )
    assert seen == sorted(seen)
    assert seen[-1] == 1_000


async def test_a_pipe_gives_what_it_has_and_can_be_stopped(tmp_path):
    reading, writing = os.pipe()
    stop, target = asyncio.Event(), Target()
    with os.fdopen(reading, "rb", buffering=0) as pipe, os.fdopen(writing, "wb", buffering=0) as other_end:
        file = SourceFile("stdin", choose_format(None), pipe)
        task = asyncio.create_task(publish_records(file, target, stop=stop))
        await asyncio.to_thread(other_end.write, event_lines(2))
        async with asyncio.timeout(5):
            while len(target.events) < 2:
                await asyncio.sleep(0.01)
        stop.set()
        report = await asyncio.wait_for(task, 5)
        assert report.totals.accepted == 2
        assert "stopped" in report.ended


async def test_what_is_read_ahead_is_bounded():
    given = 0

    def items():
        nonlocal given
        for _ in range(1_000):
            given += 1
            yield 10

    batches = ReadAhead(items(), lambda item: item, max_weight=100).batches()
    first = await anext(batches)
    await asyncio.sleep(0.1)
    assert given - len(first) <= 11
    rest = [item async for batch in batches for item in batch]
    assert len(first) + len(rest) == 1_000


async def test_an_error_of_the_reading_comes_after_what_was_read():
    def items():
        yield 1
        raise OSError("broken")

    batches = ReadAhead(items(), lambda _item: 1).batches()
    assert await anext(batches) == [1]
    with pytest.raises(OSError, match="broken"):
        await anext(batches)


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("p.csv", {}, "CSV holds rows"),
        ("p.csv.gz", {"entity_type": "account"}, "both an entity type and an id field"),
        ("p.csv", {"mapping": "amlsim-accounts", "entity_type": "account"}, "not both"),
        ("p.csv", {"mapping": "nowhere.toml"}, "no such file"),
        ("p.csv", {"entity_type": "acount", "id_field": "a"}, "expected one of"),
    ],
)
def test_options_that_do_not_fit_are_named(name, options, problem):
    with pytest.raises(MappingError, match=problem):
        choose_format(name, **options)
