"""The producer service and command line, as processes of their own, against the real broker."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import os
import re
import signal
import socket
import sys
import uuid
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pulsar
import pytest

from banking.streaming.events import decode_event
from banking.streaming.topics import ENTITY_TOPICS, TopicProvisioner, full_name
from producer.intake import IdHash
from producer.publishing import publish_file

START_SECONDS = 60


@pytest.fixture
def unique():
    return f"http-{uuid.uuid4()}"


@pytest.fixture
async def stored(pulsar_url, pulsar_admin_url, unique):
    """Reads from the broker what a test has published under its own ids."""
    async with TopicProvisioner(pulsar_admin_url) as provisioner:
        await provisioner.ensure()
    client = pulsar.Client(pulsar_url)
    readers = {
        topic: await asyncio.to_thread(client.create_reader, full_name(topic), pulsar.MessageId.latest)
        for topic in ENTITY_TOPICS.values()
    }

    def read(topic, count, prefix):
        messages = []
        while len(messages) < count:
            message = readers[topic].read_next(timeout_millis=20_000)
            if message.partition_key().startswith(prefix):
                messages.append(message)
        return messages

    async def stored(topic, count, prefix=unique):
        messages = await asyncio.to_thread(read, topic, count, prefix)
        events = [decode_event(message.data()) for message in messages]
        assert [message.partition_key() for message in messages] == [event.entity_id for event in events]
        return events

    yield stored
    await asyncio.to_thread(client.close)


class Server:
    """A running `producer serve`."""

    def __init__(self, process, url, http):
        self.process = process
        self.url = url
        self.http = http

    async def post(self, data, content_type="application/x-ndjson", **headers):
        async with self.http.post(
            f"{self.url}/v1/events", data=data, headers={"Content-Type": content_type} | headers
        ) as response:
            return response, await response.json(content_type=None)

    async def status(self, path):
        async with self.http.get(self.url + path) as response:
            return response.status, await response.text()

    async def until(self, path, status):
        async with asyncio.timeout(START_SECONDS):
            while True:
                try:
                    answer = await self.status(path)
                except aiohttp.ClientConnectionError:
                    answer = (0, "")
                if answer[0] == status:
                    return answer[1]
                await asyncio.sleep(0.1)


@asynccontextmanager
async def serve(pulsar_url, pulsar_admin_url, **environment):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        "PULSAR_URL": pulsar_url,
        "PULSAR_ADMIN_URL": pulsar_admin_url,
        "HTTP_HOST": "127.0.0.1",
        "HTTP_PORT": str(port),
        "API_AUTHENTICATION": "false",
    } | environment
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "producer", "serve", env=os.environ | environment, stdout=asyncio.subprocess.DEVNULL
    )
    async with aiohttp.ClientSession() as http:
        try:
            yield Server(process, f"http://127.0.0.1:{port}", http)
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
                await asyncio.wait_for(process.wait(), 60)


async def command(pulsar_url, *arguments, stdin=b""):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "producer",
        *map(str, arguments),
        env=os.environ | {"PULSAR_URL": pulsar_url},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(stdin), 120)
    return process.returncode, output.decode(), errors.decode()


def line(**fields):
    return json.dumps(fields).encode() + b"\n"


async def test_what_is_answered_202_is_stored(pulsar_url, pulsar_admin_url, stored, unique):
    body = b"".join(
        line(entity_id=f"{unique}-{number}", entity_type="account", payload={"balance": "12.50"}, version=number)
        for number in range(3_000)
    )
    body += b"no event\n" + line(entity_id=f"{unique}-p", entity_type="person", payload={"name": "Ada"})
    async with serve(pulsar_url, pulsar_admin_url) as server:
        await server.until("/health/ready", 200)
        response, answer = await server.post(body)
        accounts = await stored("accounts-events", 3_000)
        [person] = await stored("persons-events", 1)
        _, metrics = await server.status("/metrics")
    assert response.status == 202
    assert (answer["read"], answer["accepted"], answer["rejected"]) == (3_002, 3_001, 1)
    assert [item["line"] for item in answer["rejections"]] == [3_001]
    hashed = IdHash()
    for event in [*accounts, person]:
        hashed.add(event.entity_id)
    assert answer["accepted_ids_hash"] == hashed.hex()
    assert {event.version for event in accounts} == set(range(3_000))
    assert accounts[0].payload == {"balance": "12.50"}
    assert (person.source, person.text_for_embedding) == ("http", "Ada")
    assert 'streaming_events_published_total{entity_type="account",source="http"} 3000.0' in metrics


async def test_keys_from_a_file(pulsar_url, pulsar_admin_url, stored, unique, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(f"{unique}\n")
    body = line(entity_id=unique, entity_type="account")
    async with serve(pulsar_url, pulsar_admin_url, API_AUTHENTICATION="true", API_KEYS_FILE=str(keys)) as server:
        await server.until("/health/ready", 200)
        response, _ = await server.post(body, "application/json")
        assert response.status == 401
        response, _ = await server.post(body, "application/json", Authorization=f"Bearer {unique}")
        assert response.status == 202
    assert len(await stored("accounts-events", 1)) == 1


async def test_a_service_that_is_told_to_stop_settles_what_it_has_read(pulsar_url, pulsar_admin_url, stored, unique):
    handed_over = asyncio.Event()

    async def body():
        for number in itertools.count():
            yield line(entity_id=f"{unique}-{number}", entity_type="account")
            await asyncio.sleep(0.001)
            if number == 500:
                handed_over.set()

    async with serve(pulsar_url, pulsar_admin_url) as server:
        await server.until("/health/ready", 200)
        posting = asyncio.create_task(server.post(body()))
        await handed_over.wait()
        server.process.send_signal(signal.SIGTERM)
        response, answer = await asyncio.wait_for(posting, 30)
        assert await asyncio.wait_for(server.process.wait(), 30) == 0
    assert (response.status, response.headers["Retry-After"]) == (503, "5")
    assert answer["accepted"] == answer["read"] == answer["next"] - 1 > 0
    events = await stored("accounts-events", answer["accepted"])
    assert {event.entity_id for event in events} == {f"{unique}-{number}" for number in range(answer["accepted"])}


async def test_a_broker_that_is_away_is_told(unique):
    async with serve("pulsar://127.0.0.1:9", "http://127.0.0.1:9", LOG_LEVEL="ERROR") as server:
        await server.until("/health/live", 200)
        assert set(json.loads(await server.until("/health/ready", 503))["missing"]) == {"pulsar", "topics"}
        response, answer = await server.post(line(entity_id=unique, entity_type="account"))
    assert (response.status, response.headers["Retry-After"]) == (503, "5")
    assert response.content_type == "application/problem+json"
    assert "pulsar" in answer["detail"]


async def test_publish_a_file_with_rejects(pulsar_url, stored, unique, tmp_path):
    path = tmp_path / "accounts.csv.gz"
    path.write_bytes(
        gzip.compress(f"account_id,balance\n{unique}-1,10.00\n{unique}-2,ten\n{unique}-3,30.00\n".encode())
    )
    options = ("--entity-type", "account", "--id-field", "account_id", "--source", "core")
    status, output, errors = await command(pulsar_url, "publish", path, *options, "--rejects", tmp_path)
    assert status == 1, errors
    assert re.search(r"accounts\.csv\.gz +3 +2 +1 +0", output)
    assert "accounts.csv.gz:2: payload.balance: expected a decimal number" in errors

    rejects = tmp_path / "accounts.rejects.csv"
    rejects.write_text(rejects.read_text().replace("ten", "20.00"))
    status, _, errors = await command(pulsar_url, "publish", rejects, *options)
    assert status == 0, errors
    events = await stored("accounts-events", 3)
    assert {event.entity_id[-1]: event.payload["balance"] for event in events} == {
        "1": "10.00",
        "2": "20.00",
        "3": "30.00",
    }
    assert {event.source for event in events} == {"core"}


async def test_publish_from_standard_input(pulsar_url, stored, unique):
    body = line(entity_id=unique, entity_type="company", payload={"name": "Acme"})
    status, output, errors = await command(pulsar_url, "publish", "-", stdin=gzip.compress(body))
    assert status == 0, errors
    assert re.search(r"stdin +1 +1 +0 +0", output)
    assert [event.payload for event in await stored("companies-events", 1)] == [{"name": "Acme"}]


async def test_publish_without_a_broker_says_so(tmp_path):
    path = tmp_path / "e.ndjson"
    path.write_bytes(line(entity_id="a", entity_type="account"))
    status, output, errors = await command("pulsar://127.0.0.1:9", "publish", path)
    assert status == 2
    assert "from number 1 on nothing was published" in errors
    assert re.search(r"e\.ndjson +0 +0 +0 +0", output)


async def test_generate(pulsar_url, stored, tmp_path):
    seed = uuid.uuid4().int % 10**12
    counts = {"--persons": 5, "--companies": 2, "--accounts": 6, "--transactions": 9, "--communications": 3}
    arguments = [str(part) for pair in counts.items() for part in pair]
    status, output, errors = await command(pulsar_url, "generate", *arguments, "--seed", seed, "--output", tmp_path)
    assert status == 0, errors
    assert "accepted 25" in output
    written = [decode_event(row) for row in (tmp_path / "events.ndjson").read_bytes().splitlines()]
    assert len(written) == 25
    payments = {event.entity_id: event for event in written if event.entity_type == "transaction"}
    stored_payments = await stored("transactions-events", len(payments), tuple(payments))
    assert {event.entity_id: event for event in stored_payments} == payments


@pytest.mark.skipif("EXTERNAL_DATA" not in os.environ, reason="EXTERNAL_DATA names no folder of external data")
async def test_simulated_accounts_and_payments(pulsar_url, stored, tmp_path):
    folder = Path(os.environ["EXTERNAL_DATA"]) / "amlsim"
    reports = []
    for name, mapping in (("nodes", "amlsim-accounts"), ("transactions", "amlsim-payments")):
        with gzip.open(folder / f"{name}.csv.gz") as whole:
            (tmp_path / f"{name}.csv").write_bytes(b"".join(itertools.islice(whole, 501)))
        path = tmp_path / f"{name}.csv"
        reports.append(await asyncio.to_thread(publish_file, path, pulsar_url=pulsar_url, mapping=mapping))
    assert all(report.complete and report.totals.accepted == 500 for report in reports)
    accounts = await stored("accounts-events", 500, "amlsim-account-")
    payments = await stored("transactions-events", 500, "amlsim-payment-")
    assert len({event.entity_id for event in accounts}) == len({event.entity_id for event in payments}) == 500
    assert accounts[0].payload["balance"] == "184.44"
    first = next(event for event in payments if event.entity_id.startswith("amlsim-payment-1-"))
    assert first.payload["amount"] == "163.3"
    assert first.payload["executed_at"] == "2024-01-02T00:00:00Z"
