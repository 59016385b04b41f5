"""Who made a socket: the program itself, or perhaps who started it."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from msgspec.structs import replace

from shared.model.identity.program import NO_MAIN, Program
from shared.model.policy.reasons import Reason
from sidecar.attest.facts import Attestation, AttestationError, Execution, ProcessFacts
from sidecar.attest.holding.glance import read_execution
from sidecar.attest.holding.own_socket import refuse_given
from tests.sidecar.attest.processes import PYTHON, WAIT, hear, running, tell

_TELL = "print(os.fstat(s.fileno()).st_ino,flush=True)\n"
_OWN = "import os,socket,sys\n" + WAIT + "s=socket.socket()\n" + _TELL
_INHERITED = "import os,socket,sys\n" + WAIT + "s=socket.socket(fileno=int(sys.argv[1]))\n"
_EXECUTE = """
sys.stdin.readline()
os.execv(sys.executable, [sys.executable, '-c', 'import sys; print(1, flush=True); sys.stdin.readline()'])
"""
_NO_RANDOMIZE = 0x0040000


def attestation_of(child: subprocess.Popen[str] | int, inode: int) -> Attestation:
    pid = child if isinstance(child, int) else child.pid
    execution = read_execution(pid)
    assert execution is not None
    return Attestation(
        program=Program(digest="0" * 64, main=NO_MAIN),
        process=ProcessFacts(pid=pid, start_time=execution.start_time, uid=0, path=PYTHON),
        inode=inode,
        cookie=1,
        execution=execution,
    )


def expect_refused(attestation: Attestation, listener: Execution | None = None) -> None:
    with pytest.raises(AttestationError) as caught:
        refuse_given(attestation, listener)
    assert caught.value.reason is Reason.SOCKET_NOT_OWN


def expect_vanished(attestation: Attestation) -> None:
    with pytest.raises(AttestationError) as caught:
        refuse_given(attestation)
    assert caught.value.reason is Reason.PROCESS_VANISHED


@contextmanager
def given(code: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Start a program with a socket that we made; it runs this code with it as ``s``."""
    with (
        socket.socket() as ours,
        running(
            _INHERITED + code + _TELL + "sys.stdin.readline()\n", str(ours.fileno()), pass_fds=(ours.fileno(),)
        ) as child,
    ):
        tell(child)
        yield child, int(hear(child))


def test_a_socket_that_the_program_made_is_its_own() -> None:
    with running(_OWN + "sys.stdin.readline()\n") as child:
        tell(child)
        refuse_given(attestation_of(child, int(hear(child))))


def test_a_socket_that_it_was_given_isnt() -> None:
    with given("") as (child, inode):
        expect_refused(attestation_of(child, inode))


def test_a_copy_that_is_close_on_exec_doesnt_make_a_given_socket_its_own() -> None:
    with given("t=s.dup()\n") as (child, inode):
        expect_refused(attestation_of(child, inode))


def test_a_socket_that_it_doesnt_hold_any_more_proves_nothing() -> None:
    """Refused in permissive mode too, which carries who has vanished: in a system call it may go on with the socket."""
    with running(_OWN + "sys.stdin.readline()\n") as child:
        tell(child)
        expect_refused(attestation_of(child, int(hear(child)) + 1))


def test_one_that_does_something_else_meanwhile_proves_nothing() -> None:
    with running(_OWN + _EXECUTE) as child:
        tell(child)
        attestation = attestation_of(child, int(hear(child)))
        tell(child)
        hear(child)
        expect_vanished(attestation)
        child.kill()
        child.wait()
        expect_vanished(attestation)


_SERVE = (
    "import os,socket,sys\nl=socket.create_server(('127.0.0.1',0))\n"
    "{prepare}print(os.getpid(),l.getsockname()[1],flush=True)\n"
    "s,_=l.accept()\nos.set_inheritable(s.fileno(),True)\n" + _TELL + "sys.stdin.readline()\n"
)  # fmt: skip
_FORK = "print('ready',flush=True)\nsys.stdin.readline()\nif os.fork():\n  os.wait()\n  os._exit(0)\n"


@pytest.mark.parametrize("is_randomised", [True, False])
@pytest.mark.parametrize("is_forked", [True, False])
def test_what_was_accepted_is_younger_than_the_program_that_listened(is_forked: bool, is_randomised: bool) -> None:
    """Of forks only where their addresses were drawn at random: else any other ``execve`` of the file looks alike."""
    prepare = _FORK if is_forked else "print('ready',flush=True)\nsys.stdin.readline()\n"

    def choose() -> None:
        ctypes.CDLL(None).personality(0 if is_randomised else _NO_RANDOMIZE)

    with running(_SERVE.format(prepare=prepare), preexec_fn=choose) as parent:
        listener = attestation_of(parent, 1)
        tell(parent)
        pid, port = map(int, hear(parent).split())
        with socket.create_connection(("127.0.0.1", port)):
            inode = int(hear(parent))
            attestation = attestation_of(pid, inode)
            if not is_forked:
                attestation = replace(attestation, execution=listener.execution)
            if is_randomised or not is_forked:
                refuse_given(attestation, listener.execution)
            else:
                expect_refused(attestation, listener.execution)
            expect_refused(attestation)
        if is_forked:
            os.kill(pid, 9)
