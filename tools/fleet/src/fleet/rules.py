"""The alerts, as `config/prometheus/rules/alerts.yml` declares them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import yaml

from fleet.compose import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

RULES_FOLDER = ROOT / "config" / "prometheus" / "rules"


class Rule(msgspec.Struct, forbid_unknown_fields=True):
    """A recording rule or an alert, in Prometheus' own words; `duration` is what they call `for`."""

    expr: str
    record: str = ""
    alert: str = ""
    duration: str = msgspec.field(name="for", default="0s")
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class _Group(msgspec.Struct):
    name: str
    rules: list[Rule]


class _File(msgspec.Struct):
    groups: list[_Group]


def read_rules() -> Iterator[Rule]:
    """All rules, recording ones and alerts."""
    for path in sorted(RULES_FOLDER.glob("*.yml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        for group in msgspec.convert(content, _File).groups:
            yield from group.rules


def read_alerts() -> list[Rule]:
    """The alerts."""
    return [rule for rule in read_rules() if rule.alert]
