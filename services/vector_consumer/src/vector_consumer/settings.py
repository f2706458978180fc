"""The vector leg's settings, from the environment."""

from __future__ import annotations

from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from banking.streaming.leg import LegSettings
from banking.streaming.settings import ExistingFile, HostList, parse_hosts, read_secret


class EmbedderKind(StrEnum):
    """The embedders that can be chosen."""

    WORDLLAMA = "wordllama"  # 256-d static vectors that the package carries: fast, offline
    SENTENCE_TRANSFORMERS = "sentence-transformers"  # a model in a folder, or MiniLM that a package carries: the extra
    OPENAI = "openai"  # any server that speaks OpenAI's embeddings API


class VectorSettings(LegSettings):
    """Where OpenSearch is, how its indices are made and how documents are sent."""

    opensearch_host: HostList = "localhost"
    """OpenSearch's host; or several nodes of one cluster, such as `search-1,search-2`: requests go to them by turns."""
    opensearch_port: int = Field(9200, ge=1, le=65535)
    """Its port; a host may name one of its own, as in `search-1:9201`."""
    opensearch_use_ssl: bool = True
    """Whether to speak TLS. The server's certificate is always verified."""
    opensearch_ca_file: ExistingFile | None = None
    """The authorities to trust; the system's own where it is not set."""
    opensearch_user: str | None = None
    """The user of basic authentication."""
    opensearch_password_file: ExistingFile | None = None
    """The file that holds the user's password."""
    opensearch_request_timeout_seconds: float = Field(30.0, gt=0, le=600)
    """How long an answer may take before the store counts as away."""
    opensearch_refresh_interval_seconds: float = Field(1.0, ge=0.1, le=3600)
    """How soon a written document is found by searches."""
    opensearch_gzip: bool = False
    """Whether requests are compressed: for a network slower than the compression."""
    bulk_max_documents: int = Field(1000, ge=1, le=10_000)
    """Documents in one request, at most."""
    bulk_max_bytes: int = Field(8 * 1024 * 1024, ge=64 * 1024, le=64 * 1024 * 1024)
    """Bytes of one request before compression, at most, save a single larger document."""
    index_prefix: str = Field("banking", pattern=r"^[a-z0-9][a-z0-9-]{0,99}$")
    """The first part of every index's name."""
    index_shards: int = Field(1, ge=1, le=1024)
    """Primary shards of an index that is made."""
    index_replicas: int | None = Field(None, ge=0, le=100)
    """Copies of each shard; where it is not set, one as soon as there is a second node."""
    hnsw_m: int = Field(16, ge=2, le=512)
    """Links of a node in the vector graph of an index that is made: more finds better and writes slower."""
    hnsw_ef_construction: int = Field(100, ge=2, le=4096)
    """Candidates looked at when a vector is linked, in an index that is made: more finds better and writes slower."""
    hnsw_ef_search: int = Field(100, ge=1, le=10_000)
    """Candidates looked at when a search by meaning walks the graph: more finds better and answers slower."""
    embedder: EmbedderKind = EmbedderKind.WORDLLAMA
    """What turns texts into vectors: `wordllama`, `sentence-transformers` or `openai`, the last any server that speaks
    OpenAI's embeddings API."""
    embedding_model: str | None = Field(None, min_length=1)
    """With `sentence-transformers` the model's folder, the MiniLM that the extra brings where it is not set; with
    `openai` the model's name. Not for `wordllama`."""
    embedding_dimension: int | None = Field(None, ge=1, le=16_000)
    """The length of that model's vectors, to be set together with it."""
    embedding_url: str | None = Field(None, pattern=r"^https?://[!-.0-?A-~]+(/[!\"$->@-~]*)?$")
    """The base of the embedding service's API, such as `https://host/v1`: texts are sent to `/embeddings` below it."""
    embedding_key_file: ExistingFile | None = None
    """The file that holds the embedding service's API key."""
    embedding_ca_file: ExistingFile | None = None
    """The authorities to trust for the embedding service; the system's own where it is not set."""
    embedding_timeout_seconds: float = Field(20.0, gt=0, le=600)
    """How long one answer of the embedding service may take, and for how long a request that failed is repeated before
    the leg pauses."""
    embedding_requests_in_flight: int = Field(4, ge=1, le=256)
    """Requests to the embedding service side by side, at most."""
    embedding_batch_texts: int = Field(64, ge=1, le=2048)
    """Texts that the model is asked for at a time, at most."""
    embedding_max_characters: int = Field(8192, ge=1, le=1_000_000)
    """What is embedded of a longer text."""
    embedding_cache_entries: int = Field(20_000, ge=0, le=10_000_000)
    """Vectors that are kept so that equal texts are embedded once; 1 KiB each."""

    @property
    def opensearch_nodes(self) -> list[tuple[str, int]]:
        """Host and port of each node, in the order given."""
        return parse_hosts(self.opensearch_host, self.opensearch_port)

    @model_validator(mode="after")
    def _user_with_password(self) -> Self:
        if (self.opensearch_user is None) != (self.opensearch_password_file is None):
            raise ValueError("OPENSEARCH_USER and OPENSEARCH_PASSWORD_FILE: set both or neither")
        return self

    @model_validator(mode="after")
    def _embedder_complete(self) -> Self:
        model = (self.embedding_model, self.embedding_dimension)
        match self.embedder:
            case EmbedderKind.WORDLLAMA if model != (None, None):
                raise ValueError("EMBEDDING_MODEL and EMBEDDING_DIMENSION: EMBEDDER=wordllama has one model only")
            case EmbedderKind.SENTENCE_TRANSFORMERS:
                if find_spec("sentence_transformers") is None:
                    raise ValueError("EMBEDDER: install vector-consumer[sentence-transformers] for this one")
                if (self.embedding_model is None) != (self.embedding_dimension is None):
                    raise ValueError("EMBEDDING_MODEL and EMBEDDING_DIMENSION: set both or neither")
                if self.embedding_model is not None and not Path(self.embedding_model).is_dir():
                    raise ValueError("EMBEDDING_MODEL: expected the model's folder")
            case EmbedderKind.OPENAI if None in {self.embedding_url, *model}:
                raise ValueError("EMBEDDER=openai needs EMBEDDING_URL, EMBEDDING_MODEL and EMBEDDING_DIMENSION")
            case _:
                pass
        return self

    def credentials(self) -> tuple[str, str] | None:
        """User and password, the password read from its file now, or None where no user is set."""
        password = read_secret(self.opensearch_password_file)
        return None if self.opensearch_user is None or password is None else (self.opensearch_user, password)
