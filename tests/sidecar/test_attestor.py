"""The attestor against real processes, among them those that try to look like another program."""

from __future__ import annotations

import array
import asyncio
import ctypes
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from shared.model.policy.reasons import Reason
from sidecar.attest.dialled import find_dialled
from sidecar.attest.holding import clearance
from sidecar.attest.holding.caught import CaughtHolders
from sidecar.attest.holding.owner import OwnerSearch
from sidecar.attest.measure import Measured, Measuring, Sighting
from sidecar.attest.netlink.sock_diag import KernelSocket
from sidecar.attestor import Attestation, AttestationError, Attestor
from tests.free_ports import free_port
from tests.sidecar.attest.processes import (
    AS_NOBODY,
    CONNECT,
    PYTHON,
    WAIT,
    copy_program,
    digest_of,
    hear,
    listening,
    look_among_all,
    running,
    tell,
)
from tests.sidecar.attest.twins import open_twins


@pytest.fixture
async def attestor() -> AsyncIterator[Attestor]:
    made = Attestor()
    yield made
    made.close()


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with listening() as made:
        yield made
    while _accepted:
        _accepted.pop().close()


_accepted: list[socket.socket] = []


def take(server: socket.socket) -> tuple[str, int]:
    """Accept a connection, keep it until the test's end, and tell its source."""
    accepted, source = server.accept()
    _accepted.append(accepted)
    return source[0], source[1]


def port_of(server: socket.socket) -> str:
    return str(server.getsockname()[1])


async def test_a_connection_is_attested_to_the_hash_of_its_program(attestor: Attestor, server: socket.socket) -> None:
    with running(CONNECT + WAIT, port_of(server)) as child:
        source = take(server)
        assert attestor.attest_now(source, server.getsockname()) is None
        found = await attestor.attest(source, server.getsockname())
        assert found.program.digest == digest_of(PYTHON)
        assert found.program.main == "none"
        assert found.process.pid == child.pid
        assert attestor.attest_now(source, server.getsockname()) == found


async def test_a_socket_that_was_answered_already_isnt_behind_a_connection_that_wasnt(
    attestor: Attestor, server: socket.socket
) -> None:
    """The look comes before the first answer: what has one is another connection's, however its tuple came to match."""
    with running(CONNECT + WAIT + "c.recv(1)\n" + WAIT, port_of(server)) as child:
        source = take(server)
        await attestor.attest(source, server.getsockname())
        _accepted[-1].sendall(b"x")
        tell(child)
        assert hear(child) == "ready"
        with pytest.raises(AttestationError, match="answered already") as caught:
            attestor.attest_now(source, server.getsockname())
        assert caught.value.reason is Reason.SOCKET_AMBIGUOUS
        early = attestor.attest_early(source, server.getsockname())
        assert isinstance(early, AttestationError) and early.reason is Reason.SOCKET_AMBIGUOUS


async def test_a_program_that_has_sent_its_last_word_is_attested(attestor: Attestor, server: socket.socket) -> None:
    with running(CONNECT + "c.sendall(b'all');c.shutdown(socket.SHUT_WR)\n" + WAIT, port_of(server)):
        found = await attestor.attest(take(server), server.getsockname())
        assert found.program.digest == digest_of(PYTHON)


async def test_of_two_sockets_with_one_tuple_neither_is_attested(attestor: Attestor) -> None:
    """Both are bound to a device, and which of them the connection is can't be told."""
    with open_twins("127.0.0.1") as twins:
        twins.second.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
        assert attestor.attest_now(twins.source, twins.destination) is None
        with pytest.raises(AttestationError, match="2 sockets have") as caught:
            await attestor.attest(twins.source, twins.destination)
        assert caught.value.reason is Reason.SOCKET_AMBIGUOUS


async def test_a_socket_that_is_bound_to_a_device_is_attested_where_it_is_the_only_one(
    attestor: Attestor, server: socket.socket
) -> None:
    code = CONNECT + "c.setsockopt(socket.SOL_SOCKET,socket.SO_BINDTODEVICE,b'lo')\n" + WAIT
    with running(code, port_of(server)) as child:
        source = take(server)
        assert attestor.attest_now(source, server.getsockname()) is None
        assert (await attestor.attest(source, server.getsockname())).process.pid == child.pid


async def test_a_socket_that_never_got_through_isnt_attested_in_place_of_one_bound_to_a_device(
    attestor: Attestor,
) -> None:
    """The kernel finds the unbound one, which is still connecting; the device's has the connection."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.socket() as first:
        first.connect(full.getsockname())  # The queue is full now: what comes next gets no answer.
        with socket.socket() as waiting:
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
            with pytest.raises(AttestationError, match="state 2") as caught:
                attestor.attest_now(waiting.getsockname(), full.getsockname())
            assert caught.value.reason is Reason.SOCKET_AMBIGUOUS


async def test_a_burst_of_a_new_program_is_measured_once(
    attestor: Attestor, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []

    original = Measuring.measure_sighting

    async def count(measuring: Measuring, sighting: Sighting) -> Measured:
        measured.append(sighting.process.pid)
        return await original(measuring, sighting)

    monkeypatch.setattr(Measuring, "measure_sighting", count)
    code = "import socket,sys\nc=[socket.create_connection(('127.0.0.1',int(sys.argv[1]))) for _ in range(8)]\n" + WAIT
    with running(code, port_of(server)) as child:
        sources = [take(server) for _ in range(8)]
        found = await asyncio.gather(*(attestor.attest(source, server.getsockname()) for source in sources))
        assert len({one.inode for one in found}) == 8
        assert {one.process.pid for one in found} == {child.pid}
        assert measured == [child.pid]


async def test_a_burst_of_a_new_program_waits_for_its_measurement_and_searches_for_nobody(
    attestor: Attestor, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it is attested though the program has ended by then."""
    look_among_all(monkeypatch)
    monkeypatch.setattr(OwnerSearch, "find", None)
    original, has_ended = Measuring.measure_sighting, asyncio.Event()

    async def wait(measuring: Measuring, sighting: Sighting) -> Measured:
        await has_ended.wait()
        return await original(measuring, sighting)

    monkeypatch.setattr(Measuring, "measure_sighting", wait)
    monkeypatch.setattr("sidecar.attest.measure._MAX_UNSEEN_S", 600.0)  # This may take its time.
    place = server.getsockname()
    code = "import socket,sys\nc=[socket.create_connection(('127.0.0.1',int(sys.argv[1]))) for _ in range(40)]\n" + WAIT
    with running(code, port_of(server)) as child:
        sources = [take(server) for _ in range(40)]
        attestor.attest_early(sources[0], place)
        attesting = [asyncio.create_task(attestor.attest(source, place)) for source in sources]
        await asyncio.sleep(0)
        child.kill()
        child.wait()
        has_ended.set()
        found = await asyncio.gather(*attesting)
    assert {(one.process.pid, one.program.digest) for one in found} == {(child.pid, digest_of(PYTHON))}
    assert len({one.inode for one in found}) == 40


async def test_a_connection_that_comes_in_the_turn_in_which_the_measurement_ends_searches_for_nobody(
    attestor: Attestor, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process isn't among the known ones yet, and is measured no more."""
    look_among_all(monkeypatch)
    monkeypatch.setattr(OwnerSearch, "find", None)
    original, later = Measuring.measure_sighting, list[asyncio.Task[Attestation]]()
    place = server.getsockname()
    code = "import socket,sys\nc=[socket.create_connection(('127.0.0.1',int(sys.argv[1]))) for _ in range(3)]\n" + WAIT
    with running(code, port_of(server)) as child:
        sources = [take(server) for _ in range(3)]

        async def begin_others_at_its_end(measuring: Measuring, sighting: Sighting) -> Measured:
            measured = await original(measuring, sighting)
            later.extend(asyncio.create_task(attestor.attest(source, place)) for source in sources[1:])
            return measured

        monkeypatch.setattr(Measuring, "measure_sighting", begin_others_at_its_end)
        attestor.attest_early(sources[0], place)
        found = [await attestor.attest(sources[0], place), *(await asyncio.gather(*later))]
    assert {one.process.pid for one in found} == {child.pid}
    assert len({one.inode for one in found}) == 3


async def test_a_bursts_process_is_measured_while_its_connections_ask_the_kernel_for_all_sockets(
    attestor: Attestor, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A walk takes milliseconds whatever it finds: the measuring would stand behind those of all, and others search."""
    monkeypatch.setattr(CaughtHolders, "look_at", lambda *_: None)  # As where it isn't among the newest processes.
    monkeypatch.setattr(OwnerSearch, "find", None)
    loop, has_begun, may_go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    walked: list[tuple[str, int]] = []

    def walk(source: tuple[str, int], destination: tuple[str, int]) -> KernelSocket:
        walked.append(source)
        loop.call_soon_threadsafe(has_begun.set)
        may_go_on.wait()
        return find_dialled(source, destination)

    monkeypatch.setattr("sidecar.attestor.find_dialled", walk)
    place = server.getsockname()
    code = "import socket,sys\nc=[socket.create_connection(('127.0.0.1',int(sys.argv[1]))) for _ in range(8)]\n" + WAIT
    with running(code, port_of(server)) as child:
        sources = [take(server) for _ in range(8)]
        attesting = [asyncio.create_task(attestor.attest(source, place)) for source in sources]
        try:
            await has_begun.wait()
            await attestor._measure_process(child.pid, 0)
        finally:
            may_go_on.set()
        found = await asyncio.gather(*attesting)
    assert {one.process.pid for one in found} == {child.pid}
    assert len({one.inode for one in found}) == 8
    assert sorted(walked) == sorted(sources)


async def test_a_process_that_was_measured_during_a_search_for_it_is_searched_for_once(
    attestor: Attestor, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever in its table the socket is; a second search had one connection wait alone."""
    monkeypatch.setattr(CaughtHolders, "look_at", lambda *_: None)  # As where it isn't among the newest processes.
    original, searches = OwnerSearch.find, list[int]()

    async def find(owners: OwnerSearch, inode: int, uid: int) -> tuple[int, float]:
        searches.append(inode)
        found = await original(owners, inode, uid)
        if len(searches) == 1:
            await attestor._measure_process(found[0], 0)
        return found

    monkeypatch.setattr(OwnerSearch, "find", find)
    place = server.getsockname()
    code = "import socket,sys\nc=[socket.create_connection(('127.0.0.1',int(sys.argv[1]))) for _ in range(40)]\n" + WAIT
    with running(code, port_of(server)) as child:
        sources = [take(server) for _ in range(40)]
        assert (await attestor.attest(sources[20], place)).process.pid == child.pid
    assert len(searches) == 1


async def test_a_known_process_that_has_ended_is_forgotten_at_the_next_new_one(
    attestor: Attestor, server: socket.socket
) -> None:
    """Else each connection of a new process would be looked for in all those before it."""
    place = server.getsockname()
    for _ in range(3):
        with running(CONNECT + WAIT, port_of(server)) as child:
            assert (await attestor.attest(take(server), place)).process.pid == child.pid
            assert len(attestor._known) == 1
            child.kill()
            child.wait()


async def test_a_connection_of_another_process_doesnt_wait_for_the_one_that_is_measured(
    attestor: Attestor, server: socket.socket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    look_among_all(monkeypatch)
    original, may_go_on = Measuring.measure_sighting, asyncio.Event()

    async def wait(measuring: Measuring, sighting: Sighting) -> Measured:
        if sighting.process.pid == first.pid:
            await may_go_on.wait()
        return await original(measuring, sighting)

    monkeypatch.setattr(Measuring, "measure_sighting", wait)
    other = copy_program(PYTHON, tmp_path / "other")
    place = server.getsockname()
    with running(CONNECT + WAIT, port_of(server)) as first:
        source = take(server)
        with running(CONNECT + WAIT, port_of(server), program=str(other)) as second:
            attestor.attest_early(source, place)
            waiting = asyncio.create_task(attestor.attest(source, place))
            await asyncio.sleep(0)
            found = await attestor.attest(take(server), place)
            assert (found.process.pid, found.program.digest) == (second.pid, digest_of(other))
            assert not waiting.done()
            may_go_on.set()
            assert (await waiting).process.pid == first.pid


async def test_what_executed_another_program_while_it_was_measured_lends_its_next_socket_nothing(
    attestor: Attestor, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_among_all(monkeypatch)
    original, may_go_on = Measuring.measure_sighting, asyncio.Event()

    async def wait(measuring: Measuring, sighting: Sighting) -> Measured:
        await may_go_on.wait()
        return await original(measuring, sighting)

    monkeypatch.setattr(Measuring, "measure_sighting", wait)
    place = server.getsockname()
    code = CONNECT + "d=socket.create_connection(('127.0.0.1',int(sys.argv[1])))\nos.set_inheritable(d.fileno(),True)\n"
    with running(code + WAIT + "os.execv('/bin/sleep',['sleep','600'])", port_of(server)) as child:
        sources = [take(server) for _ in range(2)]
        attestor.attest_early(sources[0], place)
        first = asyncio.create_task(attestor.attest(sources[0], place))
        await asyncio.sleep(0)
        tell(child)
        while os.readlink(f"/proc/{child.pid}/exe") != os.path.realpath("/bin/sleep"):
            pass
        second = asyncio.create_task(attestor.attest(sources[1], place))
        await asyncio.sleep(0)
        may_go_on.set()
        assert (await second).program.digest == digest_of("/bin/sleep")
        with pytest.raises(AttestationError):
            await first


async def test_sockets_of_one_kind_but_two_programs_are_told_apart(
    attestor: Attestor, server: socket.socket, tmp_path: Path
) -> None:
    other = copy_program(PYTHON, tmp_path / "other")
    with running(CONNECT + WAIT, port_of(server)) as first:
        sources = [take(server)]
        with running(CONNECT + WAIT, port_of(server), program=str(other)) as second:
            sources.append(take(server))
            found = await asyncio.gather(*(attestor.attest(source, server.getsockname()) for source in sources))
            assert [one.process.pid for one in found] == [first.pid, second.pid]


async def test_exec_after_the_first_look_shows_the_new_program(
    attestor: Attestor, server: socket.socket, tmp_path: Path
) -> None:
    other = copy_program("/bin/sh", tmp_path / "other")
    code = CONNECT + "c.set_inheritable(True)\n" + WAIT + "os.execv(sys.argv[2],['x','-c','echo here; kill -STOP $$'])"
    with running(code, port_of(server), str(other)) as child:
        source = take(server)
        first = await attestor.attest(source, server.getsockname())
        tell(child)
        assert hear(child) == "here"
        assert attestor.attest_now(source, server.getsockname()) is None
        second = await attestor.attest(source, server.getsockname())
        assert second.process.start_time == first.process.start_time
        assert second.program.digest == digest_of(other)
        assert second.program.main == ""


@pytest.mark.needs_root
async def test_a_reused_process_id_is_another_process(
    attestor: Attestor, server: socket.socket, tmp_path: Path
) -> None:
    other = copy_program(PYTHON, tmp_path / "other")
    for _ in range(50):
        with running(CONNECT + WAIT, port_of(server)) as child:
            first = await attestor.attest(take(server), server.getsockname())
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(child.pid - 1))
        with running(CONNECT + WAIT, port_of(server), program=str(other)) as successor:
            source = take(server)
            if successor.pid != child.pid:  # Another process of this machine was faster.
                continue
            assert attestor.attest_now(source, server.getsockname()) is None
            second = await attestor.attest(source, server.getsockname())
            assert second.program.digest == digest_of(other)
            assert second.process.pid == first.process.pid
            assert second.process.start_time != first.process.start_time
            return
    pytest.fail("no process ID was reused in 50 attempts")


async def test_a_vanished_sender_is_no_guess(attestor: Attestor, server: socket.socket) -> None:
    with running(CONNECT + WAIT, port_of(server)):
        accepted, source = server.accept()
        await attestor.attest(source, server.getsockname())
    with accepted, pytest.raises(AttestationError) as caught:
        await attestor.attest(source, server.getsockname())
    assert caught.value.reason is Reason.SENDER_GONE


_SENDS_AND_EXITS = CONNECT + "c.sendall(b'x')\n" + WAIT


async def test_a_new_process_that_ends_after_its_connection_was_accepted_is_attested(
    attestor: Attestor, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_among_all(monkeypatch)
    monkeypatch.setattr("sidecar.attest.measure._MAX_UNSEEN_S", 600.0)  # However busy it is.
    place = server.getsockname()
    with running(_SENDS_AND_EXITS, port_of(server)) as child:
        source = take(server)
        assert attestor.attest_early(source, place) is None
        child.kill()
        child.wait()
        found = await attestor.attest(source, place)
    assert (found.process.pid, found.program.digest) == (child.pid, digest_of(PYTHON))


async def test_what_was_seen_at_the_accept_is_forgotten_when_the_story_hasnt_begun(
    attestor: Attestor, server: socket.socket
) -> None:
    """Or it would be told of another socket with the same addresses."""
    place = server.getsockname()
    before = len(os.listdir("/proc/self/fd"))
    with running(_SENDS_AND_EXITS, port_of(server)) as child:
        source = take(server)
        attestor.attest_early(source, place)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        child.kill()
        child.wait()
        with pytest.raises(AttestationError) as caught:
            await attestor.attest(source, place)
    assert caught.value.reason is Reason.SENDER_GONE
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # The accepted connection.


async def test_a_process_that_executed_another_program_since_the_accept_isnt_taken_for_the_first(
    attestor: Attestor, server: socket.socket
) -> None:
    place = server.getsockname()
    code = CONNECT + "os.set_inheritable(c.fileno(),True)\n" + WAIT
    with running(code + "os.execv('/bin/sleep',['sleep','600'])", port_of(server)) as child:
        source = take(server)
        assert attestor.attest_early(source, place) is None
        tell(child)
        while os.readlink(f"/proc/{child.pid}/exe") != os.path.realpath("/bin/sleep"):
            pass
        assert (await attestor.attest(source, place)).program.digest == digest_of("/bin/sleep")


async def test_a_socket_that_only_the_sidecar_holds_has_no_owner(attestor: Attestor, server: socket.socket) -> None:
    with socket.create_connection(server.getsockname()) as own:
        with pytest.raises(AttestationError) as caught:
            await attestor.attest(own.getsockname(), server.getsockname())
        assert caught.value.reason is Reason.NO_OWNER


async def test_a_deleted_executable_is_hashed_all_the_same(
    attestor: Attestor, server: socket.socket, tmp_path: Path
) -> None:
    program = copy_program(PYTHON, tmp_path / "deleted")
    expected = digest_of(program)
    with running(CONNECT + WAIT, port_of(server), program=str(program)):
        source = take(server)
        program.unlink()
        found = await attestor.attest(source, server.getsockname())
    assert found.program.digest == expected
    assert found.process.path.endswith(" (deleted)")


async def test_a_file_replaced_while_it_runs_keeps_its_old_hash(
    attestor: Attestor, server: socket.socket, tmp_path: Path
) -> None:
    program = copy_program(PYTHON, tmp_path / "program")
    expected = digest_of(program)
    with running(CONNECT + WAIT, port_of(server), program=str(program)):
        source = take(server)
        copy_program(PYTHON, tmp_path / "new", b"new").replace(program)
        found = await attestor.attest(source, server.getsockname())
    assert found.program.digest == expected != digest_of(program)


async def test_a_traced_process_is_refused_on_both_paths(
    attestor: Attestor, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.attest.process.THREADS_AGE_S", 0.0)
    seize = (
        "import ctypes,sys\nl=ctypes.CDLL(None,use_errno=True)\n"
        "assert l.ptrace(0x4206,int(sys.argv[1]),None,None)==0,ctypes.get_errno()\n"
    )
    with running(CONNECT + WAIT, port_of(server)) as child:
        source = take(server)
        await attestor.attest(source, server.getsockname())
        fresh = Attestor()
        with running(seize + "print('ready',flush=True)\nsys.stdin.readline()", str(child.pid)):
            with pytest.raises(AttestationError) as fast:
                attestor.attest_now(source, server.getsockname())
            with pytest.raises(AttestationError) as slow:
                await fresh.attest(source, server.getsockname())
        fresh.close()
        assert fast.value.reason is slow.value.reason is Reason.PROCESS_TRACED


async def test_a_traced_thread_is_refused_at_each_connection_and_when_holders_are_looked_for(
    attestor: Attestor, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.attest.process.THREADS_AGE_S", 0.0)
    threaded = CONNECT + "import threading\nt=threading.Thread(target=time.sleep,args=(600,),daemon=True);t.start()\n"
    threaded += "print('ready',flush=True)\nprint(t.native_id,flush=True)\nsys.stdin.readline()"
    seize = (
        "import ctypes,sys\nl=ctypes.CDLL(None,use_errno=True)\n"
        "assert l.ptrace(0x4206,int(sys.argv[1]),None,None)==0,ctypes.get_errno()\n"
    )
    with running(threaded, port_of(server)) as child:
        source = take(server)
        found = await attestor.attest(source, server.getsockname())
        await attestor.check_holders(found)
        assert attestor.attest_now(source, server.getsockname()) is not None
        with running(seize + "print('ready',flush=True)\nsys.stdin.readline()", hear(child)):
            with pytest.raises(AttestationError) as caught:
                await attestor.check_holders(found)
            with pytest.raises(AttestationError) as fast:
                attestor.attest_now(source, server.getsockname())
    assert caught.value.reason is fast.value.reason is Reason.PROCESS_TRACED


async def test_another_program_in_the_attested_process_is_found_with_its_holders(
    attestor: Attestor, server: socket.socket
) -> None:
    late = CONNECT + "c.set_inheritable(True)\n" + WAIT + "os.execv('/bin/sh',['sh','-c','echo over; read x'])"
    with running(late, port_of(server)) as child:
        source = take(server)
        found = await attestor.attest(source, server.getsockname())
        tell(child)
        assert hear(child) == "over"
        with pytest.raises(AttestationError) as caught:
            await attestor.check_holders(found)
        assert [error.reason for _, error in attestor.look_again([found])] == [Reason.PROGRAM_CHANGED]
    assert caught.value.reason is Reason.PROGRAM_CHANGED


async def test_a_foreign_holder_shares_the_socket_and_a_fork_does_not(
    attestor: Attestor, server: socket.socket
) -> None:
    fork = CONNECT + "c.set_inheritable(True)\nf=os.fork()\nif f==0: time.sleep(20); os._exit(0)\n" + WAIT
    fork += "p=os.spawnv(os.P_NOWAIT,'/bin/sh',['sh','-c','echo spawned; kill -STOP $$'])\n"
    fork += "sys.stdin.readline()\nos.kill(f,9);os.kill(p,9)\nprint('over',flush=True)"
    with running(fork, port_of(server)) as child:
        source = take(server)
        found = await attestor.attest(source, server.getsockname())
        await attestor.check_holders(found)
        tell(child)
        assert hear(child) == "spawned"
        with pytest.raises(AttestationError) as caught:
            await attestor.check_holders(found)
        tell(child)
        assert hear(child) == "over"
    assert caught.value.reason is Reason.SOCKET_SHARED


async def test_a_descriptor_in_flight_shares_the_socket(attestor: Attestor, server: socket.socket) -> None:
    code = CONNECT + "a,b=socket.socketpair()\n" + WAIT
    code += "socket.send_fds(a,[b'x'],[c.fileno()])\nprint('sent',flush=True)\nsys.stdin.readline()"
    with running(code, port_of(server)) as child:
        source = take(server)
        found = await attestor.attest(source, server.getsockname())
        tell(child)
        assert hear(child) == "sent"
        with pytest.raises(AttestationError) as caught:
            await attestor.check_holders(found)
    assert caught.value.reason is Reason.SOCKET_SHARED


async def test_a_process_is_clear_from_its_first_pass_until_somebody_else_holds_a_new_socket(
    attestor: Attestor, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second connection needs no pass of its own; the third, which a later child holds as well, does."""
    monkeypatch.setattr(clearance, "_MAX_NEW_TASKS", 1_000_000)  # Whatever else this machine does.
    monkeypatch.setattr(clearance, "_MAX_NEW_DESCRIPTORS", 1_000_000)
    monkeypatch.setattr(clearance, "_LIFE_S", 3600.0)  # And however long it takes for that.
    code = CONNECT + WAIT + "d=socket.create_connection(c.getpeername())\nsys.stdin.readline()\n"
    code += "e=socket.create_connection(c.getpeername());e.set_inheritable(True)\n"
    code += "p=os.spawnv(os.P_NOWAIT,'/bin/sh',['sh','-c','echo spawned; read x'])\nos.waitpid(p,0)"
    with running(code, port_of(server)) as child:
        first = await attestor.attest(take(server), server.getsockname())
        assert not attestor.is_clear(first)
        await attestor.clear(first)
        tell(child)
        second = await attestor.attest(take(server), server.getsockname())
        assert attestor.is_clear(second)
        tell(child)
        third = await attestor.attest(take(server), server.getsockname())
        assert hear(child) == "spawned"
        assert not attestor.is_clear(third)
        with pytest.raises(AttestationError) as caught:
            await attestor.clear(third)
    assert caught.value.reason is Reason.SOCKET_SHARED


async def test_a_process_that_shares_any_tcp_socket_with_another_program_is_never_clear(
    attestor: Attestor, server: socket.socket
) -> None:
    """Who made its socket and starts an approved program that inherits it would otherwise connect it afterwards."""
    code = "import sys\n" + CONNECT + WAIT
    with socket.socket() as inherited, running(code, port_of(server), pass_fds=(inherited.fileno(),)):
        found = await attestor.attest(take(server), server.getsockname())
        os.set_inheritable(inherited.fileno(), True)
        holder = await asyncio.create_subprocess_exec("/bin/sleep", "60", pass_fds=(inherited.fileno(),))
        try:
            await attestor.clear(found)
            assert not attestor.is_clear(found)
        finally:
            holder.kill()
            await holder.wait()


@pytest.mark.needs_root
@pytest.mark.parametrize(("user", "is_concerned"), [(AS_NOBODY, False), ("", True)])
async def test_a_parked_descriptor_concerns_sockets_of_its_own_user_only(
    attestor: Attestor, server: socket.socket, user: str, *, is_concerned: bool
) -> None:
    park = "import socket,sys\n" + user + "a,b=socket.socketpair()\nsocket.send_fds(a,[b'x'],[0])\n" + WAIT
    with running(CONNECT + WAIT, port_of(server)), running(park):
        found = await attestor.attest(take(server), server.getsockname())
        if not is_concerned:
            await attestor.check_holders(found)
            return
        with pytest.raises(AttestationError) as caught:
            await attestor.check_holders(found)
    assert caught.value.reason is Reason.SOCKET_SHARED


async def test_a_descriptor_passed_over_a_unix_socket_shares_it(
    attestor: Attestor, server: socket.socket, tmp_path: Path
) -> None:
    receiver = copy_program(PYTHON, tmp_path / "receiver")
    receive = (
        "import socket,sys\ns=socket.socket(fileno=int(sys.argv[1]))\nk=socket.recv_fds(s,1,1)\n"
        "print('ready',flush=True)\nsys.stdin.readline()"
    )
    with running(CONNECT + WAIT, port_of(server)):
        source = take(server)
        found = await attestor.attest(source, server.getsockname())
        left, right = socket.socketpair()
        with left, right:
            passed = _steal(found.process.pid, found.inode)
            left.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [passed]))])
            os.close(passed)
            with running(receive, str(right.fileno()), program=str(receiver), pass_fds=(right.fileno(),)) as thief:
                with pytest.raises(AttestationError) as caught:
                    await attestor.check_holders(found)
                assert caught.value.process is not None
                assert caught.value.process.pid == thief.pid
    assert caught.value.reason is Reason.SOCKET_SHARED


def _steal(pid: int, inode: int) -> int:
    """Take a copy of another process's descriptor: pidfd_getfd(2)."""
    number = next(n for n in os.listdir(f"/proc/{pid}/fd") if os.readlink(f"/proc/{pid}/fd/{n}") == f"socket:[{inode}]")
    pidfd = os.pidfd_open(pid)
    taken = ctypes.CDLL(None).syscall(438, pidfd, int(number), 0)
    os.close(pidfd)
    assert taken >= 0
    return int(taken)


@contextmanager
def reserving() -> Iterator[int]:
    """A port for listeners that share it; bound throughout at every address, so that nobody else gets it meanwhile.

    At one address only, a connection from 127.0.0.2 may have the same number, and then nobody can listen at 0.0.0.0.
    """
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("0.0.0.0", 0))
        yield int(reserved.getsockname()[1])


LISTEN = (
    "import socket,sys\ns=socket.socket()\ns.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEPORT,1)\n"
    "s.bind((sys.argv[1],int(sys.argv[2])))\ns.listen()\n" + WAIT
)


ACCEPT = LISTEN.replace("print('ready'", "s.setblocking(True)\nprint('ready'") + "c=s.accept()[0]\n" + WAIT


async def test_who_accepted_is_told_from_who_listens(attestor: Attestor, tmp_path: Path) -> None:
    """Of two that share a port, the one that isn't approved wasn't there when the listeners were looked at."""
    other = copy_program(PYTHON, tmp_path / "other")
    with reserving() as port, running(ACCEPT, "127.0.0.1", str(port)) as good:
        listener = await attestor.attest_listener("127.0.0.1", port)
        with socket.create_connection(("127.0.0.1", port)) as ours:
            found = attestor.find_accepted(ours.getpeername(), ours.getsockname())
            assert found is not None
            assert found.inode == 0
            tell(good)
            assert hear(good) == "ready"
            found = attestor.find_accepted(ours.getpeername(), ours.getsockname())
            assert found is not None
            accepted = await attestor.attest_accepted(found, listener)
            assert accepted.process.pid == good.pid
            assert accepted.inode == found.inode != listener.inode
            assert listener.inode in accepted.others
        assert attestor.has_listeners_of("127.0.0.1", port, listener)
        with running(ACCEPT, "127.0.0.1", str(port), program=str(other)) as bad:
            assert not attestor.has_listeners_of("127.0.0.1", port, listener)
            tell(bad)
            reached = [socket.create_connection(("127.0.0.1", port)) for _ in range(40)]
            assert hear(bad) == "ready"
            reasons = set()
            for each in reached:
                found = attestor.find_accepted(each.getpeername(), each.getsockname())
                assert found is not None
                if found.inode:
                    with pytest.raises(AttestationError) as caught:
                        await attestor.attest_accepted(found, listener)
                    reasons.add(caught.value.reason)
                each.close()
            assert reasons == {Reason.LISTENERS_DIFFER}
    assert attestor.has_listeners_of("127.0.0.1", port, listener)  # None at all are none of another program.


async def test_a_second_listener_of_another_program_is_refused(attestor: Attestor, tmp_path: Path) -> None:
    other = copy_program(PYTHON, tmp_path / "other")
    with reserving() as port, running(LISTEN, "127.0.0.1", str(port)), running(LISTEN, "127.0.0.1", str(port)):
        found = await attestor.attest_listener("127.0.0.1", port)
        assert found.program.digest == digest_of(PYTHON)
        assert len(found.others) == 1
        assert attestor.attest_listener_now("127.0.0.1", port) == found
        await asyncio.sleep(0)
        with running(LISTEN, "0.0.0.0", str(port), program=str(other)):
            with pytest.raises(AttestationError) as caught:
                await attestor.attest_listener("127.0.0.1", port)
            assert caught.value.reason is Reason.LISTENERS_DIFFER


async def test_a_listener_that_came_since_is_attested_in_the_same_turn_of_the_loop(
    attestor: Attestor, tmp_path: Path
) -> None:
    """An application is dialled without a turn of the loop: what was shared before the dial doesn't serve after it."""
    other = copy_program(PYTHON, tmp_path / "other")
    with reserving() as port, running(LISTEN, "127.0.0.1", str(port)):
        await attestor.attest_listener("127.0.0.1", port)
        await asyncio.sleep(0)
        listener = attestor.attest_listener_now("127.0.0.1", port)
        assert listener is not None
        with running(LISTEN, "127.0.0.1", str(port), program=str(other)):
            assert attestor.attest_listener_now("127.0.0.1", port) is listener, "what came in this turn shares it"
            assert not attestor.has_listeners_of("127.0.0.1", port, listener)
            with pytest.raises(AttestationError) as caught:
                await attestor.attest_listener("127.0.0.1", port)
            assert caught.value.reason is Reason.LISTENERS_DIFFER


async def test_one_look_at_the_listeners_serves_what_came_before_it_and_nothing_later(attestor: Attestor) -> None:
    loop = asyncio.get_running_loop()
    with reserving() as port, running(LISTEN, "127.0.0.1", str(port)) as child:
        await attestor.attest_listener("127.0.0.1", port)
        await asyncio.sleep(0)
        seen: list[Attestation] = []

        def look() -> None:
            seen.append(attestor.attest_listener_now("127.0.0.1", port) or pytest.fail("it is known"))

        def end_listener_and_come_later() -> None:
            child.kill()
            child.wait()
            loop.call_soon(look_later)

        later: asyncio.Future[Reason] = loop.create_future()

        def look_later() -> None:
            with pytest.raises(AttestationError) as caught:
                attestor.attest_listener_now("127.0.0.1", port)
            later.set_result(caught.value.reason)

        for ready in (look, end_listener_and_come_later, look):
            loop.call_soon(ready)
        assert await later is Reason.NO_LISTENER
        assert seen[0] is seen[1]


async def test_nobody_listening_has_its_own_reason(attestor: Attestor) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)), pytest.raises(AttestationError) as own:
        await attestor.attest_listener("127.0.0.1", port)
    with pytest.raises(AttestationError) as nobody:
        attestor.attest_listener_now("127.0.0.1", port)
    assert own.value.reason is nobody.value.reason is Reason.NO_LISTENER


async def test_a_program_doesnt_wait_while_strangers_to_the_same_place_are_hashed(
    attestor: Attestor, server: socket.socket, tmp_path: Path
) -> None:
    """One user, one destination, and more strangers than threads that hash."""
    with ExitStack() as stack:
        sources = []
        for number in range(4):
            program = copy_program(PYTHON, tmp_path / f"program{number}", str(number).encode())
            if number:
                os.truncate(program, 512 << 20)
            stack.enter_context(running(CONNECT + WAIT, port_of(server), program=str(program)))
            sources.append(take(server))
        place = server.getsockname()
        strangers = [asyncio.create_task(attestor.attest(source, place)) for source in sources[1:]]
        await asyncio.sleep(0.05)
        found = await attestor.attest(sources[0], place)
        assert not any(each.done() for each in strangers)
        assert found.program.digest == digest_of(tmp_path / "program0")
        # On a busy machine their own deadline may come first.
        await asyncio.gather(*strangers, return_exceptions=True)


async def test_too_large_an_executable_is_not_hashed(server: socket.socket) -> None:
    small = Attestor(max_executable_bytes=1_000)
    with running(CONNECT + WAIT, port_of(server)):
        source = take(server)
        with pytest.raises(AttestationError) as caught:
            await small.attest(source, server.getsockname())
    small.close()
    assert caught.value.reason is Reason.EXECUTABLE_TOO_LARGE
    assert caught.value.process is not None
