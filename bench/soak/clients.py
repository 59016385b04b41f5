"""``python -m bench.soak.clients``: the load of one side. It compares every byte and writes what failed, until SIGTERM.

Belongs here: kinds of connections, and what each attempt came to. Doesn't: whether a failure is explained
(``judgement.py``). Every attempt that failed is one JSON line on standard output; the last line holds the sums. I/O.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Final

TIMEOUT_S: Final = 90.0
_SHORT: Final = """
exec 3<>/dev/tcp/$0/$1
printf 'hello\\n' >&3 || exit 2
read -r -t 80 -u 3 line || exit 3
[ "$line" = hello ] || exit 4
"""
_NOT_CONNECTED: Final = 1  # bash's own code where `exec` can't redirect.
_PROGRAMS_AT_ONCE: Final = 64


class NotConnectedError(Exception):
    """The sidecar didn't take the connection: it has no record of it."""


class Load:
    """All workers of one side.

    Arguments:
        address, port: where the sidecar listens for the other side's echo server.
        flip_port: the same for the server that policy denies now and then.
    """

    def __init__(self, address: str, port: int, flip_port: int) -> None:
        self._address, self._port, self._flip_port = address, port, flip_port
        self._over = asyncio.Event()
        self._slots = asyncio.Semaphore(_PROGRAMS_AT_ONCE)
        self._programs: set[asyncio.Task[None]] = set()
        self.attempts: dict[str, int] = {}
        self.connected = 0
        self.unknown = 0  # Programs that can't say whether they were connected.
        self.verified_bytes = 0

    def stop(self) -> None:
        """End after what is under way."""
        self._over.set()

    async def run(self, programs_per_s: float) -> None:
        """Run every worker until ``stop``; or, at a rate of them, only short programs."""
        if programs_per_s:
            await self._start_programs(programs_per_s)
            if self._programs:
                await asyncio.wait(self._programs)
            return
        workers: list[Awaitable[None]] = [self._repeat("short", self._exchange_once, 0.02) for _ in range(4)]
        workers += [self._repeat("kept", self._exchange_often, 0.05) for _ in range(4)]
        workers += [self._repeat("bulk", self._exchange_much, 0.2) for _ in range(2)]
        workers += [self._repeat("idle", self._stay, 0.1) for _ in range(4)]
        workers += [self._repeat("flip", lambda: self._exchange_once(self._flip_port), 0.1)]
        await asyncio.gather(*workers)

    async def _repeat(self, kind: str, attempt: Callable[[], Awaitable[None]], pause_s: float) -> None:
        while not self._over.is_set():
            await self._try(kind, attempt)
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))

    async def _try(self, kind: str, attempt: Callable[[], Awaitable[None]]) -> None:
        began, error = time.time(), ""
        self.attempts[kind] = self.attempts.get(kind, 0) + 1
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await attempt()
            return
        except TimeoutError:
            error = "timeout"
        except (OSError, EOFError, NotConnectedError, ValueError) as failure:
            error = f"{type(failure).__name__}: {failure}"[:200]
        print(json.dumps({"kind": kind, "began": began, "ended": time.time(), "error": error}), flush=True)

    async def _open(self, port: int = 0) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            streams = await asyncio.open_connection(self._address, port or self._port)
        except ConnectionResetError:
            self.connected += 1  # Refused so quickly that connect(2) hadn't returned: there is a record.
            raise
        except OSError as error:
            raise NotConnectedError(str(error)) from error
        self.connected += 1
        return streams

    async def _exchange_once(self, port: int = 0) -> None:
        sent = os.urandom(random.randrange(1, 32 * 1024))
        reader, writer = await self._open(port)
        try:
            writer.write(sent)
            writer.write_eof()
            self._compare(sent, await reader.read(-1))
        finally:
            writer.close()

    async def _exchange_often(self) -> None:
        reader, writer = await self._open()
        try:
            for _ in range(random.randrange(20, 100)):
                sent = os.urandom(random.randrange(16, 2048))
                writer.write(sent)
                self._compare(sent, await reader.readexactly(len(sent)))
            writer.write_eof()
            self._compare(b"", await reader.read(-1))
        finally:
            writer.close()

    async def _exchange_much(self) -> None:
        sent = os.urandom(64 * 1024) * random.randrange(16, 96)
        reader, writer = await self._open()

        async def send() -> None:
            for start in range(0, len(sent), 65536):
                writer.write(sent[start : start + 65536])
                await writer.drain()
            writer.write_eof()

        try:
            _, received = await asyncio.gather(send(), reader.read(-1))
            self._compare(sent, received)
        finally:
            writer.close()

    async def _stay(self) -> None:
        """Hold a connection over what happens, with a byte now and then."""
        reader, writer = await self._open()
        try:
            for _ in range(random.randrange(2, 16)):
                writer.write(b"x")
                self._compare(b"x", await reader.readexactly(1))
                await asyncio.sleep(0.5)
                if self._over.is_set():
                    break
            writer.write_eof()
            self._compare(b"", await reader.read(-1))
        finally:
            writer.close()

    def _compare(self, sent: bytes, received: bytes) -> None:
        if sent != received:
            raise ValueError(f"{len(received)} bytes came back of {len(sent)}, or others")
        self.verified_bytes += len(sent)

    async def _start_programs(self, per_s: float) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while not self._over.is_set():
            due = max(due + 1 / per_s, loop.time() - 1)  # What the machine can't do isn't made up for.
            await asyncio.sleep(max(0.0, due - loop.time()))
            await self._slots.acquire()
            task = asyncio.create_task(self._try("program", self._run_program), name="a short program")
            self._programs.add(task)
            task.add_done_callback(self._end_program)

    def _end_program(self, task: asyncio.Task[None]) -> None:
        self._programs.discard(task)
        self._slots.release()

    async def _run_program(self) -> None:
        process = await asyncio.create_subprocess_exec(
            "/bin/bash", "-c", _SHORT, self._address, str(self._port), stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            code = await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
        if code == _NOT_CONNECTED:
            self.unknown += 1
            raise NotConnectedError("bash couldn't connect")
        self.connected += 1
        if code:
            raise EOFError(f"the program ended with {code}")


async def _run(arguments: argparse.Namespace) -> None:
    load = Load(arguments.address, arguments.port, arguments.flip_port)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, load.stop)
    await load.run(arguments.programs_per_s)
    sums: dict[str, object] = {"attempts": load.attempts, "connected": load.connected, "unknown": load.unknown}
    sums["verified_bytes"] = load.verified_bytes
    print(json.dumps({"sums": sums}), flush=True)


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.soak.clients")
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--flip-port", type=int, required=True)
    parser.add_argument("--programs-per-s", type=float, default=0)
    asyncio.run(_run(parser.parse_args()))


if __name__ == "__main__":
    _main()
