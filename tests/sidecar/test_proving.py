"""What must be proven of this side's program before a connection's first byte."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from shared.model.identity.loaded_code import LoadedCode, LoadedObject
from shared.model.policy.decision import Answer, Ending, Origin
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Mode, Requirement
from shared.model.wire.messages import FromSidecar, ProgramSeen
from sidecar.attest.facts import Attestation, AttestationError, Execution
from sidecar.attest.netlink.sock_diag import KernelSocket
from sidecar.loaded.looks import CodeLooks
from sidecar.loaded.measured_code import Look
from sidecar.proving import _ACCEPTING_S, _ACCEPTING_TURNS, Acceptance
from sidecar.sightings.reporting import Sightings
from sidecar.sockets.address import Endpoint
from tests.sidecar.little_ca import until
from tests.sidecar.pair import CLIENT, CLIENT_PROGRAM, SERVER, SERVER_PROGRAM, Pair, approve, running_pair
from tests.sidecar.test_outbound import echo

EXPLICIT = approve((CLIENT, CLIENT_PROGRAM), (SERVER, SERVER_PROGRAM), mode=Mode.EXPLICIT)


@pytest.mark.parametrize("side", ["client", "server"])
async def test_no_byte_passes_while_another_program_holds_the_socket_or_the_listener(side: str) -> None:
    reached: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.append(await reader.read(100))
        writer.close()

    async with running_pair(take) as pair:
        pair.set_state(EXPLICIT)
        sides = {"client": pair.client, "server": pair.server}
        sides[side].attestor.shared = AttestationError("two hold it", reason=Reason.SOCKET_SHARED)
        reader, writer = await pair.connect()
        writer.write(b"secret")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        await until(lambda: sides[side].records)
        record = sides[side].records[0]
        assert (record.answer, record.reason, record.ending) == (Answer.DENY, Reason.SOCKET_SHARED, Ending.REFUSED)
    assert reached == []


async def test_permissive_mode_waits_for_no_search() -> None:
    async with running_pair(echo) as pair:
        pair.client.attestor.shared = AttestationError("two hold it", reason=Reason.SOCKET_SHARED)
        reader, writer = await pair.connect()
        writer.write(b"hi")
        writer.write_eof()
        assert await reader.read() == b"hi"
        writer.close()
        assert pair.client.attestor.cleared == 0


async def serve_one(pair: Pair, answer: bytes | None) -> None:
    """Send a request from the client; None: the connection is reset."""
    reader, writer = await pair.connect()
    writer.write(b"hi")
    writer.write_eof()
    if answer is None:
        with pytest.raises(ConnectionResetError):
            await reader.read()
    else:
        assert await reader.read() == answer
    writer.close()
    await until(lambda: pair.server.records)


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("accepts", [True, False], ids=["accepted at once", "accepted late"])
@pytest.mark.parametrize("is_slow", [True, False], ids=["measured", "known"])
async def test_a_connection_that_another_program_accepts_is_refused_or_told(
    mode: Mode, *, accepts: bool, is_slow: bool
) -> None:
    """Explicit mode lets no answered byte pass; permissive mode says it in the record."""
    async with running_pair(echo) as pair:
        pair.set_state(approve((CLIENT, CLIENT_PROGRAM), (SERVER, SERVER_PROGRAM), mode=mode))
        attestor = pair.server.attestor
        attestor.acceptor = AttestationError("another accepted", reason=Reason.LISTENERS_DIFFER)
        attestor.accepts, attestor.is_slow = accepts, is_slow
        if not accepts:
            attestor.accepts_after = 1 + len(_ACCEPTING_S) + _ACCEPTING_TURNS if mode is Mode.EXPLICIT else 0
        await serve_one(pair, None if mode is Mode.EXPLICIT else b"hi")
        record = pair.server.records[0]
        if mode is Mode.EXPLICIT:
            assert (record.answer, record.reason) == (Answer.DENY, Reason.LISTENERS_DIFFER)
            assert record.bytes_sent == 0 or not accepts
        else:
            assert record.answer is Answer.ALLOW
            assert record.detail == "another accepted"


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("is_slow", [True, False], ids=["measured", "known"])
async def test_another_program_that_accepts_late_and_never_answers_is_met_by_a_later_search(
    mode: Mode, *, is_slow: bool
) -> None:
    """It would read whatever the client still sends; a server that hasn't accepted yet is no reason."""
    got: list[bytes] = []

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.readexactly(2))
        await reader.read()
        writer.close()

    async with running_pair(swallow) as pair:
        pair.set_state(approve((CLIENT, CLIENT_PROGRAM), (SERVER, SERVER_PROGRAM), mode=mode))
        attestor = pair.server.attestor
        attestor.acceptor = AttestationError("another accepted", reason=Reason.LISTENERS_DIFFER)
        attestor.accepts, attestor.is_slow = False, is_slow
        reader, writer = await pair.connect()
        writer.write(b"hi")
        await until(lambda: got)
        (connection,) = pair.server.sidecar.connections
        search = connection.on_search
        assert search is not None
        search()
        assert not connection.is_revoked
        attestor.accepts = True
        search()
        if mode is Mode.EXPLICIT:
            with pytest.raises(ConnectionResetError):
                await reader.read()
        else:
            await until(lambda: connection.refused_in_explicit)
            assert connection.on_search is not None
            connection.on_search()
            writer.write_eof()
            assert await reader.read() == b""
        writer.close()
        await until(lambda: pair.server.records)
        record = pair.server.records[0]
        assert (record.answer, record.detail) == (
            Answer.DENY if mode is Mode.EXPLICIT else Answer.ALLOW, "another accepted",
        )  # fmt: skip


@pytest.mark.parametrize("accepts_late", [True, False])
async def test_what_another_program_has_accepted_ends_when_the_mode_becomes_explicit(*, accepts_late: bool) -> None:
    async with running_pair(echo) as pair:
        pair.set_state(approve((CLIENT, CLIENT_PROGRAM), (SERVER, SERVER_PROGRAM), mode=Mode.PERMISSIVE))
        attestor = pair.server.attestor
        attestor.acceptor = AttestationError("another accepted", reason=Reason.LISTENERS_DIFFER)
        attestor.accepts_after = 1 if accepts_late else None
        reader, writer = await pair.connect()
        writer.write(b"hi")
        assert await reader.readexactly(2) == b"hi"
        (connection,) = pair.server.sidecar.connections
        assert connection.refused_in_explicit is Reason.LISTENERS_DIFFER
        pair.set_state(EXPLICIT)
        assert connection.on_search is not None
        connection.on_search()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        await until(lambda: pair.server.records)
        record = pair.server.records[0]
        assert (record.answer, record.reason, record.ending) == (
            Answer.DENY, Reason.LISTENERS_DIFFER, Ending.POLICY_CHANGED,
        )  # fmt: skip


async def test_what_a_server_answered_that_has_closed_already_needs_its_listeners_cleared_again() -> None:
    async with running_pair(echo) as pair:
        pair.set_state(EXPLICIT)
        pair.server.attestor.accepts = False
        await serve_one(pair, b"hi")
        assert pair.server.attestor.cleared == 1


@pytest.mark.parametrize("accepts", [True, False], ids=["held", "closed with its answer"])
async def test_an_answer_of_which_nothing_is_left_to_look_at_passes_at_once(
    monkeypatch: pytest.MonkeyPatch, *, accepts: bool
) -> None:
    """Permissive mode: without another turn of the event loop, and without waking the story up."""
    seen, look = list[tuple[bool, bool]](), Acceptance._look_at_answer

    def look_and_see(acceptance: Acceptance) -> None:
        look(acceptance)
        seen.append((acceptance._is_open, acceptance._answered.done()))

    monkeypatch.setattr(Acceptance, "_look_at_answer", look_and_see)
    monkeypatch.setattr(CodeLooks, "take_turn", lambda *_: False)  # It would be looked at after the dial.
    async with running_pair(echo) as pair:
        pair.server.attestor.accepts = accepts
        await serve_one(pair, b"hi")
        assert pair.server.records[0].ending is Ending.FINISHED
    assert seen == [(False, False)]


@pytest.mark.parametrize("accepts_after", [None, 1 + len(_ACCEPTING_S) + _ACCEPTING_TURNS], ids=["at once", "late"])
@pytest.mark.parametrize("reason", [Reason.NO_OWNER, Reason.PROCESS_VANISHED])
async def test_a_server_that_closes_while_it_is_looked_for_is_one_that_has_closed(
    reason: Reason, accepts_after: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_pair(echo) as pair:
        pair.set_state(EXPLICIT)
        attestor = pair.server.attestor
        attestor.is_slow, attestor.accepts_after = True, accepts_after

        async def close_meanwhile(*_: object) -> Attestation:
            attestor.accepts, attestor.accepts_after = False, None
            raise AttestationError("no visible process holds it", reason=reason)

        monkeypatch.setattr(attestor, "attest_accepted", close_meanwhile)
        await serve_one(pair, b"hi")
        assert pair.server.records[0].answer is Answer.ALLOW
        assert attestor.cleared == 1


@pytest.mark.parametrize("reason", [Reason.NO_OWNER, Reason.PROCESS_VANISHED])
async def test_a_server_that_holds_the_connection_out_of_sight_is_refused(reason: Reason) -> None:
    async with running_pair(echo) as pair:
        pair.set_state(EXPLICIT)
        pair.server.attestor.is_slow = True
        pair.server.attestor.acceptor = AttestationError("no visible process holds it", reason=reason)
        await serve_one(pair, None)
        assert pair.server.records[0].reason is reason


async def test_a_listener_of_another_program_that_appears_before_the_dial_is_met_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running_pair(echo) as pair:
        pair.set_state(EXPLICIT)

        async def attest_listener(address: str, port: int) -> object:
            raise AttestationError("two listen", reason=Reason.LISTENERS_DIFFER)

        monkeypatch.setattr(pair.server.attestor, "has_listeners_of", lambda *_: False)
        monkeypatch.setattr(pair.server.attestor, "attest_listener", attest_listener, raising=False)
        await serve_one(pair, None)
        assert pair.server.records[0].reason is Reason.LISTENERS_DIFFER


@pytest.mark.parametrize("is_worker", [True, False], ids=["a worker", "who listens"])
@pytest.mark.parametrize("mode", list(Mode))
async def test_the_loaded_code_of_a_worker_that_accepts_is_looked_at_as_well(
    mode: Mode, monkeypatch: pytest.MonkeyPatch, *, is_worker: bool
) -> None:
    async def check_code(_: object, attestation: Attestation) -> str:
        raise AttestationError("evil.so", reason=Reason.CODE_NOT_APPROVED)

    monkeypatch.setattr("sidecar.proving.check_code", check_code)
    monkeypatch.setattr("sidecar.proving.find_checked", lambda *_: object())  # Its approval asks for that.
    async with running_pair(echo) as pair:
        pair.set_state(approve((CLIENT, CLIENT_PROGRAM), (SERVER, SERVER_PROGRAM), mode=mode))
        if is_worker:
            pair.server.attestor.acceptors_execution = Execution(43, 1, 0, 0, 0, 0, 0)
        is_refused = is_worker and mode is Mode.EXPLICIT
        await serve_one(pair, None if is_refused else b"hi")
        record = pair.server.records[0]
        assert record.reason == (Reason.CODE_NOT_APPROVED if is_worker else Reason.SAME_GROUP)
        # What permissive mode lets pass is marked: explicit mode wouldn't.
        assert record.would_deny is (is_worker and not is_refused)
        assert record.detail == ("evil.so" if is_worker else "")
        assert record.process.pid == (43 if is_worker else 42), "`update-code` takes what the worker has loaded"


async def test_permissive_mode_marks_what_a_worker_has_loaded_that_closes_with_its_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the first answered byte nobody holds the connection any more: `ready` would say what explicit mode refuses."""

    answers: list[bytes] = []

    async def check_code(_: object, attestation: Attestation) -> str:
        raise AttestationError("libnss.so", reason=Reason.CODE_NOT_APPROVED)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers.append(await reader.read())
        writer.write(answers[0])
        writer.close()

    monkeypatch.setattr("sidecar.proving.check_code", check_code)
    monkeypatch.setattr("sidecar.proving.find_checked", lambda *_: object())
    async with running_pair(answer) as pair:
        pair.set_state(approve((CLIENT, CLIENT_PROGRAM), (SERVER, SERVER_PROGRAM), mode=Mode.PERMISSIVE))
        attestor = pair.server.attestor
        attestor.acceptors_execution = Execution(43, 1, 0, 0, 0, 0, 0)
        find = attestor.find_accepted

        def find_while_open(application: Endpoint, local: Endpoint) -> KernelSocket:
            found = find(application, local)
            return msgspec.structs.replace(found, inode=0 if answers else found.inode)

        monkeypatch.setattr(attestor, "find_accepted", find_while_open)
        await serve_one(pair, b"hi")
        record = pair.server.records[0]
        assert (record.answer, record.reason, record.would_deny) == (Answer.ALLOW, Reason.CODE_NOT_APPROVED, True)


@pytest.mark.parametrize("is_busy", [False, True], ids=["accepts at once", "accepts late"])
async def test_before_any_approval_what_a_worker_has_loaded_is_told_though_it_closes_with_its_answer(
    monkeypatch: pytest.MonkeyPatch, *, is_busy: bool
) -> None:
    """The first approval is to list it. Who accepts the next connection isn't looked at so soon."""
    loaded, messages = LoadedCode(objects=(LoadedObject(path="libnss.so", digest="a" * 64),)), list[FromSidecar]()
    answers, looked_for = list[bytes](), list[int]()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers.append(await reader.read())
        writer.write(answers[-1])
        writer.close()

    async with running_pair(answer) as pair:
        pair.set_state(approve(mode=Mode.PERMISSIVE))
        server, attestor = pair.server.sidecar, pair.server.attestor
        server.sightings = Sightings(send=messages.append, tell_code=server.code.describe)
        attestor.acceptors_execution = Execution(43, 1, 0, 0, 0, 0, 0)
        attestor.accepts_after = 40 if is_busy else None
        find = attestor.find_accepted

        def find_while_open(application: Endpoint, local: Endpoint) -> KernelSocket:
            looked_for.append(len(answers))
            found = find(application, local)
            return msgspec.structs.replace(found, inode=0 if answers else found.inode)

        monkeypatch.setattr(attestor, "find_accepted", find_while_open)
        monkeypatch.setattr(server.code._measuring, "look", lambda *_: Look(code=loaded, keys=()))
        monkeypatch.setattr("sidecar.proving._ACCEPTING_LONGER_S", (0.0,) * 100)
        monkeypatch.setattr("sidecar.loaded.looks._ACCEPTOR_PERIOD_S", 3600.0)
        monkeypatch.setattr("sidecar.loaded.looks._ACCEPTOR_WAIT_S", 60.0)
        await serve_one(pair, b"hi")
        assert messages == [ProgramSeen(program=SERVER_PROGRAM, path="/usr/bin/it", code=loaded, has_accepted=True)]
        record = pair.server.records[0]
        assert (record.process.pid, record.process.code) == (43, loaded), "`--from-decisions` takes it from there"
        assert set(looked_for) == {0}
        await serve_one(pair, b"hi")
        await until(lambda: len(pair.server.records) == 2)
        assert looked_for.count(1) == 0 and looked_for.count(2) == 1, "at the answer alone"
        assert len(messages) == 1


async def test_permissive_mode_doesnt_wait_long_for_who_accepts_before_it_sends_anything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The peer, which waits for an answer to its OPEN, would refuse the connection."""
    async with running_pair(echo) as pair:
        pair.set_state(approve(mode=Mode.PERMISSIVE))
        attestor, looks = pair.server.attestor, list[int]()
        attestor.is_slow, attestor.acceptors_execution = True, Execution(43, 1, 0, 0, 0, 0, 0)
        attest = attestor.attest_accepted

        async def attest_at_second(found: KernelSocket, listener: Attestation) -> Attestation:
            looks.append(1)
            if len(looks) == 1:
                await asyncio.Event().wait()
            return await attest(found, listener)

        monkeypatch.setattr(attestor, "attest_accepted", attest_at_second)
        monkeypatch.setattr(pair.server.sidecar.code._measuring, "look", lambda *_: Look(code=LoadedCode(), keys=()))
        monkeypatch.setattr("sidecar.proving._TURN_S", 0.0)
        await serve_one(pair, b"hi")
        record = pair.server.records[0]
        assert (len(looks), record.answer, record.process.pid) == (2, Answer.ALLOW, 43)


@pytest.mark.parametrize("origin", [Origin.CONTAINER, Origin.EXEC])
async def test_permissive_mode_looks_once_at_a_worker_that_accepts(
    origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is another process of the listener's program: what its namespace requires is checked in that one look."""
    async with running_pair(echo) as pair:
        state = approve((CLIENT, CLIENT_PROGRAM), (SERVER, SERVER_PROGRAM), mode=Mode.PERMISSIVE)
        pair.set_state(msgspec.structs.replace(state, requires=(Requirement.CONTAINER_ORIGIN,)))
        attestor, looks = pair.server.attestor, list[Attestation | None]()
        attestor.acceptors_execution = Execution(43, 1, 0, 0, 0, 0, 0)
        look = attestor.attest_accepted_now

        def count(found: KernelSocket, listener: Attestation) -> Attestation | None:
            looks.append(look(found, listener))
            return None if looks[-1] is None else msgspec.structs.replace(looks[-1], origin=origin)

        monkeypatch.setattr(attestor, "attest_accepted_now", count)
        await serve_one(pair, b"hi" if origin is Origin.CONTAINER else None)
        assert len(looks) == 1
        reason = Reason.SAME_GROUP if origin is Origin.CONTAINER else Reason.PROCESS_ORIGIN
        assert pair.server.records[0].reason is reason
