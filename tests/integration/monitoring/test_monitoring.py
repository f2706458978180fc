"""What watches the fleet, against the real one: queries have data, the console is served, status tells the truth."""

from __future__ import annotations

import asyncio
import math
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from pathlib import Path

import pytest

from banking.streaming.events import create_communication_event, create_person_event
from fleet.compose import COMPOSE_FILE, ROOT, SERVICES
from fleet.panels import read_dashboard
from fleet.prometheus import Prometheus
from fleet.publishing import publish
from fleet.rules import read_rules
from tests.integration.conftest import ENVIRONMENT, PROJECT

_TESTS = Path(__file__).parent
_COMPARISON = re.compile(r" (?:==|>=|>|<) [\d.]+")


def queries():
    """Every expression of the panels and of the rules, those of alerts without their comparisons."""
    for section in read_dashboard().sections:
        for panel in section.panels:
            yield from (query.expr for query in panel.queries)
    for rule in read_rules():
        yield _COMPARISON.sub("", rule.expr) if rule.alert else rule.expr


@pytest.fixture
async def prometheus(stack):
    async with Prometheus(stack.addresses.prometheus_url) as prometheus:
        yield prometheus


async def publish_some(stack):
    unique = uuid.uuid4().hex[:12]
    bodies = ({"body": f"About invoice {number} of {unique}"} for number in range(50))  # texts that no cache has
    texts = [
        create_communication_event(f"{unique}-{number}", body, source="test") for number, body in enumerate(bodies)
    ]
    persons = [create_person_event(f"{unique}-{number}", "Ann", source="test") for number in range(200)]
    totals = await publish(stack.addresses.producer_url, [*texts, *persons])
    assert totals["accepted"] == 250


def fleet(*arguments, **environment):
    command = [str(Path(sys.prefix) / "bin" / "fleet"), *arguments, "--project", PROJECT]
    return subprocess.Popen(
        command, env=os.environ | ENVIRONMENT | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def status(**environment):
    process = fleet("status", **environment)
    output, errors = process.communicate(timeout=60)
    assert errors == ""
    return process.returncode, output


def promtool(stack, *arguments):
    """Run promtool from Prometheus' image on the project's own files; its output."""
    image = stack.podman("inspect", "--format", "{{.ImageName}}", stack.container("prometheus")).strip()
    mounts = (f"{ROOT / 'config/prometheus'}:/etc/prometheus:ro", f"{_TESTS}:/tests:ro")
    return stack.podman(
        *("run", "--rm", "--network", "none", "--read-only", "--entrypoint", "promtool"),
        *(option for mount in mounts for option in ("-v", mount)),
        *(image, *arguments),
    )


def test_promtool_finds_nothing_wrong_with_the_rules(stack):
    output = promtool(stack, "check", "config", "--lint=all", "--lint-fatal", "/etc/prometheus/prometheus.yml")
    assert output.count("SUCCESS") == 4


def test_alerts_fire_when_they_should_and_not_before(stack):
    assert "SUCCESS" in promtool(stack, "test", "rules", "/tests/alerts_test.yml")


async def test_every_query_of_the_dashboard_and_of_the_rules_has_data(stack, prometheus):
    waiting = list(dict.fromkeys(queries()))
    assert len(waiting) > 45
    deadline = time.monotonic() + 90
    while waiting and time.monotonic() < deadline:
        # Again and again: a rate takes two scrapes, with something between them.
        await publish_some(stack)
        await asyncio.sleep(3)
        answers = await asyncio.gather(*(prometheus.query(expression) for expression in waiting))
        waiting = [
            expression
            for expression, samples in zip(waiting, answers, strict=True)
            if all(math.isnan(sample.value) for sample in samples)
        ]
    assert waiting == []


async def test_rules_are_evaluated_without_errors(prometheus):
    assert [sample.labels for sample in await prometheus.query("prometheus_rule_evaluation_failures_total > 0")] == []


@pytest.mark.parametrize(
    ("path", "kind", "words"),
    [
        ("/consoles/index.html", "text/html", 'src="/user/console.js"'),
        ("/user/console.js", "text/javascript", "query_range"),
        ("/user/console.css", "text/css", "prefers-color-scheme"),
        ("/user/panels.json", "application/json", "streaming_ready"),
    ],
)
def test_prometheus_serves_the_console(stack, path, kind, words):
    with urllib.request.urlopen(stack.addresses.prometheus_url + path, timeout=10) as response:
        assert response.headers["Content-Type"].startswith(kind)
        assert words in response.read().decode()


async def test_status_shows_the_flow_and_its_exit_status_says_whether_all_is_well(stack, prometheus):
    await publish_some(stack)
    async with asyncio.timeout(60):
        while True:
            returncode, output = await asyncio.to_thread(status)
            [row] = re.findall(r"^persons-events +(\S+) +(\S+) +(\S+) +(\S+) +(\S+)$", output, re.MULTILINE)
            if all(cell not in {"-", "0.0"} for cell in (row[0], row[1], row[3])):
                break
    assert re.search(r"^graph +[\d.,]+ s ", output, re.MULTILINE), output
    assert re.search(r"^opensearch +1/1$", output, re.MULTILINE), output
    firing = [alert for alert in await prometheus.alerts() if alert.firing]
    assert returncode == (1 if firing else 0), output
    assert output.endswith("all is well\n") is not bool(firing)


def test_status_names_what_is_missing(stack):
    stack.scale("vector_consumer", 0)
    try:
        returncode, output = status()
    finally:
        stack.scale("vector_consumer", 1)
    assert returncode == 1
    assert re.search(r"^vector_consumer +0/0$", output, re.MULTILINE), output
    assert "  vector_consumer: no container runs\n" in output


def test_status_without_prometheus_still_tells_of_the_containers(stack):
    returncode, output = status(PROMETHEUS_PORT="9")
    assert returncode == 1
    assert "Prometheus at http://127.0.0.1:9 does not answer" in output
    assert re.search(r"^graph_consumer +1/1$", output, re.MULTILINE), output


def test_watching_shows_it_anew_until_it_is_interrupted(stack):
    process = fleet("status", "--watch")
    try:
        shown = 0
        while shown < 2:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            shown += line.startswith("service ")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130


def test_the_commands_of_the_page_exist(stack):
    text = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    commands = [line for block in re.findall(r"```\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    assert commands[0] == "make status"
    [grafana, tracing] = commands[1:]
    # Grafana's image can be pulled only where there is a way out, and nothing listens at the collector's address: what
    # the commands would start is looked at.
    command, *arguments = grafana.split()
    assert command == "podman-compose"
    assert "127.0.0.1:3000:3000" in composed(arguments[: arguments.index("up")])
    variable, *command = tracing.split()
    assert command == ["make", "up"]
    assert composed(["-f", COMPOSE_FILE.name], variable).count(variable.partition("=")[2]) >= len(SERVICES)


def composed(options, *variables):
    """What compose makes of its files, with some variables set as in a shell."""
    command = ["env", *variables, str(Path(sys.prefix) / "bin" / "podman-compose"), *options, "config"]
    return subprocess.run(
        command, cwd=COMPOSE_FILE.parent, capture_output=True, text=True, check=True, timeout=60
    ).stdout
