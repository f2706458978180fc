"""How long embedding holds the event loop: a sampler of the loop's lateness beside a stream of batches of 500 texts.

    .venv/bin/python benchmarks/embedding_hold.py [--seconds 3] [--rounds 5] [--only wordllama openai]

Batches of texts that no cache holds are embedded one after another, two at a time, as a busy leg does. How late the
loop goes on is counted without the time in which its thread could run and had no processor: that is the machine's
doing. What is left is the loop's own work and its waiting for the interpreter. `idle` is the same loop with nothing to
do. The phases take turns. `openai` asks a server in a process of its own, with 1,536 dimensions.
`sentence-transformers` takes part where the extra of that name is installed. Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop
from aiohttp import web

from banking.streaming import StreamingConfig, StreamingOrchestrator
from vector_consumer.embedder import make_embedder
from vector_consumer.settings import EmbedderKind, VectorSettings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from multiprocessing.connection import Connection

    from vector_consumer.embedder import Embedder

SAMPLE_SECONDS = 0.001
BATCH_TEXTS = 500
LONG_CHARACTERS = 8192
LIMIT_SECONDS = 0.020
SCHEDULER_FILE = Path("/proc/thread-self/schedstat")
OPENAI_DIMENSION = 1536


class Phase:
    """How long the loop was held in the rounds of a phase, in seconds, and how fast texts were embedded meanwhile."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rounds: list[list[float]] = []
        self.rates: list[float] = []

    def line(self) -> str:
        """The phase as a row of the table."""
        samples = sorted(held for found in self.rounds for held in found)
        worst = sorted(max(found) for found in self.rounds)
        rate = f"{statistics.median(self.rates):,.0f}" if any(self.rates) else "-"
        over = sum(held > LIMIT_SECONDS for held in samples)
        return (
            f"| {self.name} | {rate} | {samples[int(len(samples) * 0.999)] * 1e3:.1f} | {worst[0] * 1e3:.1f} "
            f"| {statistics.median(worst) * 1e3:.1f} | {worst[-1] * 1e3:.1f} | {over} of {len(samples):,} |"
        )


def processor_wait() -> float:
    """For how long this thread has been ready to run without a processor to run on, in seconds since it began."""
    return int(SCHEDULER_FILE.read_text().split()[1]) / 1e9


async def sample(held: list[float]) -> None:
    """Note how much later than asked for the loop goes on, save where a processor was missing, until cancelled."""
    while True:
        waited, wanted = processor_wait(), time.perf_counter() + SAMPLE_SECONDS
        await asyncio.sleep(SAMPLE_SECONDS)
        late = time.perf_counter() - wanted
        held.append(max(0.0, late - (processor_wait() - waited)))


async def watch(phase: Phase, seconds: float, work: Callable[[float], Awaitable[int]]) -> None:
    """One round: sample while some work runs, which ends after that many seconds and says how many texts it had."""
    held: list[float] = []
    sampler = asyncio.create_task(sample(held))
    await asyncio.sleep(0.1)
    held.clear()
    started = time.perf_counter()
    texts = await work(seconds)
    phase.rates.append(texts / (time.perf_counter() - started))
    sampler.cancel()
    phase.rounds.append(held or [0.0])


def embed_batches(embedder: Embedder, base: list[str]) -> Callable[[float], Awaitable[int]]:
    """Embed batches of ever new texts, two at a time, as a leg with several batches in flight does."""

    async def work(seconds: float) -> int:
        until = time.perf_counter() + seconds
        embedded = 0

        async def stream(number: int) -> None:
            nonlocal embedded
            batch = 0
            while time.perf_counter() < until:
                start = (batch * BATCH_TEXTS) % len(base)
                chosen = (base[start:] + base[:start])[:BATCH_TEXTS]
                await embedder.embed([f"{number} {batch} {text}" for text in chosen])
                embedded += BATCH_TEXTS
                batch += 1

        await asyncio.gather(stream(0), stream(1))
        return embedded

    return work


async def sleep(seconds: float) -> int:
    await asyncio.sleep(seconds)
    return 0


def serve(dimension: int, ready: Connection) -> None:
    """An embeddings API whose vectors are of plausible length as JSON."""
    vector = [round((number * 0.6180339887) % 1 - 0.5, 8) for number in range(dimension)]

    async def answer(request: web.Request) -> web.Response:
        texts = json.loads(await request.read())["input"]
        data = [{"object": "embedding", "index": index, "embedding": vector} for index in range(len(texts))]
        return web.json_response({"data": data})

    async def main() -> None:
        application = web.Application(client_max_size=1 << 30)
        application.router.add_post("/v1/embeddings", answer)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        ready.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(main())


def generated_texts() -> tuple[list[str], list[str]]:
    """The texts of generated messages, and the same joined to the length that is looked at of a text."""
    config = StreamingConfig(
        seed=1, transaction_count=0, communication_count=5000, account_count=0, streaming_enabled=False
    )
    messages = [event for event in StreamingOrchestrator(config).events() if event.entity_type == "communication"]
    texts = [event.text_for_embedding for event in messages]
    joined = "\n".join(texts)
    long = [joined[start : start + LONG_CHARACTERS] for start in range(0, len(joined), LONG_CHARACTERS)]
    return texts, long


async def measure(seconds: float, rounds: int, only: list[str]) -> None:
    """Every phase in each round, in turn."""
    context = multiprocessing.get_context("spawn")
    short, long = generated_texts()
    here, there = context.Pipe()
    server = context.Process(target=serve, args=(OPENAI_DIMENSION, there), daemon=True)
    server.start()
    openai = {
        "embedding_url": f"http://127.0.0.1:{here.recv()}/v1",
        "embedding_model": "measured",
        "embedding_dimension": OPENAI_DIMENSION,
    }
    works: list[tuple[Phase, Callable[[float], Awaitable[int]]]] = [(Phase("idle"), sleep)]
    loadings: list[Phase] = []
    embedders: list[Embedder] = []
    for kind in only or EmbedderKind:
        if kind == EmbedderKind.SENTENCE_TRANSFORMERS and find_spec("sentence_transformers") is None:
            print(f"{kind} is not installed here: left out")
            continue
        embedder = make_embedder(VectorSettings(embedder=kind, **(openai if kind == EmbedderKind.OPENAI else {})))

        async def load(_seconds: float, embedder: Embedder = embedder) -> int:
            await embedder.open()
            return 0

        loadings.append(Phase(f"{kind}: loading, once"))
        await watch(loadings[-1], 0, load)
        works.append((Phase(f"{kind}: messages"), embed_batches(embedder, short)))
        works.append((Phase(f"{kind}: 8,192 characters each"), embed_batches(embedder, long)))
        embedders.append(embedder)
    for _ in range(rounds):
        for phase, work in works:
            await watch(phase, seconds, work)
    for embedder in embedders:
        await embedder.close()
    server.kill()
    print("\n| phase | texts/s | 99.9 % below, ms | worst of a round, ms: least | median | most | over 20 ms |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for phase in [phase for phase, _ in works] + loadings:
        print(phase.line())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a phase in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=[], choices=list(EmbedderKind), help="these embedders alone")
    options = parser.parse_args()
    uvloop.run(measure(options.seconds, options.rounds, options.only))


if __name__ == "__main__":
    main()
