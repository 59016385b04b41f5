"""``python -m bench.soak.echo ADDRESS PORT``: sends every byte back, and ends when the client has ended. I/O."""

from __future__ import annotations

import asyncio
import sys


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass  # The client's own business, and its record's.
    finally:
        writer.close()


async def _serve(address: str, port: int) -> None:
    server = await asyncio.start_server(_echo, address, port, backlog=4096)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], int(sys.argv[2])))
