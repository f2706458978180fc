"""How well and how fast vectors are found and written, by the parameters of the vector graph (HNSW).

Needs a running OpenSearch (`make up`):

    .venv/bin/python benchmarks/vector_recall.py [--texts 50000] [--rounds 3] [--opensearch-port 9200]

Generated messages are embedded once, by wordllama, and the leg's own documents are written to an index per setting,
with two requests in flight, the settings in turn. Recall@10 is the share of the ten nearest by exact search that the
graph finds too, over queries that are messages of another data set and short ones as people type them. It is measured
on the segments that writing left, and again with all merged into one, where a graph finds least.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import uvloop

from banking.streaming import StreamingConfig, StreamingOrchestrator
from banking.streaming.entities import EntityType
from vector_consumer.client import connect
from vector_consumer.documents import encode_document
from vector_consumer.embedder import make_embedder
from vector_consumer.mappings import define_indices
from vector_consumer.search import meaning_query
from vector_consumer.settings import VectorSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from opensearchpy import AsyncOpenSearch

    from banking.streaming.events import EntityEvent

BUILDS = ((8, 32), (8, 64), (16, 64), (16, 100), (16, 200), (32, 200))
"""The (m, ef_construction) that indices are built with."""

EF_SEARCHES = (10, 50, 100, 200)
NEIGHBOURS = 10
REQUEST_DOCUMENTS = 1000
PREFIX = "recall-benchmark"
TYPED_QUERIES = (
    "wire transfer to a shell company",
    "complaint about fees",
    "loan for new machines",
    "rent and utilities",
    "please call me back",
    "lost card",
    "exchange rate",
    "money for my daughter's studies",
    "urgent payment before Friday",
    "salary increase",
    "tax office",
    "selling the house",
    "broken car",
    "birthday party",
    "change of address",
    "offshore trust",
)


@dataclass
class Data:
    """What is indexed and asked for: vectors of length 1, one a row, and the rows that exact search finds."""

    events: list[EntityEvent]
    vectors: NDArray[np.float32]
    queries: NDArray[np.float32]
    nearest: NDArray[np.intp]


def messages(count: int, seed: int) -> list[EntityEvent]:
    """Generated messages, each with another text."""
    config = StreamingConfig(
        seed=seed, account_count=0, transaction_count=0, communication_count=count, streaming_enabled=False
    )
    events = StreamingOrchestrator(config).events()
    return [event for event in events if event.entity_type is EntityType.COMMUNICATION]


async def prepare(texts: int, queries: int) -> Data:
    events = list({event.text_for_embedding: event for event in messages(texts + texts // 10, seed=1)}.values())[:texts]
    if len(events) < texts:
        raise SystemExit(f"only {len(events)} different texts")
    embedder = make_embedder(VectorSettings(embedding_cache_entries=0))
    vectors = np.array(await embedder.embed([event.text_for_embedding for event in events]), dtype=np.float32)
    asked = [event.text_for_embedding for event in messages(queries, seed=2)] + list(TYPED_QUERIES)
    query_vectors = np.array(await embedder.embed(asked), dtype=np.float32)
    similarities = query_vectors @ vectors.T
    nearest = np.argpartition(-similarities, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
    return Data(events, vectors, query_vectors, nearest)


def index_name(m: int, ef_construction: int) -> str:
    return f"{PREFIX}-{m}-{ef_construction}"


async def build(client: AsyncOpenSearch, data: Data, m: int, ef_construction: int) -> tuple[str, float]:
    """An index with the leg's documents; its name and the documents written per second, refresh included."""
    settings = VectorSettings(index_prefix=PREFIX, hnsw_m=m, hnsw_ef_construction=ef_construction)
    definition = define_indices(settings, make_embedder(settings))[EntityType.COMMUNICATION]
    name = index_name(m, ef_construction)
    await client.indices.delete(index=name, params={"ignore": 404})
    await client.indices.create(index=name, body=definition.body)
    now = datetime.now(UTC)
    lines = [encode_document(event, name, vector, now) for event, vector in zip(data.events, data.vectors, strict=True)]
    bodies = [b"".join(lines[start : start + REQUEST_DOCUMENTS]) for start in range(0, len(lines), REQUEST_DOCUMENTS)]
    room = asyncio.Semaphore(2)

    async def send(body: bytes) -> None:
        async with room:
            answer = await client.bulk(body=body, params={"filter_path": "errors", "request_timeout": 120})
        if answer["errors"]:
            raise SystemExit("a document was refused")

    started = time.perf_counter()
    await asyncio.gather(*(send(body) for body in bodies))
    await client.indices.refresh(index=name, params={"request_timeout": 120})
    return name, len(lines) / (time.perf_counter() - started)


async def ask(client: AsyncOpenSearch, name: str, data: Data, ef_search: int) -> tuple[float, float]:
    """Recall@10 and the median time of a query in seconds, one at a time."""
    rows = {event.entity_id: row for row, event in enumerate(data.events)}
    shares: list[float] = []
    seconds: list[float] = []
    for vector, nearest in zip(data.queries, data.nearest, strict=True):
        body = {"query": meaning_query(vector.tolist(), NEIGHBOURS, ef_search), "size": NEIGHBOURS, "_source": False}
        started = time.perf_counter()
        answer = await client.search(index=name, body=body)
        seconds.append(time.perf_counter() - started)
        found = {rows[hit["_id"]] for hit in answer["hits"]["hits"]}
        # What is exactly as near as the tenth counts as well: there are ties.
        similarities = data.vectors @ vector
        least = similarities[nearest].min() - 1e-6
        shares.append(sum(similarities[row] >= least for row in found) / NEIGHBOURS)
    return float(np.mean(shares)), statistics.median(seconds)


async def segments(client: AsyncOpenSearch, name: str) -> int:
    answer: dict[str, Any] = await client.indices.segments(index=name)
    return len(answer["indices"][name]["shards"]["0"][0]["segments"])


async def measure(texts: int, queries: int, rounds: int, port: int) -> None:
    data = await prepare(texts, queries)
    async with connect(VectorSettings(opensearch_port=port, opensearch_use_ssl=False)) as client:
        await build(client, data, *BUILDS[0])  # warms the server
        rates: dict[tuple[int, int], list[float]] = {build: [] for build in BUILDS}
        for _ in range(rounds):
            for parameters in BUILDS:
                _, rate = await build(client, data, *parameters)
                rates[parameters].append(rate)
        default = VectorSettings()
        ordinary = statistics.median(rates[default.hnsw_m, default.hnsw_ef_construction])
        print(f"{texts:,} texts, {len(data.queries)} queries, Recall@{NEIGHBOURS} against exact search\n")
        header = "".join(f" ef_search {ef} | ms |" for ef in EF_SEARCHES)
        print(f"| m | ef_construction | docs/s | of the default | segments |{header}")
        print("| ---: " * (5 + 2 * len(EF_SEARCHES)) + "|")
        for parameters in BUILDS:
            name = index_name(*parameters)
            rate = statistics.median(rates[parameters])
            speed = f"{rate:,.0f} | {rate / ordinary:.2f}"
            await ask(client, name, data, NEIGHBOURS)  # warms the index
            for merged in (False, True):
                if merged:
                    options = {"max_num_segments": 1, "request_timeout": 600}
                    await client.indices.forcemerge(index=name, params=options)
                    await client.indices.refresh(index=name)
                cells = ""
                for ef_search in EF_SEARCHES:
                    recall, seconds = await ask(client, name, data, ef_search)
                    cells += f" {recall:.4f} | {seconds * 1e3:.1f} |"
                held = await segments(client, name)
                print(
                    f"| {parameters[0]} | {parameters[1]} | {'- | -' if merged else speed} | {held} |{cells}",
                    flush=True,
                )
            await client.indices.delete(index=name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3, help="of writing; the median counts")
    parser.add_argument("--opensearch-port", type=int, default=9200)
    options = parser.parse_args()
    uvloop.run(measure(options.texts, options.queries, options.rounds, options.opensearch_port))


if __name__ == "__main__":
    main()
