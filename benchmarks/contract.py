"""What one event costs on one core: encoding with all checks, decoding, making, converting, generating.

    .venv/bin/python benchmarks/contract.py [--events 20000] [--rounds 5]

Processor time of this thread, so that a busy machine changes little; the best of some rounds. The standard library's
`json` on the same bytes is the yardstick.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING, Any

from datasets import mix, mixed

from banking.data_generators import BankingUniverse
from banking.streaming import convert_entity_to_event, create_event
from banking.streaming.events import decode_event, encode_event
from banking.streaming.payloads import check_payload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    events = list(mixed(arguments.events, 1))
    encoded = [encode_event(event) for event in events]
    plain = [json.loads(data) for data in encoded]
    print(f"{len(events):,} generated events of {sum(map(len, encoded)) / len(events):,.0f} bytes on average")

    def cost(name: str, items: Iterable[Any], run: Callable[[Any], object]) -> None:
        taken = []
        for _ in range(arguments.rounds):
            started = time.thread_time()
            for item in items:
                run(item)
            taken.append(time.thread_time() - started)
        each = min(taken) / len(events)
        print(f"{name:44} {each * 1e6:6.2f} µs   {1 / each:10,.0f}/s")

    cost("encode and validate", events, encode_event)
    cost("json.dumps", plain, json.dumps)
    cost("decode and validate", encoded, decode_event)
    cost("json.loads", encoded, json.loads)
    cost("check what is declared of the payload", events, lambda event: check_payload(event.entity_type, event.payload))
    cost(
        "create_event",
        events,
        lambda event: create_event(event.entity_type, event.entity_id, event.payload, source="benchmark"),
    )
    cost(
        "convert_entity_to_event of a dict",
        [{**event.payload, f"{event.entity_type}_id": event.entity_id} for event in events],
        lambda entity: convert_entity_to_event(entity, source="benchmark"),
    )
    started = time.thread_time()
    number = sum(1 for _ in BankingUniverse(1, mix(arguments.events)).entities())
    each = (time.thread_time() - started) / number
    print(f"{'generate an entity':44} {each * 1e6:6.2f} µs   {1 / each:10,.0f}/s")


if __name__ == "__main__":
    main()
