"""An archive that somebody else has written to: what is damaged is told, what is foreign is left alone."""

from __future__ import annotations

import asyncio
import tracemalloc
from typing import TYPE_CHECKING

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from banking.streaming.archive import ArchivedLetter, ArchiveUnavailableError, DeadLetterArchive, archived_letter
from banking.streaming.broker import Delivery
from banking.streaming.testing import InMemoryMessage
from dlq_worker.cli import main
from dlq_worker.inventory import Selection, find
from dlq_worker.purge import purge
from tests.hostile import IDS, NO_EVENTS, STRANGE_EVENTS, TEXTS, zeros_packed
from tests.unit.dlq_worker.test_dlq_archive import NOW, letter

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = "date=2026-03-01/type=person"
PLACE = f"{FOLDER}/20260301T120000.000000Z-hostile.ndjson.zst"


def packed(*rows: object) -> bytes:
    return zstandard.compress(msgspec.json.Encoder().encode_lines(rows))


def record(**fields: object) -> dict[str, object]:
    written: dict[str, object] = msgspec.to_builtins(letter(1))
    return written | fields


def put(root: Path, content: bytes, place: str = PLACE, folders: tuple[str, ...] = ("letters", "manifest")) -> None:
    for folder in folders:
        path = root / "v1" / folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def run(root: Path, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, arguments, env={"ARCHIVE_URL": root.as_uri(), "COLUMNS": "400"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


CLAIMS_MUCH = b"\x28\xb5\x2f\xfd\xc0\x00" + (2**60).to_bytes(8, "little")[:8] + b"\x01\x00\x00"
DAMAGED = {
    "no_zstd": b"no zstd at all",
    "truncated": packed(record())[:-5],
    "claims_much": CLAIMS_MUCH,
    "bomb": zeros_packed("zstd", 1500),
    "no_json": zstandard.compress(b"no json\n"),
    "no_letter": packed({"letter_id": 1}),
    "not_utf_8": zstandard.compress(msgspec.json.encode(record()).replace(b"p-1", b"\xff-1")),
    "deep": zstandard.compress(b"[" * 100_000),
    "time_out_of_range": packed(record(last_failure="9999999-01-01T00:00:00Z")),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_object_is_told_in_one_line(tmp_path: Path, content: bytes) -> None:
    put(tmp_path, content)
    tracemalloc.start()
    for command in (("list",), ("stats",), ("show", "x"), ("replay", "--dry-run"), ("purge", "--until", "1s")):
        status, output = run(tmp_path, *command)
        assert status == 1, command
        assert output.startswith(f"dlq_worker {command[0]}: "), command
        assert "an object of the archive is damaged" in output
        assert output.count("\n") == 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64_000_000


@given(content=st.binary(min_size=1, max_size=200))
def test_any_bytes_are_letters_or_damage(content: bytes) -> None:
    from banking.streaming.archive import _unpack

    for data in (content, zstandard.compress(content)):
        try:
            assert _unpack(data, ArchivedLetter) == []
        except ArchiveUnavailableError:
            continue


def test_content_that_is_no_base64_is_told(tmp_path: Path) -> None:
    for text in ("no base64!", "AAA"):
        put(tmp_path, packed(record(text=None, base64=text)))
        for command in (("show", letter(1).letter_id, "--payload"), ("replay", "--force")):
            status, output = run(tmp_path, *command)
            assert status == 1
            assert "an object of the archive is damaged" in output.splitlines()[-1]


async def test_what_is_not_the_archive_s_own_is_left_alone(tmp_path: Path) -> None:
    archive = DeadLetterArchive(tmp_path.as_uri())
    await archive.write([letter(7)])
    foreign = ["x.ndjson.zst", "date=x/y.ndjson.zst", "date=2026-03-01/type=person/nosuchtime-x.ndjson.zst"]
    for place in foreign:
        put(tmp_path, b"foreign", place)
    found = await find(archive, Selection(entity_types=frozenset({"person"})))
    assert [each.record.key for each in found] == ["p-7"]
    await purge(archive, Selection(ids=frozenset({letter(7).letter_id})))
    assert await find(archive, Selection()) == []
    assert all((tmp_path / "v1" / folder / place).is_file() for folder in ("letters", "manifest") for place in foreign)


@pytest.mark.parametrize("entity_type", ["../../../escaped", "/escaped", "..", "a/../../../escaped", "\x00", "%2e%2e"])
def test_no_type_in_an_object_is_a_path(tmp_path: Path, entity_type: str) -> None:
    root = tmp_path / "archive"
    put(root, packed(record(entity_type=entity_type), record(letter_id="another")))
    archive = DeadLetterArchive(root.as_uri())
    asyncio.run(purge(archive, Selection(ids=frozenset({"another"}))))
    [place] = asyncio.run(archive.places())
    assert "/type=unknown/" in place
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]
    assert {path.name for path in root.iterdir()} == {"v1"}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_what_a_letter_says_does_not_steer_the_terminal(tmp_path: Path, text: str) -> None:
    put(tmp_path, packed(record(key=text, error=text, reason=text, properties={text: text})))
    for command in (("list",), ("stats",), ("show", letter(1).letter_id)):
        status, output = run(tmp_path, *command)
        assert status == 0
        assert all(character.isprintable() for line in output.split("\n") for character in line)


@pytest.mark.parametrize("data", [*NO_EVENTS.values(), *STRANGE_EVENTS.values()], ids=[*NO_EVENTS, *STRANGE_EVENTS])
async def test_any_bytes_come_back_from_the_archive(tmp_path: Path, data: bytes) -> None:
    archive = DeadLetterArchive(tmp_path.as_uri())
    message = InMemoryMessage(data, "dlq-events", IDS[-1], 1, dict.fromkeys(IDS, "\x00"))
    [place] = await archive.write([archived_letter(Delivery(message), NOW)])
    [held] = await archive.letters(place)
    assert (held.data, held.key, held.properties) == (data, IDS[-1], dict.fromkeys(IDS, "\x00"))
