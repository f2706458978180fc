"""What a service lacks is told when it is asked, and logged when it comes and goes."""

from __future__ import annotations

import structlog

from banking.streaming.health import Health


def test_what_comes_and_goes_is_logged_once():
    health = Health()
    health.expect("broker", "store")
    with structlog.testing.capture_logs() as logged:
        health.report("broker", "not connected")
        health.report("broker", "refused")
        health.clear("broker")
        health.clear("broker")
        health.clear("store")
        health.report("store", "away")
    assert [(entry["event"], entry["dependency"], entry.get("problem")) for entry in logged] == [
        ("missing", "broker", "not connected"),
        ("no longer missing", "broker", None),
        ("no longer missing", "store", None),
        ("missing", "store", "away"),
    ]
    assert health.problems == {"store": "away"}
    assert not health.ready
