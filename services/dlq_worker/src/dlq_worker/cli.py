"""The command line: `dlq_worker` runs the service; the other commands look at the archive and bring letters back."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress

from banking.streaming.archive import ArchiveUnavailableError
from banking.streaming.broker import BrokerError, Publisher
from banking.streaming.settings import load_settings
from dlq_worker import render
from dlq_worker.inventory import Selection, State, find
from dlq_worker.purge import purge as remove
from dlq_worker.replay import ReplayReport, ReplayRules
from dlq_worker.replay import replay as send_again
from dlq_worker.settings import DlqWorkerSettings
from dlq_worker.worker import serve as run_worker

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from banking.streaming.archive import DeadLetterArchive

main = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_Result = TypeVar("_Result")


class Format(StrEnum):
    """How letters are printed."""

    TABLE = "table"
    JSON = "json"


def moment(text: str) -> datetime:
    """`2026-03-01`, `2026-03-01T10:00:00+01:00`, or `90m`, `2h`, `7d` ago; without a zone it is UTC."""
    if ago := re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text):
        return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: float(ago[1])})
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter("expected a time such as 2026-03-01, 2026-03-01T10:00 or 2h") from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


Since = Annotated[
    datetime | None,
    typer.Option(parser=moment, metavar="TIME", help="Last rejected at this time or later: 2026-03-01T10:00, 2h, 7d."),
]
Until = Annotated[datetime | None, typer.Option(parser=moment, metavar="TIME", help="Last rejected before this time.")]
Types = Annotated[list[str] | None, typer.Option("--type", help="Of this entity type; may be repeated.")]
Legs = Annotated[list[str] | None, typer.Option("--leg", help="Rejected by this leg; may be repeated.")]
Reasons = Annotated[list[str] | None, typer.Option("--reason", help="For this reason; may be repeated.")]
Ids = Annotated[list[str] | None, typer.Option("--id", help="With this id, with or without brackets; may be repeated.")]
InState = Annotated[State | None, typer.Option(help="Waiting, or replayed and not archived anew since.")]
Output = Annotated[Format, typer.Option("--format", help="A table, or JSON for programs.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]


@main.callback(invoke_without_command=True)
def run(context: typer.Context) -> None:
    """Run the service, or one of the commands."""
    if context.invoked_subcommand is None:
        run_worker(load_settings(DlqWorkerSettings))


@main.command()
def serve() -> None:
    """Run the service: retry dead letters on schedule, then archive them."""
    run_worker(load_settings(DlqWorkerSettings))


@main.command("list")
def list_letters(
    since: Since = None,
    until: Until = None,
    entity_type: Types = None,
    leg: Legs = None,
    reason: Reasons = None,
    letter_id: Ids = None,
    state: InState = None,
    limit: Annotated[int, typer.Option(min=1, help="Letters to print, at most.")] = 50,
    output: Output = Format.TABLE,
) -> None:
    """List archived letters, newest failure first, without their payloads."""
    selection = _selection(since, until, entity_type, leg, reason, letter_id, state)
    letters = _run("list", find(_settings().archive(), selection))
    if output is Format.JSON:
        for letter in letters[:limit]:
            _print_json(render.as_json(letter))
    else:
        _console().print(render.letter_table(letters[:limit]))
    if len(letters) > limit:
        typer.echo(f"{len(letters) - limit} more: raise --limit or narrow the selection", err=True)


@main.command()
def show(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="The letter's id, with or without brackets.")],
    payload: Annotated[bool, typer.Option("--payload", help="Print the event too: it holds personal data.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Show all that is known of one letter; its payload only when asked for."""
    archive = _settings().archive()
    letters = _run("show", find(archive, Selection(ids=frozenset({letter_id}))))
    if not letters:
        typer.echo(f"dlq_worker show: no letter {letter_id} in {archive.url}", err=True)
        raise typer.Exit(1)
    letter = letters[0]
    contents = _run("show", archive.letters(letter.place))
    if letter.line >= len(contents) or contents[letter.line].letter_id != letter.record.letter_id:
        typer.echo(f"dlq_worker show: the content of {letter.record.letter_id} is no longer in the archive", err=True)
        raise typer.Exit(1)
    content = contents[letter.line]
    if output is Format.JSON:
        shown = render.as_json(letter) | {"properties": content.properties}
        _print_json(shown | (render.payload_as_json(content) if payload else {}))
        return
    _console().print(render.letter_details(letter, content))
    if payload:
        sys.stdout.flush()
        with _told("show"):
            sys.stdout.buffer.write(content.data + b"\n")


@main.command()
def stats(
    since: Since = None,
    until: Until = None,
    entity_type: Types = None,
    leg: Legs = None,
    reason: Reasons = None,
    letter_id: Ids = None,
    output: Output = Format.TABLE,
) -> None:
    """Count archived letters by type, leg, reason and state; a letter that stands there twice counts once."""
    selection = _selection(since, until, entity_type, leg, reason, letter_id)
    letters = _run("stats", find(_settings().archive(), selection))
    if output is Format.JSON:
        _print_json(render.statistics(letters))
    else:
        _console().print(render.statistics_table(letters))


@main.command()
def replay(
    since: Since = None,
    until: Until = None,
    entity_type: Types = None,
    leg: Legs = None,
    reason: Reasons = None,
    letter_id: Ids = None,
    dry_run: DryRun = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Letters, at most.")] = None,
    rate: Annotated[float, typer.Option(min=0.01, help="Letters a second, at most.")] = 100.0,
    max_replays: Annotated[int, typer.Option(min=1, help="Leave alone what was replayed so often already.")] = 3,
    force: Annotated[
        bool, typer.Option("--force", help="Also what is older than the tombstones are kept: it may undo a deletion.")
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Send archived letters that wait to their legs again, oldest first. Can be repeated when it was cut short."""
    settings = _settings()
    rules = ReplayRules(
        limit=limit,
        per_second=rate,
        max_replays=max_replays,
        max_age=settings.tombstone_retention,
        force=force,
        dry_run=dry_run,
    )
    selection = _selection(since, until, entity_type, leg, reason, letter_id)
    report = _run("replay", _replay(settings, selection, rules))
    if output is Format.JSON:
        _print_json({"replayed": len(report.replayed), "left_alone": report.refused, "dry_run": dry_run})
        return
    typer.echo(f"{'would replay' if dry_run else 'replayed'} {len(report.replayed)} letters")
    for refusal, number in sorted(report.refused.items()):
        typer.echo(f"left alone {number}: {refusal}")


@main.command()
def purge(
    since: Since = None,
    until: Until = None,
    entity_type: Types = None,
    leg: Legs = None,
    reason: Reasons = None,
    letter_id: Ids = None,
    state: InState = None,
    dry_run: DryRun = False,
    output: Output = Format.TABLE,
) -> None:
    """Remove letters from the archive for good, with all their copies. Needs at least one filter."""
    selection = _selection(since, until, entity_type, leg, reason, letter_id, state)
    if selection.selects_all:
        raise typer.BadParameter("name at least one filter, such as --until 365d or --state replayed")
    report = _run("purge", remove(_settings().archive(), selection, dry_run=dry_run))
    if output is Format.JSON:
        _print_json(msgspec.to_builtins(report) | {"dry_run": dry_run})
        return
    verb = "would remove" if dry_run else "removed"
    typer.echo(f"{verb} {report.letters} letters: {report.removed} objects gone, {report.rewritten} written anew")


async def _replay(settings: DlqWorkerSettings, selection: Selection, rules: ReplayRules) -> ReplayReport:
    publisher = Publisher(settings.broker)
    archive: DeadLetterArchive = settings.archive()
    console = Console(stderr=True)
    try:
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("replaying", total=None)

            def show_progress(done: int, total: int) -> None:
                progress.update(task, completed=done, total=total)

            return await send_again(archive, publisher, selection, rules, on_progress=show_progress)
    finally:
        await publisher.close()


def _settings() -> DlqWorkerSettings:
    return load_settings(DlqWorkerSettings)


def _selection(
    since: datetime | None,
    until: datetime | None,
    entity_types: list[str] | None,
    legs: list[str] | None,
    reasons: list[str] | None,
    ids: list[str] | None = None,
    state: State | None = None,
) -> Selection:
    return Selection(
        since=since,
        until=until,
        entity_types=frozenset(entity_types or ()),
        legs=frozenset(legs or ()),
        reasons=frozenset(reasons or ()),
        ids=frozenset(ids or ()),
        state=state,
    )


def _run(command: str, work: Coroutine[Any, Any, _Result]) -> _Result:
    with _told(command):
        return asyncio.run(work)


@contextlib.contextmanager
def _told(command: str) -> Iterator[None]:
    """Errors in one line, and an exit status that says so."""
    try:
        yield
    except (ArchiveUnavailableError, BrokerError) as error:
        typer.echo(f"dlq_worker {command}: {error}", err=True)
        raise typer.Exit(1) from None


def _console() -> Console:
    """To a pipe, lines are as long as they must be."""
    console = Console()
    return console if console.is_terminal else Console(width=240)


def _print_json(value: dict[str, Any]) -> None:
    typer.echo(msgspec.json.encode(value).decode())
