"""Settings: documented names, and one line that names the variable when a value is wrong."""

from __future__ import annotations

import pytest

from banking.streaming.leg import LegSettings
from banking.streaming.settings import ServiceSettings, load_settings, read_secret
from graph_consumer.settings import GraphSettings


def test_the_defaults_are_those_that_are_documented(monkeypatch):
    for name in ("PULSAR_URL", "PULSAR_ADMIN_URL", "HTTP_PORT"):
        monkeypatch.delenv(name, raising=False)
    settings = load_settings(ServiceSettings)
    assert settings.pulsar_url == "pulsar://localhost:6650"
    assert settings.broker.url == "pulsar://localhost:6650"
    assert settings.provision_topics


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PULSAR_URL", "localhost:6650"),
        ("PULSAR_ADMIN_URL", "ftp://x"),
        ("HTTP_PORT", "eighty"),
        ("LOG_LEVEL", "LOUD"),
        ("BATCH_MAX_EVENTS", "0"),
        ("REJECTION_MAX_SHARE", "2"),
    ],
)
def test_a_wrong_value_stops_the_process_with_one_line_that_names_the_variable(monkeypatch, capsys, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stopped:
        load_settings(LegSettings)
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert error.count("\n") == 1
    assert name in error
    assert value in error


def test_a_secret_is_read_from_its_file(tmp_path, monkeypatch):
    secret = tmp_path / "token"
    secret.write_text("s3cret\n")
    monkeypatch.setenv("PULSAR_TOKEN_FILE", str(secret))
    assert load_settings(ServiceSettings).broker.token == "s3cret"
    assert read_secret(None) is None


def test_settings_that_do_not_fit_together_are_named_without_what_they_hold(monkeypatch, capsys):
    monkeypatch.setenv("JANUSGRAPH_USERNAME", "ann")
    with pytest.raises(SystemExit):
        load_settings(GraphSettings)
    assert (
        capsys.readouterr().err
        == "wrong setting: JANUSGRAPH_USERNAME and JANUSGRAPH_PASSWORD_FILE: set both or neither\n"
    )
