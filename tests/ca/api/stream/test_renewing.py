"""A sidecar comes back by its renewal key after its certificate ended; who mustn't is refused, a copy is noticed."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from ca.api.stream import second_sidecar
from ca.runtime.compose import RunningCA
from ca.store.renewal import renewal_keys
from shared.model.trust.join_token import parse_join_token
from shared.model.trust.renewal import NONCE_HEADER, parse_nonce
from shared.model.wire import admin as api
from shared.model.wire.messages import BundleInstalled, Enrol, FromCA, Refusal, Renew, Welcome
from sidecar.credential.renewal_key import RenewalKey, begin_renewal_key, load_renewal_key
from sidecar.credential.state_directory import StateDirectory
from tests.ca.running import (
    Admin,
    FakeSidecar,
    ShiftedClock,
    eventually,
    make_registration,
    make_token,
    running_ca,
)

ADDRESS = "198.18.0.2"
AWAY_S = 6 * 3_600.0  # Longer than a certificate lives.


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, who answers is taken for alive."""
    monkeypatch.setattr(second_sidecar, "ANSWER_DEADLINE_S", 60.0)


@pytest.fixture
async def ca(tmp_path: Path, clock: ShiftedClock) -> AsyncIterator[RunningCA]:
    async with running_ca(tmp_path, clock=clock) as running:
        yield running


@pytest.fixture
def clock() -> ShiftedClock:
    """The CA's time: it comes up to ours, by which its server's certificate has to be valid all the while."""
    clock = ShiftedClock()
    clock.shift_s = -2 * AWAY_S
    return clock


async def join(services: RunningCA) -> RenewalKey:
    """Join as web-1, offer a renewal key, acknowledge, and leave."""
    token = await make_token(services, ADDRESS)
    key = begin_renewal_key(parse_join_token(token), instance="web-1", directory=None)
    async with FakeSidecar(services) as sidecar:
        registration = make_registration("web-1", ADDRESS)
        await sidecar.send(Enrol(token=token, csr=sidecar.csr, registration=registration, renewal=await key.offer()))
        welcome = await sidecar.receive()
        assert isinstance(welcome, Welcome)
        await take(sidecar, key, welcome)
    await is_gone(services)
    return key


async def take(sidecar: FakeSidecar, key: RenewalKey, welcome: Welcome) -> None:
    """Take a welcome as a sidecar does, and wait until the CA has noticed."""
    await key.keep(grace_s=welcome.grace_s, roots=welcome.bundle.roots)
    await sidecar.send(BundleInstalled(sequence=welcome.bundle.sequence))

    async def is_noticed() -> bool:
        record = await sidecar.services.store.sidecars.get("web-1")
        return record is not None and record.installed_sequence > 0

    await eventually(is_noticed)


async def is_gone(services: RunningCA) -> None:
    """Wait until the CA knows that the stream has ended."""

    async def is_noticed() -> bool:
        record = await services.store.sidecars.get("web-1")
        return record is not None and not record.connected

    await eventually(is_noticed)


async def ask(sidecar: FakeSidecar, key: RenewalKey, *, nonce: bytes | None = None) -> Renew:
    """Make the message that uses the key up, for this stream."""
    response = sidecar.stream.response
    assert response is not None
    shown = sidecar.stream.transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return await key.renew(
        sidecar.csr,
        make_registration("web-1", ADDRESS),
        nonce=nonce or parse_nonce(response.headers.get(NONCE_HEADER)),
        server_certificate=shown,
    )


@asynccontextmanager
async def coming_back(services: RunningCA, key: RenewalKey) -> AsyncIterator[tuple[FakeSidecar, FromCA]]:
    """Come back by the key; yields the sidecar and the CA's first answer."""
    async with FakeSidecar(services) as sidecar:
        await sidecar.send(await ask(sidecar, key))
        yield sidecar, await sidecar.receive()


def copy(key: RenewalKey) -> RenewalKey:
    """Copy what a thief would find in the file."""
    return RenewalKey(key.kept, None, is_known=True)


async def refused(services: RunningCA, key: RenewalKey) -> str:
    """Come back in vain; return why."""
    async with coming_back(services, key) as (_, answer):
        assert isinstance(answer, Refusal), answer
        return answer.code


async def test_it_comes_back_alone_after_its_certificate_has_ended_and_again(
    ca: RunningCA, clock: ShiftedClock
) -> None:
    key, used = await join(ca), set()
    for _ in range(2):
        used.add(key.kept.key)
        clock.shift_s += 5.5 * 3_600
        async with coming_back(ca, key) as (sidecar, answer):
            assert isinstance(answer, Welcome) and len(answer.chain) == 2
            assert (answer.service_account, answer.grace_s) == ("web", 7 * 86_400)
            await take(sidecar, key, answer)
            assert ca.hub.directory.get(ADDRESS).service_account == "web"
            async with Admin(ca) as admin:
                (view,) = (await admin.get("/v1/sidecars", api.SidecarList)).sidecars
            assert view.renewable_until is not None and view.renewable_until > clock() + 7 * 86_400
        await is_gone(ca)
    assert key.kept.key not in used and len(used) == 2


async def test_after_the_grace_it_is_refused_and_told_what_to_do(tmp_path: Path, clock: ShiftedClock) -> None:
    async with running_ca(tmp_path, clock=clock, renewal_grace_s=1_800.0) as ca:
        key = await join(ca)
        clock.shift_s += AWAY_S
        async with coming_back(ca, key) as (_, answer):
            assert isinstance(answer, Refusal)
            assert answer.code == "renewal_too_late" and "ca join-token" in answer.hint


async def test_a_ca_without_grace_takes_no_keys(tmp_path: Path, clock: ShiftedClock) -> None:
    async with running_ca(tmp_path, clock=clock, renewal_grace_s=0.0) as ca:
        key = await join(ca)
        assert not key.is_known
        assert await refused(ca, key) == "renewal_off"


async def test_an_evicted_sidecar_never_comes_back_by_its_key(ca: RunningCA, clock: ShiftedClock) -> None:
    key = await join(ca)
    clock.shift_s += 60
    async with Admin(ca) as admin:
        await admin.ask("POST", "/v1/evictions", api.Evicted, api.EvictionRequest(whom="web-1"))
    clock.shift_s += AWAY_S
    assert await refused(ca, key) == "refused"
    await join(ca)  # By a token that was made since.
    clock.shift_s += 60
    assert await refused(ca, key) == "renewal_unknown"


@pytest.mark.parametrize("is_thief_first", [False, True])
async def test_a_copy_that_is_used_locks_both_out_until_somebody_decides(
    ca: RunningCA, clock: ShiftedClock, is_thief_first: bool
) -> None:
    honest = await join(ca)
    thief = copy(honest)
    first, second = (thief, honest) if is_thief_first else (honest, thief)
    clock.shift_s += AWAY_S
    async with coming_back(ca, first) as (sidecar, answer):
        assert isinstance(answer, Welcome)
        await take(sidecar, first, answer)
        clock.shift_s += 60
        assert await refused(ca, second) == "renewal_reused"
        await eventually(lambda: ca.hub.get("web-1") is None)
    clock.shift_s += 60
    for key in (first, second):
        assert await refused(ca, key) == "refused", "evicted"
    async with Admin(ca) as admin:
        (view,) = (await admin.get("/v1/sidecars", api.SidecarList)).sidecars
    assert (view.second_count, view.second_from, view.renewable_until) == (1, "127.0.0.1", None)
    assert view.evicted is not None
    lines = (await ca.store.audit.list_lines()).lines
    assert all(any(f'"{act}"' in line for line in lines) for act in ("sidecar.second", "sidecar.evict"))
    assert 'touchmark_ca_second_sidecars_total{how="renew"} 1.0' in ca.metrics.render().decode()
    clock.shift_s += 60
    await join(ca)


async def test_a_thief_who_uses_the_copy_again_and_again_is_noticed_all_the_same(
    ca: RunningCA, clock: ShiftedClock
) -> None:
    honest = await join(ca)
    thief = copy(honest)
    for _ in range(3):
        clock.shift_s += 60
        async with coming_back(ca, thief) as (sidecar, answer):
            assert isinstance(answer, Welcome)
            await take(sidecar, thief, answer)
        await is_gone(ca)
    assert await refused(ca, honest) == "renewal_reused"


async def test_a_lost_answer_is_asked_for_again_until_it_is_acknowledged(ca: RunningCA, clock: ShiftedClock) -> None:
    key = await join(ca)
    clock.shift_s += AWAY_S
    for _ in range(3):
        async with coming_back(ca, key) as (_, answer):
            assert isinstance(answer, Welcome)
        await is_gone(ca)
    lost = copy(key)
    async with coming_back(ca, key) as (sidecar, answer):
        assert isinstance(answer, Welcome)
        await take(sidecar, key, answer)
    await is_gone(ca)
    assert await refused(ca, lost) == "renewal_reused", "the CA has heard from whom it answered"


async def test_a_recorded_renewal_is_worth_nothing_on_another_stream(ca: RunningCA, clock: ShiftedClock) -> None:
    key = await join(ca)
    clock.shift_s += AWAY_S
    async with FakeSidecar(ca) as one, FakeSidecar(ca) as other:
        recorded = await ask(one, key)
        await other.send(recorded)
        assert isinstance(answer := await other.receive(), Refusal) and answer.code == "peer_untrusted"
    async with FakeSidecar(ca) as sidecar:
        forged = msgspec.structs.replace(await ask(sidecar, key), csr=b"another")
        await sidecar.send(forged)
        assert isinstance(answer := await sidecar.receive(), Refusal) and answer.code == "peer_untrusted"
    async with coming_back(ca, key) as (_, answer):
        assert isinstance(answer, Welcome), "none of both has used the key up"


async def test_a_stranger_or_an_older_protocol_gets_nowhere(ca: RunningCA, clock: ShiftedClock) -> None:
    key = await join(ca)
    clock.shift_s += AWAY_S
    stranger = begin_renewal_key(parse_join_token(await make_token(ca, ADDRESS)), instance="web-1", directory=None)
    assert await refused(ca, stranger) == "renewal_unknown"
    async with FakeSidecar(ca, protocols=[]) as sidecar:
        response = sidecar.stream.response
        assert response is not None and NONCE_HEADER not in response.headers
        await sidecar.send(await ask(sidecar, key, nonce=bytes(32)))
        assert isinstance(answer := await sidecar.receive(), Refusal) and answer.code == "protocol_error"


async def test_one_that_lives_keeps_its_place(ca: RunningCA, clock: ShiftedClock) -> None:
    key = await join(ca)
    clock.shift_s += 60
    async with coming_back(ca, key) as (sidecar, answer):
        assert isinstance(answer, Welcome)
        await take(sidecar, key, answer)
        clock.shift_s += 60
        stolen = copy(key)
        async with sidecar.answering():
            assert await refused(ca, stolen) == "second_sidecar"
        assert ca.hub.get("web-1") is not None


async def test_a_key_that_was_only_just_made_has_to_wait(
    ca: RunningCA, clock: ShiftedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewal_keys, "LEAST_INTERVAL_S", 3_600.0)
    key = await join(ca)
    assert await refused(ca, key) == "unavailable"
    clock.shift_s += 3_600
    async with coming_back(ca, key) as (_, answer):
        assert isinstance(answer, Welcome)


@pytest.mark.parametrize("step", ["offered", "sent", "answered", "written", "renamed"])
async def test_killed_at_each_step_it_comes_back(
    tmp_path: Path, ca: RunningCA, clock: ShiftedClock, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Twice in a row, and then it lives: what the process of before has left on disk is what it comes back by."""

    rename = os.rename

    def stop(old: str, new: str, **directories: int) -> None:
        if step == "renamed":
            rename(old, new, **directories)
        raise KeyboardInterrupt

    key = RenewalKey((await join(ca)).kept, directory := StateDirectory(tmp_path / "state"), is_known=True)
    # Others than it has: so that it is written.
    await key.keep_roots((ca.authorities.bundle().roots[0], *key.kept.roots))
    for is_killed in (True, True, False):
        clock.shift_s += 60
        loaded = load_renewal_key(directory)
        assert loaded is not None
        async with FakeSidecar(ca) as sidecar:
            message = await ask(sidecar, loaded)
            if is_killed and step == "offered":
                continue
            await sidecar.send(message)
            if is_killed and step == "sent":
                await eventually(lambda: ca.hub.get("web-1") is not None)
                sidecar.stream.transport.abort()
                await is_gone(ca)
                continue
            welcome = await sidecar.receive()
            assert isinstance(welcome, Welcome), (welcome, is_killed)
            if not is_killed:
                await take(sidecar, loaded, welcome)
            elif step != "answered":
                with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                    patch.setattr(os, "rename", stop)
                    await loaded.keep(grace_s=welcome.grace_s, roots=welcome.bundle.roots)
        await is_gone(ca)
    directory.close()
    record = await ca.store.sidecars.get("web-1")
    assert record is not None and record.evicted is None and record.second_count == 0
