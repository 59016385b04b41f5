"""Prepared with privileges: the redirect is installed, privileges are dropped, limits are kept."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import pytest

from shared.model.errors import InputError, MachineError
from shared.model.trust.join_token import JoinToken, format_join_token
from sidecar.capture.redirect import RedirectRefusedError
from sidecar.capture.redirect_table import RedirectRules
from sidecar.control.renewing import ByRenewal
from sidecar.runtime import prepare
from sidecar.runtime.privileges import CAP_NET_ADMIN, KEPT
from sidecar.settings.configuration import CaptureKind, Configuration, Hold, RedirectOptions
from tests.sidecar.little_ca import LittleCA, make_authority, until
from tests.sidecar.runtime.whole_sidecar import (
    SERVER,
    an_echo,
    enter,
    open_socket_at,
    open_socket_in,
    run_client,
    sidecar,
    two_namespaces,
)

HOLDING = KEPT | 1 << CAP_NET_ADMIN


@pytest.mark.needs_root
@pytest.mark.parametrize(("web", "db"), [("198.18.0.1", "198.18.0.2"), ("fd00:18::1", "fd00:18::2")])
async def test_redirected_programs_talk_through_a_tunnel_without_knowing_it(web: str, db: str) -> None:
    server_code = SERVER.replace("socket.socket()", "socket.socket(socket.AF_INET6)") if ":" in db else SERVER
    with two_namespaces() as (left, right):
        ca_here = LittleCA(host="198.18.0.1", port=15443, open_socket=lambda: open_socket_in(left))
        async with ca_here.serving() as ca:
            server = await asyncio.create_subprocess_exec(
                *enter(right), sys.executable, "-c", server_code, "5432", db, stdout=PIPE
            )
            try:
                assert server.stdout is not None
                await server.stdout.readline()
                common = (
                    "--capture", "redirect", "--hold-connects", "never", "--exclude-port", "15443", "--tunnel-address",
                )  # fmt: skip
                # First the one beside the CA: its redirect would break a connection to the CA that is there already.
                async with sidecar(
                    ca.make_token("shop/web"), *common, web, "--instance", "web", namespace=left
                ) as here:
                    await here.wait_ready()
                    async with sidecar(
                        ca.make_token("shop/db"), *common, db, "--instance", "db", namespace=right
                    ) as there:
                        await there.wait_ready()
                        status = Path(f"/proc/{here.process.pid}/status").read_text(encoding="ascii")
                        await until(lambda: ca.issued >= 3)
                        assert await run_client(5432, "hello", address=db, namespace=left) == "echo hello"
                        await until(lambda: here.records and there.records)
                        assert await run_client(15001, "x", namespace=left) == ""  # To the capture port: reset.
                        await until(lambda: len(here.records) > 1)
                        assert await here.stop() == 0
                        assert await there.stop() == 0
            finally:
                server.kill()
                await server.wait()
    outbound, inbound, direct = here.records[0], there.records[0], here.records[1]
    assert outbound["transport"] == inbound["transport"] == "tunnel"
    assert outbound["connection"] == inbound["connection"]
    assert outbound["destination"]["workload"] == "shop/db"
    assert (direct["answer"], direct["reason"]) == ("deny", "direct_connection")
    assert "Uid:\t1337\t1337\t1337\t1337" in status
    assert "CapEff:\t0000000000080004" in status
    assert "CapPrm:\t0000000000080004" in status
    assert "NoNewPrivs:\t1" in status


async def test_beyond_the_configured_number_connections_are_refused_and_recorded() -> None:
    async with LittleCA().serving() as ca, an_echo(ca, "--max-connections", "1") as echo:
        reader, writer = await echo.connect()
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        with pytest.raises(ConnectionResetError):  # Already while it connects, where the reset is faster than the loop.
            second, refused = await echo.connect()
            try:
                await second.read()
            finally:
                refused.close()
        await until(lambda: echo.running.records)
        writer.close()
        assert await echo.running.stop() == 0
    assert (echo.running.records[0]["answer"], echo.running.records[0]["reason"]) == ("deny", "overloaded")


@contextmanager
def two_namespaces_of_one_user() -> Iterator[tuple[list[str], list[str]]]:
    """The same two networks, in a user namespace with no user but 0 (``unshare -Urn``): prefixes to run commands in."""
    with ExitStack() as stack:

        def hold(*prefix: str) -> int:
            command = [*prefix, "sh", "-c", "echo ready; exec sleep 3600"]
            holder = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
            stack.callback(holder.kill)
            assert holder.stdout is not None
            holder.stdout.readline()
            return holder.pid

        def enter_process(pid: int) -> list[str]:
            return ["nsenter", "--preserve-credentials", "-U", "-n", "-t", str(pid)]

        left = hold("unshare", "-Urn")
        right = hold(*enter_process(left), "unshare", "-n")
        prefixes = enter_process(left), enter_process(right)
        commands = [
            (0, f"link add va type veth peer name vb netns {right}"),
            *((side, f"address add 198.18.0.{side + 1}/24 dev v{'ab'[side]}") for side in (0, 1)),
            *((side, f"link set {device} up") for side in (0, 1) for device in (f"v{'ab'[side]}", "lo")),
        ]
        for side, command in commands:
            subprocess.run([*prefixes[side], "ip", *command.split()], check=True, capture_output=True, text=True)
        yield prefixes


@pytest.mark.needs_root
async def test_where_there_is_one_user_only_a_mark_exempts_the_sidecar() -> None:
    """As an ordinary user has it; root is asked for because this test itself enters the namespace for its CA."""
    with two_namespaces_of_one_user() as (left, right):
        path = f"/proc/{left[-1]}/ns/net"
        here = LittleCA(host="198.18.0.1", port=15443, open_socket=lambda: open_socket_at(path))
        async with here.serving() as ca:
            server = await asyncio.create_subprocess_exec(
                *right, sys.executable, "-c", SERVER, "5432", "198.18.0.2", stdout=PIPE
            )
            try:
                assert server.stdout is not None
                await server.stdout.readline()
                common = (
                    "--capture", "redirect", "--redirect-mark", "0x746d", "--exclude-port", "15443",
                    "--tunnel-address",
                )  # fmt: skip
                # First the one beside the CA: its redirect would break a connection to the CA that is there already.
                async with sidecar(ca.make_token("shop/web"), *common, "198.18.0.1", prefix=left) as web:
                    await web.wait_ready()
                    async with sidecar(ca.make_token("shop/db"), *common, "198.18.0.2", prefix=right) as there:
                        await there.wait_ready()
                        await until(lambda: ca.issued >= 3)
                        assert await run_client(5432, "hello", address="198.18.0.2", prefix=left) == "echo hello"
                        await until(lambda: web.records and there.records)
                        assert await web.stop() == 0
                        assert await there.stop() == 0
            finally:
                server.kill()
                await server.wait()
    outbound, inbound = web.records[0], there.records[0]
    assert outbound["transport"] == inbound["transport"] == "tunnel"
    assert outbound["connection"] == inbound["connection"]
    assert len(web.records) == len(there.records) == 1  # The sidecars' own connections weren't captured.


class Machine:
    """What ``_redirect`` does to a machine: the tables that were asked for, and the capabilities that stayed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, has_queue: bool = True, capabilities: int = KEPT) -> None:
        self.holding: list[bool] = []
        self.kept: list[int] = []
        self._has_queue = has_queue
        monkeypatch.setattr(prepare, "install_redirect", self._install)
        monkeypatch.setattr(prepare, "become_user", lambda _, kept: self.kept.append(kept))
        monkeypatch.setattr(prepare, "keep_what_a_pod_gives", lambda _, kept: self.kept.append(kept))
        monkeypatch.setattr(prepare, "effective", lambda: capabilities)

    def _install(self, rules: RedirectRules) -> None:
        self.holding.append(rules.holds_connects)
        if rules.holds_connects and not self._has_queue:
            raise RedirectRefusedError("nft refused the redirect: no queue")


def redirect(hold: Hold, *, is_installed: bool = False) -> tuple[Hold, str]:
    return prepare._redirect(Configuration(redirect=RedirectOptions(hold=hold, is_installed=is_installed)))


@pytest.mark.parametrize("hold", list(Hold))
def test_connections_can_wait_where_the_kernel_has_a_queue(monkeypatch: pytest.MonkeyPatch, hold: Hold) -> None:
    machine = Machine(monkeypatch)
    assert redirect(hold) == (hold, "")
    is_held = hold is not Hold.NEVER
    assert (machine.holding, machine.kept) == ([is_held], [HOLDING if is_held else KEPT])


def test_without_a_queue_the_rest_is_installed_unless_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, has_queue=False)
    assert redirect(Hold.AUTO) == (Hold.NEVER, "nft refused the redirect: no queue")
    assert (machine.holding, machine.kept) == ([True, False], [KEPT])
    with pytest.raises(MachineError, match="no queue"):
        redirect(Hold.ALWAYS)
    assert machine.kept == [KEPT]


def test_what_says_nothing_of_the_queue_is_no_reason_to_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def install(_: RedirectRules) -> None:
        raise MachineError("nft can't be run: it timed out")

    monkeypatch.setattr(prepare, "install_redirect", install)
    with pytest.raises(MachineError, match="timed out"):
        redirect(Hold.AUTO)


def test_in_a_pod_connections_wait_where_it_has_the_right(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    assert redirect(Hold.AUTO, is_installed=True) == (Hold.NEVER, "")
    assert redirect(Hold.ALWAYS, is_installed=True) == (Hold.ALWAYS, ""), "what is missing is refused by privileges.py"
    monkeypatch.setattr(prepare, "effective", lambda: HOLDING)
    assert redirect(Hold.AUTO, is_installed=True) == (Hold.AUTO, "")
    assert redirect(Hold.NEVER, is_installed=True) == (Hold.NEVER, "")
    assert (machine.holding, machine.kept) == ([], [KEPT, HOLDING, HOLDING, KEPT])


TOKEN = JoinToken(
    token_id="t", secret="s", ca="127.0.0.1:7", trust_domain="touchmark.test", root_pin="00" * 32, workload="shop/web"
)


def choose(
    directory: Path | None, token: JoinToken | None, *, instance: str = "web-1", is_named: bool = False
) -> tuple[Configuration, ByRenewal]:
    text = None if token is None else format_join_token(token)
    asked = Configuration(token=text, state_directory=directory, instance=instance, is_named=is_named)
    configuration, joining, ca = prepare._choose_joining(asked)
    assert isinstance(joining, ByRenewal) and ca == ("127.0.0.1", 7)
    return configuration, joining


async def keep_key(directory: Path) -> bytes:
    """Join by the token as far as the directory shows; return the key that is kept."""
    _, joining = choose(directory, TOKEN)
    await joining.renewal.offer()
    await joining.renewal.keep(grace_s=60, roots=(make_authority("root").der,))
    return let_go(joining)


def let_go(joining: ByRenewal) -> bytes:
    """Give the directory back, as the end of the process does; return the key."""
    assert joining.renewal._directory is not None
    joining.renewal._directory.close()
    return joining.renewal.kept.key


async def test_a_key_that_is_kept_stands_in_for_the_token_that_it_came_by(tmp_path: Path) -> None:
    key = await keep_key(tmp_path / "state")
    for token in (TOKEN, None):
        configuration, joining = choose(tmp_path / "state", token, instance="by-chance")
        assert joining.can_heal and let_go(joining) == key
        assert configuration.instance == "web-1", "who comes back keeps its name"


async def test_another_name_than_that_of_the_key_is_refused(tmp_path: Path) -> None:
    await keep_key(tmp_path / "state")
    _, joining = choose(tmp_path / "state", None, is_named=True)
    let_go(joining)
    with pytest.raises(InputError, match=r"--instance web-2: the key in .* is that of web-1"):
        choose(tmp_path / "state", TOKEN, instance="web-2", is_named=True)


async def test_another_token_wins_over_a_key_that_is_kept(tmp_path: Path) -> None:
    key = await keep_key(tmp_path / "state")
    other = msgspec.structs.replace(TOKEN, token_id="u")
    configuration, joining = choose(tmp_path / "state", other, instance="web-2")
    assert not joining.can_heal and let_go(joining) != key
    assert configuration.instance == "web-2"
    _, joining = choose(tmp_path / "state", None)
    assert let_go(joining) == key, "the former is kept until the CA has the new one"


def test_without_key_and_token_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no renewal key") as fault:
        choose(tmp_path / "state", None)
    assert "ca join-token" in fault.value.hint
    _, joining = choose(None, TOKEN)
    assert not joining.can_heal and joining.renewal.place == "memory"


def test_the_directory_is_for_the_user_that_the_sidecar_becomes() -> None:
    for redirect, owner in (
        (RedirectOptions(), 1337),
        (RedirectOptions(mark=1), None),
        (RedirectOptions(is_installed=True), None),
    ):
        assert prepare._future_user(Configuration(capture=CaptureKind.REDIRECT, redirect=redirect)) == owner
    assert prepare._future_user(Configuration()) is None
