"""Opening a producer or a reader on a connection that breaks: no broker can be made to break it at that moment."""

from __future__ import annotations

from typing import Any

import pulsar
import pytest

from banking.streaming.broker import BrokerOptions, BrokerUnavailableError, open_producer, open_reader

OPTIONS = BrokerOptions(operation_timeout_seconds=2)


class Client:
    """Fails to make a producer or a reader as often as it is told to."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)

    def create_producer(self, topic: str, **_options: object) -> Any:
        if self.errors:
            raise self.errors.pop(0)
        return topic

    def create_reader(self, topic: str, _start: pulsar.MessageId, **options: object) -> Any:
        return self.create_producer(topic, **options)


def producer(client: Any) -> Any:
    return open_producer(client, OPTIONS, "persons-events", 10)


def reader(client: Any) -> Any:
    return open_reader(client, OPTIONS, "persons-events")


@pytest.mark.parametrize("opening", [producer, reader])
def test_a_connection_that_breaks_while_it_is_made_is_made_again(opening: Any) -> None:
    client = Client(pulsar.ConnectError("broken"), pulsar.ConnectError("broken"))
    assert str(opening(client)) == "persistent://public/banking/persons-events"
    assert client.errors == []


@pytest.mark.parametrize(
    ("opening", "said"),
    [(producer, "no producer for persons-events"), (reader, "cannot read persons-events")],
)
@pytest.mark.parametrize("error", [pulsar.ConnectError("broken"), pulsar.TopicNotFound("no such topic")])
def test_what_does_not_pass_is_said(opening: Any, said: str, error: Exception) -> None:
    client = Client(*[error] * 1000)
    with pytest.raises(BrokerUnavailableError, match=rf"{said}: (broken|no such topic)"):
        opening(client)
    assert (len(client.errors) == 999) == isinstance(error, pulsar.TopicNotFound)
