"""What most people write first: one loop that receives an event, writes it to both stores and acknowledges it."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

from gremlin_python.driver.driver_remote_connection import DriverRemoteConnection
from gremlin_python.process.anonymous_traversal import traversal
from gremlin_python.process.graph_traversal import __
from gremlin_python.statics import long
from janusgraph_python.driver.serializer import JanusGraphBinarySerializersV1
from opensearchpy import OpenSearch

from banking.streaming.broker import BrokerOptions, connect
from banking.streaming.topics import NAMESPACE, full_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from banking.streaming.events import EntityEvent
    from fleet.compose import Stack

TOPIC = "naive-events"
INDEX = "naive"
_RECEIVE_MILLISECONDS = 10_000


def drain(stack: Stack, events: Sequence[EntityEvent]) -> float:
    """Events per second. A topic of its own, which no leg reads, and the same two stores."""
    addresses = stack.addresses
    client = connect(BrokerOptions(addresses.pulsar_url))
    _make_topic(addresses.pulsar_admin_url)
    producer = client.create_producer(full_name(TOPIC))
    consumer = client.subscribe(full_name(TOPIC), "naive")
    for event in events:
        producer.send_async(event.to_bytes(), None)
    producer.flush()

    search = OpenSearch([{"host": "127.0.0.1", "port": addresses.opensearch}], timeout=60)
    if not search.indices.exists(index=INDEX):
        search.indices.create(index=INDEX)
    connection = DriverRemoteConnection(
        f"ws://127.0.0.1:{addresses.janusgraph}/gremlin",
        "g",
        message_serializer=JanusGraphBinarySerializersV1(),
    )
    g = traversal().with_remote(connection)
    started = time.perf_counter()
    for _ in events:
        message = consumer.receive(_RECEIVE_MILLISECONDS)
        event = json.loads(message.data())
        _upsert(g, event)
        search.index(index=INDEX, id=event["entity_id"], body=_document(event))
        consumer.acknowledge(message)
    rate = len(events) / (time.perf_counter() - started)
    connection.close()
    search.close()
    client.close()
    return rate


def _upsert(g: Any, event: dict[str, Any]) -> None:
    key = f"naive:{event['entity_id']}"
    (
        g.V()
        .has("entity_key", key)
        .fold()
        .coalesce(__.unfold(), __.add_v(event["entity_type"]).property("entity_key", key))
        .property("entity_id", event["entity_id"])
        .property("entity_type", event["entity_type"])
        .property("version", long(event["version"]))
        .property("extra", json.dumps(event["payload"]))
        .iterate()
    )


def _document(event: dict[str, Any]) -> dict[str, Any]:
    return {"entity_type": event["entity_type"], "version": event["version"], "payload": json.dumps(event["payload"])}


def _make_topic(admin_url: str) -> None:
    url = f"{admin_url}/admin/v2/persistent/{NAMESPACE}/{TOPIC}"
    request = urllib.request.Request(url, method="PUT")
    try:
        urllib.request.urlopen(request, timeout=30).close()
    except urllib.error.HTTPError as error:
        if error.code != 409:  # it is there
            raise
