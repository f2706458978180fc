"""The producer service and command line, as processes of their own, and what the broker holds of what they publish."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import uuid
from contextlib import asynccontextmanager
from functools import partial

import aiohttp
import pulsar
import pytest

from banking.streaming.broker import BrokerOptions, connect, open_reader
from banking.streaming.events import decode_event
from banking.streaming.topics import ENTITY_TOPICS, TopicProvisioner

START_SECONDS = 60
REQUEST_SECONDS = 120


@pytest.fixture
def unique():
    return f"http-{uuid.uuid4()}"


class Broker:
    """Reads from the broker what a test has published under its own ids, from the test's start on."""

    def __init__(self, client, readers):
        self._client = client
        self._readers = readers

    async def messages(self, topic, count, prefix):
        """The next messages of the test's own, that many."""
        return await asyncio.to_thread(self._read, self._readers[topic], count, prefix)

    async def events(self, topic, count, prefix):
        """The events in them."""
        messages = await self.messages(topic, count, prefix)
        events = [decode_event(message.data()) for message in messages]
        assert [message.partition_key() for message in messages] == [event.entity_id for event in events]
        return events

    async def rest(self, topic, prefix):
        """All further messages of the test's own, to the end of the topic as it is now."""
        reader = self._readers[topic]
        found = []
        while await asyncio.to_thread(reader.has_message_available):
            message = await asyncio.to_thread(reader.read_next, 20_000)
            if message.partition_key().startswith(prefix):
                found.append(message.data())
        return found

    @staticmethod
    def _read(reader, count, prefix):
        messages = []
        while len(messages) < count:
            message = reader.read_next(timeout_millis=20_000)
            if message.partition_key().startswith(prefix):
                messages.append(message)
        return messages


@pytest.fixture
async def broker(pulsar_url, pulsar_admin_url):
    async with TopicProvisioner(pulsar_admin_url) as provisioner:
        await provisioner.ensure()
    options = BrokerOptions(pulsar_url)
    client = connect(options)
    readers = {
        topic: await asyncio.to_thread(open_reader, client, options, topic, pulsar.MessageId.latest)
        for topic in ENTITY_TOPICS.values()
    }
    yield Broker(client, readers)
    await asyncio.to_thread(client.close)


@pytest.fixture
def stored(broker, unique):
    """The events that a test has published."""
    return lambda topic, count, prefix=unique: broker.events(topic, count, prefix)


class Server:
    """A running `producer serve`."""

    def __init__(self, process, url, http):
        self.process = process
        self.url = url
        self.http = http

    async def post(self, data, content_type="application/x-ndjson", path="/v1/events", **headers):
        async with self.http.post(
            self.url + path, data=data, headers={"Content-Type": content_type} | headers
        ) as response:
            text = await response.read()
            if response.content_type == "application/x-ndjson":
                return response, [json.loads(row) for row in text.splitlines()]
            return response, json.loads(text)

    async def status(self, path):
        async with self.http.get(self.url + path) as response:
            return response.status, await response.text()

    async def until(self, path, status):
        async with asyncio.timeout(START_SECONDS):
            while True:
                assert self.process.returncode is None, "the service has ended: its standard error says why"
                try:
                    answer = await self.status(path)
                except aiohttp.ClientConnectionError:
                    answer = (0, "")
                if answer[0] == status:
                    return answer[1]
                await asyncio.sleep(0.1)

    async def kill(self):
        self.process.kill()
        await asyncio.wait_for(self.process.wait(), 30)

    @property
    def resident_bytes(self):
        with open(f"/proc/{self.process.pid}/statm", encoding="ascii") as file:  # noqa: PTH123 - a file of the kernel
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@asynccontextmanager
async def start(pulsar_url, pulsar_admin_url, **environment):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        "PULSAR_URL": pulsar_url,
        "PULSAR_ADMIN_URL": pulsar_admin_url,
        "HTTP_HOST": "127.0.0.1",
        "HTTP_PORT": str(port),
        "API_AUTHENTICATION": "false",
    } | environment
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "producer", "serve", env=os.environ | environment, stdout=asyncio.subprocess.DEVNULL
    )
    timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as http:
        try:
            yield Server(process, f"http://127.0.0.1:{port}", http)
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
                await asyncio.wait_for(process.wait(), 60)


@pytest.fixture
def start_service():
    """Starts the service against any broker, ready or not."""
    return start


@pytest.fixture
def serve(pulsar_url, pulsar_admin_url):
    """Starts the service against the stack's broker and waits until it is ready."""

    @asynccontextmanager
    async def serve(**environment):
        async with start(pulsar_url, pulsar_admin_url, **environment) as server:
            await server.until("/health/ready", 200)
            yield server

    return serve


async def run_command(pulsar_url, *arguments, stdin=b""):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "producer",
        *map(str, arguments),
        env=os.environ | {"PULSAR_URL": pulsar_url},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(stdin), 240)
    return process.returncode, output.decode(), errors.decode()


@pytest.fixture
def command(pulsar_url):
    """Runs `producer` against the stack's broker: exit status, standard output and standard error."""
    return partial(run_command, pulsar_url)


@pytest.fixture
def command_without_broker():
    """Runs `producer` where there is no broker."""
    return partial(run_command, "pulsar://127.0.0.1:9")
