"""`fleet`: the commands behind the Makefile."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from fleet.compose import PROJECT, ROOT, Security, Stack, StackError, Storage

if TYPE_CHECKING:
    from collections.abc import Iterator

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True, help=__doc__)
console = Console()

_CLEAR_SCREEN = "\x1b[H\x1b[2J"
_WATCH_SECONDS = 2.0

Project = Annotated[str, typer.Option("--project", "-p", help="The compose project.")]
StorageChoice = Annotated[
    Storage | None,
    typer.Option(
        "--storage", envvar="STORAGE", help="Where JanusGraph keeps the graph; what runs already keeps its own."
    ),
]
SecurityChoice = Annotated[
    bool | None,
    typer.Option(
        "--secure/--open", envvar="SECURE", help="Want tokens and passwords; what runs already stays as it is."
    ),
]
ClusterChoice = Annotated[
    bool | None,
    typer.Option(
        "--cluster/--single", envvar="CLUSTER", help="Run more than one of what can be; what runs stays as it is."
    ),
]
Watch = Annotated[bool, typer.Option("--watch", help="Show it anew until Ctrl-C.")]
Replicas = Annotated[int, typer.Argument(min=0, max=64)]
DataFolder = Annotated[
    Path | None,
    typer.Option(help="A folder of CSV files in place of generated data.", exists=True, file_okay=False),
]
Service = Annotated[str, typer.Argument(help="A service, such as graph_consumer.")]


@app.command()
def up(
    project: Project = PROJECT,
    storage: StorageChoice = None,
    secure: SecurityChoice = None,
    cluster: ClusterChoice = None,
) -> None:
    """Build what changed, start what is not running, and wait until all is ready."""
    with _errors():
        _stack(project, storage, secure, cluster).up()
        console.print("ready")


@app.command()
def certs() -> None:
    """Make the secrets of a secured stack that are missing or end soon, and say when they end."""
    with _errors():
        table = Table("certificate or token", "ends on", "")
        for expiry in _stack(PROJECT).provide_secrets():
            table.add_row(expiry.file, f"{expiry.ends:%Y-%m-%d}", "replace it" if expiry.is_soon else "")
        console.print(table)


@app.command()
def down(project: Project = PROJECT) -> None:
    """Remove the containers; the data stays."""
    with _errors():
        _stack(project).down()


@app.command()
def clean(project: Project = PROJECT) -> None:
    """Remove the containers and the data."""
    with _errors():
        _stack(project).down(volumes=True)


@app.command()
def ps(project: Project = PROJECT) -> None:
    """Show the containers."""
    with _errors():
        table = Table("container", "state")
        for container in _stack(project).containers():
            table.add_row(container.name, container.state)
        console.print(table)


@app.command()
def status(project: Project = PROJECT, watch: Watch = False) -> None:
    """Show flow, backlog, latency, dead letters and health. Exit status 1 when something is not well."""
    from fleet.status import read_status, render  # noqa: PLC0415 - the other commands do without it

    stack = Stack(project)
    while True:
        with _errors():
            read = asyncio.run(read_status(stack))
        typer.echo((_CLEAR_SCREEN if watch else "") + render(read), nl=False)
        if not watch:
            raise typer.Exit(0 if read.well else 1)
        time.sleep(_WATCH_SECONDS)


@app.command()
def logs(service: Service, project: Project = PROJECT, number: Annotated[int, typer.Option(min=1)] = 1) -> None:
    """Follow a container's log."""
    os.execlp("podman", "podman", "logs", "-f", "--tail", "200", _stack(project).container(service, number))  # noqa: S606, S607 - no shell; by PATH


@app.command()
def scale(
    service: Service, replicas: Annotated[int, typer.Argument(min=0, max=64)], project: Project = PROJECT
) -> None:
    """Run that many replicas of a consumer."""
    with _errors():
        _stack(project).scale(service, replicas)


@app.command()
def demo(
    data: DataFolder = None,
    timeout_seconds: Annotated[float, typer.Option(min=1)] = 900.0,
    project: Project = PROJECT,
    storage: StorageChoice = None,
    secure: SecurityChoice = None,
    cluster: ClusterChoice = None,
) -> None:
    """Bring everything up, publish a data set, and show that both stores hold it. Exit status 1 when they do not."""
    # Imported here: the other commands do without the stores' clients.
    from fleet.demo import DataFolderError, run_demo  # noqa: PLC0415
    from fleet.publishing import PublishingError  # noqa: PLC0415

    with _errors():
        stack = _stack(project, storage, secure, cluster)
        stack.up()
    try:
        complete = asyncio.run(run_demo(stack.addresses, data, timeout_seconds, console))
    except (PublishingError, DataFolderError) as error:
        typer.echo(f"fleet: {error}", err=True)
        raise typer.Exit(1) from None
    raise typer.Exit(0 if complete else 1)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def verify(context: typer.Context, project: Project = PROJECT) -> None:
    """Compare what was published with what both stores hold. All other options are those of banking-verify.

    Exit status: 0 in step, 1 differences, 2 could not be judged.
    """
    with _errors(status=2):
        # Standard output is the audit's own.
        said = Console(stderr=True)
        stack = Stack(project, say=lambda line: said.print(f"fleet: {line}", highlight=False))
        status = stack.audit(*context.args)
    raise typer.Exit(status)


@app.command()
def reference() -> None:
    """Write docs/configuration.md, docs/metrics.md, the picture of the flow and Grafana's dashboard anew."""
    from fleet.reference import PAGES  # noqa: PLC0415 - imports every service

    for name, page in PAGES.items():
        (ROOT / name).write_text(page(), encoding="utf-8")


def main() -> None:
    """Run the command line."""
    app()


def _stack(
    project: str, storage: Storage | None = None, secure: bool | None = None, cluster: bool | None = None
) -> Stack:
    return Stack(
        project,
        say=lambda line: console.print(f"fleet: {line}", highlight=False),
        storage=storage,
        security=None if secure is None else Security.SECURED if secure else Security.OPEN,
        cluster=cluster,
    )


@contextmanager
def _errors(status: int = 1) -> Iterator[None]:
    """End with one message and that exit status."""
    try:
        yield
    except StackError as error:
        typer.echo(f"fleet: {error}", err=True)
        sys.exit(status)
