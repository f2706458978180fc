"""What is made from the code: settings, metrics, the flow, Grafana's dashboard. A test keeps the files equal to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase
from pydantic_core import PydanticUndefined

import banking.streaming.metrics  # noqa: F401 - declares metrics
import vector_consumer.metrics  # noqa: F401 - declares metrics
from banking.streaming.leg import LegSettings
from banking.streaming.settings import ServiceSettings, TombstoneSettings
from dlq_worker.settings import DlqWorkerSettings
from fleet.flow import flow_picture
from fleet.panels import grafana_dashboard
from fleet.rules import read_alerts
from graph_consumer.settings import GraphSettings
from producer.settings import ProducerSettings
from vector_consumer.settings import VectorSettings
from verify.settings import AuditSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from pydantic.fields import FieldInfo

_SETTINGS: tuple[tuple[str, type[ServiceSettings], type[ServiceSettings] | None], ...] = (
    ("Every service", ServiceSettings, None),
    ("Both consumers and dlq_worker", TombstoneSettings, ServiceSettings),
    ("Both consumers", LegSettings, TombstoneSettings),
    ("graph_consumer", GraphSettings, LegSettings),
    ("vector_consumer", VectorSettings, LegSettings),
    ("dlq_worker", DlqWorkerSettings, TombstoneSettings),
    ("producer", ProducerSettings, ServiceSettings),
    ("verify", AuditSettings, ServiceSettings),
)


def configuration_page() -> str:
    """`docs/configuration.md`."""
    lines = [
        "# Configuration",
        "",
        "Settings are environment variables. A wrong value stops the service with one line that names the variable.",
        "Secrets are files: a variable that ends in `_FILE` names one.",
    ]
    for title, settings, base in _SETTINGS:
        lines += ["", f"## {title}", "", "| variable | default | what it is |", "| --- | --- | --- |"]
        lines += _setting_rows(settings, base)
    return "\n".join(lines) + "\n"


def metrics_page() -> str:
    """`docs/metrics.md`."""
    lines = [
        "# Metrics",
        "",
        "Every service serves those it uses at `/metrics`, with Python's process metrics beside them.",
        "",
        "| metric | labels | kind | what it tells |",
        "| --- | --- | --- | --- |",
    ]
    lines += sorted(
        f"| `{metric._name}{'_total' if metric._type == 'counter' else ''}` "
        f"| {', '.join(f'`{label}`' for label in metric._labelnames) or '-'} "
        f"| {metric._type} | {metric._documentation} |"
        for metric in _metrics()
    )
    lines += [
        "",
        "## Alerts",
        "",
        "Prometheus judges them (`config/prometheus/rules`); each links to what is to be done.",
        "",
        "| alert | severity | after | while |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| [{rule.alert}]({rule.annotations['runbook'].removeprefix('docs/')}) | {rule.labels['severity']} "
        f"| {rule.duration} | `{rule.expr}` |"
        for rule in read_alerts()
    ]
    return "\n".join(lines) + "\n"


PAGES: Mapping[str, Callable[[], str]] = {
    "docs/configuration.md": configuration_page,
    "docs/metrics.md": metrics_page,
    "docs/flow.svg": flow_picture,
    "config/grafana/dashboards/fleet.json": grafana_dashboard,
}
"""What is made, by its path in the repository."""


def _setting_rows(settings: type[ServiceSettings], base: type[ServiceSettings] | None) -> Iterator[str]:
    inherited = base.model_fields if base else {}
    for name, field in settings.model_fields.items():
        if name not in inherited or inherited[name].default != field.default:
            yield f"| `{name.upper()}` | {_default(field)} | {_description(field)} |"


def _default(field: FieldInfo) -> str:
    default = field.default_factory() if field.default_factory else field.default  # type: ignore[call-arg] # takes none
    if default is PydanticUndefined:
        return "required"
    if default is None:
        return "-"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{','.join(str(part) for part in default) if isinstance(default, tuple | list) else default}`"


def _description(field: FieldInfo) -> str:
    if not field.description:
        raise ValueError(f"a setting without a description: {field!r}")
    return " ".join(field.description.split())


def _metrics() -> Iterable[MetricWrapperBase]:
    """Every metric that the library and the services declare: they register where they are declared."""
    collectors = REGISTRY._collector_to_names
    metrics = (collector for collector in collectors if isinstance(collector, MetricWrapperBase))
    # stamina registers a counter of its own when something is retried for the first time.
    return (metric for metric in metrics if not metric._name.startswith("stamina_"))
