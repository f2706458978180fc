"""Requests from anybody: each is answered, none by a status of 500, and the one after it is served."""

from __future__ import annotations

import asyncio
import json
import tracemalloc

import pytest

from banking.streaming.events import MAX_EVENT_VALUES
from producer.lines import MAX_LINE_BYTES
from tests.hostile import IDS, NO_EVENTS, STRANGE_EVENTS, TEXTS, WRONG_PAYLOADS, with_payload, zeros_packed
from tests.unit.producer.test_producer_api import JSON, NDJSON, Api, counts, event, lines

CORPUS = {**NO_EVENTS, **STRANGE_EVENTS, **{name: with_payload(data) for name, data in WRONG_PAYLOADS.items()}}


async def test_any_body_is_answered_and_the_next_one_is_taken():
    async with Api() as api:
        for name, data in CORPUS.items():
            response, _ = await api.post(data, JSON)
            assert response.status in {202, 400}, name
            response, answer = await api.post(b"[%s,%s]" % (json.dumps(event("good")).encode(), data), JSON)
            assert response.status in {202, 400}, name
            response, answer = await api.post(data.replace(b"\n", b" ") + b"\n" + lines(event(f"good-{name}")), NDJSON)
            assert response.status == 202, name
            assert answer["accepted"] >= 1
            assert api.target.ids[-1] == f"good-{name}"


async def test_texts_and_ids_are_taken_as_they_are():
    events = [event(entity_id, payload={"text": text}) for entity_id in IDS for text in TEXTS.values()]
    async with Api() as api:
        response, answer = await api.post(lines(*events))
    assert response.status == 202
    assert counts(answer) == (len(events), len(events), 0, 0)
    assert [taken.entity_id for taken in api.target.events] == [sent["entity_id"] for sent in events]
    assert [taken.payload for taken in api.target.events] == [sent["payload"] for sent in events]


async def test_a_version_of_any_exponent_is_refused_by_name():
    async with Api() as api:
        for version in (b"1e999999999999", b"-1e999999999999", b"1e-999999999999", b"1e400", b"9" * 4000):
            data = b'{"entity_id":"a-1","entity_type":"account","version":%s}' % version
            response, answer = await api.post(data, JSON)
            assert response.status == 400
            assert answer["rejections"][0]["field"] == "version"


@pytest.mark.parametrize("field", ["payload", "metadata"])
async def test_nesting_that_can_be_decoded_is_refused_all_the_same(field):
    async with Api() as api:
        for levels in (65, 300, 600, 900):
            nested = b'{"x":' + b"[" * levels + b"]" * levels + b"}"
            data = b'{"entity_id":"a-1","entity_type":"account","%s":%s}' % (field.encode(), nested)
            response, answer = await api.post(data, JSON)
            assert response.status == 400
            assert "nested deeper than 64 levels" in answer["rejections"][0]["problem"]


@pytest.mark.parametrize("member", [b"0", b"{}", b'""'])
async def test_an_array_of_millions_is_refused_before_it_is_cut_up(member):
    async with Api() as api:
        body = b"[" + (member + b",") * 2_000_001 + member + b"]"
        tracemalloc.start()
        response, answer = await api.post(body, JSON)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert response.status == 413
    assert answer["detail"] == "the array has more than 2,000,000 commas: send that much as NDJSON"
    assert peak < 8 * len(body)


async def test_an_event_of_too_many_bytes_is_refused_before_it_is_decoded():
    body = b'{"entity_id":"a-1","entity_type":"account","payload":{"x":[%s0]}}' % (b"{}," * 1_500_000)
    async with Api() as api:
        for data in (body, b"[%s]" % body):
            tracemalloc.start()
            response, answer = await api.post(data, JSON)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert response.status == 400
            assert answer["rejections"][0]["problem"] == f"has more than {MAX_LINE_BYTES:,} bytes"
            assert peak < 10 * len(body)


async def test_an_event_of_too_many_values_is_refused():
    async with Api() as api:
        response, answer = await api.post(json.dumps(event("a-1", payload={"x": [0] * MAX_EVENT_VALUES})), JSON)
    assert response.status == 400
    assert answer["rejections"][0] == {
        "index": 0,
        "field": "event",
        "problem": "holds more than 100,000 values",
    }


@pytest.mark.parametrize("pack", ["gzip", "zstd"])
@pytest.mark.parametrize("content_type", [JSON, NDJSON])
async def test_a_bomb_ends_at_the_limit(pack, content_type):
    packed = zeros_packed(pack, 200)
    async with Api(body_bytes=1_000_000, stream_bytes=1_000_000) as api:
        tracemalloc.start()
        response, answer = await api.post(packed, content_type, **{"Content-Encoding": pack})
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert response.status == 413
        assert answer["detail"] == "the body has more than 1,000,000 bytes"
        assert peak < 64_000_000
        assert (await api.post(lines(event("a-1"))))[0].status == 202


HEADERS = {
    "Content-Type": ["application/json; charset=utf-7", "text/html", "application/json;" * 400, "a/b; charset=ü", "/"],
    "Content-Encoding": ["br", "gzip, gzip, gzip", "zstd" * 100, "x-" * 200, "../"],
    "Idempotency-Key": ['"', "a b", "x" * 256, "ключ", '"a"; b', "${jndi:x}\\"],
    "Accept": ["*/*;q=NaN", "application/x-ndjson;q=1e999", ",,,", "x" * 4000, ";=;="],
    "Authorization": ["Bearer \x80", "Bearer", "Basic Og==", "bearer " + "x" * 4000],
    "X-Anything": ["'; DROP TABLE persons", "<script>", "%0d%0aSet-Cookie: a=b"],
    "Expect": ["100-continue", "200-ok"],
    "Range": ["bytes=0-99999999999999999999"],
}


@pytest.mark.parametrize("name", HEADERS)
async def test_any_header_is_answered(name):
    async with Api() as api:
        for value in HEADERS[name]:
            sent = {"Content-Type": NDJSON, name: value}
            async with api.client.post("/v1/events", data=lines(event("a-1")), headers=sent) as response:
                assert response.status in {200, 202, 400, 401, 415, 417}, value
                assert value not in response.headers.values()
        assert (await api.post(lines(event("last"))))[0].status == 202


RAW_REQUESTS = [
    b"GET / HTTP/9.9\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,
    b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
    b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding:chunked\r\n\r\nZZ\r\n",
    b"POST /v1/events HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    b"POST /v1/events HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % number for number in range(5000)) + b"\r\n",
    b"POST /v1/events\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"GET /%2e%2e/%00<script> HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"GET //[::1 HTTP/1.1\r\nHost: [\r\nConnection: close\r\n\r\n",
]


async def test_what_is_hardly_a_request_is_answered_400_or_cut_off():
    async with Api() as api:
        for request in RAW_REQUESTS:
            reader, writer = await asyncio.open_connection("127.0.0.1", api.client.port)
            writer.write(request)
            writer.write_eof()
            async with asyncio.timeout(10):
                try:
                    answer = await reader.read()
                except ConnectionError:
                    answer = b""
            writer.close()
            assert answer.split(b" ")[1:2] in ([], [b"400"], [b"404"], [b"415"]), request[:60]
            assert b"<script>" not in answer
            assert b"root:" not in answer
        assert (await api.post(lines(event("last"))))[0].status == 202
