"""The frame of a service, as a process: health and metrics over HTTP, SIGTERM, exit statuses, JSON logs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

PROGRAM = """
import asyncio
from banking.streaming.service import run_service
from banking.streaming.settings import ServiceSettings, load_settings
from banking.streaming.sink import IncompatibleStoreError

async def main(service):
    service.health.report("store", "not there")
    await service.start_http()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(work(service))

async def work(service):
    {work}

run_service("probe", load_settings(ServiceSettings), main)
"""


def start(work, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(work=work)],
        env=os.environ | {"HTTP_HOST": "127.0.0.1", "HTTP_PORT": "0"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines_of(process, seconds=20):
    output, errors = process.communicate(timeout=seconds)
    assert errors == ""
    return [json.loads(line) for line in output.splitlines()]


def read_address(process):
    for line in process.stdout:
        entry = json.loads(line)
        if entry["event"] == "listening":
            host, port = entry["addresses"][0].strip("()").split(",")
            return f"http://{host.strip(chr(39))}:{port.strip()}"
    raise AssertionError("the service never listened")


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_health_and_metrics_are_served_until_sigterm():
    process = start("await service.stop.wait()")
    try:
        address = read_address(process)
        assert get(f"{address}/health/live")[0] == 200
        status, body = get(f"{address}/health/ready")
        assert status == 503
        assert json.loads(body)["missing"] == {"store": "not there"}
        status, body = get(f"{address}/metrics")
        assert status == 200
        assert "streaming_build_info" in body
        assert 'streaming_ready{service="probe"} 0.0' in body
        assert 'streaming_missing{dependency="store",service="probe"} 1.0' in body
        process.send_signal(signal.SIGTERM)
        last = lines_of(process)[-1]
    finally:
        process.kill()
    assert process.returncode == 0
    assert last["event"] == "stopped"
    assert last["service"] == "probe"
    assert last["level"] == "info"


@pytest.mark.parametrize(
    ("work", "status", "event"),
    [
        ("raise KeyError('bug')", 1, "failed"),
        ("raise IncompatibleStoreError('index made by another model: run reindex')", 3, "refusing to write"),
    ],
)
def test_an_error_ends_the_service_with_its_status_and_one_json_line(work, status, event):
    started = time.monotonic()
    process = start(work)
    entries = lines_of(process)
    assert process.returncode == status
    assert [entry for entry in entries if entry["event"] == event]
    assert time.monotonic() - started < 20


def test_a_wrong_setting_ends_with_status_2_and_one_line():
    process = start("pass", HTTP_PORT="eighty")
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 2
    assert output == ""
    assert errors.startswith("wrong setting: HTTP_PORT: ")
    assert errors.count("\n") == 1
