"""A loop that hangs ends its process with every thread's stack; one that is only stopped or slow doesn't."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from sidecar.runtime.watchdog import EXIT_CODE, Watchdog
from tests.sidecar.little_ca import until

HANGING = """
import asyncio, time
from sidecar.runtime.watchdog import Watchdog

async def main():
    Watchdog(hung_after_s=3, period_s=0.05).start(asyncio.get_running_loop())
    await asyncio.sleep(0.2)
    print("hangs", flush=True)
    this_function_hangs()

def this_function_hangs():
    time.sleep(600)

asyncio.run(main())
"""
WORKING = """
import asyncio, sys, threading
from sidecar.runtime.watchdog import Watchdog

async def main():
    loop = asyncio.get_running_loop()
    watchdog = Watchdog(hung_after_s=3, period_s=0.5)
    watchdog.start(loop)
    stop = asyncio.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), loop.call_soon_threadsafe(stop.set)), daemon=True).start()
    print("works", flush=True)
    await stop.wait()
    watchdog.stop()

asyncio.run(main())
"""


def test_a_hung_loop_ends_the_process_and_its_stack_is_logged() -> None:
    ended = subprocess.run([sys.executable, "-c", HANGING], capture_output=True, timeout=120, check=False)
    assert ended.stdout == b"hangs\n"
    assert ended.returncode == EXIT_CODE
    event, _, stacks = ended.stderr.partition(b"\n")
    assert json.loads(event)["event"] == "loop_hung"
    assert b"this_function_hangs" in stacks


def test_a_stopped_process_goes_on_where_it_was() -> None:
    with subprocess.Popen([sys.executable, "-c", WORKING], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"works\n"
            process.send_signal(signal.SIGSTOP)
            time.sleep(6)  # Twice as long as the loop may stand still: a busy machine seldom runs it first after 3 s.
            process.send_signal(signal.SIGCONT)
            process.stdin.close()
            assert process.wait(60) == 0
        finally:
            process.kill()


async def test_a_loop_that_ticks_is_left_alone_and_its_worst_lag_is_known() -> None:
    ended: list[int] = []
    reader, writer = os.pipe()
    watchdog = Watchdog(hung_after_s=60, period_s=0.01, descriptor=writer, end=ended.append)
    watchdog.start(asyncio.get_running_loop())
    time.sleep(0.2)  # noqa: ASYNC251 (the loop is to stand still)
    await until(lambda: watchdog.max_lag_s > 0.1)
    assert watchdog.take_max_lag_s() > 0.1
    watchdog.stop()
    await until(lambda: not any(thread.name == "watchdog" for thread in threading.enumerate()))
    assert ended == []
    for descriptor in (reader, writer):
        os.close(descriptor)


async def test_a_log_that_nobody_reads_delays_no_end() -> None:
    ended = threading.Event()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(writer, b"x" * 65536)
    watchdog = Watchdog(hung_after_s=0.05, period_s=0.01, descriptor=writer, end=lambda _: ended.set())
    watchdog.start(asyncio.get_running_loop())
    assert ended.wait(60), "the loop stands still here"
    watchdog.stop()
    for descriptor in (reader, writer):
        os.close(descriptor)
