"""The vector leg's sink and search against a real OpenSearch."""

from __future__ import annotations

import asyncio
import base64
import ssl
import uuid
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from aiohttp import ClientSession, web
from opensearchpy import AsyncOpenSearch

from banking.streaming.entities import EntityType
from banking.streaming.events import (
    EntityEvent,
    EventType,
    content_hash,
    create_account_event,
    create_communication_event,
    create_company_event,
    create_event,
    create_person_event,
    create_transaction_event,
)
from banking.streaming.sink import IncompatibleStoreError, RejectionReason, SinkUnavailableError, Status
from vector_consumer.search import Mode, Searcher
from vector_consumer.settings import VectorSettings
from vector_consumer.sink import VectorSink

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from fleet.compose import Stack

Address = tuple[str, int]


@pytest.fixture
def settings(opensearch_address: Address) -> VectorSettings:
    host, port = opensearch_address
    return VectorSettings(
        opensearch_host=host,
        opensearch_port=port,
        opensearch_use_ssl=False,
        opensearch_refresh_interval_seconds=0.2,
        index_prefix=f"test-{uuid.uuid4().hex[:12]}",
    )


@pytest.fixture
async def client(settings: VectorSettings) -> AsyncIterator[AsyncOpenSearch]:
    async with AsyncOpenSearch(
        hosts=[{"host": settings.opensearch_host, "port": settings.opensearch_port}], timeout=60
    ) as client:
        yield client
        await client.indices.put_settings(
            index=f"{settings.index_prefix}-*", body={"index.blocks.read_only_allow_delete": None}
        )
        await client.indices.delete(index=f"{settings.index_prefix}-*")
        await client.indices.delete_index_template(name=f"{settings.index_prefix}-*", params={"ignore": 404})


@pytest.fixture
async def sink(settings: VectorSettings, client: AsyncOpenSearch) -> AsyncIterator[VectorSink]:
    sink = VectorSink(settings)
    await sink.open()
    yield sink
    await sink.close()


class Indices:
    """What the indices hold."""

    def __init__(self, client: AsyncOpenSearch, prefix: str) -> None:
        self._client = client
        self._prefix = prefix

    async def source(self, plural: str, entity_id: str) -> dict[str, Any]:
        """A document by id, tombstones too."""
        answer = await self._client.get(index=f"{self._prefix}-{plural}", id=entity_id)
        return {"_version": answer["_version"], **answer["_source"]}

    async def ids(self, plural: str, query: dict[str, Any] | None = None) -> set[str]:
        """The ids that a reader finds behind the alias."""
        alias = f"{self._prefix}-{plural}"
        await self._client.indices.refresh(index=alias)
        body = {"query": query or {"match_all": {}}, "size": 1000}
        answer = await self._client.search(index=alias, body=body)
        return {hit["_id"] for hit in answer["hits"]["hits"]}


@pytest.fixture
def indices(client: AsyncOpenSearch, settings: VectorSettings) -> Indices:
    return Indices(client, settings.index_prefix)


async def statuses(sink: VectorSink, events: Sequence[EntityEvent]) -> list[Status]:
    return [outcome.status for outcome in await sink.write(events)]


def delete(entity_type: EntityType, entity_id: str, version: int) -> EntityEvent:
    return create_event(entity_type, entity_id, source="test", event_type=EventType.DELETE, version=version)


def person(entity_id: str, name: str = "Ann Smith", version: int = 1, **payload: Any) -> EntityEvent:
    return create_person_event(entity_id, name, payload, "test", version=version)


class TestState:
    async def test_a_document_holds_the_whole_state(self, sink: VectorSink, indices: Indices) -> None:
        payload = {"balance": "123456789012345678901.12", "opened_on": "2020-02-29", "tags": {"a": [1, {"b": None}]}}
        event = create_account_event("a-1", payload, "core", version=7, text_for_embedding="savings account")

        assert await statuses(sink, [event]) == [Status.APPLIED]

        held = await indices.source("accounts", "a-1")
        assert held["_version"] == held["version"] == 7
        assert held["payload"] == payload
        assert held["balance"] == "123456789012345678901.12"
        assert held["content_hash"] == content_hash(event)
        assert (held["entity_id"], held["entity_type"], held["source"]) == ("a-1", "account", "core")
        assert datetime.fromisoformat(held["event_time"]) == event.timestamp
        assert held["text"] == "savings account"
        assert np.linalg.norm(held["embedding"]) == pytest.approx(1.0, abs=1e-3)

    async def test_money_is_exact_and_has_ranges(self, sink: VectorSink, indices: Indices) -> None:
        amounts = {"t-1": "9.99", "t-2": "10.00", "t-3": "123456789012345678.01", "t-4": "123456789012345678.02"}
        await sink.write([create_transaction_event(key, {"amount": amount}, "t") for key, amount in amounts.items()])

        assert await indices.ids("transactions", {"term": {"amount": "123456789012345678.02"}}) == {"t-4"}
        assert await indices.ids("transactions", {"range": {"amount.number": {"gte": 10, "lt": 11}}}) == {"t-2"}

    async def test_payload_fields_that_are_not_declared_are_found(self, sink: VectorSink, indices: Indices) -> None:
        await sink.write([person("p-1", kyc={"desk": "zurich"}), person("p-2", kyc={"desk": "geneva"})])

        assert await indices.ids("persons", {"term": {"payload.kyc.desk": "zurich"}}) == {"p-1"}

    async def test_a_newer_version_replaces_everything(self, sink: VectorSink, indices: Indices) -> None:
        await sink.write([person("p-1", "Old Name", version=1, email="old@bank.example", note="gone")])
        assert await statuses(sink, [person("p-1", "New Name", version=2)]) == [Status.APPLIED]

        held = await indices.source("persons", "p-1")
        assert held["payload"] == {"name": "New Name"}
        assert "email" not in held

    async def test_older_and_equal_versions_are_stale(self, sink: VectorSink, indices: Indices) -> None:
        await sink.write([person("p-1", "Newest", version=5)])

        assert await statuses(sink, [person("p-1", "Older", version=4)]) == [Status.STALE]
        assert await statuses(sink, [person("p-1", "Equal", version=5)]) == [Status.STALE]
        assert (await indices.source("persons", "p-1"))["name"] == "Newest"

    async def test_the_limits_of_versions(self, sink: VectorSink) -> None:
        events = [person("p-0", version=0), person("p-max", version=2**63 - 1)]

        assert await statuses(sink, events) == [Status.APPLIED, Status.APPLIED]
        assert await statuses(sink, events) == [Status.STALE, Status.STALE]

    async def test_one_id_under_two_types_is_two_entities(self, sink: VectorSink, indices: Indices) -> None:
        events = [person("same", "Ann"), create_company_event("same", "Ann Ltd", source="test", version=9)]
        await sink.write(events)
        await sink.write([delete(EntityType.PERSON, "same", 2)])

        assert (await indices.source("companies", "same"))["name"] == "Ann Ltd"
        assert await indices.ids("persons") == set()

    async def test_without_text_there_is_no_vector(self, sink: VectorSink, indices: Indices) -> None:
        event = create_account_event("a-1", {"status": "open"}, "test")
        assert event.text_for_embedding == ""
        assert await statuses(sink, [event]) == [Status.APPLIED]

        held = await indices.source("accounts", "a-1")
        assert "embedding" not in held
        assert "text" not in held

    async def test_awkward_ids(self, sink: VectorSink, indices: Indices) -> None:
        ids = ['a"b\\c', "..", "_id", "a/b?c#d&e", "{}", "x" * 256]

        assert await statuses(sink, [person(entity_id) for entity_id in ids]) == [Status.APPLIED] * len(ids)
        assert await indices.ids("persons") == set(ids)


class TestTombstones:
    async def test_a_late_write_stays_dead(self, sink: VectorSink, indices: Indices) -> None:
        await sink.write([person("p-1", version=1)])
        assert await statuses(sink, [delete(EntityType.PERSON, "p-1", 5)]) == [Status.APPLIED]

        assert await statuses(sink, [person("p-1", version=4)]) == [Status.STALE]
        assert (await indices.source("persons", "p-1"))["deleted"] is True

    async def test_a_delete_before_the_create(self, sink: VectorSink, indices: Indices) -> None:
        assert await statuses(sink, [delete(EntityType.PERSON, "p-1", 5)]) == [Status.APPLIED]
        assert await statuses(sink, [person("p-1", version=1)]) == [Status.STALE]
        assert await indices.ids("persons") == set()

    async def test_a_newer_create_brings_it_back(self, sink: VectorSink, indices: Indices) -> None:
        await sink.write([delete(EntityType.PERSON, "p-1", 5)])
        assert await statuses(sink, [person("p-1", version=6)]) == [Status.APPLIED]
        assert await indices.ids("persons") == {"p-1"}

    async def test_it_holds_nothing_of_the_entity(self, sink: VectorSink, indices: Indices) -> None:
        await sink.write([person("p-1", "Ann Smith", version=1, email="ann@bank.example")])
        before = datetime.now(UTC)
        await sink.write([delete(EntityType.PERSON, "p-1", 5)])

        held = await indices.source("persons", "p-1")
        deleted_at = datetime.fromisoformat(held.pop("deleted_at"))
        assert timedelta(0) <= deleted_at - before < timedelta(seconds=30)
        del held["content_hash"]
        assert held == {"_version": 5, "version": 5, "entity_id": "p-1", "entity_type": "person", "deleted": True}

    async def test_readers_of_the_alias_do_not_see_it(
        self, sink: VectorSink, indices: Indices, settings: VectorSettings
    ) -> None:
        await sink.write([person("p-1", "Zebedee Quux"), person("p-2", "Zebedee Quux")])
        await sink.write([delete(EntityType.PERSON, "p-1", 5)])

        assert await indices.ids("persons") == {"p-2"}
        async with Searcher(settings) as searcher:
            assert [hit.entity_id for hit in await searcher.search("Zebedee Quux")] == ["p-2"]

    async def test_a_late_write_stays_dead_after_a_restart_of_the_server(
        self, sink: VectorSink, indices: Indices, stack: Stack
    ) -> None:
        """OpenSearch itself forgets at a restart which version it deleted; the tombstone is there to be asked."""
        await sink.write([person("p-1", version=1), person("p-2", version=1)])
        assert await statuses(sink, [delete(EntityType.PERSON, "p-1", 5)]) == [Status.APPLIED]

        await asyncio.to_thread(stack.restart, "opensearch")
        await asyncio.to_thread(stack.wait_ready, 180, services=["opensearch"])

        assert await statuses(sink, [person("p-1", version=4), person("p-2", version=1)]) == [Status.STALE] * 2
        assert (await indices.source("persons", "p-1"))["deleted"] is True
        assert await indices.ids("persons") == {"p-2"}


class TestPurge:
    NOW = datetime(2026, 6, 1, tzinfo=UTC)
    LONG_AGO = NOW - timedelta(days=40)
    BEFORE = NOW - timedelta(days=30)

    @pytest.fixture
    async def sinks(self, sink: VectorSink, settings: VectorSettings) -> AsyncIterator[tuple[VectorSink, VectorSink]]:
        """A sink of long ago and one of now, with small requests."""
        small = settings.model_copy(update={"bulk_max_documents": 10})
        pair = VectorSink(small, now=lambda: self.LONG_AGO), VectorSink(small, now=lambda: self.NOW)
        for each in pair:
            await each.open()
        yield pair
        for each in pair:
            await each.close()

    async def test_old_tombstones_go_and_nothing_else(
        self, sinks: tuple[VectorSink, VectorSink], client: AsyncOpenSearch, settings: VectorSettings
    ) -> None:
        then, now = sinks
        old = [delete(EntityType.PERSON, f"old-{number}", 5) for number in range(35)]
        limits = [delete(EntityType.ACCOUNT, "zero", 0), delete(EntityType.ACCOUNT, "max", 2**63 - 1)]
        await then.write([*old, *limits, person("alive", version=1)])
        await now.write([delete(EntityType.PERSON, "new", 5)])
        every = f"{settings.index_prefix}-*-v1"
        await client.indices.refresh(index=every)

        assert await now.purge_tombstones(self.BEFORE) == 37
        await client.indices.refresh(index=every)
        assert await now.purge_tombstones(self.BEFORE) == 0
        held = await client.search(index=every, body={"query": {"match_all": {}}})
        assert {hit["_id"] for hit in held["hits"]["hits"]} == {"alive", "new"}

    async def test_the_next_version_is_not_taken_for_one_that_is_there(
        self, sinks: tuple[VectorSink, VectorSink], client: AsyncOpenSearch, settings: VectorSettings, indices: Indices
    ) -> None:
        """A delete by query would count the version up: version 6 would pass for the delete of version 5."""
        then, now = sinks
        await then.write([delete(EntityType.PERSON, "p-1", 5)])
        await client.indices.refresh(index=f"{settings.index_prefix}-persons")
        assert await now.purge_tombstones(self.BEFORE) == 1

        assert await statuses(now, [person("p-1", version=5)]) == [Status.STALE]
        assert await statuses(now, [person("p-1", version=6)]) == [Status.APPLIED]
        assert await indices.ids("persons") == {"p-1"}

    async def test_an_entity_that_is_back_stays(
        self, sinks: tuple[VectorSink, VectorSink], client: AsyncOpenSearch, settings: VectorSettings, indices: Indices
    ) -> None:
        """It came back after the last refresh: the search still finds its tombstone."""
        then, now = sinks
        persons = f"{settings.index_prefix}-persons-v1"
        await client.indices.put_settings(index=persons, body={"index": {"refresh_interval": "-1"}})
        await then.write([delete(EntityType.PERSON, "p-1", 5)])
        await client.indices.refresh(index=persons)
        await now.write([person("p-1", version=6)])

        assert await now.purge_tombstones(self.BEFORE) == 0
        assert await indices.ids("persons") == {"p-1"}

    async def test_an_index_that_takes_no_writes(
        self, sinks: tuple[VectorSink, VectorSink], client: AsyncOpenSearch, settings: VectorSettings
    ) -> None:
        then, now = sinks
        persons = f"{settings.index_prefix}-persons-v1"
        await then.write([delete(EntityType.PERSON, "p-1", 5)])
        await client.indices.refresh(index=persons)
        await client.indices.put_settings(index=persons, body={"index.blocks.read_only_allow_delete": True})

        with pytest.raises(SinkUnavailableError, match="cluster_block_exception"):
            await now.purge_tombstones(self.BEFORE)
        await client.indices.put_settings(index=persons, body={"index.blocks.read_only_allow_delete": None})
        assert await now.purge_tombstones(self.BEFORE) == 1

    async def test_before_it_is_open(self, settings: VectorSettings) -> None:
        closed = VectorSink(settings)
        with pytest.raises(SinkUnavailableError, match="not connected"):
            await closed.purge_tombstones(self.BEFORE)
        await closed.close()


class TestRejections:
    async def test_a_bad_field_is_named_and_alone(self, sink: VectorSink, indices: Indices) -> None:
        bad = [
            (person("bad-1", email={"a": 1}), "email"),
            (person("bad-2", date_of_birth="1980-02-30"), "date_of_birth"),
            (person("bad-3", date_of_birth="3 May 1980"), "date_of_birth"),
            (person("bad-4", created_at="2024-01-01"), "created_at"),
            (person("bad-5", created_at="2024-02-30T00:00:00Z"), "created_at"),
            (person("bad-6", is_pep="yes"), "is_pep"),
            (person("bad-7", is_pep=""), "is_pep"),
            (person("bad-8", occupation=[{"title": "x"}]), "occupation"),
            (create_account_event("bad-1", {"balance": "12,50"}, "test"), "balance"),
            (create_account_event("bad-2", {"balance": "0x1p3"}, "test"), "balance"),
            (create_account_event("bad-3", {"balance": {"value": 1}}, "test"), "balance"),
            (create_account_event("bad-4", {"balance": "1e400"}, "test"), "balance"),
        ]
        good = [person("good"), create_account_event("good", {}, "test")]

        outcomes = await sink.write([good[0], *(event for event, _ in bad), good[1]])

        assert [outcomes[0].status, outcomes[-1].status] == [Status.APPLIED, Status.APPLIED]
        for (_, field), outcome in zip(bad, outcomes[1:-1], strict=True):
            assert outcome.status is Status.REJECTED
            assert outcome.reason is RejectionReason.INVALID_FIELD
            assert outcome.detail.startswith(f"payload.{field}: expected ")
        assert await indices.ids("persons") == {"good"}
        assert await indices.ids("accounts") == {"good"}

    async def test_details_do_not_repeat_values(self, sink: VectorSink) -> None:
        (outcome,) = await sink.write([person("p-1", email={"secret": "hunter2"})])
        assert "hunter2" not in outcome.detail

    async def test_long_and_nested_values_are_kept(self, sink: VectorSink, indices: Indices) -> None:
        deep: Any = "bottom"
        for _ in range(60):
            deep = {"down": [deep]}
        payload = {
            "note": "n" * 100_000,
            "umlauts": "ü" * 20_000,
            "k" * 40_000: "value",
            "list": ["short", "l" * 50_000, {"keep": 1, "drop": "d" * 50_000}],
            "deep": deep,
            "numbers": list(range(20_000)),
            "empty": [{}, [], "", None],
            "findable": "needle",
        }
        events = [
            person("long", "w" * 100_000, email="é" * 40_000, occupation="word " * 20_000, **payload),
            person("nested", deep=deep),
        ]

        assert await statuses(sink, events) == [Status.APPLIED, Status.APPLIED]
        long = await indices.source("persons", "long")
        assert long["payload_whole"] == events[0].payload
        assert long["name"] == "w" * 100_000
        assert (await indices.source("persons", "nested"))["payload"] == events[1].payload
        assert await indices.ids("persons", {"term": {"payload.findable": "needle"}}) == {"long"}

    async def test_batches_larger_than_a_request(self, settings: VectorSettings, client: AsyncOpenSearch) -> None:
        small = settings.model_copy(update={"bulk_max_bytes": 64 * 1024, "bulk_max_documents": 7})
        sink = VectorSink(small)
        await sink.open()
        events = [person(f"p-{number}", note="x" * (number % 3) * 50_000) for number in range(50)]
        events[20] = person("p-20", is_pep=1)
        try:
            expected = [Status.APPLIED] * 50
            expected[20] = Status.REJECTED
            assert await statuses(sink, events) == expected
        finally:
            await sink.close()

    async def test_compressed_requests(self, settings: VectorSettings, client: AsyncOpenSearch) -> None:
        sink = VectorSink(settings.model_copy(update={"opensearch_gzip": True}))
        await sink.open()
        try:
            assert await statuses(sink, [person("p-1"), person("p-2")]) == [Status.APPLIED] * 2
            assert await statuses(sink, [person("p-1")]) == [Status.STALE]
        finally:
            await sink.close()


class TestIndices:
    async def test_mappings_and_settings_are_as_declared(
        self, sink: VectorSink, client: AsyncOpenSearch, settings: VectorSettings
    ) -> None:
        prefix = settings.index_prefix
        held = await client.indices.get(index=f"{prefix}-*")
        plurals = ("persons", "accounts", "transactions", "companies", "communications")
        assert set(held) == {f"{prefix}-{plural}-v1" for plural in plurals}
        for name, index in held.items():
            assert index["mappings"]["dynamic"] == "false"
            assert index["mappings"]["properties"]["embedding"]["method"]["engine"] == "lucene"
            assert index["mappings"]["_meta"]["dimension"] == 256
            assert set(index["aliases"]) == {name.removesuffix("-v1")}
        templates = (await client.indices.get_index_template(name=f"{prefix}-*"))["index_templates"]
        assert len(templates) == len(plurals)

    async def test_many_services_start_at_once(self, settings: VectorSettings, client: AsyncOpenSearch) -> None:
        sinks = [VectorSink(settings) for _ in range(6)]
        await asyncio.gather(*(sink.open() for sink in sinks))
        results = await asyncio.gather(*(sink.write([person("p-1", version=9)]) for sink in sinks))
        for sink in sinks:
            await sink.close()

        found = sorted(outcome.status for (outcome,) in results)
        assert found == [Status.APPLIED] + [Status.STALE] * 5
        assert len(await client.indices.get(index=f"{settings.index_prefix}-*")) == 5

    async def test_another_model_is_refused(
        self, sink: VectorSink, settings: VectorSettings, client: AsyncOpenSearch
    ) -> None:
        class Other:
            name = "other-model"
            dimension = 256

            async def open(self) -> None: ...

            async def embed(self, texts: Sequence[str]) -> Sequence[None]:
                return [None for _ in texts]

            async def close(self) -> None: ...

        other = VectorSink(settings, Other())
        with pytest.raises(IncompatibleStoreError, match=r"wordllama.*choose other-model.*vector_consumer reindex"):
            await other.open()
        await other.close()
        template = await client.indices.get_index_template(name=f"{settings.index_prefix}-persons")
        meta = template["index_templates"][0]["index_template"]["template"]["mappings"]["_meta"]
        assert meta["model"].startswith("wordllama")

    async def test_an_index_in_the_place_of_the_alias_is_refused(
        self, settings: VectorSettings, client: AsyncOpenSearch
    ) -> None:
        await client.indices.create(index=f"{settings.index_prefix}-persons")
        sink = VectorSink(settings)
        with pytest.raises(IncompatibleStoreError, match="must be an alias"):
            await sink.open()
        await sink.close()

    async def test_what_was_removed_is_mended(
        self, sink: VectorSink, settings: VectorSettings, client: AsyncOpenSearch, indices: Indices
    ) -> None:
        alias = f"{settings.index_prefix}-persons"
        await sink.write([person("p-1"), delete(EntityType.PERSON, "p-2", 2)])
        await client.indices.delete_alias(index=f"{alias}-v1", name=alias)
        await sink.open()
        assert await indices.ids("persons") == {"p-1"}

        await client.indices.put_alias(index=f"{alias}-v1", name=alias)  # without its filter
        await sink.open()
        assert await indices.ids("persons") == {"p-1"}

    async def test_writes_follow_the_alias(
        self, sink: VectorSink, settings: VectorSettings, client: AsyncOpenSearch
    ) -> None:
        alias = f"{settings.index_prefix}-persons"
        await client.indices.create(index=f"{alias}-v2")  # made by the template
        actions = [
            {"remove": {"index": f"{alias}-v1", "alias": alias}},
            {"add": {"index": f"{alias}-v2", "alias": alias}},
        ]
        await client.indices.update_aliases(body={"actions": actions})
        await sink.open()
        await sink.write([person("p-1")])

        assert await client.exists(index=f"{alias}-v2", id="p-1")
        assert not await client.exists(index=f"{alias}-v1", id="p-1")

    async def test_writes_follow_the_alias_by_themselves(
        self, sink: VectorSink, settings: VectorSettings, client: AsyncOpenSearch
    ) -> None:
        alias = f"{settings.index_prefix}-persons"
        for number in (2, 3):
            await client.indices.create(index=f"{alias}-v{number}")

        async def serve(number: int) -> None:
            actions = [{"remove": {"index": f"{alias}-v*", "alias": alias}}]
            actions.append({"add": {"index": f"{alias}-v{number}", "alias": alias}})
            await client.indices.update_aliases(body={"actions": actions})

        await serve(2)
        await sink.check()
        assert await statuses(sink, [person("p-1")]) == [Status.APPLIED]
        assert await client.exists(index=f"{alias}-v2", id="p-1")
        # At once, where the old one takes no writes any more.
        await client.indices.add_block(index=f"{alias}-v2", block="write")
        await serve(3)
        assert await statuses(sink, [person("p-2")]) == [Status.APPLIED]
        assert await client.exists(index=f"{alias}-v3", id="p-2")
        await client.indices.put_settings(index=f"{alias}-v2", body={"index.blocks.write": None})

    async def test_a_changed_refresh_interval_is_taken_over(
        self, sink: VectorSink, settings: VectorSettings, client: AsyncOpenSearch
    ) -> None:
        other = VectorSink(settings.model_copy(update={"opensearch_refresh_interval_seconds": 5.0}))
        await other.open()
        await other.close()
        name = f"{settings.index_prefix}-persons-v1"
        held = await client.indices.get_settings(index=name)
        assert held[name]["settings"]["index"]["refresh_interval"] == "5000ms"


class TestOutages:
    async def test_a_read_only_index_is_a_pause(
        self, sink: VectorSink, settings: VectorSettings, client: AsyncOpenSearch, indices: Indices
    ) -> None:
        name = f"{settings.index_prefix}-persons-v1"
        event = create_account_event("a-1", {}, "test", version=1)
        await sink.check()
        await client.indices.put_settings(index=name, body={"index.blocks.read_only_allow_delete": True})

        assert await statuses(sink, [person("p-1"), event]) == [Status.RETRY, Status.APPLIED]
        with pytest.raises(SinkUnavailableError, match="read-only"):
            await sink.check()

        await client.indices.put_settings(index=name, body={"index.blocks.read_only_allow_delete": None})
        await sink.check()
        assert await statuses(sink, [person("p-1"), event]) == [Status.APPLIED, Status.STALE]
        assert await indices.ids("persons") == {"p-1"}

    async def test_what_others_block_is_their_own_affair(
        self, sink: VectorSink, settings: VectorSettings, client: AsyncOpenSearch
    ) -> None:
        other = f"{settings.index_prefix}-other"
        await client.indices.create(index=other)
        await client.indices.add_block(index=other, block="write")
        await sink.check()

    async def test_a_removed_index_is_made_again(
        self, sink: VectorSink, settings: VectorSettings, client: AsyncOpenSearch, indices: Indices
    ) -> None:
        await client.indices.delete(index=f"{settings.index_prefix}-persons-v1")

        assert await statuses(sink, [person("p-1"), create_account_event("a-1", {}, "test")]) == [Status.APPLIED] * 2
        assert await indices.ids("persons") == {"p-1"}

    async def test_a_health_query_makes_a_removed_index_again(
        self, sink: VectorSink, settings: VectorSettings, client: AsyncOpenSearch, indices: Indices
    ) -> None:
        await client.indices.delete(index=f"{settings.index_prefix}-*")
        await sink.check()
        assert await indices.ids("companies") == set()
        await sink.check()

    async def test_a_closed_index_is_a_pause(
        self, sink: VectorSink, settings: VectorSettings, client: AsyncOpenSearch
    ) -> None:
        name = f"{settings.index_prefix}-persons-v1"
        await client.indices.close(index=name)
        assert await statuses(sink, [person("p-1")]) == [Status.RETRY]
        await client.indices.open(index=name)
        assert await statuses(sink, [person("p-1")]) == [Status.APPLIED]

    async def test_a_store_that_is_not_there(self, settings: VectorSettings) -> None:
        sink = VectorSink(settings.model_copy(update={"opensearch_port": 1}))
        with pytest.raises(SinkUnavailableError, match="not reached"):
            await sink.open()
        await sink.close()


class TestSearch:
    TEXTS = (
        ("c-tax", "Please route the funds via our offshore shell company to hide the beneficial owner"),
        ("c-lunch", "Shall we have lunch at the Italian restaurant on Friday?"),
        ("c-rent", "The apartment lease ends in June and the landlord wants a new deposit"),
        ("c-car", "My vehicle broke down on the motorway and needs a new engine"),
        ("c-school", "The children start their new class after the summer holidays"),
    )

    @pytest.fixture
    async def searcher(
        self, sink: VectorSink, settings: VectorSettings, client: AsyncOpenSearch
    ) -> AsyncIterator[Searcher]:
        events = [create_communication_event(key, {"body": text}, "test") for key, text in self.TEXTS]
        await sink.write(
            [*events, create_company_event("co-1", "Blue Lagoon Holdings", {"industry": "shipping"}, "test")]
        )
        await client.indices.refresh(index=f"{settings.index_prefix}-*")
        async with Searcher(settings) as searcher:
            yield searcher

    async def test_meaning_finds_without_a_shared_word(self, searcher: Searcher) -> None:
        query = "automobile repair"
        assert await searcher.search(query, mode=Mode.WORDS) == []
        best = (await searcher.search(query, EntityType.COMMUNICATION, mode=Mode.MEANING))[0]
        assert (best.entity_id, best.meaning_rank, best.words_rank) == ("c-car", 1, None)

    async def test_fusion_says_where_a_hit_came_from(self, searcher: Searcher) -> None:
        hits = await searcher.search("offshore shell company", limit=3)
        assert (hits[0].entity_id, hits[0].words_rank, hits[0].meaning_rank) == ("c-tax", 1, 1)
        assert hits[0].score == pytest.approx(2 / 61)
        assert len(hits) == 3

    async def test_one_type_only(self, searcher: Searcher) -> None:
        hits = await searcher.search("shipping company", EntityType.COMPANY)
        assert [(hit.entity_type, hit.entity_id) for hit in hits] == [(EntityType.COMPANY, "co-1")]

    async def test_ids_are_words_too(self, searcher: Searcher) -> None:
        assert [hit.entity_id for hit in await searcher.search("c-rent", mode=Mode.WORDS)] == ["c-rent"]

    async def test_nothing_in_a_query_is_syntax(self, searcher: Searcher) -> None:
        for text in (
            '"}}, "size": 0, {"',
            "* OR _exists_:deleted",
            "entity_id:(*)",
            "/.*/",
            "a" * 5000,
            "\x00\\u0000",
            "   ",
            "+-!(){}[]^~?:",
        ):
            assert await searcher.search(text, mode=Mode.WORDS) == []
            assert len(await searcher.search(text)) <= 10

    async def test_long_queries_are_looked_for_too(self, searcher: Searcher) -> None:
        text = dict(self.TEXTS)["c-rent"]
        for rest in (" ".join(f"word{number}" for number in range(2000)), "".join(map(chr, range(0x4E00, 0x9000)))):
            for entity_type in (None, EntityType.COMMUNICATION):
                hits = await searcher.search(f"{text} {rest}", entity_type, mode=Mode.WORDS)
                assert hits[0].entity_id == "c-rent"

    async def test_another_model_is_refused(self, searcher: Searcher, settings: VectorSettings) -> None:
        class Other:
            name = "other-model"
            dimension = 256

            async def close(self) -> None: ...

        async with Searcher(settings, Other()) as other:
            with pytest.raises(IncompatibleStoreError, match=r"wordllama.*choose other-model.*vector_consumer reindex"):
                await other.search("rent", mode=Mode.MEANING)
            assert [hit.entity_id for hit in await other.search("landlord", mode=Mode.WORDS)] == ["c-rent"]

    async def test_text_that_looks_like_a_request_is_text(
        self, sink: VectorSink, settings: VectorSettings, indices: Indices
    ) -> None:
        text = '{"delete":{"_index":"x","_id":"p-2"}}\n{"index":{}}\n"\u2028\x00<script>'
        await sink.write([person("p-2"), person("p-1", text)])
        assert await indices.ids("persons") == {"p-1", "p-2"}
        assert (await indices.source("persons", "p-1"))["name"] == text


class TestSecuredServer:
    async def test_tls_and_basic_authentication(
        self,
        settings: VectorSettings,
        client: AsyncOpenSearch,
        tmp_path: Path,
        localhost_certificate: tuple[Path, Path],
    ) -> None:
        password_file = tmp_path / "password"
        password_file.write_text("s3cret\n")
        wrong_file = tmp_path / "wrong"
        wrong_file.write_text("guess\n")
        certificate, _ = localhost_certificate
        async with tls_front(settings, localhost_certificate, "ingest", "s3cret") as port:
            secured = settings.model_copy(
                update={
                    "opensearch_host": "localhost",
                    "opensearch_port": port,
                    "opensearch_use_ssl": True,
                    "opensearch_ca_file": certificate,
                    "opensearch_user": "ingest",
                    "opensearch_password_file": password_file,
                }
            )
            sink = VectorSink(secured)
            await sink.open()
            assert await statuses(sink, [person("p-1")]) == [Status.APPLIED]
            await sink.check()
            await sink.close()

            wrong_password = VectorSink(secured.model_copy(update={"opensearch_password_file": wrong_file}))
            with pytest.raises(SinkUnavailableError, match="401"):
                await wrong_password.open()
            await wrong_password.close()

            untrusting = VectorSink(secured.model_copy(update={"opensearch_ca_file": None}))
            with pytest.raises(SinkUnavailableError, match="certificate"):
                await untrusting.open()
            await untrusting.close()


@asynccontextmanager
async def tls_front(
    settings: VectorSettings, certificate: tuple[Path, Path], user: str, password: str
) -> AsyncIterator[int]:
    """A TLS server that asks for a password and hands requests on to OpenSearch; its port."""
    expected = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    target = f"http://{settings.opensearch_host}:{settings.opensearch_port}"

    async def hand_on(request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != expected:
            return web.json_response({"error": "unauthorized"}, status=401)
        headers = {name: value for name, value in request.headers.items() if name.lower().startswith("content-")}
        async with ClientSession() as session:
            answer = await session.request(
                request.method, target + request.raw_path, data=await request.read(), headers=headers
            )
            body = await answer.read()
        return web.Response(status=answer.status, body=body, content_type=answer.content_type)

    application = web.Application(client_max_size=100 * 1024 * 1024)
    application.router.add_route("*", "/{path:.*}", hand_on)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "localhost", 0, ssl_context=context)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
