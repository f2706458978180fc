"""A TCP proxy that takes its time: python slow_proxy.py PORT TARGET_ADDRESS TARGET_PORT.

Each direction carries at most 64 KiB in 0.1 to 0.4 seconds, so a round trip takes half a second.
"""

from __future__ import annotations

import asyncio
import random
import sys

_CHUNK = 65_536
_SECONDS = (0.1, 0.4)


async def pump(reader, writer):
    try:
        while data := await reader.read(_CHUNK):
            await asyncio.sleep(random.uniform(*_SECONDS))
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass  # either side may end a connection as it likes; the other is told below
    finally:
        writer.close()


async def main(port, target, target_port):
    async def serve(reader, writer):
        try:
            to_reader, to_writer = await asyncio.open_connection(target, target_port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(pump(reader, to_writer), pump(to_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    print("ready", flush=True)  # noqa: T201 - the parent waits for it
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
