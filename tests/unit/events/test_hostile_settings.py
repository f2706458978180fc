"""Every setting takes a text that means something, or ends the process with one line that names it."""

from __future__ import annotations

import pytest

from banking.streaming.settings import load_settings
from dlq_worker.settings import DlqWorkerSettings
from graph_consumer.settings import GraphSettings
from producer.settings import ProducerSettings
from tests.hostile import TEXTS
from vector_consumer.settings import VectorSettings

KINDS = (GraphSettings, VectorSettings, ProducerSettings, DlqWorkerSettings)
SETTINGS = sorted({(name.upper(), kind) for kind in KINDS for name in kind.model_fields}, key=str)
WORDS = (
    "nan",
    "inf",
    "-inf",
    "1e999",
    "9" * 5000,
    "x" * 200_000,
    "-1e9",
    "\udcff",
    "/nowhere/at/all",
    "pulsar://",
    "http://\x1b",
)
# Those that hold any text, or a name.
FREE = {"DEFAULT_SOURCE", "EMBEDDING_MODEL", "OPENSEARCH_USER", "JANUSGRAPH_USERNAME"}
NAMES = {"INDEX_PREFIX", "HTTP_HOST", "JANUSGRAPH_HOST", "OPENSEARCH_HOST"}


@pytest.mark.parametrize(
    ("name", "kind"), [pytest.param(*each, id=f"{each[1].__name__}-{each[0]}") for each in SETTINGS]
)
def test_a_hostile_text_is_refused_by_name(monkeypatch, capsys, name, kind):
    monkeypatch.setenv("API_AUTHENTICATION", "false")
    for text in (*WORDS, *(text for text in TEXTS.values() if text.strip() and "\0" not in text)):
        monkeypatch.setenv(name, text)
        refusal = refused(kind, capsys)
        if refusal is None:
            assert name in FREE or (name in NAMES and text.isascii()), text
            continue
        assert name in refusal
        assert refusal.count("\n") == 1
        assert len(refusal) < 500
        assert refusal.strip().isprintable()


def refused(kind, capsys):
    """What the process says before it ends; None where it goes on."""
    try:
        load_settings(kind)
    except SystemExit:
        return capsys.readouterr().err
    return None


@pytest.mark.parametrize("name", ["PULSAR_TOKEN_FILE", "PULSAR_TLS_TRUST_CERTS_FILE", "OPENSEARCH_CA_FILE"])
def test_a_file_that_is_not_there_is_told_at_start(monkeypatch, capsys, tmp_path, name):
    for path in (tmp_path, tmp_path / "absent", "x" * 5000):
        monkeypatch.setenv(name, str(path))
        with pytest.raises(SystemExit):
            load_settings(VectorSettings)
        assert capsys.readouterr().err.startswith(f"wrong setting: {name}: ")
