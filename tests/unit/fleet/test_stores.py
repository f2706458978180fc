"""A reader that a writer got in the way of reads again; any other error is the caller's."""

from __future__ import annotations

import pytest

from fleet.stores import GraphReader
from graph_consumer.gremlin import ResponseError
from graph_consumer.settings import GraphSettings

DEADLOCK = ("org.janusgraph.core.JanusGraphException", "com.sleepycat.je.DeadlockException")


class Client:
    """Fails as often as it is told, then answers."""

    def __init__(self, failures, exceptions):
        self.failures = failures
        self.exceptions = exceptions
        self.requests = 0

    async def submit(self, script, bindings=None):
        self.requests += 1
        if self.requests <= self.failures:
            raise ResponseError(597, "Deadlock was detected", self.exceptions)
        return [script]


def reader(client):
    made = GraphReader(GraphSettings())
    made._client = client
    return made


async def test_a_read_that_was_a_deadlock_s_victim_is_repeated():
    client = Client(2, DEADLOCK)
    assert await reader(client).submit("g.V()") == ["g.V()"]
    assert client.requests == 3


async def test_another_error_is_raised_at_once():
    client = Client(1, ("groovy.lang.MissingPropertyException",))
    with pytest.raises(ResponseError):
        await reader(client).submit("g.V()")
    assert client.requests == 1
