"""The vector leg's own Prometheus metrics, beside those of every consumer."""

from __future__ import annotations

from enum import StrEnum

from prometheus_client import Counter, Histogram


class Lookup(StrEnum):
    """How an event's vector was come by."""

    HIT = "hit"  # its text was embedded before
    MISS = "miss"  # it was embedded now


class Answer(StrEnum):
    """How a request to an embedding service ended."""

    OK = "ok"
    BUSY = "busy"  # it asks for the same request again, later
    REFUSED = "refused"
    NONE = "none"  # not reached, too slow, or cut off


EMBEDDINGS = Counter(
    "vector_embeddings_total",
    "Texts that got their vector, by whether the cache had it",
    ("cache",),
)
# It begins at 0: of a counter that begins at its first increase, Prometheus does not see that one.
for _lookup in Lookup:
    EMBEDDINGS.labels(_lookup.value)

EMBEDDING_SECONDS = Histogram(
    "vector_embedding_seconds",
    "How long the model took for a batch of texts that the cache did not have",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)

EMBEDDING_REQUESTS = Counter(
    "vector_embedding_requests_total",
    "Requests to an embedding service, by how it answered",
    ("answer",),
)
