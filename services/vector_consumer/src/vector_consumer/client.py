"""How OpenSearch is reached, and how its client's errors become the sink's."""

from __future__ import annotations

import logging
import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
from opensearchpy import AsyncOpenSearch, JSONSerializer
from opensearchpy.exceptions import ConnectionError as OpenSearchConnectionError
from opensearchpy.exceptions import OpenSearchException, SerializationError, TransportError

from banking.streaming.sink import BatchFailedError, SinkUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vector_consumer.settings import VectorSettings

_REQUESTS_TO_BLAME = frozenset({400, 413})


class Json(JSONSerializer):
    """Reads answers several times as fast as the client's own: they hold a line per document, or whole documents."""

    def loads(self, s: str) -> Any:
        """What an answer holds."""
        try:
            return msgspec.json.decode(s)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise SerializationError(f"no JSON: {error}") from error


def connect(settings: VectorSettings) -> AsyncOpenSearch:
    """A client of the nodes that the settings name; nothing is sent yet.

    A request that a node does not answer is sent to the next one, each node once. It is harmless to repeat: writes
    carry their versions.
    """
    # It logs a line for every request and stack traces for failures, at debug level whole documents.
    logging.getLogger("opensearch").setLevel(logging.CRITICAL)
    context = ssl.create_default_context(cafile=settings.opensearch_ca_file) if settings.opensearch_use_ssl else None
    return AsyncOpenSearch(
        # The client puts the brackets of IPv6 itself.
        hosts=[{"host": host.strip("[]"), "port": port} for host, port in settings.opensearch_nodes],
        http_auth=settings.credentials(),
        use_ssl=settings.opensearch_use_ssl,
        ssl_context=context,
        timeout=settings.opensearch_request_timeout_seconds,
        serializer=Json(),
        # What no node answers the consumer loop retries: it pauses, and tells the outside.
        max_retries=len(settings.opensearch_nodes) - 1,
        retry_on_timeout=True,
    )


@contextmanager
def store_errors() -> Iterator[None]:
    """Turn the client's errors into those of the sink.

    Raises:
        SinkUnavailableError: The store is away, busy, or refuses whoever asks.
        BatchFailedError: The store refused the request for what is in it.
    """
    try:
        yield
    except OpenSearchConnectionError as error:
        raise SinkUnavailableError(f"OpenSearch is not reached: {error.error}") from error
    except TransportError as error:
        problem = f"OpenSearch answered {error.status_code}: {error.error}"
        if error.status_code in _REQUESTS_TO_BLAME and error.error != "cluster_block_exception":
            raise BatchFailedError(problem) from error
        raise SinkUnavailableError(problem) from error
    except OpenSearchException as error:
        raise SinkUnavailableError(f"OpenSearch gave no answer that can be read: {type(error).__name__}") from error
