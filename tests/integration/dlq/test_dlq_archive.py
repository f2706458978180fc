"""The archive on a real S3 server and on a disk that is full, and letters that come back from it."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import uuid
from base64 import b64decode
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from banking.streaming.archive import DeadLetterArchive
from banking.streaming.dead_letters import retried_letter
from banking.streaming.dlq_handler import ARCHIVE
from dlq_worker.cli import main
from dlq_worker.inventory import Selection, State, find
from fleet.compose import StackError
from tests.integration.dlq.conftest import (
    S3_ACCESS,
    WORKER_PROGRAM,
    Running,
    collect,
    id_of,
    letter,
    make_bucket,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from banking.streaming.broker import Publisher
    from banking.streaming.dlq_handler import DeadLetterLoop
    from fleet.compose import Stack
    from tests.integration.dlq.conftest import Lane


async def paused_for(loop: DeadLetterLoop, name: str) -> bool:
    return loop.waiting_for == name


async def test_an_absent_bucket_pauses_and_s3_reads_like_files(
    lane: Lane, publisher: Publisher, archive: DeadLetterArchive, s3_endpoint: str
) -> None:
    bucket = f"archive-{uuid.uuid4().hex}"
    on_s3 = DeadLetterArchive(f"s3://{bucket}/dead", {"endpoint": s3_endpoint, "allow_http": True, **S3_ACCESS})
    letters = [letter(number, 3, data) for number, data in enumerate((b"text", b"\xff\x00", "Ω\n".encode()))]
    letters.append(letter(9, 3, b"", topic="companies-events"))
    await lane.send(publisher, *letters)
    waiting = await lane.backlog()  # counts stored batches of messages, and is read while none is acknowledged
    assert waiting > 0
    async with Running(lane, on_s3) as running:
        await until(lambda: paused_for(running.loop, ARCHIVE))
        assert bucket in running.health.problems[ARCHIVE]
        assert await lane.backlog() == waiting
        await asyncio.to_thread(make_bucket, s3_endpoint, bucket)
        await lane.until_settled()
        assert running.health.ready
    assert {found.record.letter_id for found in await find(on_s3, Selection())} == {sent.letter_id for sent in letters}

    for place in await on_s3.places():
        await archive.write(await on_s3.letters(place))
    assert await contents(archive) == await contents(on_s3)
    assert sorted(data for data, _ in await contents(on_s3)) == sorted(sent.data for sent in letters)


async def contents(archive: DeadLetterArchive) -> list[tuple[bytes, Any]]:
    letters = [kept for place in await archive.places() for kept in await archive.letters(place)]
    return sorted(((kept.data, kept) for kept in letters), key=lambda pair: pair[1].letter_id)


class ContainedWorker:
    """The worker in a container of its own, whose archive is a disk of a megabyte."""

    def __init__(self, stack: Stack, lane: Lane) -> None:
        self._stack = stack
        self.name = f"{stack.project}-{lane.letters}"
        variables = {
            "PULSAR_URL": "pulsar://pulsar:6650",
            "PULSAR_ADMIN_URL": "http://pulsar:8080",
            "ARCHIVE_URL": "file:///small-disk",
            "ARCHIVE_BATCH_WAIT_SECONDS": "0.2",
        }
        options = [part for name, value in variables.items() for part in ("-e", f"{name}={value}")]
        stack.podman(
            *("run", "-d", "--name", self.name, "--network", f"{stack.project}_default", "--read-only"),
            *(
                "--tmpfs",
                "/tmp",
                "--tmpfs",
                "/small-disk:rw,size=1m,mode=1777",
                *options,
                stack.image("dlq_worker"),
            ),
            *("python", "-c", WORKER_PROGRAM, lane.events, lane.letters, lane.retries, "nowhere"),
        )

    def run(self, *command: str) -> str:
        return self._stack.podman("exec", self.name, *command)

    async def missing(self) -> dict[str, str]:
        """What it says that it misses."""
        program = (
            "import urllib.error as e, urllib.request as r\n"
            "try: print(r.urlopen('http://127.0.0.1:8001/health/ready').read().decode())\n"
            "except e.HTTPError as error: print(error.read().decode())\n"
            "except OSError: print('{}')"
        )
        answer = json.loads(await asyncio.to_thread(self.run, "python", "-c", program))
        missing: dict[str, str] = answer.get("missing", {}) if answer else {"http": "not there yet"}
        return missing

    def remove(self) -> None:
        self._stack.podman("rm", "-f", "-t", "5", self.name)


@pytest.fixture
def contained_worker(stack: Stack, lane: Lane) -> Iterator[ContainedWorker]:
    worker = ContainedWorker(stack, lane)
    yield worker
    worker.remove()


async def test_a_full_disk_pauses_until_there_is_room(
    lane: Lane, publisher: Publisher, contained_worker: ContainedWorker
) -> None:
    await until(lambda: ready(contained_worker))
    fill = "import os; open('/small-disk/filler', 'wb').write(bytes(700_000))"
    await asyncio.to_thread(contained_worker.run, "python", "-c", fill)
    letters = [letter(number, 3, random.Random(number).randbytes(60_000)) for number in range(8)]
    await lane.send(publisher, *letters)

    async def full() -> bool:
        return "No space left on device" in (await contained_worker.missing()).get(ARCHIVE, "")

    await until(full)
    waiting = await lane.backlog()
    await asyncio.sleep(3)  # it tries again meanwhile, and again in vain
    assert await full()
    assert await lane.backlog() == waiting > 0
    await asyncio.to_thread(contained_worker.run, "rm", "/small-disk/filler")
    await lane.until_settled()
    await until(lambda: ready(contained_worker))
    rows = [
        json.loads(line)
        for line in contained_worker.run("dlq_worker", "list", "--format", "json", "--limit", "100").splitlines()
    ]
    assert {row["letter_id"] for row in rows} == {sent.letter_id for sent in letters}
    shown = json.loads(
        contained_worker.run("dlq_worker", "show", rows[0]["letter_id"], "--payload", "--format", "json")
    )
    (original,) = (sent for sent in letters if sent.letter_id == rows[0]["letter_id"])
    assert b64decode(shown["base64"]) == original.data
    # What the attempts in vain had begun to write takes no room for ever.
    files = contained_worker.run("find", "/small-disk", "-type", "f").split()
    assert [file for file in files if not file.endswith((".ndjson.zst", "/probe"))] == []


async def ready(worker: ContainedWorker) -> bool:
    try:
        return not await worker.missing()
    except StackError:  # the container is still starting
        return False


async def test_an_archived_letter_comes_back_by_replay(
    lane: Lane, publisher: Publisher, archive: DeadLetterArchive
) -> None:
    letters = [letter(number, 3) for number in range(30)]
    await lane.send(publisher, *letters)
    async with Running(lane, archive):
        await lane.until_settled()
    environment = {"ARCHIVE_URL": archive.url, "PULSAR_URL": lane.pulsar_url}

    def replay(*arguments: str) -> str:
        result = CliRunner().invoke(main, ["replay", *arguments], env=environment)
        assert result.exit_code == 0, result.output
        return result.stdout

    assert "would replay 30 letters" in await asyncio.to_thread(replay, "--dry-run")
    assert "replayed 10 letters" in await asyncio.to_thread(replay, "--limit", "10", "--rate", "100")
    assert "replayed 20 letters" in await asyncio.to_thread(replay)
    assert "replayed 0 letters" in await asyncio.to_thread(replay)
    got = await collect(lane, lambda got: len(got) >= 30)
    assert sorted((id_of(one), one.data) for one in got) == sorted((sent.letter_id, sent.data) for sent in letters)
    assert {retried_letter(one).attempt for one in got} == {4}  # type: ignore[union-attr]


# `dlq_worker replay` on a lane; it kills itself before it marks what it has sent for the second time.
REPLAY = """
import os, signal, sys
from banking.streaming import archive, dead_letters
from banking.streaming.sink import Leg
from dlq_worker.cli import main

dead_letters.RETRY_TOPICS = dict.fromkeys(Leg, sys.argv.pop(1))
original, calls = archive.DeadLetterArchive.mark_replayed, []

async def mark_replayed(self, replays):
    calls.append(len(replays))
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    await original(self, replays)

archive.DeadLetterArchive.mark_replayed = mark_replayed
main()
"""


async def test_a_replay_that_is_killed_goes_on_where_it_stopped(
    lane: Lane, publisher: Publisher, archive: DeadLetterArchive
) -> None:
    letters = [letter(number, 3) for number in range(300)]
    await lane.send(publisher, *letters)
    async with Running(lane, archive):
        await lane.until_settled()
    environment = {"ARCHIVE_URL": archive.url, "PULSAR_URL": lane.pulsar_url}
    command = [sys.executable, "-c", REPLAY, lane.retries, "replay", "--rate", "1000"]
    killed = await asyncio.to_thread(subprocess.run, command, env=os.environ | environment, timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(await find(archive, Selection(state=State.REPLAYED))) == 100
    result = await asyncio.to_thread(CliRunner().invoke, main, ["replay", "--rate", "1000"], env=environment)
    assert "replayed 200 letters" in result.stdout
    got = await collect(lane, lambda got: len(got) >= 400)
    times = Counter(id_of(one) for one in got)
    assert times.keys() == {sent.letter_id for sent in letters}
    assert Counter(times.values()) == {1: 200, 2: 100}  # those that were sent and not marked were sent again
    found = await find(archive, Selection())
    assert {(one.state, one.replays) for one in found} == {(State.REPLAYED, 1)}
