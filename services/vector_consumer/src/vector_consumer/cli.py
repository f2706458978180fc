"""The command line: `vector_consumer` runs the service, `vector_consumer search` looks entities up."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from banking.streaming.entities import EntityType  # noqa: TC001 - typer needs it at run time
from banking.streaming.leg import run_leg
from banking.streaming.settings import load_settings
from banking.streaming.sink import SinkError
from vector_consumer.search import Hit, Mode, Searcher
from vector_consumer.settings import VectorSettings
from vector_consumer.sink import VectorSink

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
    except SinkError as error:
        typer.echo(f"vector_consumer search: {error}", err=True)
        raise typer.Exit(1) from None
    Console().print(_table(hits) if hits else "Nothing found.")


async def _search(
    settings: VectorSettings, text: str, entity_type: EntityType | None, limit: int, mode: Mode
) -> list[Hit]:
    async with Searcher(settings) as searcher:
        return await searcher.search(text, entity_type, limit, mode)


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
