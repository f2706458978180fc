from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from graph_consumer.settings import GraphSettings


def test_the_environment_names_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JANUSGRAPH_HOST", "graph")
    monkeypatch.setenv("JANUSGRAPH_PORT", "18182")
    monkeypatch.setenv("JANUSGRAPH_USE_SSL", "true")
    settings = GraphSettings()
    assert (settings.janusgraph_host, settings.janusgraph_port, settings.janusgraph_use_ssl) == ("graph", 18182, True)


@pytest.mark.parametrize(("name", "value"), [("JANUSGRAPH_PORT", "0"), ("JANUSGRAPH_REQUEST_TIMEOUT_SECONDS", "-1")])
def test_a_senseless_value_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match=name.lower()):
        GraphSettings()


def test_a_user_name_needs_a_password() -> None:
    with pytest.raises(ValidationError, match="JANUSGRAPH_PASSWORD_FILE"):
        GraphSettings(janusgraph_username="ann")
    assert GraphSettings(janusgraph_username="ann", janusgraph_password_file=Path("/run/secrets/x"))
