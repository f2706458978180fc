"""The alerts say what is wrong and lead to what is to be done; promtool's tests of them leave none out."""

from __future__ import annotations

import re

import pytest
import yaml

from banking.streaming.topics import NAMESPACE, TOPIC_SUBSCRIPTIONS
from fleet.compose import ROOT
from fleet.rules import read_alerts, read_rules

ALERTS = read_alerts()


def anchors(path):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule.alert)
def test_an_alert_says_what_is_wrong_and_its_runbook_exists(rule):
    assert set(rule.annotations) == {"summary", "description", "runbook"}
    assert rule.labels["severity"] in {"critical", "warning"}
    page, _, anchor = rule.annotations["runbook"].partition("#")
    assert page == "docs/operating.md"
    assert anchor in anchors(page)
    # The section is this alert's: LegPaused is "Leg paused".
    assert anchor.replace("-", "") == rule.alert.lower()


def test_every_alert_is_tested_by_promtool():
    content = yaml.safe_load((ROOT / "tests/integration/monitoring/alerts_test.yml").read_text(encoding="utf-8"))
    named = {test["name"].split(",")[0] for test in content["tests"]}
    assert {rule.alert for rule in ALERTS} <= named


def test_every_recorded_series_is_used_by_its_name():
    recorded = {rule.record for rule in read_rules() if rule.record}
    assert len(recorded) == 9
    texts = "".join(rule.expr for rule in read_rules())
    for path in ("config/prometheus/consoles/panels.json", "tools/fleet/src/fleet/status.py"):
        texts += (ROOT / path).read_text(encoding="utf-8")
    assert [name for name in recorded if name not in texts] == []


def test_the_rules_of_pulsars_metrics_look_at_the_fleets_own_subscriptions():
    selectors = [found for rule in read_rules() for found in re.findall(r"pulsar_\w+\{(.+?)\}", rule.expr)]
    assert len(selectors) == 3
    assert {name for found in selectors for name in re.findall(r'namespace="([^"]+)"', found)} == {NAMESPACE}
    watched = {
        name
        for found in selectors
        for names in re.findall(r'subscription=~"([^"]+)"', found)
        for name in names.split("|")
    }
    assert watched == {name for names in TOPIC_SUBSCRIPTIONS.values() for name in names}
