"""The commands and snippets of docs/search.md run as written, in their order, on indices of the test's own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from opensearchpy import AsyncOpenSearch

from banking.streaming.entities import EntityType
from banking.streaming.events import (
    EventType,
    create_communication_event,
    create_event,
    create_person_event,
    create_transaction_event,
)
from banking.streaming.sink import Status
from fleet.compose import ROOT
from vector_consumer.search import Mode, Searcher
from vector_consumer.settings import VectorSettings
from vector_consumer.sink import VectorSink

BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", (ROOT / "docs" / "search.md").read_text(encoding="utf-8"), re.DOTALL)
QUERY = "wire transfer to a shell company"
MESSAGES = {
    "c-tax": "Please route the wire transfer via our offshore shell company to hide the beneficial owner",
    "c-lunch": "Shall we have lunch at the Italian restaurant on Friday?",
    "c-rent": "The apartment lease ends in June and the landlord wants a new deposit",
    "c-car": "My vehicle broke down on the motorway and needs a new engine",
    "c-bank": "The company asked for another transfer",
}


def events():
    for key, text in MESSAGES.items():
        yield create_communication_event(key, {"body": text}, "test")
    for key, amount, currency in (("t-1", "5000.00", "EUR"), ("t-2", "5000.00", "USD"), ("t-3", "9.99", "EUR")):
        payload = {"amount": amount, "currency": currency, "description": "wire transfer to a company"}
        yield create_transaction_event(key, payload, "test")
    yield create_person_event("person-123", "John Doe", source="test", version=1)
    yield create_person_event("person-124", "Ann Smith", {"kyc": {"desk": "zurich"}}, "test")


@pytest.fixture(scope="module")
def settings(opensearch_address):
    host, port = opensearch_address
    return VectorSettings(
        opensearch_host=host, opensearch_port=port, opensearch_use_ssl=False, index_prefix=f"test-{uuid.uuid4().hex}"
    )


@pytest.fixture(scope="module")
def ran(settings, tmp_path_factory):
    """What each block of the document printed, and the folder that they ran in, one after another."""
    folder = tmp_path_factory.mktemp("search")
    path = f"{Path(sys.prefix) / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {
        "PATH": path,
        "OPENSEARCH_HOST": settings.opensearch_host,
        "OPENSEARCH_PORT": str(settings.opensearch_port),
        "OPENSEARCH_USE_SSL": "false",
        "INDEX_PREFIX": settings.index_prefix,
        "COLUMNS": "200",
    }
    asyncio.run(fill(settings))
    printed = []
    for language, block in BLOCKS:
        command = [sys.executable, "-c"] if language == "python" else ["bash", "-euo", "pipefail", "-c"]
        here = block.replace("localhost:9200", f"{settings.opensearch_host}:{settings.opensearch_port}")
        here = here.replace("/banking-", f"/{settings.index_prefix}-")
        result = subprocess.run(
            [*command, here], cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert result.returncode == 0, f"{block}\n{result.stdout}{result.stderr}"
        printed.append(result.stdout)
    yield printed, folder
    asyncio.run(empty(settings))


async def fill(settings):
    sink = VectorSink(settings)
    await sink.open()
    try:
        outcomes = [*await sink.write(list(events()))]
        deletion = create_event(EntityType.PERSON, "person-123", source="test", event_type=EventType.DELETE, version=2)
        outcomes += await sink.write([deletion])
    finally:
        await sink.close()
    assert {outcome.status for outcome in outcomes} == {Status.APPLIED}
    async with client_of(settings) as client:
        await client.indices.refresh(index=f"{settings.index_prefix}-*")


async def empty(settings):
    async with client_of(settings) as client:
        await client.indices.delete(index=f"{settings.index_prefix}-*")
        await client.indices.delete_index_template(name=f"{settings.index_prefix}-*")


def client_of(settings):
    return AsyncOpenSearch(hosts=[{"host": settings.opensearch_host, "port": settings.opensearch_port}], timeout=60)


async def search(settings, mode):
    async with Searcher(settings) as searcher:
        return [hit.entity_id for hit in await searcher.search(QUERY, EntityType.COMMUNICATION, mode=mode)]


def hits(text):
    return [hit["_id"] for hit in json.loads(text)["hits"]["hits"]]


def test_the_command_shows_where_hits_come_from(ran):
    printed, _ = ran
    table = printed[0]
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in table.splitlines() if line.startswith("│")]
    assert rows[0] == ["1", "communication", "c-tax", "1", "1", MESSAGES["c-tax"]]
    by_words = [row for row in rows[len(MESSAGES) :] if row[4] == "-"]
    assert len(by_words) == 3  # --limit
    by_meaning = [row for row in rows if row[3] == "-" and row[4] == "1"]
    assert [row[2] for row in by_meaning] == ["c-car"]


@pytest.mark.parametrize(("mode", "file"), [(Mode.WORDS, "words.json"), (Mode.MEANING, "meaning.json")])
async def test_the_queries_are_those_of_the_command(ran, settings, mode, file):
    _, folder = ran
    found = hits((folder / file).read_text())
    assert found[0] == "c-tax"
    assert found == await search(settings, mode)


async def test_fusion_is_that_of_the_command(ran, settings):
    printed, _ = ran
    lines = printed[3].splitlines()
    assert lines[0] == "communication c-tax"
    assert [line.split()[1] for line in lines] == await search(settings, Mode.FUSED)


def test_filters(ran):
    printed, _ = ran
    assert hits(printed[4]) == ["t-1"]
    assert hits(printed[5]) == ["person-124"]


def test_what_a_get_by_id_shows_and_a_search_does_not(ran):
    printed, _ = ran
    assert json.loads(printed[6])["_source"] == {"version": 2, "deleted": True}
    assert hits(printed[7]) == []


async def test_a_pattern_leads_past_the_aliases(ran, settings):
    query = {"query": {"term": {"entity_id": "person-123"}}}
    async with client_of(settings) as client:
        by_alias = await client.search(index=f"{settings.index_prefix}-persons", body=query)
        by_pattern = await client.search(index=f"{settings.index_prefix}-*", body=query)
    assert by_alias["hits"]["hits"] == []
    assert [hit["_source"]["deleted"] for hit in by_pattern["hits"]["hits"]] == [True]
