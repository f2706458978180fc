"""The command line: `producer serve`, `producer generate` and `producer publish`."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import logging
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from banking.streaming.broker import BrokerError
from banking.streaming.printing import printable
from banking.streaming.producer import AsyncEntityProducer
from banking.streaming.settings import ServiceSettings, load_settings
from banking.streaming.tracing import traced
from producer.mapping import MappingError
from producer.publishing import SEND_TIMEOUT_SECONDS, PublishReport, SourceFile, choose_format, publish_records
from producer.settings import ProducerSettings
from producer.totals import TotallingProducer

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable

    from banking.streaming import StreamingStats
    from banking.streaming.broker import BrokerOptions
    from producer.intake import ControlTotals

app = typer.Typer(
    help="Publish banking entities to Pulsar.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

EXIT_REJECTED = 1
EXIT_UNUSABLE = 2
EXIT_INTERRUPTED = 130

OPERATION_TIMEOUT_SECONDS = 10
"""How long to try to reach the broker before a command gives up."""


class FileKind(StrEnum):
    """How a file is written."""

    NDJSON = "ndjson"
    CSV = "csv"


PulsarUrl = Annotated[
    str | None, typer.Option("--pulsar-url", help="The broker's address; PULSAR_URL where it is not given.")
]


def main() -> None:
    """Run the command line."""
    app()


@app.command()
def serve() -> None:
    """Serve the HTTP API; settings come from the environment."""
    from producer.server import run  # noqa: PLC0415 - the other commands need no HTTP server

    run(load_settings(ProducerSettings))


@app.command()
def publish(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="Files, plain, gzip or zstd; - is standard input.")
    ],
    mapping: Annotated[
        str | None,
        typer.Option(help="For rows: a mapping file (TOML), or the name of an included one, such as amlsim-accounts."),
    ] = None,
    entity_type: Annotated[str | None, typer.Option(help="For rows without a mapping: what they are.")] = None,
    id_field: Annotated[str | None, typer.Option(help="For rows without a mapping: the column of their id.")] = None,
    file_format: Annotated[
        FileKind | None, typer.Option("--format", help="How the files are written; by their names where not given.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="The source of events that name none; else the file's name.")
    ] = None,
    rejects_folder: Annotated[
        Path | None,
        typer.Option("--rejects", file_okay=False, help="Folder for rejected records, to be corrected and published."),
    ] = None,
    max_rate: Annotated[float | None, typer.Option(min=0.001, help="Events per second, at most.")] = None,
    pulsar_url: PulsarUrl = None,
) -> None:
    """Publish files of events (NDJSON), or of rows (CSV, NDJSON) made events by a mapping.

    The exit status is 0 when every record is stored, 1 when some were rejected or not confirmed, 2 when a file or the
    broker could not be used.
    """
    try:
        formats = [
            choose_format(
                None if name == "-" else name,
                mapping=mapping,
                entity_type=entity_type,
                id_field=id_field,
                source=source,
                csv=None if file_format is None else file_format is FileKind.CSV,
            )
            for name in files
        ]
        if rejects_folder is not None:
            _check_names(files)
            rejects_folder.mkdir(parents=True, exist_ok=True)
        sources = [
            SourceFile(
                "stdin" if name == "-" else name, record_format, io.FileIO(0, closefd=False) if name == "-" else None
            )
            for name, record_format in zip(files, formats, strict=True)
        ]
    except (MappingError, OSError) as error:
        typer.echo(f"producer: {error}", err=True)
        raise typer.Exit(EXIT_UNUSABLE) from None
    with _traced():
        reports = asyncio.run(_publish(sources, _broker(pulsar_url), rejects_folder, max_rate))
    _print_reports(reports)
    raise typer.Exit(_exit_status(reports))


@app.command()
def generate(
    persons: Annotated[int, typer.Option(min=0)] = 100,
    companies: Annotated[int, typer.Option(min=0)] = 20,
    accounts: Annotated[int, typer.Option(min=0)] = 200,
    transactions: Annotated[int, typer.Option(min=0)] = 500,
    communications: Annotated[int, typer.Option(min=0)] = 100,
    seed: Annotated[int, typer.Option(help="The same seed and counts give the same entities.")] = 42,
    output: Annotated[
        Path, typer.Option(file_okay=False, help="Folder for what was published and its statistics.")
    ] = Path("output"),
    pulsar_url: PulsarUrl = None,
) -> None:
    """Publish a generated, coherent data set."""
    from banking.streaming import StreamingConfig, StreamingOrchestrator  # noqa: PLC0415 - needs the generators

    broker = _broker(pulsar_url)
    config = StreamingConfig(
        seed=seed,
        person_count=persons,
        company_count=companies,
        account_count=accounts,
        transaction_count=transactions,
        communication_count=communications,
        pulsar_url=broker.url,
        output_dir=output,
    )
    problem: str | None = None
    exit_status = 0
    try:
        with _traced(), StreamingOrchestrator(config) as orchestrator:
            producer = orchestrator.producer = TotallingProducer(broker)
            try:
                orchestrator.generate_all()
            except KeyboardInterrupt as interruption:
                problem, exit_status = str(interruption), EXIT_INTERRUPTED
            except (BrokerError, OSError) as error:
                problem, exit_status = str(error), EXIT_UNUSABLE
            stats = orchestrator.stats
    except (BrokerError, ValueError, OSError) as error:
        typer.echo(f"producer: {error}", err=True)
        raise typer.Exit(EXIT_UNUSABLE) from None
    _print_generated(stats, producer, output)
    if problem is not None:
        typer.echo(f"producer: {problem}", err=True)
    elif stats.events_published < stats.events_generated:
        exit_status = EXIT_REJECTED
    raise typer.Exit(exit_status)


async def _publish(
    sources: list[SourceFile], broker: BrokerOptions, rejects_folder: Path | None, max_rate: float | None
) -> list[PublishReport]:
    """Publish the files one after the other; Ctrl-C ends the reading, and what was handed over is waited for."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    reports: list[PublishReport] = []
    async with AsyncEntityProducer(broker=broker) as producer:
        with _progress() as progress:
            for source in sources:
                if stop.is_set():
                    break
                with source:
                    report = await publish_records(
                        source,
                        producer,
                        rejects_folder=rejects_folder,
                        max_events_per_second=max_rate,
                        on_progress=_show(progress, source),
                        stop=stop,
                    )
                reports.append(report)
    return reports


def _check_names(files: list[str]) -> None:
    """Refuse files of one name: their rejects files would be one."""
    names = [Path(name).name for name in files]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise MappingError(f"--rejects: several files are named {', '.join(repeated)}; publish them one at a time")


def _broker(pulsar_url: str | None) -> BrokerOptions:
    # What the client says of a lost connection, in many lines, is said here once.
    logging.getLogger("pulsar").setLevel(logging.CRITICAL)
    broker = dataclasses.replace(
        load_settings(ServiceSettings).broker,
        operation_timeout_seconds=OPERATION_TIMEOUT_SECONDS,
        send_timeout_seconds=SEND_TIMEOUT_SECONDS,
    )
    return dataclasses.replace(broker, url=pulsar_url) if pulsar_url else broker


def _traced() -> contextlib.AbstractContextManager[None]:
    settings = load_settings(ServiceSettings)
    return traced("producer", settings.tracing_endpoint, settings.tracing_sample_ratio)


def _progress() -> Progress:
    """A progress bar on a terminal, nothing elsewhere."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[counts]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def _show(progress: Progress, source: SourceFile) -> Callable[[ControlTotals], None]:
    task = progress.add_task(source.path.name, total=source.size_bytes, counts="")

    def show(totals: ControlTotals) -> None:
        if progress.disable:
            return
        counts = f"{totals.accepted:,} stored, {totals.rejected:,} rejected"
        progress.update(task, completed=source.position_bytes, counts=counts)

    return show


def _print_generated(stats: StreamingStats, producer: TotallingProducer, output: Path) -> None:
    """What was made of each type, and the control totals."""
    table = _table("entity type", "events")
    for entity_type, count in stats.events_by_type.items():
        table.add_row(entity_type, f"{count:,}")
    accepted, unconfirmed = stats.events_published, stats.events_failed + stats.events_unsettled
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    console.print(
        f"read {accepted + unconfirmed:,}, accepted {accepted:,}, rejected 0, unconfirmed {unconfirmed:,} "
        f"in {stats.elapsed_seconds:.1f} s; written to {output}"
    )
    console.print(f"hash of accepted ids: {producer.accepted_ids_hash or 'not known'}")


def _print_reports(reports: list[PublishReport]) -> None:
    """What was rejected, to standard error; the control totals, to standard output."""
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    table = _table("file", "read", "accepted", "rejected", "unconfirmed", "events/s")
    table.add_column("hash of accepted ids", overflow="fold")
    for report in reports:
        for rejection in report.rejections:
            field = f"{rejection.field}: " if rejection.field else ""
            problem = printable(f"{field}{rejection.problem}")
            errors.print(f"{report.name}:{rejection.line}: {problem}", markup=False)
        failed = report.totals.rejected + report.totals.unconfirmed
        if failed > len(report.rejections):
            errors.print(f"{report.name}: and {failed - len(report.rejections):,} more", markup=False)
        if report.rejects_file:
            errors.print(f"{report.name}: rejected records are in {report.rejects_file}", markup=False)
        if report.ended:
            errors.print(f"{report.name}: {report.ended}", markup=False)
        totals = report.totals
        counts = (totals.read, totals.accepted, totals.rejected, totals.unconfirmed)
        rate = totals.accepted / report.seconds if report.seconds else 0
        table.add_row(report.name, *(f"{count:,}" for count in counts), f"{rate:,.0f}", totals.accepted_ids_hash)
    Console(highlight=False, width=None if sys.stdout.isatty() else 1000).print(table, markup=False)


def _table(first: str, *others: str) -> Table:
    table = Table(box=None)
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right")
    return table


def _exit_status(reports: list[PublishReport]) -> int:
    if any(report.ended for report in reports):
        return EXIT_UNUSABLE
    return 0 if all(report.complete for report in reports) else EXIT_REJECTED
