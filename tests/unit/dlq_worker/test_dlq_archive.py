"""What the archive keeps and how it is looked at, replayed and purged; on files, by the store that production uses."""

from __future__ import annotations

import asyncio
import json
import os
import time
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from banking.streaming import create_person_event
from banking.streaming.archive import (
    ArchivedLetter,
    ArchiveUnavailableError,
    DeadLetterArchive,
    Replay,
    archived_letter,
)
from banking.streaming.broker import Delivery, PublishError
from banking.streaming.dead_letters import DeadLetter
from banking.streaming.sink import Leg, RejectionReason
from banking.streaming.testing import InMemoryMessage
from dlq_worker.cli import main
from dlq_worker.inventory import Selection, State, find
from dlq_worker.purge import purge
from dlq_worker.replay import Refusal, ReplayRules, replay
from dlq_worker.settings import DlqWorkerSettings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from banking.streaming.broker import Outgoing

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class Retries:
    def __init__(self, fail_after: int | None = None) -> None:
        self.stored: list[Outgoing] = []
        self._fail_after = fail_after

    async def publish_all(self, messages: Sequence[Outgoing]) -> None:
        if self._fail_after is not None and len(self.stored) >= self._fail_after:
            raise PublishError("not confirmed")
        self.stored.extend(messages)


def letter(number: int, now: datetime = NOW, **fields: Any) -> ArchivedLetter:
    sent = DeadLetter(
        **(
            {
                "letter_id": f"graph:persons-events:(1,{number},-1,-1)",
                "leg": Leg.GRAPH,
                "topic": "persons-events",
                "key": f"p-{number}",
                "data": b"no event",
                "reason": RejectionReason.INVALID_FIELD,
                "error": "payload.balance: expected a number",
                "attempt": 3,
                "first_failure": now - timedelta(minutes=8),
                "last_failure": now,
            }
            | fields
        )
    )
    message = sent.to_dead_letter_message()
    properties = message.properties or {}
    return archived_letter(
        Delivery(InMemoryMessage(message.data, "dlq-events", sent.key or "", number, properties)), now
    )


@pytest.fixture
def archive(tmp_path: Path) -> DeadLetterArchive:
    return DeadLetterArchive(tmp_path.as_uri())


@given(data=st.binary(max_size=200), text=st.text(max_size=50))
def test_the_original_bytes_come_back_exactly(data: bytes, text: str) -> None:
    for content in (data, text.encode("utf-8", "surrogatepass"), text.encode("utf-16")):
        message = InMemoryMessage(content, "dlq-events", "k", 1, {})
        assert archived_letter(Delivery(message), NOW).data == content


async def test_an_object_is_lines_of_json_in_zstd(archive: DeadLetterArchive, tmp_path: Path) -> None:
    event = create_person_event("p-9", 'Ada\n"Ω"', timestamp=NOW - timedelta(days=2))
    await archive.write([letter(1, data=event.to_bytes()), letter(2, data=b"\xff")])
    (place,) = await archive.places()
    assert place.startswith(f"date={datetime.now(UTC):%Y-%m-%d}/type=person/")
    content = zstandard.ZstdDecompressor().decompress((tmp_path / "v1" / "letters" / place).read_bytes())
    lines = [json.loads(line) for line in content.splitlines()]
    assert lines[0]["text"] == event.to_bytes().decode()
    assert (lines[0]["event_id"], lines[0]["key"], lines[1]["base64"]) == (event.event_id, "p-1", "/w==")
    manifest = zstandard.ZstdDecompressor().decompress((tmp_path / "v1" / "manifest" / place).read_bytes())
    assert b"Ada" not in manifest
    assert b"properties" not in manifest
    assert len(manifest.splitlines()) == 2


async def test_objects_are_parted_by_type_and_day_and_names_never_collide(tmp_path: Path) -> None:
    archive = DeadLetterArchive(tmp_path.as_uri(), now=lambda: NOW)
    company = letter(2, topic="companies-events")
    for _ in range(3):
        await archive.write([letter(1), company])
    places = await archive.places()
    assert len(set(places)) == 6
    assert {place.rpartition("/")[0] for place in places} == {
        "date=2026-03-01/type=person",
        "date=2026-03-01/type=company",
    }
    assert len(await archive.places(entity_types={"company"})) == 3
    assert await archive.places(since=date(2026, 3, 2)) == []
    assert len(await archive.places(since=date(2026, 3, 1))) == 6


async def test_what_cannot_be_written_is_an_error_that_names_the_archive(tmp_path: Path) -> None:
    archive = DeadLetterArchive(tmp_path.as_uri())
    os.mkfifo(tmp_path / "v1")  # where folders should be made
    with pytest.raises(ArchiveUnavailableError, match=str(tmp_path)):
        await archive.write([letter(1)])


async def test_damage_is_noticed(archive: DeadLetterArchive, tmp_path: Path) -> None:
    (place,) = await archive.write([letter(1)])
    file = tmp_path / "v1" / "letters" / place
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(ArchiveUnavailableError, match="damaged"):
        await archive.letters(place)


async def test_a_letter_that_was_archived_twice_counts_once(archive: DeadLetterArchive) -> None:
    await archive.write([letter(1), letter(2)])
    await archive.write([letter(1)])
    letters = await find(archive, Selection())
    assert sorted((found.record.letter_id, found.copies) for found in letters) == [
        (letter(1).letter_id, 2),
        (letter(2).letter_id, 1),
    ]


@pytest.mark.parametrize(
    ("selection", "keys"),
    [
        (Selection(), {"p-1", "p-2", "p-3"}),
        (Selection(legs=frozenset({"vector"})), {"p-3"}),
        (Selection(reasons=frozenset({"clock_skew"})), {"p-2"}),
        (Selection(entity_types=frozenset({"company"})), {"p-3"}),
        (Selection(since=NOW), {"p-1", "p-2"}),
        (Selection(until=NOW), {"p-3"}),
        (Selection(ids=frozenset({"graph:persons-events:1,2,-1,-1"})), {"p-2"}),
        (Selection(ids=frozenset({"graph:persons-events:(1, 2, -1, -1)"})), {"p-2"}),
        (Selection(state=State.REPLAYED), {"p-1"}),
        (Selection(state=State.WAITING), {"p-2", "p-3"}),
    ],
)
async def test_selections(archive: DeadLetterArchive, selection: Selection, keys: set[str]) -> None:
    await archive.write(
        [
            letter(1),
            letter(2, reason=RejectionReason.CLOCK_SKEW),
            letter(3, NOW - timedelta(days=3), leg=Leg.VECTOR, topic="companies-events"),
        ]
    )
    await archive.mark_replayed([Replay(letter_id=letter(1).letter_id, attempt=3, replayed_at=NOW)])
    assert {found.record.key for found in await find(archive, selection)} == keys


async def test_a_replay_sends_the_original_bytes_to_the_leg_and_marks_them(archive: DeadLetterArchive) -> None:
    await archive.write([letter(1, data=b"\xff\x00"), letter(2, leg=Leg.VECTOR, data=b"text")])
    retries = Retries()
    rules = ReplayRules(max_age=timedelta(days=1))
    report = await replay(archive, retries, Selection(), rules, now=NOW)
    assert len(report.replayed) == 2
    sent = {message.topic: message for message in retries.stored}
    assert sent["graph-retry-events"].data == b"\xff\x00"
    assert sent["vector-retry-events"].key == "p-2"
    assert (sent["graph-retry-events"].properties or {})["dlq-attempt"] == "4"
    assert {found.state for found in await find(archive, Selection())} == {State.REPLAYED}
    again = await replay(archive, retries, Selection(), rules, now=NOW)
    assert (again.replayed, len(retries.stored)) == ([], 2)


async def test_a_replay_that_fails_again_waits_again_until_it_was_replayed_too_often(
    archive: DeadLetterArchive,
) -> None:
    retries = Retries()
    rules = ReplayRules(max_replays=2)
    for attempt in (3, 4):
        await archive.write([letter(1, attempt=attempt)])
        assert len((await replay(archive, retries, Selection(), rules, now=NOW)).replayed) == 1
    await archive.write([letter(1, attempt=5)])
    report = await replay(archive, retries, Selection(), rules, now=NOW)
    assert (report.replayed, report.refused) == ([], {Refusal.TOO_OFTEN: 1})
    (found,) = await find(archive, Selection())
    assert (found.replays, found.copies, found.state, found.record.attempt) == (2, 3, State.WAITING, 5)


async def test_a_replay_leaves_alone_what_may_undo_a_deletion(archive: DeadLetterArchive) -> None:
    old_event = create_person_event("p-2", "Ada", timestamp=NOW - timedelta(days=40)).to_bytes()
    await archive.write([letter(1, NOW - timedelta(days=31)), letter(2, data=old_event), letter(3)])
    retries = Retries()
    report = await replay(archive, retries, Selection(), ReplayRules(dry_run=True), now=NOW)
    assert [found.record.key for found in report.replayed] == ["p-3"]
    assert report.refused == {Refusal.TOO_OLD: 2}
    assert retries.stored == []
    report = await replay(archive, retries, Selection(), ReplayRules(force=True), now=NOW)
    assert sorted(message.key or "" for message in retries.stored) == ["p-1", "p-2", "p-3"]


async def test_a_replay_leaves_alone_what_is_no_dead_letter_or_over_the_limit(archive: DeadLetterArchive) -> None:
    stray = archived_letter(Delivery(InMemoryMessage(b"stray", "dlq-events", "", 9, {})), NOW)
    await archive.write([stray, letter(1), letter(2), letter(3)])
    retries = Retries()
    report = await replay(archive, retries, Selection(), ReplayRules(limit=2), now=NOW)
    assert len(retries.stored) == 2
    assert report.refused == {Refusal.NO_LEG: 1, Refusal.OVER_LIMIT: 1}


async def test_a_replay_that_was_cut_short_goes_on_where_it_stopped(archive: DeadLetterArchive) -> None:
    await archive.write([letter(number) for number in range(25)])
    with pytest.raises(PublishError):
        await replay(archive, Retries(fail_after=10), Selection(), ReplayRules(per_second=10), now=NOW)
    assert len(await find(archive, Selection(state=State.REPLAYED))) == 10
    retries, progress = Retries(), []
    rules = ReplayRules(per_second=1000)
    await replay(archive, retries, Selection(), rules, now=NOW, on_progress=lambda *step: progress.append(step))
    assert len(retries.stored) == 15
    assert progress[-1] == (15, 15)


async def test_a_replay_keeps_to_its_rate(archive: DeadLetterArchive) -> None:
    await archive.write([letter(number) for number in range(50)])
    retries = Retries()
    started = time.monotonic()
    await replay(archive, retries, Selection(), ReplayRules(per_second=20), now=NOW)
    # The first second's letters go at once, and so do those of each later second when it has come.
    assert time.monotonic() - started >= 2
    assert len(retries.stored) == 50


async def test_a_purge_removes_all_copies_and_keeps_the_neighbours(archive: DeadLetterArchive) -> None:
    await archive.write([letter(1), letter(2, data=b"\xffkept")])
    await archive.write([letter(1)])
    selection = Selection(ids=frozenset({letter(1).letter_id}))
    dry = await purge(archive, selection, dry_run=True)
    assert (dry.letters, dry.removed, dry.rewritten) == (1, 1, 1)
    assert len(await archive.places()) == 2
    await purge(archive, selection)
    (place,) = await archive.places()
    assert [kept.data for kept in await archive.letters(place)] == [b"\xffkept"]
    assert len(await find(archive, Selection())) == 1
    assert (await purge(archive, selection)).letters == 0


async def test_a_purge_finds_what_a_killed_writer_left(tmp_path: Path) -> None:
    archive = DeadLetterArchive(tmp_path.as_uri(), now=lambda: NOW)
    await archive.write([letter(1)])
    (place,) = await archive.places()
    (tmp_path / "v1" / "manifest" / place).unlink()
    assert await find(archive, Selection()) == []
    assert await archive.unlisted_places() == [place]
    assert (await purge(archive, Selection(until=NOW + timedelta(days=1)))).letters == 1
    assert await archive.unlisted_places() == []


async def test_a_purge_that_was_cut_short_is_finished_by_the_next(archive: DeadLetterArchive, tmp_path: Path) -> None:
    await archive.write([letter(1)])
    (place,) = await archive.places()
    (tmp_path / "v1" / "letters" / place).unlink()
    assert (await purge(archive, Selection(legs=frozenset({"graph"})))).removed == 1
    assert await archive.places() == []


def run(archive: DeadLetterArchive, *arguments: str) -> Any:
    return CliRunner().invoke(main, list(arguments), env={"ARCHIVE_URL": archive.url, "COLUMNS": "200"})


async def test_the_command_line_lists_shows_and_counts_without_payloads(archive: DeadLetterArchive) -> None:
    secret = create_person_event("p-1", "Ada Secret").to_bytes()
    await archive.write([letter(1, data=secret, error="\x1b[31mred"), letter(2, leg=Leg.VECTOR)])
    await archive.write([letter(1, data=secret, error="\x1b[31mred")])

    def check() -> None:
        listed = run(archive, "list")
        assert listed.exit_code == 0
        assert "graph:persons-events:(1,1,-1,-1)" in listed.stdout
        assert "Secret" not in listed.stdout
        assert "\x1b[31m" not in listed.stdout
        as_json = [json.loads(line) for line in run(archive, "list", "--format", "json").stdout.splitlines()]
        assert {(row["key"], row["copies"], row["state"]) for row in as_json} == {
            ("p-1", 2, "waiting"),
            ("p-2", 1, "waiting"),
        }
        assert "1 more" in run(archive, "list", "--limit", "1").stderr
        assert "p-1" not in run(archive, "list", "--leg", "vector").stdout

        shown = run(archive, "show", "graph:persons-events:1,1,-1,-1")
        assert "dlq-first-failure" in shown.stdout
        assert "Secret" not in shown.stdout
        assert secret in run(archive, "show", "graph:persons-events:(1,1,-1,-1)", "--payload").stdout_bytes
        with_payload = run(archive, "show", "graph:persons-events:1,1,-1,-1", "--payload", "--format", "json")
        assert json.loads(with_payload.stdout)["text"] == secret.decode()
        absent = run(archive, "show", "nothing")
        assert (absent.exit_code, absent.stdout) == (1, "")
        assert "no letter nothing" in absent.stderr

        counts = json.loads(run(archive, "stats", "--format", "json").stdout)
        assert (counts["letters"], counts["further_copies"]) == (2, 1)
        assert counts["by_leg"] == {"graph": 1, "vector": 1}
        assert run(archive, "stats").exit_code == 0
        dry = run(archive, "replay", "--dry-run", "--force")
        assert "would replay 2 letters" in dry.stdout
        as_json = run(archive, "replay", "--dry-run", "--format", "json", "--limit", "1", "--force")
        assert json.loads(as_json.stdout) == {"replayed": 1, "left_alone": {"over the limit": 1}, "dry_run": True}
        assert json.loads(run(archive, "stats", "--id", "nothing", "--format", "json").stdout)["letters"] == 0
        assert run(archive, "purge").exit_code == 2
        as_json = run(archive, "purge", "--leg", "vector", "--dry-run", "--format", "json")
        assert json.loads(as_json.stdout) == {"letters": 1, "removed": 0, "rewritten": 1, "dry_run": True}
        assert "removed 1 letters" in run(archive, "purge", "--leg", "vector").stdout
        assert run(archive, "list", "--since", "yesterday-ish").exit_code == 2
        assert run(archive, "list", "--since", "2h").exit_code == 0

    await asyncio.to_thread(check)


def test_an_archive_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run(DeadLetterArchive((tmp_path / "file").as_uri()), "list")
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("dlq_worker list: file:///")


@pytest.mark.parametrize(
    ("text", "delays"), [("60,120,300", (60, 120, 300)), ("0.5", (0.5,)), ("", ()), (" 1 , 2 ", (1, 2))]
)
def test_the_schedule_is_a_list_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, text: str, delays: tuple[float, ...]
) -> None:
    monkeypatch.setenv("DLQ_RETRY_DELAYS_SECONDS", text)
    assert DlqWorkerSettings().dlq_retry_delays_seconds == delays


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DLQ_RETRY_DELAYS_SECONDS", "60,soon"),
        ("DLQ_RETRY_DELAYS_SECONDS", "60,-1"),
        ("ARCHIVE_URL", "ftp://x"),
        ("ARCHIVE_URL", "archive"),
        ("ARCHIVE_URL", "https://host/path"),
        ("ARCHIVE_OPTIONS_FILE", "/nowhere"),
        ("ARCHIVE_BATCH_LETTERS", "0"),
    ],
)
def test_a_wrong_setting_is_named(
    monkeypatch: pytest.MonkeyPatch, archive: DeadLetterArchive, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    result = CliRunner().invoke(main, ["list"])
    assert result.exit_code == 2
    assert name in result.stderr


def test_options_of_the_store_come_from_a_file_and_are_never_printed(tmp_path: Path) -> None:
    file = tmp_path / "options.json"
    file.write_text('{"endpoint": "http://127.0.0.1:9", "allow_http": true, "secret_access_key": "hush"}')
    assert DlqWorkerSettings(archive_url="s3://bucket/x", archive_options_file=file).archive().url == "s3://bucket/x"
    file.write_text('["hush"]')
    result = CliRunner().invoke(main, ["list"], env={"ARCHIVE_OPTIONS_FILE": str(file)})
    assert "ARCHIVE_OPTIONS_FILE" in result.stderr
    assert "hush" not in result.stderr
