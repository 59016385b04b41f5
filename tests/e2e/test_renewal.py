"""A sidecar outside Kubernetes comes back by its renewal key, alone: in the same process, and as another one.

A real CA and a sidecar's real control plane, whose clocks start hours ago: the outage brings both to our time, by which
TLS verifies. Nothing starts a process here.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from ca.runtime.compose import RunningCA
from shared.model.errors import InputError, RefusedError
from shared.model.trust.join_token import parse_join_token
from shared.model.wire import admin as api
from shared.model.wire.messages import BundleInstalled, FromCA, Welcome
from shared.runtime.sinks import LineSink
from sidecar.control import backoff
from sidecar.control.feed import CertificateExpiredError, Feed
from sidecar.control.opening import Opener, join
from sidecar.control.renewing import ByRenewal
from sidecar.control.uplink import Uplink
from sidecar.credential.credential import Credential, KeyRequest, accept_chain
from sidecar.credential.renewal_key import begin_renewal_key, load_renewal_key
from sidecar.credential.state_directory import StateDirectory
from sidecar.credential.tpm import Tpm
from sidecar.events import Events
from sidecar.mesh.trust import Trust
from tests.ca.running import Admin, eventually, make_registration, make_token, running_ca
from tests.sidecar.emulated_tpm import NEEDS_SWTPM, Emulator
from tests.sidecar.little_ca import until

AWAY_S: Final = 8 * 3_600.0
WAIT_S: Final = 180.0  # Bounds a failure alone.


class Clock:
    """Our time, and what is missing to it."""

    def __init__(self) -> None:
        self.now = time.time
        self.shift_s = -2 * AWAY_S

    def __call__(self) -> float:
        return self.now() + self.shift_s


class Control:
    """What of a sidecar speaks with the CA.

    Attributes:
        own: its own credential.
    """

    def __init__(self, joining: ByRenewal, listen: str, sink: LineSink) -> None:
        host, _, port = listen.rpartition(":")
        self.events = Events(sink)
        self.joining = joining
        self.uplink = Uplink(is_join_repeatable=joining.is_repeatable)
        self.opener = Opener(
            ca=(host, int(port)), joining=joining, registration=make_registration("web-1"), uplink=self.uplink
        )
        self.own: Credential
        self.trust: Trust

    async def join(self) -> asyncio.Task[None]:
        """Join; return what keeps the stream."""
        await join(self.opener, self._accept, self.events)
        feed = Feed(self.opener, trust=self.trust, credentials=self, receiver=self, events=self.events)
        return asyncio.create_task(feed.run())

    def _accept(self, welcome: Welcome, request: KeyRequest) -> None:
        self.trust = Trust(welcome.bundle)
        self.own = accept_chain(request, welcome.chain, verifier=self.trust.verifier, generation=1, now=time.time())
        self.resume(welcome)

    def join_again(self, welcome: Welcome, request: KeyRequest) -> None:
        """Take a welcome with a certificate, as ``Dispatch`` does."""
        self._accept(welcome, request)

    def resume(self, welcome: Welcome) -> None:
        """Acknowledge a welcome, as ``Dispatch`` does."""
        self.uplink.send(BundleInstalled(sequence=welcome.bundle.sequence))

    def receive(self, message: FromCA) -> None:
        """Nothing here follows from it."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "time", clock)
    monkeypatch.setattr(backoff, "LAST_S", 0.5)
    return clock


@pytest.fixture
def sink() -> Iterator[LineSink]:
    null = os.open("/dev/null", os.O_WRONLY)
    sink = LineSink(null)
    yield sink
    sink.close(timeout_s=30)
    os.close(null)


@pytest.fixture
async def ca(tmp_path: Path, clock: Clock) -> AsyncIterator[RunningCA]:
    async with running_ca(tmp_path, clock=clock) as running:
        yield running


async def first(ca: RunningCA, sink: LineSink, directory: StateDirectory | None, tpm: Tpm | None = None) -> Control:
    """Make a sidecar that has a join token."""
    token = parse_join_token(await make_token(ca))
    key = begin_renewal_key(token, instance="web-1", directory=directory, tpm=tpm)
    return Control(ByRenewal(key, token), ca.listen, sink)


@asynccontextmanager
async def living(control: Control) -> AsyncIterator[asyncio.Task[None]]:
    """Join, and keep the stream; yields what keeps it."""
    feed = await control.join()
    try:
        yield feed
    finally:
        await control.uplink.close()
        feed.cancel()
        await asyncio.wait({feed})


async def is_answered(ca: RunningCA) -> None:
    """Wait until the CA has heard that its answer has arrived."""

    async def is_noticed() -> bool:
        record = await ca.store.sidecars.get("web-1")
        return record is not None and record.connected and record.installed_sequence > 0

    await eventually(is_noticed)


def lose_stream(control: Control) -> None:
    """End the stream without a goodbye."""
    link = control.uplink.link
    assert link is not None
    link.abort()


async def test_a_sidecar_that_the_ca_was_away_from_heals_in_its_own_process(
    ca: RunningCA, clock: Clock, sink: LineSink
) -> None:
    control = await first(ca, sink, None)
    async with living(control) as feed:
        await is_answered(ca)
        before, key = control.own, control.joining.renewal.kept.key
        clock.shift_s += AWAY_S
        lose_stream(control)
        await until(lambda: control.own is not before, timeout_s=WAIT_S)
        assert control.own.identity == before.identity and control.own.not_after > clock()
        assert control.joining.renewal.kept.key != key
        assert not feed.done()
        await until(lambda: control.uplink.is_connected, timeout_s=WAIT_S)


@pytest.fixture
def tpm() -> Iterator[Tpm]:
    with tempfile.TemporaryDirectory(prefix="tm-") as name, ExitStack() as stack:  # A socket's path is short.
        emulator = Emulator(Path(name))
        stack.callback(emulator.stop)
        opened = Tpm(emulator.path)
        stack.callback(opened.close)
        yield opened


async def test_another_process_comes_back_by_what_the_first_has_kept_and_no_token(
    tmp_path: Path, ca: RunningCA, clock: Clock, sink: LineSink
) -> None:
    await come_back(tmp_path, ca, clock, sink, None)


@NEEDS_SWTPM
async def test_another_process_comes_back_by_the_tpm_of_its_machine(
    tmp_path: Path, ca: RunningCA, clock: Clock, sink: LineSink, tpm: Tpm
) -> None:
    await come_back(tmp_path, ca, clock, sink, tpm)
    with pytest.raises(InputError, match="bound to a TPM"):
        load_renewal_key(StateDirectory(tmp_path / "state"))


async def come_back(tmp_path: Path, ca: RunningCA, clock: Clock, sink: LineSink, tpm: Tpm | None) -> None:
    """Join; end; come back twice, as another process each time."""
    directory = StateDirectory(tmp_path / "state")
    async with living(await first(ca, sink, directory, tpm)):
        await is_answered(ca)
    directory.close()
    for _ in range(2):
        clock.shift_s += AWAY_S
        directory = StateDirectory(tmp_path / "state")
        key = load_renewal_key(directory, tpm=tpm)
        assert key is not None
        control = Control(ByRenewal(key, None), ca.listen, sink)
        async with living(control):
            await is_answered(ca)
            assert str(control.own.identity.workload) == "shop/web"
            record = await ca.store.sidecars.get("web-1")
            assert record is not None and record.connected
        directory.close()


async def test_an_evicted_sidecar_ends_and_says_what_to_do(ca: RunningCA, clock: Clock, sink: LineSink) -> None:
    control = await first(ca, sink, None)
    async with living(control) as feed:
        await is_answered(ca)
        async with Admin(ca) as admin:
            await admin.ask("POST", "/v1/evictions", api.Evicted, api.EvictionRequest(whom="web-1"))
        await until(lambda: not control.uplink.is_connected, timeout_s=WAIT_S)
        clock.shift_s += AWAY_S
        with pytest.raises(CertificateExpiredError, match="evicted") as fault:
            async with asyncio.timeout(WAIT_S):
                await feed
        assert "join token" in fault.value.hint


async def test_a_copied_state_directory_is_noticed_and_neither_goes_on(
    tmp_path: Path, ca: RunningCA, clock: Clock, sink: LineSink
) -> None:
    directory, copied = StateDirectory(tmp_path / "state"), StateDirectory(tmp_path / "copy")
    async with living(await first(ca, sink, directory)):
        await is_answered(ca)
    copied.write(directory.read() or b"")
    clock.shift_s += AWAY_S
    keys = [load_renewal_key(each) for each in (copied, directory)]
    thief, honest = (Control(ByRenewal(key, None), ca.listen, sink) for key in keys if key is not None)
    async with living(thief) as feed:
        await is_answered(ca)
        clock.shift_s += 60
        with pytest.raises(RefusedError, match="was used before"):
            await honest.join()
        await until(lambda: not thief.uplink.is_connected, timeout_s=WAIT_S)
        clock.shift_s += 0.75 * AWAY_S
        with pytest.raises(CertificateExpiredError, match="evicted"):
            async with asyncio.timeout(WAIT_S):
                await feed
    directory.close()
    copied.close()
