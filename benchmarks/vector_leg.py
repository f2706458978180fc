"""The vector leg draining a topic, beside prepared requests sent by curl and the bulk helper as it is often used.

    .venv/bin/python benchmarks/vector_leg.py [--documents 20000] [--rounds 3]

Needs curl. Brings up a stack of its own and removes it again. In each round, all into new indices of the same mapping:

- curl: files of ready bulk requests, as many of them in flight as the service has
- service: `vector_consumer` draining a topic of as many events, embedding them itself
- helper: a loop of `helpers.bulk(…, refresh=True)` per 100 documents with ready vectors, on fewer documents

once without texts, and so without vectors, and once with.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import subprocess
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import communications
from draining import Leg, Rounds, stack
from opensearchpy import OpenSearch, helpers

from vector_consumer.client import connect
from vector_consumer.documents import encode_document
from vector_consumer.embedder import make_embedder
from vector_consumer.mappings import define_indices, ensure_index
from vector_consumer.settings import VectorSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from banking.streaming.events import EntityEvent
    from fleet.compose import Stack

BATCH_DOCUMENTS = 500
IN_FLIGHT = 3
HELPED = 2_000


async def prepare(settings: VectorSettings, events: Sequence[EntityEvent]) -> list[bytes]:
    """Make the indices; the bulk lines of each event."""
    embedder = make_embedder(settings)
    await embedder.open()
    definitions = define_indices(settings, embedder)
    client = connect(settings)
    indices = {kind: await ensure_index(client, definitions[kind]) for kind in {event.entity_type for event in events}}
    await client.close()
    texts = [event.text_for_embedding or "" for event in events]
    vectors: list[Any] = [None] * len(events)
    if any(texts):
        for start in range(0, len(texts), 1000):
            vectors[start : start + 1000] = await embedder.embed(texts[start : start + 1000])
    now = datetime.now(UTC)
    return [
        encode_document(event, indices[event.entity_type], vector, now)
        for event, vector in zip(events, vectors, strict=True)
    ]


def by_curl(settings: VectorSettings, events: Sequence[EntityEvent]) -> float:
    """Documents per second of ready requests."""
    lines = asyncio.run(prepare(settings, events))
    url = f"http://{settings.opensearch_host}:{settings.opensearch_port}/_bulk?filter_path=errors"
    with tempfile.TemporaryDirectory() as folder:
        commands: list[list[str]] = [[] for _ in range(IN_FLIGHT)]
        for number, start in enumerate(range(0, len(lines), BATCH_DOCUMENTS)):
            file = Path(folder) / f"{number}.ndjson"
            file.write_bytes(b"".join(lines[start : start + BATCH_DOCUMENTS]))
            command = commands[number % IN_FLIGHT]
            command += ["--next"] if command else []
            command += ["-sS", "-H", "content-type: application/x-ndjson", "--data-binary", f"@{file}", url]
        curl = shutil.which("curl") or "curl"
        started = time.perf_counter()
        running = [subprocess.Popen([curl, *command], stdout=subprocess.PIPE) for command in commands]
        answers = b"".join(process.communicate(timeout=600)[0] for process in running)
        seconds = time.perf_counter() - started
    if answers.count(b'"errors":false') != -(-len(lines) // BATCH_DOCUMENTS):
        raise SystemExit(f"curl: {answers[:200]!r}")
    return len(events) / seconds


def by_helper(settings: VectorSettings, events: Sequence[EntityEvent]) -> float:
    """Documents per second of the bulk helper, refreshed after each hundred."""
    actions = []
    for lines in asyncio.run(prepare(settings, events)):
        action, document = lines.splitlines()
        actions.append({"_op_type": "index", **json.loads(action)["index"], "_source": json.loads(document)})
    client = OpenSearch([{"host": settings.opensearch_host, "port": settings.opensearch_port}], timeout=60)
    started = time.perf_counter()
    for start in range(0, len(actions), 100):
        helpers.bulk(client, actions[start : start + 100], refresh=True)
    seconds = time.perf_counter() - started
    client.close()
    return len(events) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rounds, peak = Rounds(arguments.rounds), 0
    with stack() as servers:
        for number in rounds:
            for kind in ("no vectors", "vectors"):
                events = communications(arguments.documents, texts=kind == "vectors")
                prefix = f"round{number}-{kind.replace(' ', '-')}"
                curled, helped = settings_of(servers, f"{prefix}-curl"), settings_of(servers, f"{prefix}-helper")
                leg = Leg(
                    "vector_consumer",
                    servers,
                    {
                        "INDEX_PREFIX": f"{prefix}-service",
                        "BATCH_MAX_EVENTS": str(BATCH_DOCUMENTS),
                        "MAX_IN_FLIGHT_BATCHES": str(IN_FLIGHT),
                    },
                )
                rounds.measure(f"{kind}: curl", lambda s=curled, e=events: by_curl(s, e))
                rounds.measure(f"{kind}: service", lambda leg=leg, e=events: leg.drain(e))
                rounds.measure(f"{kind}: helper", lambda s=helped, e=events: by_helper(s, e[:HELPED]))
                peak = max(peak, leg.peak_bytes)
    rounds.show(f"{arguments.documents:,} documents", "service", peak)


def settings_of(servers: Stack, prefix: str) -> VectorSettings:
    """Where the store is, and under which names."""
    return VectorSettings(
        opensearch_host="127.0.0.1",
        opensearch_port=servers.addresses.opensearch,
        opensearch_use_ssl=False,
        index_prefix=prefix,
    )


if __name__ == "__main__":
    main()
