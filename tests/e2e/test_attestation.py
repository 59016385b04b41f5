"""Attestation against programs that lie, hide, change, share, or are gone. Real processes do each of it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared.model.policy.decision import Answer, Ending, Origin, Phase
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Action, Mode, Peer, Requirement, Rule
from shared.model.wire import admin
from sidecar.attest.process import THREADS_AGE_S
from tests.e2e.harness.commands import Operator
from tests.e2e.harness.mesh import MAX_EXECUTABLE_BYTES, wait_until
from tests.e2e.harness.pods import end
from tests.e2e.harness.programs import Actor, Executable, make_executable
from tests.e2e.harness.shop import Shop
from tests.sidecar.attest.forging import FORGE, needs_forging
from tests.sidecar.attest.processes import hear, tell

pytestmark = pytest.mark.needs_root


def _everybody() -> Rule:
    return Rule(name="everybody", action=Action.ALLOW, peers=(Peer(unidentified=True, cidrs=("0.0.0.0/0",)),))


# ---- who connects ----------------------------------------------------------------------------------------------------


@pytest.mark.proves(Reason.PROGRAM_NOT_APPROVED)
def test_after_exec_the_same_process_is_another_program(shop: Shop) -> None:
    port = shop.sell()
    shop.be_explicit()
    actor = shop.buy()
    assert actor.do("exchange", shop.address, port, "bread") == "got bread<end>"
    pid = actor.pid
    assert actor.do("execute", str(shop.intruder.path)) == "ready"
    assert actor.pid == pid
    assert actor.do("exchange", shop.address, port, "bread") == "<ECONNRESET>"
    record = shop.client.log.expect_denied(Reason.PROGRAM_NOT_APPROVED, port=port)
    assert (record.process.pid, record.source.program) == (pid, f"sha256:{shop.intruder.digest}")


@pytest.mark.proves(Reason.PROGRAM_CHANGED)
def test_a_program_that_an_approved_one_executes_loses_its_connections(shop: Shop) -> None:
    """The unapproved program goes on with the descriptor: an open connection is no more its own than a new one."""
    port = shop.sell("echo")
    shop.be_explicit()
    actor = shop.buy()
    assert actor.do("connect", "kept", shop.address, port) == "connected"
    for _ in range(8):  # After some of these a thread moves what is said, and looks at the program.
        actor.do("send", "kept", "bread")
        assert actor.do("receive", "kept", 5) == "bread"
    assert actor.do("execute", str(shop.intruder.path)) == "ready"
    assert actor.do("receive_rest", "kept") == "<ECONNRESET>"
    record = shop.client.log.expect_denied(Reason.PROGRAM_CHANGED, port=port)
    assert (record.ending, record.source.program) == (Ending.POLICY_CHANGED, f"sha256:{shop.buyer.digest}")


@pytest.mark.proves(Reason.PROGRAM_NOT_APPROVED)
def test_a_reused_process_id_is_not_the_program_that_had_it(shop: Shop) -> None:
    port = shop.sell()
    shop.be_explicit()
    first = shop.buy()
    assert first.do("exchange", shop.address, port, "bread") == "got bread<end>"
    pid = first.pid
    first.end()
    second = _run_as_process(shop, shop.intruder, pid)
    assert second.do("exchange", shop.address, port, "bread") == "<ECONNRESET>"
    shop.client.log.expect_denied(Reason.PROGRAM_NOT_APPROVED, port=port)


def _run_as_process(shop: Shop, executable: Executable, pid: int) -> Actor:
    """Run a program under a process ID that is free; a thread that the sidecar starts just then takes it first."""
    for _ in range(20):
        turned = shop.client.pod.run("sh", "-c", f"echo {pid - 1} > /proc/sys/kernel/ns_last_pid")
        assert turned.returncode == 0, turned.stderr
        actor = shop.buy(executable)
        if actor.pid == pid:
            return actor
        actor.end()
    pytest.fail(f"process {pid} was always somebody else")


def test_a_deleted_executable_keeps_its_identity_while_it_runs(shop: Shop) -> None:
    port = shop.sell()
    fleeting = shop.mesh.make_program("fleeting")
    digest = fleeting.digest
    shop.mesh.approve("shop/client", fleeting)
    shop.be_explicit()
    actor = shop.buy(fleeting)
    fleeting.path.unlink()
    assert actor.do("exchange", shop.address, port, "bread") == "got bread<end>"
    assert shop.client.log.expect(Answer.ALLOW, Reason.SAME_GROUP, port=port).source.program == f"sha256:{digest}"


@pytest.mark.proves(Reason.PROGRAM_NOT_APPROVED)
def test_a_file_replaced_while_it_runs_changes_nothing_for_the_running_program_and_all_for_the_next(shop: Shop) -> None:
    port = shop.sell()
    updated = shop.mesh.make_program("updated")
    shop.mesh.approve("shop/client", updated)
    shop.be_explicit()
    before = shop.buy(updated)
    assert before.do("exchange", shop.address, port, "one") == "got one<end>"
    beside = updated.path.with_suffix(".new")
    shutil.copy(shop.intruder.path, beside)
    beside.replace(updated.path)
    assert before.do("exchange", shop.address, port, "two") == "got two<end>"
    assert shop.buy(updated).do("exchange", shop.address, port, "three") == "<ECONNRESET>"
    record = shop.client.log.expect_denied(Reason.PROGRAM_NOT_APPROVED, port=port)
    assert record.source.program == f"sha256:{shop.intruder.digest}"


@pytest.mark.proves(Reason.NO_OWNER)
def test_a_process_outside_the_pods_process_namespace_has_no_owner_and_is_refused(shop: Shop) -> None:
    port = shop.sell()
    hidden = shop.mesh.run(shop.buyer, shop.client.pod, shares_processes=False)
    assert hidden.do("exchange", shop.address, port, "bread") == "got bread<end>"
    record = shop.server.log.expect(Answer.ALLOW, Reason.NO_OWNER, port=port, would_deny=True)
    assert record.source.identity.endswith("/sa/client/sidecar")
    shop.be_explicit()
    assert hidden.do("exchange", shop.address, port, "bread") == "<ECONNRESET>"
    shop.client.log.expect_denied(Reason.NO_OWNER, port=port)


@pytest.mark.proves(Reason.SENDER_GONE)
def test_a_sender_that_is_gone_before_the_first_look_is_refused(shop: Shop) -> None:
    port = shop.sell()
    shop.be_explicit()
    actor = shop.buy()
    shop.client.pause()
    try:
        assert actor.do("run_briefly", shop.address, port, "bread") == "connected"
        actor.end()
    finally:
        shop.client.resume()
    shop.client.log.expect_denied(Reason.SENDER_GONE, port=port)


def test_a_sender_that_exits_at_once_is_attested_if_it_was_there_when_it_was_accepted(shop: Shop) -> None:
    """``nc -N`` and its like: each is a new process, and most are gone before anybody would look for their owner."""
    port = shop.sell()
    shop.be_explicit()
    code = "import os, socket, sys; c = socket.create_connection((sys.argv[1], int(sys.argv[2]))); c.sendall(b'x');"
    code += "c.shutdown(socket.SHUT_WR); os._exit(0 if c.recv(9) else 1)"
    environment = f"PYTHONHOME={sys.base_prefix}"
    for _ in range(5):
        done = shop.client.pod.run("env", environment, str(shop.buyer.path), "-S", "-c", code, shop.address, str(port))
        assert done.returncode == 0, done.stderr
        shop.client.log.expect(Answer.ALLOW, Reason.SAME_GROUP, port=port)
        shop.client.log.skip()


@pytest.mark.proves(Reason.PROCESS_VANISHED)
def test_a_process_that_executes_something_whenever_it_is_looked_at_is_refused(shop: Shop) -> None:
    """Its file is on tmpfs, so that it is hashed each time, and large, so that it executes itself meanwhile.

    A busy machine may not have hashed it when the look's time is over: it is refused all the same, and tried again.
    """
    port = shop.sell()
    shop.be_explicit()
    restless = make_executable(Path("/dev/shm"), f"restless-{os.getpid()}", size=MAX_EXECUTABLE_BYTES // 2)
    code = (
        "import os, socket, sys\n"
        "if len(sys.argv) == 3:\n"
        " c = socket.create_connection((sys.argv[1], int(sys.argv[2]))); os.set_inheritable(c.fileno(), True)\n"
        "os.execv(sys.executable, [sys.executable, '-S', '-c', sys.orig_argv[3], ''])\n"
    )
    command = [str(restless.path), "-S", "-c", code, shop.address, str(port)]
    environment = {**os.environ, "PYTHONHOME": sys.base_prefix}
    try:
        for _ in range(5):
            process = shop.client.pod.start(command, env=environment)
            record = shop.client.log.wait_for(lambda each: each.port == port and each.phase is Phase.END, "its refusal")
            end(process)
            assert record.answer is Answer.DENY
            if record.reason is Reason.PROCESS_VANISHED:
                return
            assert record.reason is Reason.DEADLINE_EXCEEDED
            shop.client.log.skip()
        pytest.fail("its executable was never hashed in time")
    finally:
        restless.path.unlink()


@pytest.mark.proves(Reason.PROCESS_TRACED)
def test_a_traced_process_proves_nothing(shop: Shop) -> None:
    port = shop.sell()
    shop.be_explicit()
    actor, debugger = shop.buy(), shop.buy(shop.intruder)
    assert actor.do("exchange", shop.address, port, "one") == "got one<end>"
    assert debugger.do("trace", actor.pid) == 0
    time.sleep(2 * THREADS_AGE_S)  # The look before may serve for as long.
    assert actor.do("exchange", shop.address, port, "two") == "<ECONNRESET>"
    shop.client.log.expect_denied(Reason.PROCESS_TRACED, port=port)
    debugger.end()
    assert actor.do("exchange", shop.address, port, "three") == "got three<end>"


@pytest.mark.proves(Reason.EXECUTABLE_TOO_LARGE)
def test_an_executable_above_the_limit_is_refused(shop: Shop) -> None:
    port = shop.sell()
    huge = shop.mesh.make_program("huge", size=MAX_EXECUTABLE_BYTES + 1)
    shop.be_explicit()
    assert shop.buy(huge).do("exchange", shop.address, port, "bread") == "<ECONNRESET>"
    record = shop.client.log.expect_denied(Reason.EXECUTABLE_TOO_LARGE, port=port)
    assert record.process.path == str(huge.path)


@pytest.mark.proves(Reason.EXECUTABLE_CHANGED)
def test_an_executable_that_changes_while_it_is_hashed_is_refused(shop: Shop) -> None:
    port = shop.sell()
    large = shop.mesh.make_program("large", size=MAX_EXECUTABLE_BYTES // 3)
    shop.be_explicit()
    actor = shop.buy(large)
    with _touching(large):
        assert actor.do("exchange", shop.address, port, "bread") == "<ECONNRESET>"
    shop.client.log.expect_denied(Reason.EXECUTABLE_CHANGED, port=port)


@contextmanager
def _touching(executable: Executable) -> Iterator[None]:
    over = threading.Event()

    def touch() -> None:
        while not over.wait(0.002):
            os.utime(executable.path)

    thread = threading.Thread(target=touch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.proves(Reason.PROCESS_ORIGIN)
@pytest.mark.fixes(Reason.PROCESS_ORIGIN)
def test_an_approved_program_of_an_exec_session_is_told_and_refused_where_that_is_required(
    shop: Shop, operator: Operator
) -> None:
    """The tests' programs enter a pod from outside, as those of ``kubectl exec`` do."""
    port = shop.sell()
    actor = shop.buy()
    assert actor.do("exchange", shop.address, port, "one") == "got one<end>"
    record = shop.client.log.expect(Answer.ALLOW, Reason.SAME_GROUP, port=port)
    assert record.process.origin is Origin.EXEC
    shop.mesh.admin.set_policy("shop", (), Mode.PERMISSIVE, (Requirement.CONTAINER_ORIGIN,))
    shop.mesh.wait_installed("shop")
    assert actor.do("exchange", shop.address, port, "two") == "<ECONNRESET>"
    shop.client.log.expect_denied(Reason.PROCESS_ORIGIN, port=port)
    operator.edit(lambda spec: spec.pop("requires"))
    assert actor.do("exchange", shop.address, port, "three") == "got three<end>"


@needs_forging
@pytest.mark.parametrize(
    ("how", "reason"),
    [
        pytest.param(
            "own namespace",
            Reason.USER_NAMESPACE_DIFFERS,
            marks=pytest.mark.proves(Reason.USER_NAMESPACE_DIFFERS),
            id="in its own user namespace",
        ),
        pytest.param(
            "from outside",
            Reason.EXECUTABLE_FORGED,
            marks=pytest.mark.proves(Reason.EXECUTABLE_FORGED),
            id="by a child in another one that shares its memory",
        ),
    ],
)
def test_a_program_that_names_an_approved_ones_file_as_its_executable_is_refused(
    shop: Shop, how: str, reason: Reason
) -> None:
    port = shop.sell()
    shop.be_explicit()
    command = [str(shop.intruder.path), "-S", "-c", FORGE, f"{shop.address}:{port}", str(shop.buyer.path), how]
    environment = {**os.environ, "PYTHONHOME": sys.base_prefix}
    shop.client.pause()
    try:
        forger = shop.client.pod.start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        assert hear(forger) == "ready"
        tell(forger)
        assert hear(forger) == "1"
    finally:
        shop.client.resume()
    assert shop.client.log.expect_denied(reason, port=port).process.path == str(shop.buyer.path)
    forger.kill()


@pytest.mark.proves(Reason.EXECUTABLE_UNREADABLE)
def test_an_unreadable_executable_is_refused_by_a_sidecar_without_privileges(shop: Shop) -> None:
    """Explicit listeners instead of redirect; sidecar and program run without capabilities."""
    pod = shop.mesh.network.add("laptop")
    port, entrance = shop.sell(), shop.mesh.take_port()
    settings = (
        "capture: listeners\n"
        f'outbound: [{{listen: "127.0.0.1:{entrance}", destination: "{shop.address}:{port}"}}]'
    )  # fmt: skip
    laptop = shop.mesh.add_sidecar("shop/client", pod, settings=settings, has_capabilities=False)
    try:
        shop.be_explicit()
        known = shop.mesh.run(shop.buyer, pod, has_capabilities=False)
        assert known.do("exchange", "127.0.0.1", entrance, "bread") == "got bread<end>"
        secret = shop.mesh.make_program("secret")
        actor = shop.mesh.run(secret, pod, has_capabilities=False)
        secret.path.chmod(0)
        assert actor.do("exchange", "127.0.0.1", entrance, "bread") == "<ECONNRESET>"
        laptop.log.expect_denied(Reason.EXECUTABLE_UNREADABLE, port=port)
    finally:
        laptop.end()


# ---- who holds the socket as well ------------------------------------------------------------------------------------


@pytest.mark.proves(Reason.SOCKET_SHARED)
def test_an_intruder_that_lends_its_connection_to_an_approved_program_loses_it(shop: Shop) -> None:
    port = shop.sell("echo")
    shop.be_explicit()
    intruder = shop.buy(shop.intruder)
    shop.client.pause()
    try:
        assert intruder.do("connect", "lent", shop.address, port) == "connected"
        # The youngest holder is looked at first: the approved program.
        intruder.do("spawn", str(shop.buyer.path), "lent")
    finally:
        shop.client.resume()
    assert intruder.do("receive_rest", "lent") == "<ECONNRESET>"
    record = shop.client.log.expect_denied(Reason.SOCKET_SHARED, port=port)
    assert (record.ending, record.bytes_sent, record.bytes_received) == (Ending.REFUSED, 0, 0)
    assert record.source.program == f"sha256:{shop.buyer.digest}"


@pytest.mark.proves(Reason.SOCKET_NOT_OWN)
@pytest.mark.parametrize("mode", list(Mode))
def test_an_intruder_that_is_blocked_in_a_system_call_gets_no_byte_where_sockets_must_be_own(
    shop: Shop, mode: Mode
) -> None:
    """It starts the approved program with its own socket, and no file of ``/proc`` shows that it goes on with it."""
    port = shop.sell("echo")
    shop.mesh.admin.set_policy("shop", (), mode, (Requirement.OWN_SOCKETS,))
    shop.mesh.wait_installed("shop")
    intruder = shop.buy(shop.intruder)
    intruder.do("open_unconnected", "lent")
    intruder.do("spawn", str(shop.buyer.path), "lent")
    shop.client.pause()
    try:
        # A look while the intruder still has its descriptor would find it, and refuse it as what it is.
        intruder.do("connect_and_let_go", "lent", shop.address, port)
    finally:
        shop.client.resume()
    # The kernel tells one of the two threads of the reset; to the other one the stream has ended.
    assert intruder.do("let_go_outcome", "lent") in {"ECONNRESET", "0"}
    record = shop.client.log.expect_denied(Reason.SOCKET_NOT_OWN, port=port)
    assert (record.source.program, record.bytes_sent) == ("", 0)
    # What the approved programs open and accept themselves is carried.
    assert shop.buy().do("exchange", shop.address, port, "bread") == "bread<end>"


@pytest.mark.fixes(Reason.SOCKET_NOT_OWN)
def test_a_socket_that_programs_started_by_this_one_would_get_is_carried_where_they_neednt_be_own(
    shop: Shop, operator: Operator
) -> None:
    port = shop.sell("echo")
    shop.mesh.admin.set_policy("shop", (), Mode.EXPLICIT, (Requirement.OWN_SOCKETS,))
    shop.mesh.wait_installed("shop")
    actor = shop.buy()
    assert actor.do("connect", "refused", shop.address, port, is_inheritable=True) == "connected"
    assert actor.do("receive_rest", "refused") == "<ECONNRESET>"
    shop.client.log.expect_denied(Reason.SOCKET_NOT_OWN, port=port)
    operator.edit(lambda spec: spec.pop("requires"))
    assert actor.do("connect", "carried", shop.address, port, is_inheritable=True) == "connected"
    actor.do("send", "carried", "bread")
    assert actor.do("receive", "carried", 5) == "bread"


@pytest.mark.proves(Reason.SOCKET_SHARED)
def test_a_connection_that_is_passed_over_a_unix_socket_is_closed(shop: Shop, tmp_path: Path) -> None:
    port = shop.sell("echo")
    shop.be_explicit()
    path = str(tmp_path / "fence")
    fence, actor = shop.buy(shop.intruder), shop.buy()
    fence.do("take_from", path)
    assert actor.do("connect", "passed", shop.address, port) == "connected"
    actor.do("pass_on", "passed", path)
    assert actor.do("receive_rest", "passed") == "<ECONNRESET>"
    shop.client.log.expect_denied(Reason.SOCKET_SHARED, port=port)


@pytest.mark.proves(Reason.SOCKET_SHARED)
def test_a_connection_whose_descriptor_is_in_flight_is_closed(shop: Shop) -> None:
    port = shop.sell("echo")
    shop.be_explicit()
    actor = shop.buy()
    assert actor.do("connect", "flying", shop.address, port) == "connected"
    actor.do("put_in_flight", "flying")
    assert actor.do("receive_rest", "flying") == "<ECONNRESET>"
    shop.client.log.expect_denied(Reason.SOCKET_SHARED, port=port)


@pytest.mark.proves(Reason.HOLDERS_UNKNOWN)
def test_where_not_all_holders_can_be_looked_for_explicit_mode_lets_nothing_flow(shop: Shop) -> None:
    """More than a million descriptors: another holder of the socket may be among them."""
    port = shop.sell("echo")
    hoarder = shop.buy(shop.intruder)
    assert hoarder.do("hoard", 2_200, 500) == "hoarding"
    shop.be_explicit()
    actor = shop.buy()
    assert actor.do("exchange", shop.address, port, "x") == "<ECONNRESET>"
    shop.client.log.expect_denied(Reason.HOLDERS_UNKNOWN, port=port)


def test_what_another_user_forks_all_the_time_costs_nobody_else_a_connection(shop: Shop) -> None:
    port = shop.sell("echo")
    shop.be_explicit()
    code = "import os\nos.setuid(12345)\nwhile True:\n p = os.fork()\n if not p: os._exit(0)\n os.waitpid(p, 0)\n"
    loops = [shop.client.pod.start([sys.executable, "-S", "-c", code]) for _ in range(4)]
    try:
        actor = shop.buy()
        assert [actor.do("exchange", shop.address, port, "bread") for _ in range(10)] == ["bread<end>"] * 10
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


@pytest.mark.parametrize(
    "is_known",
    [
        pytest.param(False, marks=pytest.mark.proves(Reason.SOCKET_AMBIGUOUS), id="first look"),
        pytest.param(True, marks=pytest.mark.proves(Reason.PROCESS_VANISHED), id="known program"),
    ],
)
def test_a_socket_with_an_approved_ones_address_lends_no_identity(shop: Shop, is_known: bool) -> None:
    """Bound to a device after it has connected, it leaves its four-tuple to an approved program's socket."""
    port = shop.sell("echo")
    shop.be_explicit()
    intruder, buyer = shop.buy(shop.intruder), shop.buy()
    if is_known:
        assert buyer.do("exchange", shop.address, port, "x") == "x<end>"
    shop.client.process.send_signal(signal.SIGSTOP)  # Accepts nothing until both are made ready.
    try:
        assert intruder.do("connect", "c", shop.address, port, source_port=20406) == "connected"
        assert intruder.do("send", "c", "stolen") == "sent"
        assert intruder.do("bind_to_device", "c") == "bound"
        assert buyer.do("connect", "c", shop.address, port, source_port=20406) == "connected"
    finally:
        shop.client.process.send_signal(signal.SIGCONT)
    reason = Reason.PROCESS_VANISHED if is_known else Reason.SOCKET_AMBIGUOUS
    record = shop.client.log.expect_denied(reason, port=port)
    assert (record.source.identity, record.bytes_sent) == ("", 0)
    if is_known:
        buyer.do("send", "c", "bread")
        assert buyer.do("receive", "c", 5) == "bread"


def test_when_the_redirect_has_no_port_left_a_connection_waits_and_keeps_its_source_port(shop: Shop) -> None:
    """The kernel would give it another source port, which may be that of an approved program's connection."""
    port, seller = shop.sell("echo"), shop.mesh.run(shop.seller, shop.server.pod)
    others = [shop.mesh.take_port() for _ in range(32)]
    for other in others:
        assert seller.do("listen", shop.address, other, "echo") == "listening"
    intruder = shop.buy(shop.intruder)
    for other in others:
        assert intruder.do("connect", f"to {other}", shop.address, other, source_port=20407) == "connected"
        intruder.do("send", f"to {other}", "x")
        assert intruder.do("receive", f"to {other}", 1) == "x"
    assert intruder.do("connect", "c", shop.address, port, source_port=20407, deadline_s=1.5) == "TimeoutError"
    assert shop.buy().do("exchange", shop.address, port, "x") == "x<end>"  # From another port.


# ---- who listens -----------------------------------------------------------------------------------------------------


@pytest.mark.proves(Reason.SOCKET_SHARED)
def test_an_intruder_that_lends_its_listener_to_an_approved_program_serves_nobody(shop: Shop) -> None:
    """The youngest holder is looked at first, the approved program; the parent is the one that accepts."""
    port = shop.mesh.take_port()
    intruder = shop.mesh.run(shop.intruder, shop.server.pod)
    assert intruder.do("listen", shop.address, port, "echo") == "listening"
    intruder.do("spawn", str(shop.seller.path), f"listener {port}")
    shop.be_explicit()
    actor = shop.buy()
    assert actor.do("exchange", shop.address, port, "x") == "<ECONNRESET>"
    record = shop.server.log.expect_denied(Reason.SOCKET_SHARED, port=port)
    assert record.destination.program == f"sha256:{shop.seller.digest}"


def test_what_another_program_accepts_goes_on_in_permissive_mode_and_stands_against_explicit(shop: Shop) -> None:
    port = shop.mesh.take_port()
    intruder = shop.mesh.run(shop.intruder, shop.server.pod)
    assert intruder.do("listen", shop.address, port, "echo") == "listening"
    intruder.do("spawn", str(shop.seller.path), f"listener {port}")
    shop.be_permissive()
    actor = shop.buy()

    def is_marked() -> bool:
        """One of both accepts: sooner or later it is the intruder."""
        assert actor.do("exchange", shop.address, port, "x") == "x<end>"
        return any(
            each.port == port and each.would_deny and each.destination.program and each.destination.why
            for each in shop.server.log.read()
        )

    wait_until(is_marked, "a record that explicit mode would have refused it")

    def stands_against() -> bool:
        found = shop.mesh.admin.call("GET", "/v1/namespaces/shop/readiness?since_s=3600", admin.Readiness)
        return any(
            each.port == port and each.reason in (Reason.LISTENERS_DIFFER, Reason.SOCKET_SHARED)
            for each in found.causes
        )

    wait_until(stands_against, "a cause that stands against explicit mode")


@pytest.mark.proves(Reason.NO_LISTENER)
def test_a_port_without_listener_is_refused_by_its_name_in_explicit_mode(shop: Shop) -> None:
    shop.be_explicit(_everybody())
    port = shop.mesh.take_port()
    visitor = shop.mesh.run(shop.intruder, shop.mesh.outsider)
    assert visitor.do("exchange", shop.address, port, "x") == "<ECONNRESET>"
    shop.server.log.expect_denied(Reason.NO_LISTENER, port=port)


@pytest.mark.proves(Reason.LISTENERS_DIFFER)
@pytest.mark.parametrize("second", ["same address", "wildcard"])
def test_a_second_listener_of_another_program_spoils_the_port(shop: Shop, second: str) -> None:
    pod = shop.server.pod
    port = shop.mesh.serve(shop.seller, pod, "answer", shared=True)
    shop.be_explicit(_everybody())
    visitor = shop.mesh.run(shop.intruder, shop.mesh.outsider)
    assert visitor.do("exchange", shop.address, port, "one") == "got one<end>"
    assert shop.buy().do("exchange", shop.address, port, "one") == "got one<end>"
    squatter = shop.mesh.run(shop.intruder, pod)
    address = pod.address if second == "same address" else "0.0.0.0"
    assert squatter.do("listen", address, port, "answer", shared=True) == "listening"
    assert visitor.do("exchange", shop.address, port, "two") == "<ECONNRESET>"
    shop.server.log.expect_denied(Reason.LISTENERS_DIFFER, port=port)
    assert shop.buy().do("exchange", shop.address, port, "two") == "<ECONNRESET>"
    squatter.end()
    assert visitor.do("exchange", shop.address, port, "three") == "got three<end>"


@pytest.mark.proves(Reason.LISTENERS_DIFFER)
def test_an_intruder_that_listens_for_moments_only_gets_no_connection(shop: Shop) -> None:
    """It seldom shares the port when the listeners are looked at; whoever it meets is reset."""
    port = shop.mesh.serve(shop.seller, shop.server.pod, "answer", shared=True)
    shop.be_explicit()
    actor = shop.buy()
    assert actor.do("exchange", shop.address, port, "bread") == "got bread<end>"
    squatter = shop.mesh.run(shop.intruder, shop.server.pod)
    assert squatter.do("listen_now_and_then", shop.address, port) == "listening"
    outcomes: set[str] = set()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        outcomes.update(actor.do("exchange", shop.address, port, "bread") for _ in range(20))
        if any(record.reason == Reason.LISTENERS_DIFFER for record in shop.server.log.read()):
            break
    assert outcomes <= {"got bread<end>", "<ECONNRESET>"}
    shop.server.log.expect_denied(Reason.LISTENERS_DIFFER, port=port)


@pytest.mark.proves(Reason.PROCESS_TRACED)
def test_a_traced_listener_serves_nobody_in_explicit_mode(shop: Shop) -> None:
    port = shop.mesh.take_port()
    seller = shop.mesh.run(shop.seller, shop.server.pod)
    assert seller.do("listen", shop.address, port, "answer") == "listening"
    shop.be_explicit(_everybody())
    debugger = shop.mesh.run(shop.intruder, shop.server.pod)
    assert debugger.do("trace", seller.pid) == 0
    time.sleep(2 * THREADS_AGE_S)
    visitor = shop.mesh.run(shop.intruder, shop.mesh.outsider)
    assert visitor.do("exchange", shop.address, port, "x") == "<ECONNRESET>"
    shop.server.log.expect_denied(Reason.PROCESS_TRACED, port=port)
