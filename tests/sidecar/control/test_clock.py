"""The difference between this machine's clock and the CA's: measured, told, and never mistaken for another fault."""

from __future__ import annotations

import datetime
import os
import time

import msgspec
import pytest

from shared.model.errors import UnavailableError, VerificationError
from shared.model.identity.identity import parse_workload
from shared.model.policy.reasons import Reason
from shared.model.wire.messages import Registration
from shared.runtime.sinks import LineSink
from sidecar.control import ca_dial
from sidecar.control.ca_dial import ServerTimeError, make_context, open_stream
from sidecar.control.clock import measure_offset, tell_offset
from sidecar.events import Events
from tests.sidecar import little_ca
from tests.sidecar.control.test_feed import joined
from tests.sidecar.little_ca import TRUST_DOMAIN, LittleCA


async def test_the_offset_is_measured_at_each_welcome(monkeypatch: pytest.MonkeyPatch) -> None:
    async with LittleCA().serving() as ca:
        async with joined(ca) as parts:
            assert parts.uplink.clock_offset_s is None, "this CA doesn't say its time"
        greet = ca._welcome
        told: list[Registration] = []

        def welcome(*arguments: object) -> object:
            told.extend(each for each in arguments if isinstance(each, Registration))
            return msgspec.structs.replace(greet(*arguments), time_ms=1_000)  # type: ignore[arg-type]  # As it was called.

        monkeypatch.setattr(ca, "_welcome", welcome)
        async with joined(ca) as parts:
            assert parts.uplink.clock_offset_s is not None
            assert parts.uplink.clock_offset_s > 1_000_000_000
        assert abs(told[-1].time_ms / 1000 - time.time()) < 120, "the CA is told, too"


def test_half_the_way_lies_before_the_welcome() -> None:
    ca = LittleCA()
    welcome = ca._welcome(parse_workload("shop/web"), _registration(), ())
    assert measure_offset(welcome, asked=1, answered=2) is None
    assert measure_offset(msgspec.structs.replace(welcome, time_ms=100_000), asked=99, answered=103) == 1


def _registration() -> Registration:
    return Registration(instance="a", version="0", addresses=(), tunnel_port=1, capture="listeners")


def test_a_notable_offset_is_an_event() -> None:
    reading, writing = os.pipe()
    sink = LineSink(writing)
    events = Events(sink)
    for offset_s in (None, 9.0, -9.0, -300.0):
        tell_offset(offset_s, events)
    sink.close(timeout_s=5)
    os.close(writing)
    with os.fdopen(reading) as lines:
        (event,) = [msgspec.json.decode(line) for line in lines]
    assert (event["event"], event["offset_s"]) == ("clock_differs", -300.0)
    assert "NTP" in event["hint"]


@pytest.mark.parametrize(("ahead_s", "said"), [(-86_400 * 2, "s behind the CA's"), (7_200, "the clock is ahead")])
async def test_a_ca_whose_certificate_isnt_valid_by_this_clock_isnt_said_to_have_another_root(
    monkeypatch: pytest.MonkeyPatch, ahead_s: int, said: str
) -> None:
    """The clock of the little CA is moved the other way: for TLS, which takes the kernel's time, it is the same."""
    now = little_ca._now
    ca = LittleCA()
    monkeypatch.setattr(little_ca, "_now", lambda: now() - datetime.timedelta(seconds=ahead_s))
    async with ca.serving():
        context = make_context([ca.root.der], None)
        with pytest.raises(ServerTimeError) as caught:
            await open_stream((ca.host, ca.port), context, TRUST_DOMAIN, mark=0, timeout_s=20)
        assert caught.value.reason == Reason.PEER_EXPIRED
        assert said in caught.value.message
        assert "NTP" in caught.value.hint

        async def fail(*_: object, **__: object) -> object:
            raise UnavailableError("ordered by the test")

        connect = ca_dial._connect
        calls = 0

        async def connect_once(*arguments: object, **named: object) -> object:
            nonlocal calls
            calls += 1
            return await (connect if calls == 1 else fail)(*arguments, **named)  # type: ignore[arg-type]  # As called.

        monkeypatch.setattr(ca_dial, "_connect", connect_once)
        with pytest.raises(VerificationError, match="isn't valid by this machine's clock"):
            await open_stream((ca.host, ca.port), context, TRUST_DOMAIN, mark=0, timeout_s=20)
