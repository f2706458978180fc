"""The dashboard's panels, as `config/prometheus/consoles/panels.json` declares them, and Grafana's dashboard of them.

The console's script reads the same file: a query stands in one place.
"""

from __future__ import annotations

import json
import re
from enum import StrEnum
from typing import Any

import msgspec

from fleet.compose import ROOT

PANELS_FILE = ROOT / "config" / "prometheus" / "consoles" / "panels.json"

_DATASOURCE = {"type": "prometheus", "uid": "prometheus"}
_GRID_COLUMNS = 24
_GRAFANA_UNITS = {"": "short", "s": "s", "bytes": "bytes"}


class Kind(StrEnum):
    """How a panel shows its values."""

    TILES = "tiles"  # the present values
    LINES = "lines"  # their course


class Query(msgspec.Struct, forbid_unknown_fields=True):
    """A PromQL expression; its legend names labels in braces."""

    expr: str
    legend: str


class Panel(msgspec.Struct, forbid_unknown_fields=True):
    """One panel. `good` is the value of a tile that is well; without it tiles are not judged."""

    title: str
    kind: Kind
    queries: list[Query]
    unit: str = ""
    good: int | None = None


class Section(msgspec.Struct, forbid_unknown_fields=True):
    """Panels that belong together."""

    title: str
    panels: list[Panel]


class Dashboard(msgspec.Struct, forbid_unknown_fields=True):
    """All panels."""

    title: str
    sections: list[Section]


def read_dashboard() -> Dashboard:
    """The panels as they are declared."""
    return msgspec.json.decode(PANELS_FILE.read_bytes(), type=Dashboard)


def grafana_dashboard() -> str:
    """`config/grafana/dashboards/fleet.json`."""
    dashboard = read_dashboard()
    panels: list[dict[str, Any]] = []
    top = 0
    for section in dashboard.sections:
        panels.append({"type": "row", "title": section.title, "gridPos": _place(0, top, _GRID_COLUMNS, 1)})
        top += 1
        across = 3 if len(section.panels) % 3 == 0 else 4
        width = _GRID_COLUMNS // across
        height = 8 if any(panel.kind is Kind.LINES for panel in section.panels) else 5
        for number, panel in enumerate(section.panels):
            row, column = divmod(number, across)
            panels.append(
                _grafana_panel(panel) | {"gridPos": _place(column * width, top + row * height, width, height)}
            )
        top += height * -(-len(section.panels) // across)
    content = {
        "uid": "fleet",
        "title": dashboard.title,
        "schemaVersion": 39,
        "editable": False,
        "refresh": "10s",
        "time": {"from": "now-15m", "to": "now"},
        "panels": [{"id": number, **panel} for number, panel in enumerate(panels, 1)],
    }
    return json.dumps(content, indent=2) + "\n"


def _place(left: int, top: int, width: int, height: int) -> dict[str, int]:
    return {"x": left, "y": top, "w": width, "h": height}


def _grafana_panel(panel: Panel) -> dict[str, Any]:
    tiles = panel.kind is Kind.TILES
    defaults: dict[str, Any] = {"unit": _GRAFANA_UNITS.get(panel.unit, f"suffix: {panel.unit}"), "min": 0}
    if panel.good is not None:
        colours = ("red", "green") if panel.good else ("green", "red")
        steps = [{"color": colour, "value": value} for colour, value in zip(colours, (None, 1), strict=True)]
        defaults |= {"color": {"mode": "thresholds"}, "thresholds": {"mode": "absolute", "steps": steps}}
    return {
        "type": "stat" if tiles else "timeseries",
        "title": panel.title,
        "datasource": _DATASOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _TILE_OPTIONS if tiles else _LINE_OPTIONS,
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": _DATASOURCE,
                "expr": query.expr,
                "legendFormat": re.sub(r"\{(\w+)\}", r"{{\1}}", query.legend),
                "instant": tiles,
                "range": not tiles,
            }
            for number, query in enumerate(panel.queries)
        ],
    }


_TILE_OPTIONS = {
    "colorMode": "background",
    "graphMode": "none",
    "textMode": "value_and_name",
    "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
}
_LINE_OPTIONS = {
    "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
    "tooltip": {"mode": "multi", "sort": "desc"},
}
