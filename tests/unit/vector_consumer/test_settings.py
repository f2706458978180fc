from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from vector_consumer.settings import VectorSettings

if TYPE_CHECKING:
    from pathlib import Path


def test_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENSEARCH_HOST", "OPENSEARCH_PORT", "OPENSEARCH_USE_SSL"):
        monkeypatch.delenv(name, raising=False)
    settings = VectorSettings()
    assert (settings.opensearch_host, settings.opensearch_port, settings.opensearch_use_ssl) == (
        "localhost",
        9200,
        True,
    )
    assert settings.credentials() is None


def test_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    password_file = tmp_path / "password"
    password_file.write_text(" s3cret \r\n")
    monkeypatch.setenv("OPENSEARCH_USE_SSL", "false")
    monkeypatch.setenv("OPENSEARCH_USER", "ingest")
    monkeypatch.setenv("OPENSEARCH_PASSWORD_FILE", str(password_file))
    monkeypatch.setenv("HNSW_M", "8")
    monkeypatch.setenv("INDEX_REPLICAS", "2")
    settings = VectorSettings()
    assert settings.opensearch_use_ssl is False
    assert settings.credentials() == ("ingest", "s3cret")
    assert (settings.hnsw_m, settings.index_replicas) == (8, 2)
    assert "s3cret" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OPENSEARCH_PORT", "0"),
        ("OPENSEARCH_PORT", "http"),
        ("OPENSEARCH_HOST", ""),
        ("OPENSEARCH_CA_FILE", "/nowhere/ca.pem"),
        ("OPENSEARCH_REFRESH_INTERVAL_SECONDS", "-1"),
        ("INDEX_PREFIX", "Banking_*"),
        ("HNSW_M", "1"),
        ("EMBEDDING_MODEL", "gpt"),
    ],
)
def test_a_wrong_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError) as caught:
        VectorSettings()
    assert [str(error["loc"][0]).upper() for error in caught.value.errors()] == [name]


def test_a_user_needs_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENSEARCH_USER", "ingest")
    with pytest.raises(ValidationError, match="OPENSEARCH_PASSWORD_FILE"):
        VectorSettings()
