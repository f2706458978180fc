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
        ("EMBEDDER", "gpt"),
    ],
)
def test_a_wrong_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError) as caught:
        VectorSettings()
    assert [str(error["loc"][0]).upper() for error in caught.value.errors()] == [name]


OPENAI = {
    "EMBEDDER": "openai",
    "EMBEDDING_URL": "https://inference.bank.example/v1",
    "EMBEDDING_MODEL": "text-embedding-3-small",
    "EMBEDDING_DIMENSION": "1536",
}


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"EMBEDDING_MODEL": "other"}, "EMBEDDER=wordllama has one model only"),
        ({"EMBEDDING_DIMENSION": "128"}, "EMBEDDER=wordllama has one model only"),
        ({"EMBEDDER": "sentence-transformers"}, r"install vector-consumer\[sentence-transformers\]"),
        (OPENAI | {"EMBEDDING_URL": None}, "needs EMBEDDING_URL, EMBEDDING_MODEL and EMBEDDING_DIMENSION"),
        (OPENAI | {"EMBEDDING_MODEL": None}, "needs EMBEDDING_URL, EMBEDDING_MODEL and EMBEDDING_DIMENSION"),
        (OPENAI | {"EMBEDDING_DIMENSION": None}, "needs EMBEDDING_URL, EMBEDDING_MODEL and EMBEDDING_DIMENSION"),
        (OPENAI | {"EMBEDDING_URL": "inference.bank.example/v1"}, "embedding_url"),
        (OPENAI | {"EMBEDDING_URL": "https://user:secret@host/v1"}, "embedding_url"),
        (OPENAI | {"EMBEDDING_URL": "https://host/v1?key=1"}, "embedding_url"),
        (OPENAI | {"EMBEDDING_KEY_FILE": "/nowhere/key"}, "embedding_key_file"),
    ],
)
def test_an_embedder_is_told_all_it_needs(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str | None], problem: str
) -> None:
    for name, value in variables.items():
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match=problem):
        VectorSettings()


def test_an_embedding_service(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in OPENAI.items():
        monkeypatch.setenv(name, value)
    settings = VectorSettings()
    assert (settings.embedder, settings.embedding_model, settings.embedding_dimension) == (
        "openai",
        "text-embedding-3-small",
        1536,
    )


def test_a_user_needs_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENSEARCH_USER", "ingest")
    with pytest.raises(ValidationError, match="OPENSEARCH_PASSWORD_FILE"):
        VectorSettings()


def test_nodes_may_be_several_with_ports_of_their_own() -> None:
    settings = VectorSettings(opensearch_host="search-1,search-2:9201,[::1]:1", opensearch_port=9300)
    assert settings.opensearch_nodes == [("search-1", 9300), ("search-2", 9201), ("[::1]", 1)]
