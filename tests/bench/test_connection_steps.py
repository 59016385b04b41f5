"""A connection's processor time is given to the steps that the product really has, and printed by connection."""

from __future__ import annotations

import importlib
import sys
from functools import reduce
from pathlib import Path
from types import FrameType, FunctionType

import msgspec
import pytest
from rich.console import Console

from bench.connection_steps import Outcome, print_outcome, tabulate
from bench.subjects.sidecar_with_samples import REST, STEPS, THREADS, Sampler, find_step, read_samples


def frame_in(module: str, function: str = "") -> FrameType:
    """Return the frame of a function that is said to be in this module."""

    def work() -> FrameType:
        return sys._getframe()

    code = work.__code__.replace(co_qualname=function or "some_function")
    made = FunctionType(code, {"__name__": module, "sys": sys})
    frame = made()
    assert isinstance(frame, FrameType)
    return frame


def test_every_step_is_a_module_or_a_function_of_the_product() -> None:
    for name in STEPS:
        module, _, function = name.partition(":")
        found = importlib.import_module(module)
        assert not function or callable(reduce(getattr, function.split("."), found)), name


@pytest.mark.parametrize(
    ("module", "function", "step"),
    [
        ("sidecar.tunnel.pool", "TunnelPool.take", "pool: take, give back"),
        ("sidecar.tunnel.turns", "Turns.send", "frames and turns"),
        ("sidecar.tunnel.native_tunnel", "NativeTunnel.carry", "frames and turns"),
        ("sidecar.tunnel.native_tunnel", "NativeTunnel._on_readable", "read and write TLS records"),
        ("sidecar.attest.netlink.sock_diag", "make_socket", "attest: which socket, who holds it, what it runs"),
        ("sidecar.attest.holding.tables", "list_links", "looks at live connections"),
        ("asyncio.events", "", REST),
    ],
)
def test_the_nearest_name_counts(module: str, function: str, step: str) -> None:
    assert find_step(frame_in(module, function)) == step


def test_what_no_step_has_is_the_rest() -> None:
    assert find_step(None) == REST


def test_what_was_used_since_the_last_sample_is_its_steps() -> None:
    sampler = Sampler()
    sampler.take(frame_in("sidecar.rooms"))
    sum(range(100_000))
    sampler.take(frame_in("sidecar.tunnel.pool"))
    seconds = sampler.end()
    assert seconds["pool: take, give back"] > 0
    assert set(seconds) == {"accept", "pool: take, give back", THREADS}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "sidecar-client.samples"
    path.write_bytes(msgspec.json.encode({"accept": 0.5}))
    assert read_samples(path) == {"accept": 0.5}


def test_the_table_has_microseconds_a_connection_the_dearest_step_first() -> None:
    seconds = {"client": {"accept": 0.1, "record": 0.2}, "server": {"dial": 0.5, "record": 0.2}}
    outcome = Outcome(connections=10_000, seconds=seconds, cpu_s=1.1)
    steps, clients, servers = zip(*tabulate(outcome), strict=True)
    assert steps == ("dial", "record", "accept")
    assert clients == pytest.approx((0.0, 20.0, 10.0))
    assert servers == pytest.approx((50.0, 20.0, 0.0))
    console = Console(width=120, record=True)
    print_outcome(console, outcome)
    printed = console.export_text()
    assert "10000 connections" in printed
    assert "110 µs of both" in printed
