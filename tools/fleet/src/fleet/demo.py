"""The demonstration: publish a data set, wait for both legs, and show that the three systems agree."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pulsar
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from banking.streaming.broker import BrokerUnavailableError, connect, open_reader
from banking.streaming.entities import EntityType
from banking.streaming.streaming_orchestrator import StreamingConfig, StreamingOrchestrator
from banking.streaming.topics import ENTITY_TOPICS
from fleet.comparison import Comparison, Expectation, wait_until_equal
from fleet.publishing import publish
from fleet.stores import GraphReader, VectorReader
from producer.publishing import SourceFile, choose_format
from vector_consumer.search import Searcher

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rich.console import Console

    from banking.streaming.events import EntityEvent
    from fleet.addresses import Addresses

QUESTION = "wire transfer to a shell company"

_MAPPINGS = {"nodes": "amlsim-accounts", "transactions": "amlsim-payments"}
_SUFFIXES = (".csv", ".csv.gz", ".csv.zst")
_PULSAR_LOOKUP_SECONDS = 60.0
_VERTEX = "g.V().has('entity_key', wanted).valueMap('version', 'name', 'account_number')"
_EDGES = "g.V().has('entity_key', wanted).bothE().groupCount().by(label)"


class DataFolderError(Exception):
    """A folder that holds no data that is known here; the message says what was expected."""


def generated_events() -> Iterator[EntityEvent]:
    """The data set of seed 42: 100 persons, 20 companies, 200 accounts, 500 transactions and 100 communications."""
    return StreamingOrchestrator(StreamingConfig()).events()


def folder_events(folder: Path) -> Iterator[EntityEvent]:
    """The events of a folder's CSV files of accounts (`nodes.csv`) and payments (`transactions.csv`).

    Raises:
        DataFolderError: A file is missing, or a row cannot be an event.
    """
    for stem, mapping in _MAPPINGS.items():
        candidates = (folder / f"{stem}{suffix}" for suffix in _SUFFIXES)
        path = next((candidate for candidate in candidates if candidate.is_file()), None)
        if path is None:
            raise DataFolderError(f"{folder}: no {stem}.csv, {stem}.csv.gz or {stem}.csv.zst in it")
        with SourceFile(path, choose_format(path, mapping=mapping)) as file:
            for record in file:
                if record.event is None:
                    raise DataFolderError(f"{path}: row {record.number}: {record.error}")
                yield record.event


async def run_demo(addresses: Addresses, data: Path | None, timeout_seconds: float, console: Console) -> bool:
    """Publish, wait, compare and show.

    Args:
        addresses: Where the stack is.
        data: A folder of CSV files; None publishes the generated data set.
        timeout_seconds: How long the legs may take to catch up.
        console: Where to show it.

    Returns:
        Whether both stores hold exactly what was published.

    Raises:
        PublishingError: The producer did not take the events.
        DataFolderError: The folder holds no data that is known here.
    """
    events = generated_events() if data is None else folder_events(data)
    expectation = Expectation()
    sample: EntityEvent | None = None
    started = time.time()
    readers = (GraphReader(addresses.graph_settings()), VectorReader(addresses.vector_settings()))
    try:
        with _progress(console) as progress:
            publishing = progress.add_task("published", total=None)

            def on_event(event: EntityEvent) -> None:
                nonlocal sample
                expectation.add(event)
                if sample is None or _shown_rather(event) >= _shown_rather(sample):
                    sample = event
                progress.advance(publishing)

            totals = await publish(addresses.producer_url, events, api_key=addresses.api_key, on_event=on_event)
            progress.update(publishing, total=totals["accepted"], completed=totals["accepted"])
            total = sum(expectation.count().values())
            comparisons = await asyncio.gather(
                *(_follow(progress, reader, expectation, total, timeout_seconds) for reader in readers)
            )
        complete = totals["accepted"] == totals["read"] and all(comparison.different == 0 for comparison in comparisons)
        console.print(_counts_table(expectation, comparisons))
        for comparison in comparisons:
            for difference in comparison.differences:
                console.print(escape(difference))
        if sample is not None:
            console.print(await _lookup_table(addresses, readers, sample, started))
        console.print(await _search_table(addresses))
    finally:
        for reader in readers:
            await reader.close()
    return complete


def _shown_rather(event: EntityEvent) -> int:
    """Which entity is looked up as the example: one with edges to show, a person where there is one."""
    return {EntityType.PERSON: 2, EntityType.TRANSACTION: 1}.get(event.entity_type, 0)


async def _follow(
    progress: Progress,
    reader: GraphReader | VectorReader,
    expectation: Expectation,
    total: int,
    timeout_seconds: float,
) -> Comparison:
    task = progress.add_task(f"in {reader.name}", total=total)
    return await wait_until_equal(
        reader,
        expectation,
        timeout_seconds,
        lambda comparison: progress.update(task, completed=comparison.equal.total()),
    )


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<15}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )


def _counts_table(expectation: Expectation, comparisons: list[Comparison]) -> Table:
    graph, vector = comparisons
    table = Table("entity type", title="Same version and content", title_justify="left")
    for heading in ("published", "in JanusGraph", "in OpenSearch"):
        table.add_column(heading, justify="right")
    counts = expectation.count()
    for entity_type in EntityType:
        if counts[entity_type]:
            numbers = (counts[entity_type], graph.equal[entity_type], vector.equal[entity_type])
            table.add_row(entity_type.value, *(f"{number:,}" for number in numbers))
    table.add_section()
    totals = (counts.total(), graph.equal.total(), vector.equal.total())
    table.add_row("all", *(f"{number:,}" for number in totals))
    return table


async def _lookup_table(
    addresses: Addresses, readers: tuple[GraphReader, VectorReader], event: EntityEvent, since: float
) -> Table:
    """One entity in all three systems."""
    graph, vector = readers
    title = f"{event.entity_type.value} {event.entity_id}"
    table = Table("system", "version", "what it holds", title=title, title_justify="left")
    found = await asyncio.to_thread(_find_in_pulsar, addresses, event, since)
    table.add_row("Pulsar", str(event.version), escape(found))
    key = f"{event.entity_type.value}:{event.entity_id}"
    vertices = await graph.submit(_VERTEX, {"wanted": key})
    edges = await graph.submit(_EDGES, {"wanted": key})
    held = {str(name): values[0] for name, values in vertices[0].items()} if vertices else {}
    shown = ", ".join(str(value) for name, value in held.items() if name != "version")
    neighbours = ", ".join(f"{count} {label}" for label, count in (edges[0] if edges else {}).items())
    table.add_row("JanusGraph", str(held.get("version", "-")), escape(f"{shown}; edges: {neighbours or 'none'}"))
    document: dict[str, Any] = await vector.get(event.entity_type, event.entity_id) or {}
    table.add_row("OpenSearch", str(document.get("version", "-")), escape(str(document.get("text", "-"))))
    return table


def _find_in_pulsar(addresses: Addresses, event: EntityEvent, since: float) -> str:
    """Where the topic holds the event: read from the moment on when publishing began."""
    client = connect(addresses.broker)
    deadline = time.monotonic() + _PULSAR_LOOKUP_SECONDS
    try:
        reader = open_reader(client, addresses.broker, ENTITY_TOPICS[event.entity_type])
        reader.seek(int(since * 1000) - 1000)
        while time.monotonic() < deadline and reader.has_message_available():
            message = reader.read_next(timeout_millis=5000)
            if message.partition_key() == event.entity_id:
                return f"{ENTITY_TOPICS[event.entity_type]} {message.message_id()}: {message.data()[:90].decode()}…"
    except (BrokerUnavailableError, pulsar.PulsarException) as error:
        return f"not read: {error}"
    finally:
        client.close()
    return "not found"


async def _search_table(addresses: Addresses) -> Table:
    settings = addresses.vector_settings()
    # What was just written is found by searches after the next refresh.
    await asyncio.sleep(settings.opensearch_refresh_interval_seconds + 1.0)
    async with Searcher(settings) as searcher:
        hits = await searcher.search(QUESTION, limit=5)
    table = Table("", "type", "words", "meaning", "text", title=f"Search: {QUESTION}", title_justify="left")
    for place, hit in enumerate(hits, 1):
        ranks = (str(rank) if rank is not None else "-" for rank in (hit.words_rank, hit.meaning_rank))
        table.add_row(str(place), hit.entity_type.value, *ranks, escape(hit.text[:100]))
    return table
