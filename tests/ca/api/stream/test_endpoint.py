"""The sidecars' stream against a real CA: TLS 1.3 on 127.0.0.1, a real store, a real WebSocket client."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ssl
import weakref
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from websockets import InvalidStatus, State

from ca import allowance
from ca.api.stream import endpoint
from ca.places import Places
from ca.runtime.compose import RunningCA
from ca.runtime.memory_limit import MAX_PLACES, MIN_PLACES
from ca.store.records import DecisionFilter
from shared.model.errors import UnavailableError
from shared.model.identity.program import Program
from shared.model.policy.rules import Mode
from shared.model.version import VERSION
from shared.model.wire import admin as api
from shared.model.wire.messages import (
    STREAM_PATH,
    BundleChanged,
    BundleInstalled,
    CertificateIssued,
    CertificateRequest,
    DirectoryEntry,
    Enrol,
    Lookup,
    NamespaceChanged,
    Refusal,
    Reissue,
    Resume,
    Welcome,
    decode_from_ca,
    encode_message,
)
from tests.ca.running import (
    Admin,
    FakeSidecar,
    ShiftedClock,
    eventually,
    make_client_context,
    make_csr,
    make_registration,
    make_token,
    running_ca,
)

EVERYTHING = DecisionFilter()


async def test_a_sidecar_joins_gets_a_certificate_and_hears_of_changes(
    services: RunningCA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[int] = []
    mark = services.store.sidecars.mark_bundle_installed

    async def note(instance: str, sequence: int) -> None:
        noted.append(sequence)
        await mark(instance, sequence)

    monkeypatch.setattr(services.store.sidecars, "mark_bundle_installed", note)
    async with FakeSidecar(services) as client:
        csr = client.csr
        registration = make_registration("a", "198.18.0.2")
        await client.send(Enrol(token=await make_token(services, "198.18.0.2"), csr=csr, registration=registration))
        welcome = await client.receive()
        assert isinstance(welcome, Welcome)
        assert len(welcome.chain) == 2
        _, program_csr = make_csr()
        await client.send(CertificateRequest(request=7, csr=program_csr, program=Program(digest="ab" * 32)))
        issued = await client.receive()
        assert isinstance(issued, CertificateIssued)
        assert issued.request == 7
        await client.send(Lookup(address="198.18.0.2"))
        entry = await client.receive()
        assert isinstance(entry, DirectoryEntry)
        assert (entry.namespace, entry.service_account) == ("shop", "web")
        await services.store.namespaces.set_mode("shop", Mode.EXPLICIT)
        changed = await client.receive()
        assert isinstance(changed, NamespaceChanged)
        assert changed.state.mode is Mode.EXPLICIT
    client.chain = welcome.chain
    context = make_client_context(services, client.write_pem(tmp_path / "a.pem"))
    async with FakeSidecar(services, context) as client:
        await client.send(Resume(registration=registration, installed_sequence=welcome.bundle.sequence))
        again = await client.receive()
        assert isinstance(again, Welcome)
        assert again.chain == ()
        await services.rotation.start()
        bundle = await client.receive()
        assert isinstance(bundle, BundleChanged)
        await client.send(BundleInstalled(sequence=bundle.bundle.sequence))
        assert isinstance(await client.receive(), Reissue)
    # Had that order been lost with its stream: the next one repeats it, until another authority's certificate comes.
    async with FakeSidecar(services, context) as client:
        await client.send(Resume(registration=registration, installed_sequence=bundle.bundle.sequence))
        assert isinstance(await client.receive(), Welcome)
        assert isinstance(await client.receive(), Reissue)
        client.key, csr = make_csr()
        await client.send(CertificateRequest(request=1, csr=csr))
        issued = await client.receive()
        assert isinstance(issued, CertificateIssued)
        client.chain = issued.chain
        context = make_client_context(services, client.write_pem(tmp_path / "b.pem"))
    async with FakeSidecar(services, context) as client:
        await client.send(Resume(registration=registration, installed_sequence=bundle.bundle.sequence))
        assert isinstance(await client.receive(), Welcome)
        await client.send(Lookup(address="198.18.0.2"))
        assert isinstance(await client.receive(), DirectoryEntry)
    # What is known isn't noted again, however often it is said.
    assert noted == [welcome.bundle.sequence, bundle.bundle.sequence]


@pytest.mark.parametrize("data", [b"{}", b'{"type":"nonsense"}', b"\xff\xfe"])
async def test_what_cannot_be_decoded_ends_the_stream_with_a_refusal(services: RunningCA, data: bytes) -> None:
    async with FakeSidecar(services) as client:
        await client.stream.send(data)
        refusal = await client.receive()
    assert isinstance(refusal, Refusal)
    assert refusal.code == "protocol_error"


async def test_a_stream_that_answers_no_heartbeat_is_ended(
    services: RunningCA, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "HEARTBEAT_S", 2.0)
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"https://{services.listen}{STREAM_PATH}", ssl=make_client_context(services)) as client,
    ):
        _, csr = make_csr()
        token = await make_token(services)
        await client.send_bytes(encode_message(Enrol(token=token, csr=csr, registration=make_registration("a"))))
        # While it reads it answers: however long a busy machine takes, it is welcomed.
        assert isinstance(decode_from_ca((await client.receive()).data), Welcome)
        await eventually(lambda: services.hub.get("a") is None)


async def test_a_stream_that_never_says_who_it_is_is_refused(
    services: RunningCA, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "FIRST_MESSAGE_DEADLINE_S", 0.1)
    async with FakeSidecar(services) as client:
        refusal = await client.receive()
    assert isinstance(refusal, Refusal)
    assert refusal.message == "no first message in time"


@pytest.mark.parametrize(
    ("offered", "chosen", "version"), [((), None, ""), (("touchmark.1",), "touchmark.1", ""),
                                       (("touchmark.3", "touchmark.2"), "touchmark.2", VERSION)],
)  # fmt: skip
async def test_a_stream_speaks_the_newest_protocol_that_both_ends_know(
    services: RunningCA, offered: tuple[str, ...], chosen: str | None, version: str
) -> None:
    """A sidecar of release 0.1 offers none."""
    async with FakeSidecar(services, protocols=offered) as sidecar:
        assert sidecar.stream.subprotocol == chosen
        assert (await sidecar.enrol("a")).ca_version == version


async def test_a_sidecar_whose_protocols_are_all_unknown_is_told_so(services: RunningCA) -> None:
    async with aiohttp.ClientSession() as session:
        headers = {"Sec-WebSocket-Protocol": "touchmark.7, touchmark.8"}
        url = f"https://{services.listen}{STREAM_PATH}"
        async with session.get(url, ssl=make_client_context(services), headers=headers) as response:
            assert response.status == 400
            assert "touchmark.7, touchmark.8, and this CA touchmark.2" in await response.text()


async def test_strangers_beyond_the_bound_are_turned_away_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "MAX_UNAUTHENTICATED", 1)
    async with running_ca(tmp_path) as services, FakeSidecar(services):

        async def is_turned_away() -> bool:
            try:
                async with FakeSidecar(services):
                    return False
            except InvalidStatus as error:
                return (error.response.status_code, error.response.headers.get("Retry-After")) == (503, "5")

        await eventually(is_turned_away)


async def enrol_all(services: RunningCA, directory: Path, *names: str) -> list[ssl.SSLContext]:
    """Have sidecars join and leave; return what shows their certificates."""
    contexts = []
    for name in names:
        async with FakeSidecar(services) as joining:
            await joining.enrol(name)
        contexts.append(make_client_context(services, joining.write_pem(directory / f"{name}.pem")))
    await eventually(lambda: len(services.hub) == 0)
    return contexts


@pytest.fixture
def doors(monkeypatch: pytest.MonkeyPatch) -> list[Places]:
    """The stream endpoint's doors, once there is one: that of strangers and that of known sidecars, a place each."""
    made: list[Places] = []

    class Door(Places):
        def __init__(self, limit: int, *, line: int = 0) -> None:
            super().__init__(limit, line=line)
            made.append(self)

    monkeypatch.setattr(endpoint, "Places", Door)
    monkeypatch.setattr(endpoint, "MAX_UNAUTHENTICATED", 1)
    monkeypatch.setattr(endpoint, "FIRST_MESSAGE_DEADLINE_S", 300.0)  # A busy machine's handshake takes seconds.
    return made


async def test_known_sidecars_wait_for_their_turn_and_take_no_place_from_one_another(
    tmp_path: Path, doors: list[Places]
) -> None:
    """After a restart of the CA all come at once: one that lost its place would come again and take another's."""
    async with running_ca(tmp_path) as services:
        contexts = await enrol_all(services, tmp_path, "a", "b")
        _, members = doors
        second = FakeSidecar(services, contexts[1], local_address="127.0.0.2")
        async with FakeSidecar(services, contexts[0]) as first, contextlib.AsyncExitStack() as stack:
            opening = asyncio.create_task(stack.enter_async_context(second))
            await eventually(lambda: members.waiting == 1)
            await first.resume("a")
            await opening
            await second.resume("b")
            assert (len(members), members.waiting) == (0, 0)


async def test_who_has_waited_in_line_is_turned_away_too_once_all_streams_are_taken(
    tmp_path: Path, doors: list[Places]
) -> None:
    async with running_ca(tmp_path, max_streams=1) as services:
        contexts = await enrol_all(services, tmp_path, "a", "b")
        _, members = doors
        second = FakeSidecar(services, contexts[1], local_address="127.0.0.2")
        async with contextlib.AsyncExitStack() as stack:
            silent = await stack.enter_async_context(FakeSidecar(services, contexts[0]))
            opening = asyncio.create_task(stack.enter_async_context(second))
            await eventually(lambda: members.waiting == 1)
            await (await stack.enter_async_context(FakeSidecar(services))).enrol("c")
            await silent.stream.close()
            with pytest.raises(InvalidStatus) as turned_away:
                await opening
    assert turned_away.value.response.status_code == 503


async def test_who_goes_away_in_line_is_no_error(
    tmp_path: Path, doors: list[Places], caplog: pytest.LogCaptureFixture
) -> None:
    async with running_ca(tmp_path) as services:
        contexts = await enrol_all(services, tmp_path, "a", "b")
        _, members = doors
        host, _, port = services.listen.rpartition(":")
        async with FakeSidecar(services, contexts[0]) as silent:
            _, going = await asyncio.open_connection(
                host, int(port), ssl=contexts[1], server_hostname=host, local_addr=("127.0.0.2", 0)
            )
            going.write(
                f"GET {STREAM_PATH} HTTP/1.1\r\nHost: ca\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
            )
            await eventually(lambda: members.waiting == 1)
            going.transport.abort()
            await asyncio.sleep(0.1)  # The CA sees it meanwhile, or there is nothing to prove.
            await silent.stream.close()
            await eventually(lambda: (len(members), members.waiting) == (0, 0))
            async with FakeSidecar(services, contexts[1]) as again:
                await again.resume("b")
    assert [record.getMessage() for record in caplog.records if record.name == "aiohttp.server"] == []


async def test_silent_strangers_keep_neither_other_addresses_nor_known_sidecars_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All places are one pod's: others come nevertheless, at once."""
    monkeypatch.setattr(endpoint, "MAX_UNAUTHENTICATED", 3)
    async with running_ca(tmp_path) as services, contextlib.AsyncExitStack() as stack:
        async with FakeSidecar(services) as known:
            await known.enrol("known", "198.18.0.2")
        silent = [await stack.enter_async_context(FakeSidecar(services)) for _ in range(3)]
        pem = known.write_pem(tmp_path / "known.pem")
        async with FakeSidecar(services, make_client_context(services, pem)) as again:
            await again.resume("known", "198.18.0.2")
        assert all(each.stream.state is State.OPEN for each in silent)
        async with FakeSidecar(services, local_address="127.0.0.2") as other:
            await other.enrol("other", "198.18.0.3")
            refusal = await silent[0].receive()  # The oldest made room.
    assert isinstance(refusal, Refusal)


@pytest.mark.parametrize("limit", [MIN_PLACES, 2_048, MAX_PLACES])
def test_the_line_and_both_kinds_of_places_leave_room_for_probes_and_newcomers(limit: int) -> None:
    taken = endpoint.count_line(limit) + 2 * endpoint.MAX_UNAUTHENTICATED
    assert endpoint.count_line(limit) >= 128 and limit - taken >= 128


async def test_what_a_stream_had_is_freed_without_the_garbage_collector_however_it_ends(
    services: RunningCA, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "HEARTBEAT_S", 3_600.0)  # Whose timers would hold it, too.

    async def break_the_protocol(client: FakeSidecar) -> None:
        await client.stream.send(b"{}")

    async def cut(client: FakeSidecar) -> None:
        client.stream.transport.abort()

    async def leave(client: FakeSidecar) -> None:
        await client.stream.close()

    async def be_sent_away(_: FakeSidecar) -> None:
        services.hub.end_all("shutdown")

    others = list_websockets()
    was_on = gc.isenabled()
    gc.disable()
    try:
        for number, end in enumerate((leave, cut, be_sent_away, break_the_protocol)):
            async with FakeSidecar(services) as client:
                await client.enrol(f"a{number}")
                (kept,) = [weakref.ref(one) for one in list_websockets() if not any(one is other for other in others)]
                await end(client)
                await client.stream.wait_closed()
            await eventually(lambda kept=kept: kept() is None)
    finally:
        if was_on:
            gc.enable()


def list_websockets() -> list[web.WebSocketResponse]:
    """List those of this whole process, which earlier tests may have left."""
    return [each for each in gc.get_objects() if type(each) is web.WebSocketResponse]


async def test_a_ca_whose_clock_is_astray_issues_nothing_and_opens_no_stream_until_it_is_right_again(
    tmp_path: Path,
) -> None:
    """Its certificates would begin in the future, or be good for too long; other replicas have the right time."""
    clock = ShiftedClock()
    async with running_ca(tmp_path, clock=clock) as services, Admin(services) as admin:
        async with FakeSidecar(services) as client:
            await client.enrol("a", "198.18.0.2")
            clock.shift_s = 3_600.0
            await services.database_clock.measure()
            _, csr = make_csr()
            await client.send(CertificateRequest(request=1, csr=csr, program=Program(digest="ab" * 32)))
            refusal = await client.receive()  # The sidecar asks again on its next stream.
            assert isinstance(refusal, Refusal)
            assert (refusal.code, "3600 s ahead" in refusal.message) == ("unavailable", True)
        context = make_client_context(services, client.write_pem(tmp_path / "a.pem"))
        with pytest.raises(InvalidStatus) as caught:
            await FakeSidecar(services, context).__aenter__()
        assert (caught.value.response.status_code, "3600 s ahead" in str(caught.value.response.body)) == (503, True)
        with pytest.raises(UnavailableError, match="3600 s ahead"):
            grant = await services.store.sidecars.get("a")
            assert grant is not None
            await services.issuance.issue_sidecar(grant.grant, csr, clock())
        ready = await admin.ask("GET", "/readyz", api.Health, status=503)
        assert (ready.status, "3600 s ahead" in ready.checks["clock"]) == ("failing", True)
        for method, path, body in (
            ("POST", "/v1/join-tokens", api.JoinTokenRequest(workload="shop/web")),
            ("POST", "/v1/rotation", api.RotationRequest()),
            ("PUT", "/v1/namespaces/shop/mode", api.ModeRequest(mode=Mode.PERMISSIVE, for_s=3_600.0)),
        ):
            assert "3600 s ahead" in (await admin.fail(method, path, 503, body)).message
        assert len(await services.store.ledger.list_lines()) == 1
        clock.shift_s = 0.0
        await services.database_clock.measure()
        async with FakeSidecar(services, context) as client:
            await client.resume("a", "198.18.0.2")
            await client.send(CertificateRequest(request=1, csr=csr, program=Program(digest="ab" * 32)))
            assert (await client.expect(CertificateIssued)).request == 1


async def test_by_a_clock_that_is_days_ahead_an_eviction_leaves_no_certificate_out(tmp_path: Path) -> None:
    """It would count as ended, and be trusted on."""
    clock = ShiftedClock()
    async with running_ca(tmp_path, clock=clock) as services, Admin(services) as admin:
        async with FakeSidecar(services) as client:
            await client.enrol("a", "198.18.0.2")
        clock.shift_s = 3 * 86_400.0
        await services.database_clock.measure()
        done = await admin.ask("POST", "/v1/evictions", api.Evicted, api.EvictionRequest(whom="a"))
        assert (done.instances, done.certificates) == (("a",), 1)


async def test_a_sidecar_that_opens_streams_without_end_is_refused_and_named_and_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each cost a transaction, its namespaces' states and a log line."""
    monkeypatch.setattr(allowance, "STREAMS", 2)
    monkeypatch.setattr(allowance, "STREAMS_PER_S", 1e-9)
    async with running_ca(tmp_path) as services:
        contexts = {}
        for name in ("evil", "good"):
            async with FakeSidecar(services) as client:
                await client.enrol(name)
            contexts[name] = make_client_context(services, client.write_pem(tmp_path / f"{name}.pem"))
        for name in ("evil", "evil", "good", "good"):
            async with FakeSidecar(services, contexts[name]) as client:
                await client.resume(name)
        async with FakeSidecar(services, contexts["evil"]) as client:
            await client.send(Resume(registration=make_registration("evil")))
            refusal = await client.receive()
            assert isinstance(refusal, Refusal)
            assert (refusal.code, "too often" in refusal.message) == ("overloaded", True)
        text = services.metrics.render().decode()
        assert 'touchmark_ca_streams_refused_total{code="too_many_streams"} 1.0' in text
        # A token is a proof of its own.
        token, (_, csr) = await make_token(services), make_csr()
        for kind in (Welcome, Welcome, Refusal):
            async with FakeSidecar(services) as client:
                await client.send(Enrol(token=token, csr=csr, registration=make_registration("new")))
                assert isinstance(await client.receive(), kind)
