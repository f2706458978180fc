"""The console and Grafana's dashboard show the same panels, and neither loads anything from elsewhere."""

from __future__ import annotations

import json
import re

import yaml

from fleet.compose import ROOT
from fleet.panels import Kind, grafana_dashboard, read_dashboard

CONSOLE = ROOT / "config" / "prometheus" / "consoles"
GRAFANA = ROOT / "config" / "grafana"


def test_every_part_of_the_fleet_has_its_section():
    sections = read_dashboard().sections
    assert [section.title for section in sections] == [
        "Is all well?",
        "Flow",
        "Latency",
        "Backlog",
        "Dead letters",
        "Stores",
        "Machines",
    ]
    titles = [panel.title for section in sections for panel in section.panels]
    assert len(titles) == len(set(titles)) > 25


def test_a_legend_names_only_labels_that_its_query_has():
    for section in read_dashboard().sections:
        for panel in section.panels:
            for query in panel.queries:
                assert set(re.findall(r"\{(\w+)\}", query.legend)) <= set(re.findall(r"\w+", query.expr)) | {
                    "entity_type",  # of recorded series, whose names tell their labels
                    "consumer_type",
                    "subscription",
                    "topic_name",
                    "job",
                }


def test_grafana_shows_every_query_of_the_panels_and_no_other():
    made = json.loads(grafana_dashboard())
    shown = [
        (panel["title"], panel["type"], target["expr"])
        for panel in made["panels"]
        for target in panel.get("targets", ())
    ]
    kinds = {Kind.TILES: "stat", Kind.LINES: "timeseries"}
    assert shown == [
        (panel.title, kinds[panel.kind], query.expr)
        for section in read_dashboard().sections
        for panel in section.panels
        for query in panel.queries
    ]


def test_grafanas_panels_do_not_overlap_and_stay_on_the_grid():
    taken = set()
    for panel in json.loads(grafana_dashboard())["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_a_tile_is_green_at_the_value_that_is_well_and_a_legend_is_in_grafanas_words():
    panels = {panel["title"]: panel for panel in json.loads(grafana_dashboard())["panels"]}
    steps = panels["Paused"]["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert steps == [{"color": "green", "value": None}, {"color": "red", "value": 1}]
    steps = panels["Ready"]["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert steps == [{"color": "red", "value": None}, {"color": "green", "value": 1}]
    assert panels["What became of events"]["targets"][0]["legendFormat"] == "{{consumer_type}}: {{status}}"


def test_grafana_is_provisioned_with_the_dashboard_and_the_source_that_it_names():
    [source] = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    used = {panel["datasource"]["uid"] for panel in json.loads(grafana_dashboard())["panels"] if "datasource" in panel}
    assert used == {source["uid"]}
    [provider] = yaml.safe_load((GRAFANA / "provisioning/dashboards/fleet.yml").read_text())["providers"]
    compose = yaml.safe_load((ROOT / "config/compose/docker-compose.grafana.yml").read_text())["services"]["grafana"]
    assert f"../grafana/dashboards:{provider['options']['path']}:ro" in compose["volumes"]


def test_the_console_loads_nothing_from_elsewhere():
    page = (CONSOLE / "index.html").read_text(encoding="utf-8")
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert sorted(loaded) == ["data:,", "{{ pathPrefix }}/user/console.css", "{{ pathPrefix }}/user/console.js"]
    for path in CONSOLE.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert re.findall(r"https?:|url\(|@import|import ", text) == [], path.name
    policy = re.search(r'Content-Security-Policy"\s+content="([^"]+)"', page)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'")
