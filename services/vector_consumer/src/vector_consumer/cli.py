"""The command line: `vector_consumer` runs the service; its commands search, embed a text and build indices anew."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Annotated, TypeVar

import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from banking.streaming.entities import EntityType
from banking.streaming.leg import run_leg
from banking.streaming.settings import load_settings
from banking.streaming.sink import IncompatibleStoreError, SinkError
from vector_consumer.embedder import make_embedder
from vector_consumer.progress import ReindexDisplay
from vector_consumer.reindex import OldIndex, Rebuilt, Reindexer, ReindexError
from vector_consumer.search import Hit, Mode, Searcher
from vector_consumer.settings import VectorSettings
from vector_consumer.sink import VectorSink

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from vector_consumer.embedder import Vector

Answer = TypeVar("Answer")

main = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@main.callback(invoke_without_command=True)
def run(context: typer.Context) -> None:
    """Run the service, or one of the commands."""
    if context.invoked_subcommand is None:
        settings = load_settings(VectorSettings)
        run_leg("vector_consumer", settings, lambda: VectorSink(settings))


@main.command()
def search(
    text: Annotated[str, typer.Argument(help="What to look for; nothing in it is syntax.")],
    entity_type: Annotated[EntityType | None, typer.Option("--type", help="Look at this type only.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The most hits.")] = 10,
    by: Annotated[Mode, typer.Option(help="What to go by.")] = Mode.FUSED,
) -> None:
    """Find entities by words and by meaning. Each hit says its place in either list."""
    try:
        hits = asyncio.run(_search(load_settings(VectorSettings), text, entity_type, limit, by))
    except (SinkError, IncompatibleStoreError) as error:
        typer.echo(f"vector_consumer search: {error}", err=True)
        raise typer.Exit(1) from None
    Console().print(_table(hits) if hits else "Nothing found.")


@main.command()
def embed(text: Annotated[str, typer.Argument(help="What to embed.")]) -> None:
    """Print a text's vector as JSON, for queries of one's own."""
    try:
        vector = asyncio.run(_embed(load_settings(VectorSettings), text))
    except (SinkError, IncompatibleStoreError) as error:
        typer.echo(f"vector_consumer embed: {error}", err=True)
        raise typer.Exit(1) from None
    if vector is None:
        typer.echo("vector_consumer embed: the model knows nothing of this text", err=True)
        raise typer.Exit(1)
    typer.echo(orjson.dumps(vector, option=orjson.OPT_SERIALIZE_NUMPY))


@main.command()
def reindex(
    entity_types: Annotated[
        list[EntityType] | None, typer.Option("--type", help="Of this type only; may be repeated.")
    ] = None,
    keep_old: Annotated[
        bool, typer.Option("--keep-old/--drop-old", help="What becomes of the indices that served.")
    ] = True,
    rate: Annotated[float | None, typer.Option(min=1, help="Documents a second at most.")] = None,
    abandon: Annotated[bool, typer.Option("--abandon", help="Give up what was begun and not ended.")] = False,
) -> None:
    """Build the indices anew with the mapping and model that are set now, while they serve and are written to.

    Run again after whatever ended it, it goes on where it was.
    """
    settings = load_settings(VectorSettings)
    types = list(dict.fromkeys(entity_types or EntityType))
    try:
        if abandon:
            for name in asyncio.run(_stoppable(_abandon(settings, types))):
                typer.echo(f"removed: {name}")
        else:
            old = OldIndex.KEEP if keep_old else OldIndex.DROP
            for rebuilt in asyncio.run(_stoppable(_reindex(settings, types, old, rate))):
                typer.echo(_describe(rebuilt, old))
    except (SinkError, IncompatibleStoreError, ReindexError) as error:
        typer.echo(f"vector_consumer reindex: {error}", err=True)
        raise typer.Exit(1) from None
    except asyncio.CancelledError:
        typer.echo("vector_consumer reindex: stopped; run it again to go on", err=True)
        raise typer.Exit(1) from None


async def _reindex(
    settings: VectorSettings, entity_types: list[EntityType], old: OldIndex, rate: float | None
) -> list[Rebuilt]:
    with ReindexDisplay(Console()) as display:
        async with Reindexer(settings, say=display.say, show=display.show, rate=rate) as reindexer:
            return await reindexer.run(entity_types, old)


async def _abandon(settings: VectorSettings, entity_types: list[EntityType]) -> list[str]:
    async with Reindexer(settings) as reindexer:
        return await reindexer.abandon(entity_types)


async def _stoppable(work: Coroutine[None, None, Answer]) -> Answer:
    """Do some work; SIGTERM and SIGINT cancel it, so that it leaves nothing half done."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    return await task


def _describe(rebuilt: Rebuilt, old: OldIndex) -> str:
    ended = "removed" if old is OldIndex.DROP else "kept without writes; delete it when you like"
    return (
        f"{rebuilt.alias}: {rebuilt.new} serves, {rebuilt.documents:,} entities and {rebuilt.tombstones:,} tombstones; "
        f"{rebuilt.old} is {ended}"
    )


async def _search(
    settings: VectorSettings, text: str, entity_type: EntityType | None, limit: int, mode: Mode
) -> list[Hit]:
    async with Searcher(settings) as searcher:
        return await searcher.search(text, entity_type, limit, mode)


async def _embed(settings: VectorSettings, text: str) -> Vector | None:
    embedder = make_embedder(settings)
    try:
        (vector,) = await embedder.embed([text])
    finally:
        await embedder.close()
    return vector


def _table(hits: list[Hit]) -> Table:
    table = Table("", "type", "id", "words", "meaning", "text")
    for place, hit in enumerate(hits, 1):
        table.add_row(
            str(place),
            hit.entity_type.value,
            # Escaped, so that brackets in data are no markup.
            escape(hit.entity_id),
            _place(hit.words_rank),
            _place(hit.meaning_rank),
            escape(hit.text if len(hit.text) <= 120 else hit.text[:119] + "…"),
        )
    return table


def _place(rank: int | None) -> str:
    return "-" if rank is None else str(rank)
