"""The HTTP API against a target in memory: parsing, limits and answers. The broker has its own tests."""

import asyncio
import contextlib
import gzip
import hashlib
import json
import re
import time
import uuid

import pytest
import zstandard
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from banking.streaming.broker import BrokerUnavailableError, PublishError
from banking.streaming.events import encode_event
from banking.streaming.health import Health
from banking.streaming.settings import load_settings
from producer.api import ApiLimits, EventsApi
from producer.api_keys import ApiKeys
from producer.idempotency import Entry, Finished, RequestIndex
from producer.intake import ControlTotals, IdHash
from producer.problems import answer_problems
from producer.settings import ProducerSettings

JSON = "application/json"
NDJSON = "application/x-ndjson"


class Target:
    """Keeps events in place of publishing them."""

    def __init__(self):
        self.events = []
        self.unconfirmed = set()
        self.away_from = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def submit(self, event, receipt):
        encode_event(event)
        await self.gate.wait()
        if self.away_from is not None and len(self.events) >= self.away_from:
            raise BrokerUnavailableError("the broker is away")
        self.events.append(event)
        error = PublishError("timed out") if event.entity_id in self.unconfirmed else None
        asyncio.get_running_loop().call_soon(receipt, error)

    @property
    def ids(self):
        return [event.entity_id for event in self.events]


class Log:
    """A log of keyed requests in memory, which a test may also make unusable."""

    def __init__(self):
        self.index = RequestIndex(60, 1000)
        self.away = False

    async def append(self, name, finished=None):
        if self.away:
            raise BrokerUnavailableError("the log is away")
        self.index.apply([Entry(name, uuid.uuid4().hex, time.time_ns() // 1000, finished)])
        return self.index.get(name)

    async def begin(self, name):
        return await self.append(name)

    async def finish(self, attempt, finished):
        return (await self.append(attempt.name, finished)).finished


class Api:
    """The API on a port of its own."""

    def __init__(self, *, keys=None, **limits):
        self.target, self.health, self.stop = Target(), Health(), asyncio.Event()
        self.log = Log()
        self.api = EventsApi(
            self.target,
            self.health,
            self.stop,
            keys=keys,
            limits=ApiLimits(**limits),
            source="http",
            request_log=self.log,
        )
        application = web.Application(middlewares=[answer_problems])
        application.add_routes(self.api.routes())
        self.client = TestClient(TestServer(application))

    async def __aenter__(self):
        # As the service does: who takes bodies unpacks them.
        await self.client.server.start_server(auto_decompress=False)
        return self

    async def __aexit__(self, *_error):
        self.target.gate.set()
        await self.client.close()

    async def post(self, data, content_type="application/x-ndjson", **headers):
        sent = {"Content-Type": content_type} if content_type else {}
        async with self.client.post("/v1/events", data=data, headers=sent | headers) as response:
            answer = json.loads(await response.read())
            if response.status >= 400:
                assert response.content_type == "application/problem+json"
                assert answer["status"] == response.status
                assert answer["title"]
            return response, answer


def event(entity_id, **fields):
    return {"entity_id": entity_id, "entity_type": "account", **fields}


def lines(*events):
    return b"".join(json.dumps(item).encode() + b"\n" for item in events)


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


def counts(answer):
    return tuple(answer[name] for name in ("read", "accepted", "rejected", "unconfirmed"))


async def test_one_event():
    async with Api() as api:
        response, answer = await api.post(json.dumps(event("a-1")), JSON)
    assert response.status == 202
    hashed = IdHash()
    hashed.add("a-1")
    assert answer == {
        "read": 1,
        "accepted": 1,
        "rejected": 0,
        "unconfirmed": 0,
        "accepted_ids_hash": hashed.hex(),
        "rejections": [],
    }
    assert api.target.events[0].source == "http"


async def test_an_array_names_what_is_rejected_by_its_index():
    async with Api() as api:
        response, answer = await api.post(json.dumps([event("a-1"), event("a 2"), 7, event("a-3")]), JSON)
    assert response.status == 202
    assert counts(answer) == (4, 2, 2, 0)
    assert [(item["index"], item["field"]) for item in answer["rejections"]] == [(1, "entity_id"), (2, "event")]
    assert api.target.ids == ["a-1", "a-3"]


@pytest.mark.parametrize("content_type", ["application/x-ndjson", "application/jsonl; charset=utf-8"])
async def test_lines_name_what_is_rejected_by_its_line(content_type):
    data = lines(event("a-1")) + b"\n" + lines(event("a-2", payload={"balance": "x"})) + b"{\n" + lines(event("a-3"))
    async with Api() as api:
        response, answer = await api.post(data[:-1], content_type)
    assert response.status == 202
    assert counts(answer) == (4, 2, 2, 0)
    assert [(item["line"], item["field"]) for item in answer["rejections"]] == [(3, "payload.balance"), (4, "event")]
    assert api.target.ids == ["a-1", "a-3"]


async def test_the_hash_of_the_accepted_ids_does_not_depend_on_their_order():
    async with Api() as api:
        _, forward = await api.post(lines(event("a"), event("b"), event("c")))
        _, backward = await api.post(lines(event("c"), event("b"), event("a")))
        _, other = await api.post(lines(event("a"), event("b"), event("d")))
    assert forward["accepted_ids_hash"] == backward["accepted_ids_hash"] != other["accepted_ids_hash"]


async def test_no_events_are_no_error():
    async with Api() as api:
        for data, content_type in ((b"", "application/x-ndjson"), (b"[]", JSON)):
            response, answer = await api.post(data, content_type)
            assert (response.status, answer["read"]) == (202, 0)


async def test_a_stream_of_any_length_is_read_while_it_comes():
    async def body():
        yield lines(event("first"))
        await until(lambda: api.target.events)
        for number in range(2_000):
            yield lines(event(f"a-{number}"))

    async with Api() as api:
        response, answer = await asyncio.wait_for(api.post(body()), 30)
    assert (response.status, answer["accepted"]) == (202, 2_001)


async def test_a_packed_body_is_unpacked():
    async with Api() as api:
        _, answer = await api.post(gzip.compress(lines(event("a-1"), event("a-2"))), **{"Content-Encoding": "gzip"})
        assert answer["accepted"] == 2
        response, _ = await api.post(b"no gzip at all", **{"Content-Encoding": "gzip"})
        assert response.status == 400


async def test_nothing_valid_is_a_bad_request():
    async with Api() as api:
        response, answer = await api.post(json.dumps(event("a 1")), JSON)
        assert (response.status, answer["rejections"][0]["field"]) == (400, "entity_id")
        response, _ = await api.post(b'[{"entity_id"', JSON)
        assert response.status == 400
        response, _ = await api.post(b"", JSON)
        assert response.status == 400
    assert api.target.events == []


async def test_a_body_packed_otherwise_is_refused_with_what_would_do():
    async with Api() as api:
        response, _ = await api.post(lines(event("a-1")), **{"Content-Encoding": "br"})
        assert (response.status, response.headers["Accept-Encoding"]) == (415, "gzip, zstd")
        cut_off = gzip.compress(lines(event("a-2")))[:-4]
        response, answer = await api.post(cut_off, **{"Content-Encoding": "gzip"})
        assert (response.status, answer["detail"]) == (400, "the body cannot be unpacked: it ends too early")
        response, answer = await api.post(zstandard.compress(lines(event("a-3"))), **{"Content-Encoding": "zstd"})
        assert (response.status, answer["accepted"]) == (202, 1)


@pytest.mark.parametrize("path", ["/v1/events", "/nowhere"])
async def test_what_no_route_is_there_for_is_a_problem_too(path):
    async with Api() as api, api.client.get(path) as response:
        assert response.content_type == "application/problem+json"
        status = {"/v1/events": 405, "/nowhere": 404}[path]
        assert (await response.json(content_type=None))["status"] == response.status == status
        assert response.headers.get("Allow") == ("POST" if status == 405 else None)


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", JSON),
        ("*/*", JSON),
        (NDJSON, NDJSON),
        ("application/jsonl", NDJSON),
        (f"{JSON}, {NDJSON}", JSON),
        (f"{NDJSON}, {JSON}", NDJSON),
        (f"{JSON};q=0.5, {NDJSON}", NDJSON),
        (f"*/*;q=0.1, {NDJSON};q=0", JSON),
        (f"{NDJSON};q=much", JSON),
        ("text/html", JSON),
    ],
)
async def test_the_answer_is_as_it_is_liked(accept, content_type):
    async with (
        Api() as api,
        api.client.post(
            "/v1/events", data=lines(event("a-1")), headers={"Content-Type": NDJSON, "Accept": accept}
        ) as response,
    ):
        assert (response.status, response.content_type) == (202, content_type)


async def as_lines(api, data, content_type=NDJSON, query="", **headers):
    sent = {"Content-Type": content_type, "Accept": NDJSON} | headers
    async with api.client.post(f"/v1/events{query}", data=data, headers=sent) as response:
        return response, [json.loads(row) for row in (await response.read()).splitlines()]


async def test_a_short_answer_in_lines_has_the_status_of_its_outcome():
    async with Api() as api:
        response, told = await as_lines(api, lines(event("a-1"), event("a 2")))
        assert response.status == 202
        assert [(row["outcome"], row.get("line")) for row in told] == [("rejected", 2), ("summary", None)]
        assert told[1].items() >= {"status": 202, "read": 2, "accepted": 1, "rejected": 1, "unconfirmed": 0}.items()
        api.target.unconfirmed = {"a-3"}
        response, [problem] = await as_lines(api, json.dumps([event("a-3")]), JSON)
    assert (response.status, response.content_type) == (503, "application/problem+json")
    assert problem["rejections"] == [{"index": 0, "problem": "timed out"}]


async def test_receipts_are_told_where_they_are_asked_for():
    async with Api() as api:
        response, told = await as_lines(api, lines(event("a-1", version=7)), query="?receipts=all", Accept=JSON)
        assert (response.status, response.content_type) == (202, NDJSON)
        [stored] = api.target.events
        receipt = {"outcome": "accepted", "line": 1, "entity_id": "a-1", "event_id": stored.event_id, "version": 7}
        assert told[0] == receipt
        for query, problem in (("?receipts=some", "rejected or all"), ("?recipts=all", "recipts: is no parameter")):
            response, [told] = await as_lines(api, lines(event("a-1")), query=query)
            assert response.status == 400
            assert problem in told["detail"]
    assert len(api.target.events) == 1


async def in_parts(*parts):
    for part in parts:
        yield part
        await asyncio.sleep(0.1)


async def test_a_long_answer_begins_before_its_end_and_its_last_line_says_the_outcome():
    async with Api(rejections=3) as api:
        bad = lines(*(event("a b") for _ in range(2_000)))
        response, told = await as_lines(api, lines(event("a-1")) + bad)
        assert (response.status, len(told)) == (200, 2_001)
        assert told[-1].items() >= {"outcome": "summary", "status": 202, "accepted": 1, "rejected": 2_000}.items()
        api.target.away_from = 1
        response, told = await as_lines(api, in_parts(bad, lines(event("a-2"))))
    assert response.status == 200
    assert {row["outcome"] for row in told[:-1]} == {"rejected"}
    assert told[-1].items() >= {"outcome": "problem", "status": 503, "rejected": 2_000, "next": 2_001}.items()


async def test_a_caller_who_reads_no_answer_is_let_go():
    async with Api(body_idle_seconds=1) as api:
        _reader, writer = await asyncio.open_connection("127.0.0.1", api.client.port, limit=1024)
        head = f"POST /v1/events HTTP/1.1\r\nHost: a\r\nContent-Type: {NDJSON}\r\nAccept: {NDJSON}\r\n"
        writer.write(f"{head}Content-Length: 1000000000\r\n\r\n".encode())
        bad = lines(*(event("a b") for _ in range(1_000)))
        async with asyncio.timeout(60):
            while not writer.is_closing():
                writer.write(bad)
                with contextlib.suppress(ConnectionError):
                    await writer.drain()
        await until(lambda: not api.api.open_requests)
        writer.close()


KEY = {"Idempotency-Key": "payments-of-today"}


async def test_a_repeated_request_is_answered_as_before_and_nothing_goes_twice():
    data = lines(event("a-1"), event("a 2"), event("a-3"))
    async with Api() as api:
        first, answer = await api.post(data, **KEY)
        again, repeated = await api.post(gzip.compress(data), **KEY, **{"Content-Encoding": "gzip"})
        other, problem = await api.post(lines(event("a-1")), **KEY)
        broken, _ = await api.post(b"[", JSON, **KEY)
    assert answer == repeated
    assert (first.status, again.status, other.status, broken.status) == (202, 202, 422, 422)
    assert ("Idempotency-Replayed" in first.headers, again.headers["Idempotency-Replayed"]) == (False, "true")
    assert "read" not in problem
    assert api.target.ids == ["a-1", "a-3"]


async def test_a_request_that_did_not_succeed_is_done_again_with_the_same_events():
    data = lines(*(event(f"a-{number}") for number in range(4)), event("a-0", event_id="mine", version=9))
    async with Api() as api:
        api.target.away_from = 2
        response, _ = await api.post(data, **KEY)
        assert response.status == 503
        api.target.away_from, api.target.unconfirmed = None, {"a-3"}
        response, _ = await api.post(data, **KEY)
        assert response.status == 503
        api.target.unconfirmed = set()
        response, answer = await api.post(data, **KEY)
        assert (response.status, answer["accepted"]) == (202, 5)
    events = api.target.events
    assert events[:2] == events[2:4] == events[-5:-3]
    assert [made.version - events[0].version for made in events[-5:-1]] == [0, 1, 2, 3]
    assert (events[-1].event_id, events[-1].version) == ("mine", 9)


async def test_a_refused_body_leaves_its_key_free():
    async with Api() as api:
        response, _ = await api.post(lines(event("a 1")), **KEY)
        assert response.status == 400
        response, answer = await api.post(lines(event("a-1")), **KEY)
    assert (response.status, answer["accepted"]) == (202, 1)


async def test_what_was_rejected_for_its_time_stays_rejected_when_it_is_repeated():
    ahead = time.time_ns() // 1000 + 301_500_000
    data = lines(event("a-1"), event("a-2", version=ahead))
    async with Api() as api:
        _, answer = await api.post(data, **KEY)
        assert answer["rejections"][0]["field"] == "version"
        await asyncio.sleep(2)
        _, repeated = await api.post(data, **KEY)
    assert repeated["rejections"][0]["line"] == 2
    assert (repeated["accepted"], repeated["rejected"]) == (answer["accepted"], answer["rejected"]) == (1, 1)


async def test_without_the_log_there_are_no_keyed_requests_but_others():
    async with Api() as api:
        api.log.away = True
        response, answer = await api.post(lines(event("a-1")), **KEY)
        assert (response.status, response.headers["Retry-After"]) == (503, "5")
        assert answer["detail"] == "the log is away"
        response, _ = await api.post(lines(event("a-2")))
        assert response.status == 202
    assert api.target.ids == ["a-2"]


async def test_a_request_whose_end_cannot_be_noted_is_unavailable():
    async def body():
        yield lines(event("a-1"))
        await until(lambda: api.target.events)
        api.log.away = True

    async with Api() as api:
        response, answer = await api.post(body(), **KEY)
        assert (response.status, answer["accepted"]) == (503, 1)
        assert "all events are stored" in answer["detail"]
        api.log.away = False
        response, answer = await api.post(lines(event("a-1")), **KEY)
    assert (response.status, answer["accepted"]) == (202, 1)
    assert api.target.events[0] == api.target.events[1]


async def test_another_body_published_meanwhile_under_the_key_is_told():
    async def body():
        yield lines(event("a-1"))
        await until(lambda: api.target.events)
        await api.log.append(next(iter(api.api._open_keys)), Finished("another", ControlTotals(), 1))

    async with Api() as api:
        response, answer = await api.post(body(), **KEY)
    assert (response.status, answer["accepted"]) == (422, 1)


async def test_a_key_that_is_none_is_refused():
    async with Api() as api:
        response, answer = await api.post(lines(event("a-1")), **{"Idempotency-Key": "a b"})
    assert response.status == 400
    assert "Idempotency-Key" in answer["detail"]


async def test_a_key_is_needed():
    keys = ApiKeys(["0123456789abcdef-first", "0123456789abcdef-second"])
    async with Api(keys=keys) as api:
        for header in (
            {},
            {"Authorization": "Bearer 0123456789abcdef"},
            {"Authorization": "Basic 0123456789abcdef-first"},
        ):
            response, _ = await api.post(lines(event("a-1")), **header)
            assert response.status == 401
            assert response.headers["WWW-Authenticate"] == "Bearer"
        assert api.target.events == []
        response, _ = await api.post(lines(event("a-1")), Authorization="bearer 0123456789abcdef-second")
        assert response.status == 202


@pytest.mark.parametrize("content_type", ["text/csv", "application/json; charset=latin-1", "multipart/form-data"])
async def test_other_content_types_are_refused(content_type):
    async with Api() as api:
        response, _ = await api.post(b"{}", content_type)
    assert response.status == 415
    assert "application/json" in response.headers.get("Accept-Post", "application/json")


async def test_a_body_that_is_too_large_is_refused():
    async def unannounced():
        yield json.dumps(event("a-1", payload={"note": "x" * 3_000})).encode()

    async with Api(body_bytes=1_000) as api:
        for body in (b" " * 2_000, unannounced(), gzip.compress(b" " * 2_000)):
            packed = {"Content-Encoding": "gzip"} if isinstance(body, bytes) and len(body) < 1_000 else {}
            response, _ = await api.post(body, JSON, **packed)
            assert response.status == 413
    assert api.target.events == []


async def test_a_stream_that_is_too_large_says_what_went_in():
    async def body():
        yield lines(event("a-1"), event("a-2"))
        await until(lambda: len(api.target.events) == 2)
        yield b" " * 20_000

    async with Api(stream_bytes=10_000) as api:
        response, answer = await api.post(body())
    assert (response.status, answer["accepted"]) == (413, 2)


async def test_a_line_that_is_too_long_is_rejected_alone():
    async with Api() as api:
        response, answer = await api.post(lines(event("a-1", payload={"n": "x" * 5_000_000}), event("a-2")))
    assert (response.status, api.target.ids) == (202, ["a-2"])
    assert answer["rejections"][0]["line"] == 1


async def test_an_event_that_is_too_large_is_rejected_alone():
    async with Api() as api:
        response, answer = await api.post(lines(event("a-1", payload={"n": "x" * 4_194_200}), event("a-2")))
    assert (response.status, api.target.ids) == (202, ["a-2"])
    assert (answer["rejections"][0]["line"], answer["rejections"][0]["field"]) == (1, "payload")


async def test_more_requests_than_may_be_are_asked_to_come_again():
    async with Api(concurrent_requests=2) as api:
        api.target.gate.clear()
        held = [asyncio.create_task(api.post(lines(event(f"a-{number}")))) for number in range(2)]
        await until(lambda: api.api.open_requests == 2)
        response, _ = await api.post(lines(event("a-3")))
        assert (response.status, response.headers["Retry-After"]) == (429, "1")
        api.target.gate.set()
        assert [response.status for response, _ in await asyncio.gather(*held)] == [202, 202]
        response, _ = await api.post(lines(event("a-4")))
        assert response.status == 202


async def test_a_flood_of_rejections_ends_the_request_and_names_all_of_them():
    async with Api(rejections=3) as api:
        response, answer = await api.post(lines(event("a-1"), *(event(f"b {n}") for n in range(9)), event("a-2")))
    assert response.status == 400
    assert counts(answer) == (4, 1, 3, 0)
    assert [item["line"] for item in answer["rejections"]] == [2, 3, 4]
    assert answer["next"] == 5


async def test_what_is_missing_is_named_while_the_service_is_not_ready():
    async with Api() as api:
        api.health.report("pulsar", "not connected")
        response, answer = await api.post(lines(event("a-1")))
        assert (response.status, response.headers["Retry-After"]) == (503, "5")
        assert answer["detail"] == "pulsar: not connected"
        api.health.clear("pulsar")
        response, _ = await api.post(lines(event("a-1")))
        assert response.status == 202


async def test_a_broker_that_goes_away_in_the_middle_is_told_with_the_place():
    async with Api() as api:
        api.target.away_from = 2
        response, answer = await api.post(lines(*(event(f"a-{number}") for number in range(5))))
    assert response.status == 503
    assert counts(answer) == (2, 2, 0, 0)
    assert answer["next"] == 3


async def test_events_that_are_not_confirmed_are_named():
    async with Api() as api:
        api.target.unconfirmed = {"a-2"}
        response, answer = await api.post(lines(event("a-1"), event("a-2"), event("a-3")))
    assert response.status == 503
    assert counts(answer) == (3, 2, 0, 1)
    assert answer["rejections"] == [{"line": 2, "problem": "timed out"}]


async def test_a_service_that_stops_ends_a_stream_and_says_where():
    async def body():
        yield lines(event("a-1"), event("a-2"))
        await until(lambda: len(api.target.events) == 2)
        api.stop.set()
        yield lines(event("a-3"))
        await asyncio.sleep(60)

    async with Api() as api:
        response, answer = await asyncio.wait_for(api.post(body()), 10)
    assert response.status == 503
    assert (counts(answer), answer["next"]) == ((2, 2, 0, 0), 3)


async def test_a_caller_who_stops_sending_is_let_go():
    async def body():
        yield lines(event("a-1"))
        await asyncio.sleep(60)

    async with Api(body_idle_seconds=1) as api:
        response, answer = await asyncio.wait_for(api.post(body()), 10)
    assert (response.status, answer["accepted"]) == (408, 1)


async def test_a_caller_who_hangs_up_leaves_no_request_behind():
    async def body():
        yield lines(event("a-1"))
        await asyncio.sleep(60)

    async with Api() as api:
        posting = asyncio.create_task(api.post(body()))
        await until(lambda: api.target.events)
        posting.cancel()
        await until(lambda: not api.api.open_requests)


def test_keys_come_from_a_file(tmp_path):
    path = tmp_path / "keys"
    path.write_text("# of the loader\n0123456789abcdef\n\n fedcba9876543210 \n")
    keys = ApiKeys.read(path)
    assert keys.caller("Bearer 0123456789abcdef") == hashlib.sha256(b"0123456789abcdef").hexdigest()
    assert keys.caller("Bearer fedcba9876543210") == hashlib.sha256(b"fedcba9876543210").hexdigest()
    assert keys.caller("Bearer # of the loader") is None
    assert keys.caller(None) is None


@pytest.mark.parametrize(("content", "problem"), [("", "no key"), ("short", "16 characters"), (None, "cannot be read")])
def test_a_file_without_keys_is_refused(tmp_path, content, problem):
    path = tmp_path / "keys"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=problem):
        ApiKeys.read(path)


@pytest.mark.parametrize(
    ("environment", "problem"),
    [
        ({}, "API_KEYS_FILE: .*needed, since API_AUTHENTICATION is not false"),
        ({"API_KEYS_FILE": "/nowhere"}, "API_KEYS_FILE: .*cannot be read"),
        ({"API_AUTHENTICATION": "false", "MAX_BODY_BYTES": "0"}, "MAX_BODY_BYTES: "),
    ],
)
def test_a_wrong_setting_is_named(monkeypatch, capsys, environment, problem):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        load_settings(ProducerSettings)
    assert re.search(problem, capsys.readouterr().err)
