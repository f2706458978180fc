"""The producer service and command line, as processes of their own, against the real broker."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import os
import pty
import re
import signal
import sys
import time
import uuid

import zstandard

from banking.streaming.events import decode_event
from producer.intake import IdHash


def line(**fields):
    return json.dumps(fields).encode() + b"\n"


async def test_what_is_answered_202_is_stored(serve, stored, unique):
    body = b"".join(
        line(entity_id=f"{unique}-{number}", entity_type="account", payload={"balance": "12.50"}, version=number)
        for number in range(3_000)
    )
    body += b"no event\n" + line(entity_id=f"{unique}-p", entity_type="person", payload={"name": "Ada"})
    async with serve() as server:
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


async def test_keys_from_a_file(serve, stored, unique, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(f"{unique}\n")
    body = line(entity_id=unique, entity_type="account")
    async with serve(API_AUTHENTICATION="true", API_KEYS_FILE=str(keys)) as server:
        response, _ = await server.post(body, "application/json")
        assert response.status == 401
        response, _ = await server.post(body, "application/json", Authorization=f"Bearer {unique}")
        assert response.status == 202
    assert len(await stored("accounts-events", 1)) == 1


async def test_a_service_that_is_told_to_stop_settles_what_it_has_read(serve, stored, unique):
    handed_over = asyncio.Event()

    async def body():
        for number in itertools.count():
            yield line(entity_id=f"{unique}-{number}", entity_type="account")
            await asyncio.sleep(0.001)
            if number == 500:
                handed_over.set()

    async with serve() as server:
        posting = asyncio.create_task(server.post(body()))
        await handed_over.wait()
        server.process.send_signal(signal.SIGTERM)
        response, answer = await asyncio.wait_for(posting, 30)
        assert await asyncio.wait_for(server.process.wait(), 30) == 0
    assert (response.status, response.headers["Retry-After"]) == (503, "5")
    assert answer["accepted"] == answer["read"] == answer["next"] - 1 > 0
    events = await stored("accounts-events", answer["accepted"])
    assert {event.entity_id for event in events} == {f"{unique}-{number}" for number in range(answer["accepted"])}


async def test_a_broker_that_is_away_is_told(start_service, unique):
    async with start_service("pulsar://127.0.0.1:9", "http://127.0.0.1:9", LOG_LEVEL="ERROR") as server:
        await server.until("/health/live", 200)
        assert set(json.loads(await server.until("/health/ready", 503))["missing"]) == {"pulsar", "topics"}
        response, answer = await server.post(line(entity_id=unique, entity_type="account"))
    assert (response.status, response.headers["Retry-After"]) == (503, "5")
    assert response.content_type == "application/problem+json"
    assert "pulsar" in answer["detail"]


async def test_what_one_request_and_all_of_them_may_take(serve, stored, unique):
    event, release = line(entity_id=unique, entity_type="account"), asyncio.Event()

    async def held():
        yield event
        await release.wait()

    async with serve(MAX_BODY_BYTES="2048", MAX_STREAM_BYTES="4096", MAX_CONCURRENT_REQUESTS="1") as server:
        refused = {
            413: await server.post(b" " * 3000, "application/json"),
            415: await server.post(event, "text/csv"),
            404: await server.post(event, path="/v2/events"),
        }
        packed, problem = await server.post(gzip.compress(b" " * 5000), **{"Content-Encoding": "gzip"})
        other, _ = await server.post(event, **{"Content-Encoding": "br"})
        posting = asyncio.create_task(server.post(held()))
        await stored("accounts-events", 1)
        answered, _ = await server.post(event)
        release.set()
        first, _ = await posting
        accepted, _ = await server.post(zstandard.compress(event), **{"Content-Encoding": "zstd"})
    for status, (response, answer) in refused.items():
        assert (response.status, response.content_type, answer["status"]) == (
            status,
            "application/problem+json",
            status,
        )
    assert (packed.status, problem["detail"]) == (413, "the body has more than 4,096 bytes")
    assert (other.status, other.headers["Accept-Encoding"]) == (415, "gzip, zstd")
    assert (answered.status, answered.headers["Retry-After"]) == (429, "1")
    assert (first.status, accepted.status) == (202, 202)


async def test_an_answer_comes_line_by_line_while_the_request_is_still_read(serve, unique):
    heard = asyncio.Event()

    async def body():
        yield line(entity_id=f"{unique}-1", entity_type="account") + b"no event\n"
        await heard.wait()
        yield line(entity_id=f"{unique}-2", entity_type="account")

    headers = {"Content-Type": "application/x-ndjson", "Accept": "application/x-ndjson"}
    async with (
        serve() as server,
        asyncio.timeout(60),
        server.http.post(f"{server.url}/v1/events?receipts=all", data=body(), headers=headers) as response,
    ):
        assert (response.status, response.content_type) == (200, "application/x-ndjson")
        first = [json.loads(await response.content.readline()) for _ in range(2)]
        heard.set()
        rest = [json.loads(row) for row in (await response.read()).splitlines()]
    assert sorted((row["outcome"], row["line"]) for row in first) == [("accepted", 1), ("rejected", 2)]
    assert [row["outcome"] for row in rest] == ["accepted", "summary"]
    assert (rest[0]["line"], rest[0]["entity_id"]) == (3, f"{unique}-2")
    assert (rest[1]["status"], rest[1]["read"], rest[1]["accepted"], rest[1]["rejected"]) == (202, 3, 2, 1)


async def test_memory_stays_flat_however_much_is_rejected(serve):
    async def body(count):
        for _ in range(count // 1000):
            yield b"".join(b'{"entity_id": "not valid %d", "entity_type": "account"}\n' % n for n in range(1000))

    async def post(server, count):
        headers = {"Content-Type": "application/x-ndjson", "Accept": "application/x-ndjson"}
        async with server.http.post(f"{server.url}/v1/events", data=body(count), headers=headers) as response:
            last = b""
            async for row in response.content:
                last = row
        return json.loads(last), server.resident_bytes

    async with serve() as server:
        _, before = await post(server, 20_000)
        answer, after = await post(server, 200_000)
    assert (answer["outcome"], answer["status"], answer["rejected"]) == ("problem", 400, 200_000)
    # Each line of the answer has over 100 bytes: kept, they would be more than that.
    assert after - before < 16 * 1024 * 1024


async def test_publish_a_file_with_rejects(command, stored, unique, tmp_path):
    path = tmp_path / "accounts.csv.gz"
    path.write_bytes(
        gzip.compress(f"account_id,balance\n{unique}-1,10.00\n{unique}-2,ten\n{unique}-3,30.00\n".encode())
    )
    options = ("--entity-type", "account", "--id-field", "account_id", "--source", "core")
    status, output, errors = await command("publish", path, *options, "--rejects", tmp_path)
    assert status == 1, errors
    assert re.search(r"accounts\.csv\.gz +3 +2 +1 +0", output)
    assert "accounts.csv.gz:2: payload.balance: expected a decimal number" in errors

    rejects = tmp_path / "accounts.rejects.csv"
    rejects.write_text(rejects.read_text().replace("ten", "20.00"))
    status, _, errors = await command("publish", rejects, *options)
    assert status == 0, errors
    events = await stored("accounts-events", 3)
    assert {event.entity_id[-1]: event.payload["balance"] for event in events} == {
        "1": "10.00",
        "2": "20.00",
        "3": "30.00",
    }
    assert {event.source for event in events} == {"core"}


async def test_publish_from_standard_input(command, stored, unique):
    body = line(entity_id=unique, entity_type="company", payload={"name": "Acme"})
    status, output, errors = await command("publish", "-", stdin=gzip.compress(body))
    assert status == 0, errors
    assert re.search(r"stdin +1 +1 +0 +0", output)
    assert [event.payload for event in await stored("companies-events", 1)] == [{"name": "Acme"}]


async def test_publish_rows_of_json_lines_with_a_mapping_at_a_rate(command, stored, unique, tmp_path):
    mapping = tmp_path / "loans.toml"
    mapping.write_text(
        'entity_type = "account"\nid = "{loan}"\n[payload]\nbalance = { field = "rest", required = true }\n'
    )
    rows = b"".join(line(loan=f"{unique}-{number}", rest=f"{number}.50") for number in range(40)) + line(loan="x")
    path = tmp_path / "loans.ndjson.zst"
    path.write_bytes(zstandard.compress(rows))
    started = time.monotonic()
    status, output, errors = await command("publish", path, "--mapping", mapping, "--max-rate", "20")
    assert time.monotonic() - started > 39 / 20
    assert status == 1
    assert "loans.ndjson.zst:41: payload.balance" in errors
    hashed = IdHash()
    for number in range(40):
        hashed.add(f"{unique}-{number}")
    assert re.search(rf"loans\.ndjson\.zst +41 +40 +1 +0 .*{hashed.hex()}", output)
    events = await stored("accounts-events", 40)
    assert {event.payload["balance"] for event in events} == {f"{number}.50" for number in range(40)}


async def test_rejected_events_can_be_corrected_and_published_again(command, stored, unique, tmp_path):
    good, bad = line(entity_id=f"{unique}-1", entity_type="person"), line(entity_id=f"{unique}-2", entity_type="persn")
    path = tmp_path / "people.ndjson"
    path.write_bytes(good + bad)
    status, _, errors = await command("publish", path, "--rejects", tmp_path)
    assert status == 1
    assert "people.ndjson:2: entity_type: expected one of person, account" in errors
    rejects = tmp_path / "people.rejects.ndjson"
    assert rejects.read_bytes() == bad
    rejects.write_bytes(bad.replace(b"persn", b"person"))
    status, _, errors = await command("publish", rejects)
    assert status == 0, errors
    assert {event.entity_id for event in await stored("persons-events", 2)} == {f"{unique}-1", f"{unique}-2"}


async def test_publish_shows_its_progress_on_a_terminal(pulsar_url, unique, tmp_path):
    path = tmp_path / "events.ndjson"
    path.write_bytes(b"".join(line(entity_id=f"{unique}-{n}", entity_type="account") for n in range(1000)))
    screen, terminal = pty.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "producer", "publish", path),
            env=os.environ | {"PULSAR_URL": pulsar_url, "TERM": "xterm", "COLUMNS": "120"},
            stdout=asyncio.subprocess.PIPE,
            stderr=terminal,
        )
        output, _ = await asyncio.wait_for(process.communicate(), 120)
        shown = os.read(screen, 65536).decode()
    finally:
        os.close(terminal)
        os.close(screen)
    assert process.returncode == 0, shown
    assert "events.ndjson" in shown
    assert "1,000 stored, 0 rejected" in shown
    assert "stored" not in output.decode()


async def test_publish_without_a_broker_says_so(command_without_broker, tmp_path):
    path = tmp_path / "e.ndjson"
    path.write_bytes(line(entity_id="a", entity_type="account"))
    status, output, errors = await command_without_broker("publish", path)
    assert status == 2
    assert "from number 1 on nothing was published" in errors
    assert re.search(r"e\.ndjson +0 +0 +0 +0", output)


async def test_generate(command, stored, tmp_path):
    seed = uuid.uuid4().int % 10**12
    counts = {"--persons": 5, "--companies": 2, "--accounts": 6, "--transactions": 9, "--communications": 3}
    arguments = [str(part) for pair in counts.items() for part in pair]
    status, output, errors = await command("generate", *arguments, "--seed", seed, "--output", tmp_path)
    assert status == 0, errors
    assert "read 25, accepted 25, rejected 0, unconfirmed 0" in output
    written = [decode_event(row) for row in (tmp_path / "events.ndjson").read_bytes().splitlines()]
    hashed = IdHash()
    for event in written:
        hashed.add(event.entity_id)
    assert f"hash of accepted ids: {hashed.hex()}" in output
    assert len(written) == 25
    payments = {event.entity_id: event for event in written if event.entity_type == "transaction"}
    stored_payments = await stored("transactions-events", len(payments), tuple(payments))
    assert {event.entity_id: event for event in stored_payments} == payments
