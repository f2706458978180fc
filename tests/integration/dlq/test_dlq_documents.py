"""docs/dead-letters.md on the running fleet: commands, queries, settings and snippets as written, in its order."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import urllib.parse
import urllib.request
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from banking.streaming.archive import NOT_A_LETTER, DeadLetterArchive
from banking.streaming.entities import EntityType
from banking.streaming.events import create_company_event, create_event
from banking.streaming.producer import AsyncEntityProducer
from banking.streaming.sink import RejectionReason
from dlq_worker.inventory import Selection, find
from dlq_worker.settings import DlqWorkerSettings
from dlq_worker.waiting import WaitingCounter
from fleet.comparison import Expectation, wait_until_equal
from fleet.compose import PROJECT, ROOT
from tests.integration.conftest import archived_letters
from tests.integration.dlq.conftest import S3_ACCESS, Worker, letter, make_bucket, refusing, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from opensearchpy import AsyncOpenSearch

    from banking.streaming.broker import Publisher
    from banking.streaming.events import EntityEvent
    from fleet.compose import Stack
    from fleet.stores import VectorReader
    from tests.integration.dlq.conftest import Lane

TEXT = (ROOT / "docs" / "dead-letters.md").read_text(encoding="utf-8")
EXAMPLE_ID = "vector:companies-events:(7,0,-1,3):5f1c22d0"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


COMMANDS = [line for block in blocks("sh") for line in block.splitlines()]


@pytest.fixture
async def producer(stack: Stack) -> AsyncIterator[AsyncEntityProducer]:
    async with AsyncEntityProducer(stack.addresses.pulsar_url) as producer:
        yield producer


class Shell:
    """Runs the document's commands on this stack, and remembers which were run."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.done: list[str] = []
        self.letter_id = ""

    async def run(self, *words: str) -> str:
        """The one command that holds these words and was not run yet; its output."""
        command = next(line for line in COMMANDS if line not in self.done and all(word in line for word in words))
        self.done.append(command)
        here = command.replace(PROJECT, self._stack.project).replace(EXAMPLE_ID, self.letter_id)
        result = await asyncio.to_thread(
            subprocess.run,
            ["bash", "-euo", "pipefail", "-c", here],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert result.returncode == 0, (here, result.stdout, result.stderr)
        return str(result.stdout)


async def test_an_operator_lives_with_dead_letters_as_documented(
    stack: Stack, producer: AsyncEntityProducer, vector: VectorReader, client: AsyncOpenSearch, tmp_path: Path
) -> None:
    shell = Shell(stack)
    event = create_company_event(f"c-{uuid.uuid4()}", "Lost & Found", source="test")
    async with refusing(client, "banking-companies"):
        await producer.send(event)
        row = await archived(stack, event)
    shell.letter_id = row["letter_id"]
    assert (row["leg"], row["reason"], row["attempt"]) == ("vector", "refused_by_store", 3)

    for query in blocks("promql")[0].splitlines():
        await until_answered(stack, query)

    assert re.search(r"letters +│ +│ +\d+", await shell.run("dlq_worker stats"))
    assert event.entity_id in await shell.run("dlq_worker list")
    assert event.entity_id in await shell.run("dlq_worker list --since 2h --leg vector")
    listed = [json.loads(line) for line in (await shell.run("list --type company --state waiting")).splitlines()]
    assert event.entity_id in {one["key"] for one in listed}
    shown = await shell.run("dlq_worker show")
    assert shell.letter_id in shown
    assert "Lost & Found" not in shown
    assert "Lost & Found" in await shell.run("dlq_worker show", "--payload")

    assert await vector.lookup(EntityType.COMPANY, [event.entity_id]) == {}
    assert re.search(r"would replay [1-9]\d* letters", await shell.run("replay --leg vector", "--dry-run"))
    assert re.search(r"^replayed [1-9]\d* letters", await shell.run("replay --leg vector", "--rate 50"))
    comparison = await wait_until_equal(vector, expected(event), 60)
    assert comparison.differences == []
    assert "would replay" in await shell.run("--force")
    assert "would remove" in await shell.run("purge --until 365d --dry-run")
    assert "removed" in await shell.run("purge --state replayed")
    await shell.run("restart", "vector_consumer")

    await shell.run("podman stop")
    try:
        await handled_by_a_function(stack, producer, client, tmp_path)
    finally:
        await shell.run("podman start")
    await asyncio.to_thread(stack.wait_ready, 120, ["dlq_worker", "vector_consumer"])
    assert shell.done == COMMANDS


async def handled_by_a_function(
    stack: Stack, producer: AsyncEntityProducer, client: AsyncOpenSearch, tmp_path: Path
) -> None:
    """The snippets, in a program of their own: one letter that the function takes, and one that it does not."""
    taken = create_event("communication", f"m-{uuid.uuid4()}", source="test", event_type="delete")
    left = create_company_event(f"c-{uuid.uuid4()}", "Left over", source="test")
    settings = DlqWorkerSettings(
        pulsar_url=stack.addresses.pulsar_url, pulsar_admin_url=stack.addresses.pulsar_admin_url
    )
    async with WaitingCounter(settings) as counter:
        async with refusing(client, "banking-companies"), refusing(client, "banking-communications"):
            await producer.send_many([taken, left])
            await until(lambda: both_wait(counter), 120)
        program = "\n".join(blocks("python")).replace("pulsar://localhost:6650", stack.addresses.pulsar_url)
        assert stack.addresses.pulsar_url in program
        result = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=os.environ | {"ARCHIVE_URL": (tmp_path / "archive").as_uri()},
        )
        assert (result.returncode, result.stderr) == (0, "")
        assert "Left over" not in result.stdout
        # Both are settled in the dead-letter topic; only the one that was not taken goes on, in 60 seconds.
        found = await counter.count()
        assert found.counts == {("vector", "1"): 1}
        assert not (tmp_path / "archive" / "v1" / "letters").exists()


async def both_wait(counter: WaitingCounter) -> bool:
    return (await counter.count()).counts == {("vector", "1"): 2}


async def archived(stack: Stack, event: EntityEvent) -> dict[str, Any]:
    """The letter of an event, from the list of the fleet's own archive."""
    rows: list[dict[str, Any]] = []

    async def is_listed() -> bool:
        letters = await asyncio.to_thread(archived_letters, stack)
        rows[:] = [row for row in letters if row["key"] == event.entity_id]
        return bool(rows)

    await until(is_listed)
    (row,) = rows
    return row


def expected(*events: EntityEvent) -> Expectation:
    expectation = Expectation()
    expectation.add_all(events)
    return expectation


async def until_answered(stack: Stack, query: str) -> None:
    """Prometheus has a value for the query, as soon as it has scraped twice."""
    url = f"{stack.addresses.prometheus_url}/api/v1/query?{urllib.parse.urlencode({'query': query})}"

    def ask() -> list[Any]:
        with urllib.request.urlopen(url, timeout=10) as response:
            result: list[Any] = json.load(response)["data"]["result"]
            return result

    async def is_answered() -> bool:
        return bool(await asyncio.to_thread(ask))

    await until(is_answered)


async def test_the_documented_settings_reach_an_object_store(
    lane: Lane, publisher: Publisher, s3_endpoint: str, tmp_path: Path
) -> None:
    variables = dict(line.split("=", 1) for line in blocks("ini")[0].splitlines())
    options = json.loads(blocks("json")[0])
    assert options.keys() >= S3_ACCESS.keys()
    file = tmp_path / "archive.json"
    file.write_text(json.dumps(options | {"endpoint": s3_endpoint}))
    variables["ARCHIVE_OPTIONS_FILE"] = str(file)
    bucket = variables["ARCHIVE_URL"].removeprefix("s3://").partition("/")[0]
    await asyncio.to_thread(make_bucket, s3_endpoint, bucket)
    archive = DeadLetterArchive(variables["ARCHIVE_URL"], options | {"endpoint": s3_endpoint})
    sent = letter(1, 3)
    await lane.send(publisher, sent)
    async with Worker(lane, archive, **variables) as worker:
        await lane.until_settled()
        assert await worker.stop() == 0
        assert not any(options["secret_access_key"] in line for line in worker.lines)
    assert [one.record.letter_id for one in await find(archive, Selection())] == [sent.letter_id]


def test_every_reason_is_explained() -> None:
    explained = set(re.findall(r"^\| `(\w+)` \|", TEXT.partition("| reason |")[2].partition("\n\n")[0], re.MULTILINE))
    assert explained == {*RejectionReason, NOT_A_LETTER}


def test_the_snippet_is_the_one_that_is_promised() -> None:
    assert blocks("python")[1] == (
        "from banking.streaming import DLQHandler\n"
        "dlq = DLQHandler(\n"
        '    pulsar_url="pulsar://localhost:6650",\n'
        "    max_retries=3,\n"
        "    retry_delay_seconds=60\n"
        ")\n"
        "dlq.process_with_retry(\n"
        "    handler_func=my_custom_handler,\n"
        "    batch_size=100\n"
        ")\n"
    )
