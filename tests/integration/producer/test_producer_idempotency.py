"""Requests with an `Idempotency-Key` that are repeated: after a lost answer, a killed service, on another replica."""

from __future__ import annotations

import asyncio
import json
import signal

import pytest

from producer.intake import IdHash

ACCOUNTS = "accounts-events"
REPLAYED = "Idempotency-Replayed"


def lines(unique, count, **fields):
    """Events that give no id, time or version: those are what a repetition has to make again."""
    return [
        json.dumps({"entity_id": f"{unique}-{number}", "entity_type": "account", **fields}).encode() + b"\n"
        for number in range(count)
    ]


def hash_of(unique, count):
    hashed = IdHash()
    for number in range(count):
        hashed.add(f"{unique}-{number}")
    return hashed.hex()


async def held_open(rows, release):
    """A body that waits before its end."""
    for row in rows:
        yield row
    await release.wait()


async def test_a_repeated_request_is_answered_as_before_and_publishes_nothing(serve, broker, unique):
    body = b"".join([*lines(unique, 5), b'{"entity_id": "not valid", "entity_type": "account"}\n'])
    async with serve() as server:
        response, answer = await server.post(body, **{"Idempotency-Key": f'"{unique}"'})
        await broker.messages(ACCOUNTS, 5, unique)
        again, repeated = await server.post(body, **{"Idempotency-Key": unique})
        other, problem = await server.post(body + lines(unique, 1)[0], **{"Idempotency-Key": unique})
        as_lines, told = await server.post(body, Accept="application/x-ndjson", **{"Idempotency-Key": unique})
    assert (response.status, again.status, as_lines.status) == (202, 202, 202)
    assert answer == repeated
    assert (answer["read"], answer["accepted"], answer["rejected"]) == (6, 5, 1)
    assert answer["accepted_ids_hash"] == hash_of(unique, 5)
    assert REPLAYED not in response.headers
    assert again.headers[REPLAYED] == as_lines.headers[REPLAYED] == "true"
    assert [row["outcome"] for row in told] == ["rejected", "summary"]
    assert told[1].items() >= {name: answer[name] for name in ("read", "accepted", "accepted_ids_hash")}.items()
    assert (other.status, other.content_type) == (422, "application/problem+json")
    assert "another body" in problem["detail"]
    assert await broker.rest(ACCOUNTS, unique) == []


async def test_a_request_without_a_key_is_published_each_time(serve, broker, unique):
    async with serve() as server:
        for _ in range(2):
            response, _ = await server.post(lines(unique, 1)[0], "application/json")
            assert response.status == 202
    first, second = await broker.events(ACCOUNTS, 2, unique)
    assert first.version < second.version
    assert first.event_id != second.event_id


async def test_a_caller_that_lost_the_answer_gets_it_from_a_restarted_service(serve, broker, unique):
    body = b"".join(lines(unique, 50))
    async with serve() as server:
        host, port = server.url.removeprefix("http://").split(":")
        _reader, writer = await asyncio.open_connection(host, int(port))
        head = (
            f"POST /v1/events HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/x-ndjson\r\n"
            f"Idempotency-Key: {unique}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        await writer.drain()
        await broker.messages(ACCOUNTS, 50, unique)
        writer.close()
        server.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(server.process.wait(), 60) == 0
    async with serve() as server:
        response, answer = await server.post(body, **{"Idempotency-Key": unique})
    assert response.status == 202
    assert response.headers[REPLAYED] == "true"
    assert (answer["accepted"], answer["accepted_ids_hash"]) == (50, hash_of(unique, 50))
    assert await broker.rest(ACCOUNTS, unique) == []


async def test_a_request_cut_off_by_a_kill_publishes_the_same_bytes_when_repeated(serve, broker, unique):
    rows = lines(unique, 400, payload={"balance": "1.00"})
    async with serve() as server:
        posting = asyncio.create_task(
            server.post(held_open(rows[:300], asyncio.Event()), **{"Idempotency-Key": unique})
        )
        first = [message.data() for message in await broker.messages(ACCOUNTS, 300, unique)]
        await server.kill()
        with pytest.raises(Exception, match=r"disconnected|reset|closed"):
            await posting
    async with serve() as server:
        response, answer = await server.post(b"".join(rows), **{"Idempotency-Key": unique})
        assert (response.status, answer["accepted"], answer["accepted_ids_hash"]) == (202, 400, hash_of(unique, 400))
        assert REPLAYED not in response.headers
        second = [message.data() for message in await broker.messages(ACCOUNTS, 400, unique)]
        response, repeated = await server.post(b"".join(rows), **{"Idempotency-Key": unique})
    assert set(first) < set(second)
    assert len(set(second)) == 400
    assert (response.headers[REPLAYED], repeated) == ("true", answer)
    assert await broker.rest(ACCOUNTS, unique) == []


async def test_another_replica_knows_the_key(serve, broker, unique):
    rows = lines(unique, 30)
    async with serve() as one, serve() as other:
        response, answer = await one.post(b"".join(rows), **{"Idempotency-Key": unique})
        again, repeated = await other.post(b"".join(rows), **{"Idempotency-Key": unique})
        refused, _ = await other.post(rows[0], **{"Idempotency-Key": unique})
    assert (response.status, again.headers[REPLAYED], repeated, refused.status) == (202, "true", answer, 422)
    assert len(await broker.rest(ACCOUNTS, unique)) == 30


async def test_two_replicas_that_publish_one_request_at_the_same_time_publish_the_same_bytes(serve, broker, unique):
    rows, release = lines(unique, 30), asyncio.Event()
    async with serve() as one, serve() as other:
        posting = asyncio.create_task(one.post(held_open(rows, release), **{"Idempotency-Key": unique}))
        await broker.messages(ACCOUNTS, 30, unique)
        second, second_answer = await other.post(b"".join(rows), **{"Idempotency-Key": unique})
        release.set()
        first, first_answer = await posting
    published = await broker.rest(ACCOUNTS, unique)
    assert (first.status, second.status) == (202, 202)
    assert first_answer == second_answer
    assert len(published) == len(set(published)) == 30


async def test_a_request_is_refused_while_the_first_with_its_key_is_going_on(serve, broker, unique):
    rows, release = lines(unique, 3), asyncio.Event()
    async with serve() as server:
        posting = asyncio.create_task(server.post(held_open(rows, release), **{"Idempotency-Key": unique}))
        await broker.messages(ACCOUNTS, 3, unique)
        response, _ = await server.post(b"".join(rows), **{"Idempotency-Key": unique})
        release.set()
        first, _ = await posting
    assert (response.status, response.headers["Retry-After"], first.status) == (409, "1", 202)
    assert await broker.rest(ACCOUNTS, unique) == []


async def test_a_broker_that_freezes_in_the_middle_is_ridden_out_by_repeating(stack, serve, broker, unique):
    rows, frozen = lines(unique, 500), asyncio.Event()

    async def body():
        for row in rows[:200]:
            yield row
        await frozen.wait()
        for row in rows[200:]:
            yield row

    async with serve(SEND_TIMEOUT_SECONDS="2") as server:
        posting = asyncio.create_task(server.post(body(), **{"Idempotency-Key": unique}))
        first = [message.data() for message in await broker.messages(ACCOUNTS, 200, unique)]
        await asyncio.to_thread(stack.pause, "pulsar")
        try:
            frozen.set()
            response, answer = await posting
        finally:
            await asyncio.to_thread(stack.unpause, "pulsar")
        assert (response.status, response.headers["Retry-After"]) == (503, "5")
        assert answer["accepted"] == 200
        assert answer["read"] == answer["accepted"] + answer["unconfirmed"]
        await server.until("/health/ready", 200)
        response, answer = await server.post(b"".join(rows), **{"Idempotency-Key": unique})
    assert (response.status, answer["accepted"], answer["accepted_ids_hash"]) == (202, 500, hash_of(unique, 500))
    published = set(await broker.rest(ACCOUNTS, unique))
    assert len(published) == 500
    assert set(first) < published


async def test_one_caller_s_keys_mean_nothing_to_another(serve, broker, unique, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(f"{unique}-first\n{unique}-second\n")
    async with serve(API_AUTHENTICATION="true", API_KEYS_FILE=str(keys)) as server:
        for number, caller in enumerate(("first", "second")):
            headers = {"Authorization": f"Bearer {unique}-{caller}", "Idempotency-Key": "payments-of-today"}
            response, answer = await server.post(lines(f"{unique}-{number}", 1)[0], **headers)
            assert (response.status, answer["accepted"]) == (202, 1)
    assert len(await broker.events(ACCOUNTS, 2, unique)) == 2


async def test_a_log_that_somebody_removed_is_made_again(serve, pulsar_admin_url, unique):
    async def post(server, number):
        key = {"Idempotency-Key": f"{unique}-{number}"}
        return (await server.post(lines(f"{unique}-{number}", 1)[0], **key))[0].status

    path = f"{pulsar_admin_url}/admin/v2/persistent/public/banking/producer-requests"
    async with serve() as server, asyncio.timeout(90):
        assert await post(server, 0) == 202
        async with server.http.delete(path, params={"force": "true"}) as response:
            assert response.status in {200, 204}
        while (status := await post(server, 1)) != 202:
            assert status == 503
            await asyncio.sleep(0.5)
        response, _ = await server.post(lines(f"{unique}-1", 1)[0], **{"Idempotency-Key": f"{unique}-1"})
    assert response.headers[REPLAYED] == "true"
