"""`fleet`: the commands behind the Makefile."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from fleet.compose import PROJECT, ROOT, Stack, StackError

if TYPE_CHECKING:
    from collections.abc import Iterator

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True, help=__doc__)
console = Console()

Project = Annotated[str, typer.Option("--project", "-p", help="The compose project.")]
Replicas = Annotated[int, typer.Argument(min=0, max=64)]
DataFolder = Annotated[
    Path | None,
    typer.Option(help="A folder of CSV files in place of generated data.", exists=True, file_okay=False),
]
Service = Annotated[str, typer.Argument(help="A service, such as graph_consumer.")]


@app.command()
def up(project: Project = PROJECT) -> None:
    """Build what changed, start what is not running, and wait until all is ready."""
    with _errors():
        _stack(project).up()
        console.print("ready")


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
) -> None:
    """Bring everything up, publish a data set, and show that both stores hold it. Exit status 1 when they do not."""
    # Imported here: the other commands do without the stores' clients.
    from fleet.demo import DataFolderError, run_demo  # noqa: PLC0415
    from fleet.publishing import PublishingError  # noqa: PLC0415

    with _errors():
        stack = _stack(project)
        stack.up()
    try:
        complete = asyncio.run(run_demo(stack.addresses, data, timeout_seconds, console))
    except (PublishingError, DataFolderError) as error:
        typer.echo(f"fleet: {error}", err=True)
        raise typer.Exit(1) from None
    raise typer.Exit(0 if complete else 1)


@app.command()
def reference() -> None:
    """Write docs/configuration.md and docs/metrics.md anew from the code."""
    from fleet.reference import PAGES  # noqa: PLC0415 - imports every service

    for name, page in PAGES.items():
        (ROOT / "docs" / name).write_text(page(), encoding="utf-8")


def main() -> None:
    """Run the command line."""
    app()


def _stack(project: str) -> Stack:
    return Stack(project, say=lambda line: console.print(f"fleet: {line}", highlight=False))


@contextmanager
def _errors() -> Iterator[None]:
    """End with one message and exit status 1."""
    try:
        yield
    except StackError as error:
        typer.echo(f"fleet: {error}", err=True)
        sys.exit(1)
