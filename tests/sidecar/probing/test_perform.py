"""One probe within its own time, against the pod alone."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from sidecar.probing.perform import perform
from tests.sidecar.probing.servers import Health, a_health_server, an_application, respond, serving, target

POD = "127.0.0.1"


async def test_each_handler_asks_the_application() -> None:
    async with an_application({"/": respond(200, b"web")}) as application:
        assert (await perform(target(application.port), POD)).body == b"web"
        assert (await perform(target(application.port, "tcp"), POD)).status == 200
    async with a_health_server(Health(message=b"\x00\x00\x00\x00\x02\x08\x01")) as port:
        assert (await perform(target(port, "grpc"), POD)).status == 200


@pytest.mark.parametrize("handler", ["http", "tcp", "grpc"])
async def test_nobody_there_is_failure(handler: str) -> None:
    outcome = await perform(target(1, handler), POD)
    assert (outcome.status, outcome.has_answer) == (502, False)
    assert b"refused" in outcome.body


@pytest.mark.parametrize("handler", ["http", "grpc"])
async def test_silence_is_failure_when_the_probes_time_is_over(handler: str) -> None:
    async def stay_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with serving(stay_silent, "127.0.0.1") as port:
        outcome = await perform(target(port, handler, timeout_s=1), POD)
        assert (outcome.status, outcome.has_answer, outcome.body) == (504, False, b"no answer within 1 s")


def test_http_2_is_loaded_only_where_a_grpc_probe_asks_for_it() -> None:
    code = "import sidecar.probing.perform, sidecar.probing.server, sys; print('h2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
    code = "import sidecar.runtime.run, sys; print('h11' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
