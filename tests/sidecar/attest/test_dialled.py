"""Which socket can be the one that made an accepted connection."""

from __future__ import annotations

import os
import socket

import msgspec
import pytest

from shared.model.identity.program import Program
from shared.model.policy.reasons import Reason
from sidecar.attest import dialled as module
from sidecar.attest.dialled import Dialling, check_dialled, find_dialled, refuse_orphan
from sidecar.attest.facts import Attestation, AttestationError, ProcessFacts
from sidecar.attest.holding.glance import read_execution
from sidecar.attest.netlink.kernel_sockets import KernelSockets
from sidecar.attest.netlink.sock_diag import KernelSocket
from tests.sidecar.attest.processes import WAIT, hear, running, tell


def test_the_one_that_dialled_is_found_and_nothing_else() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        found = find_dialled(client.getsockname(), server.getsockname())
        assert found.inode == os.fstat(client.fileno()).st_ino
        check_dialled(found)
        with pytest.raises(AttestationError) as gone:
            find_dialled(client.getsockname(), ("127.0.0.2", server.getsockname()[1]))
        assert gone.value.reason is Reason.SENDER_GONE


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"state": 2}, Reason.SOCKET_AMBIGUOUS),  # SYN_SENT: not the one whose connection was accepted.
        ({"state": 8}, Reason.SOCKET_AMBIGUOUS),  # CLOSE_WAIT: its peer has ended, and this sidecar hasn't.
        ({"inode": 0}, Reason.SENDER_GONE),
    ],
)
def test_a_socket_in_another_state_is_another_connections(changes: dict[str, int], reason: Reason) -> None:
    kernel = KernelSockets()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        found = kernel.find(client.getsockname(), server.getsockname())
        kernel.close()
        assert found is not None
        refuse_orphan(found)
        with pytest.raises(AttestationError) as refused:
            changed = msgspec.structs.replace(found, **changes)
            check_dialled(changed)
            refuse_orphan(changed)
        assert refused.value.reason is reason


def test_the_record_of_a_sender_that_has_gone_tells_its_user_where_the_kernel_does() -> None:
    with pytest.raises(
        AttestationError, match=r"^the program of user 1000 that dialled from 198\.18\.0\.1:9 had ended"
    ):
        refuse_orphan(msgspec.structs.replace(SOCKET, uid=1000))
    with pytest.raises(AttestationError, match=r"^the program that dialled from 198\.18\.0\.1:9 had ended"):
        refuse_orphan(SOCKET)


SOCKET = KernelSocket(
    family=socket.AF_INET, state=1, local=("198.18.0.1", 9), peer=("198.18.0.2", 5432), uid=0, inode=0, cookie=7
)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which the test sets."""
    now = [100.0]
    monkeypatch.setattr(f"{module.__name__}.time.monotonic", lambda: now[0])
    return now


def attest(pid: int, cookie: int = 7) -> Attestation:
    """Attest a process without looking at more than its execution."""
    execution = read_execution(pid)
    assert execution is not None
    facts = ProcessFacts(pid=pid, start_time=execution.start_time, uid=0, path="/x")
    return Attestation(program=Program(digest="0" * 64), process=facts, inode=1, cookie=cookie, execution=execution)


def test_what_was_attested_while_it_dialled_counts_once_for_that_socket_alone(clock: list[float]) -> None:
    dialling = Dialling()
    with running("import sys\n" + WAIT) as process:
        dialling.keep(attestation := attest(process.pid))
        assert dialling.take(msgspec.structs.replace(SOCKET, cookie=8)) is None
        clock[0] += 1.9
        assert dialling.take(SOCKET) is attestation
        assert dialling.take(SOCKET) is None
        dialling.keep(attestation)
        clock[0] += 2.1
        assert dialling.take(SOCKET) is None, "too old, although nothing else was kept since"
    dialling.keep(attestation)
    assert dialling.take(SOCKET) is None, "it had ended when it was to be kept"


@pytest.mark.parametrize(("after_s", "counts"), [(0.04, True), (0.06, False)])
def test_a_program_that_has_ended_counts_for_as_long_as_a_look_does(
    clock: list[float], after_s: float, counts: bool
) -> None:
    dialling = Dialling()
    with running("import sys\n" + WAIT) as process:
        dialling.keep(attestation := attest(process.pid))
    clock[0] += after_s
    assert dialling.take(SOCKET) is (attestation if counts else None)


def test_a_process_that_executed_something_since_is_looked_at_anew() -> None:
    dialling = Dialling()
    again = "os.execv(sys.executable, [sys.executable, '-c', 'print(2, flush=True); input()'])\n"
    with running("import os, sys\n" + WAIT + again) as process:
        dialling.keep(attest(process.pid))
        tell(process)
        assert hear(process) == "2"
        assert dialling.take(SOCKET) is None


def test_no_more_is_kept_than_may_be_and_nothing_for_long(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_KEPT", 2)
    dialling = Dialling()
    with running("import sys\n" + WAIT) as process:
        for cookie in (1, 2, 3):
            dialling.keep(attest(process.pid, cookie))
        taken = [dialling.take(msgspec.structs.replace(SOCKET, cookie=cookie)) for cookie in (1, 3)]
        assert [each is not None for each in taken] == [False, True]
        clock[0] += 2.1
        dialling.keep(attest(process.pid, 4))
        assert dialling.take(msgspec.structs.replace(SOCKET, cookie=2)) is None
