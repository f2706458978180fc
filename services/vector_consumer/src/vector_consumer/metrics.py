"""The vector leg's own Prometheus metrics, beside those of every consumer."""

from __future__ import annotations

from enum import StrEnum

from prometheus_client import Counter


class Lookup(StrEnum):
    """How an event's vector was come by."""

    HIT = "hit"  # its text was embedded before
    MISS = "miss"  # it was embedded now


EMBEDDINGS = Counter(
    "vector_embeddings_total",
    "Texts that got their vector, by whether the cache had it",
    ("cache",),
)
