"""Audits a running fleet: what the topics hold against what both stores hold. `trace` tells one entity's story, `watch`
audits at intervals.

Exit status: 0 in step, 1 differences, 2 could not be judged.
"""

from __future__ import annotations

import asyncio
import sys
from enum import StrEnum
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console

from banking.streaming.entities import EntityType
from banking.streaming.service import run_service
from banking.streaming.settings import load_settings
from dlq_worker.settings import DlqWorkerSettings
from graph_consumer.settings import GraphSettings
from vector_consumer.settings import VectorSettings
from verify.audit import Scope, run_audit
from verify.render import print_report, print_story
from verify.report import as_json
from verify.settings import AuditSettings
from verify.systems import Systems
from verify.tracing import run_trace
from verify.watching import watch as watch_fleet

main = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


class Format(StrEnum):
    """How the result is printed."""

    TABLE = "table"
    JSON = "json"


Types = Annotated[list[EntityType] | None, typer.Option("--type", help="Of this type only; may be repeated.")]
Output = Annotated[Format, typer.Option("--format", help="A table, or JSON for programs.")]


@main.callback(invoke_without_command=True)
def audit(
    context: typer.Context,
    entity_type: Types = None,
    prefix: Annotated[str, typer.Option("--id-prefix", help="Only entities whose ids begin so.")] = "",
    contents: Annotated[
        bool,
        typer.Option("--contents", help="Compare all that the stores hold, edges included, and not its hash alone."),
    ] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended.")] = False,
    limit: Annotated[int, typer.Option(min=0, help="Entities to name of each kind, at most.")] = 20,
    output: Output = Format.TABLE,
) -> None:
    """Audit everything, or run `trace` or `watch`."""
    if context.invoked_subcommand is not None:
        return
    scope = Scope(tuple(dict.fromkeys(entity_type or EntityType)), prefix, contents, limit, repair)
    report = asyncio.run(run_audit(_systems(), scope, _say))
    if output is Format.JSON:
        _print_json(as_json(report))
    else:
        print_report(report, _console())
    raise typer.Exit(report.status)


@main.command()
def trace(
    entity_id: Annotated[str, typer.Argument(metavar="ID", help="The entity's id.")],
    entity_type: Types = None,
    output: Output = Format.TABLE,
) -> None:
    """Tell an entity's whole story: what was published of it, what each store holds, and its dead letters."""
    story = asyncio.run(run_trace(_systems(), entity_id, tuple(entity_type or EntityType), _say))
    if output is Format.JSON:
        _print_json(msgspec.to_builtins(story) | {"exit_status": int(story.status)})
    else:
        print_story(story, _console())
    raise typer.Exit(story.status)


@main.command()
def watch() -> None:
    """Audit at intervals until SIGTERM, and serve health and what was found as metrics over HTTP."""
    settings, systems = load_settings(AuditSettings), _systems()
    run_service("verify", settings, lambda service: watch_fleet(service, settings, systems))


def _systems() -> Systems:
    return Systems(load_settings(GraphSettings), load_settings(VectorSettings), load_settings(DlqWorkerSettings))


def _say(step: str) -> None:
    if sys.stderr.isatty():
        typer.echo(f"banking-verify: {step}", err=True)


def _console() -> Console:
    """To a pipe, lines are as long as they must be."""
    console = Console()
    return console if console.is_terminal else Console(width=240)


def _print_json(value: dict[str, Any]) -> None:
    typer.echo(msgspec.json.encode(value).decode())
