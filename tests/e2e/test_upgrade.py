"""One minor version apart: the previous release's CA and sidecars, as they were, work with today's."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.model.policy.decision import Answer, Transport
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Mode
from shared.model.trust.bundle import RotationKind
from shared.model.version import VERSION
from tests.e2e.harness.mesh import MAX_EXECUTABLE_BYTES, ROOT, Mesh, Sidecar, wait_until
from tests.e2e.harness.programs import Executable
from tests.releases import previous

pytestmark = pytest.mark.needs_root

_SETTINGS = f"capture: redirect\nattestation: {{maxExecutableBytes: {MAX_EXECUTABLE_BYTES}}}"


@pytest.fixture
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A network whose CA isn't started yet."""
    mesh = Mesh(tmp_path_factory.mktemp("upgrade"))
    try:
        yield mesh
    finally:
        mesh.close()


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The previous release's code."""
    directory = tmp_path_factory.mktemp("release")
    directory.chmod(0o755)
    return previous.unpack(directory)


def add(mesh: Mesh, workload: str, program: Executable, release: Path = ROOT) -> Sidecar:
    sidecar = mesh.add_sidecar(workload, settings=_SETTINGS, release=release)
    mesh.approve(workload, program)
    return sidecar


def protocols(mesh: Mesh) -> dict[str, int]:
    """The protocol of each sidecar's last stream, as today's CA logs it."""
    lines = (json.loads(line) for line in (mesh.directory / "ca.log").read_text().splitlines() if line[:1] == "{")
    return {line["instance"]: line["protocol"] for line in lines if line.get("protocol") is not None}


def versions(mesh: Mesh) -> dict[str, str]:
    return {view.instance: view.version for view in mesh.admin.sidecars() if view.connected}


def tellers(mesh: Mesh) -> set[str]:
    """The sidecars whose refusals the CA has kept."""
    kept = mesh.admin.decisions("reason=program_not_approved&namespace=shop")
    return {view.record.sidecar for view in kept}


def test_the_ca_is_upgraded_first_and_its_sidecars_of_the_previous_release_go_on(mesh: Mesh, before: Path) -> None:
    buyer, seller, intruder = (mesh.make_program(name) for name in ("buyer", "seller", "intruder"))
    mesh.start_ca(before)
    client = add(mesh, "shop/client", buyer, release=before)
    server = add(mesh, "shop/server", seller, release=before)
    mesh.set_policy(Mode.EXPLICIT)
    port = mesh.serve(seller, server.pod, "echo")
    caller = mesh.run(buyer, client.pod)
    assert caller.do("connect", "held", server.pod.address, port) == "connected"
    assert caller.do("send", "held", "before") == "sent"
    assert caller.do("receive", "held", 6) == "before"

    mesh.end_ca()
    mesh.start_ca()

    assert mesh.admin.status().version == VERSION
    wait_until(lambda: versions(mesh) == dict.fromkeys(mesh.sidecars, previous.VERSION), "the old sidecars' streams")
    # The CA counts a stream as open a moment before it logs it.
    wait_until(lambda: protocols(mesh) == {client.instance: 1, server.instance: 1}, "the protocol of before")
    # The live connection went on, policy still arrives, and programs of today and of before talk both ways.
    assert caller.do("send", "held", "after") == "sent"
    assert caller.do("receive", "held", 5) == "after"
    mesh.set_policy(Mode.PERMISSIVE)
    mesh.set_policy(Mode.EXPLICIT)
    new_client = add(mesh, "shop/new-client", buyer)
    new_server = add(mesh, "shop/new-server", seller)
    assert protocols(mesh)[new_client.instance] == 2
    expect_trade(mesh, buyer, new_client, seller, server)
    expect_trade(mesh, buyer, client, seller, new_server)
    expect_refusal(mesh, intruder, client, seller, new_server)
    expect_refusal(mesh, intruder, new_client, seller, server)
    # Sidecars of before confirm a new authority as those of today do: no force is needed.
    mesh.rotate_issuer()
    assert not mesh.admin.rotation().forced
    expect_trade(mesh, buyer, client, seller, new_server)


def test_sidecars_are_upgraded_first_under_the_previous_ca(mesh: Mesh, before: Path) -> None:
    buyer, seller, intruder = (mesh.make_program(name) for name in ("buyer", "seller", "intruder"))
    mesh.start_ca(before)
    client = add(mesh, "shop/client", buyer, release=before)
    server = add(mesh, "shop/server", seller)
    mesh.set_policy(Mode.EXPLICIT)
    assert mesh.admin.status().version == previous.VERSION
    assert versions(mesh) == {client.instance: previous.VERSION, server.instance: VERSION}
    expect_trade(mesh, buyer, client, seller, server)
    expect_refusal(mesh, intruder, client, seller, server)
    other = add(mesh, "shop/new-client", buyer)
    expect_trade(mesh, buyer, other, seller, server)
    # What a sidecar of today tells is kept by the CA of before.
    expect_refusal(mesh, intruder, other, seller, server)
    wait_until(lambda: {other.instance, client.instance} <= tellers(mesh), "the refusals")
    for command in ("status", "ca status", "decisions", "identities", "connections", "mode shop", "ca rotate issuer"):
        asked = ask(mesh, *command.split())
        assert asked.returncode == 0, asked.stderr
    with mesh.without_ca():  # Today's from here on: the sidecars come again, and speak its protocol.
        pass
    spoken = {client.instance: 1, server.instance: 2, other.instance: 2}
    wait_until(lambda: protocols(mesh) == spoken, "today's protocol")
    expect_trade(mesh, buyer, other, seller, server)
    # The previous release knows no rotation of a root: its sidecars confirm a bundle with two roots all the same.
    mesh.admin.rotate(kind=RotationKind.ROOT)
    wait_until(lambda: mesh.admin.rotation().step == "active", "the new root")
    assert not mesh.admin.rotation().forced
    expect_trade(mesh, buyer, client, seller, server)
    with mesh.without_ca():  # And find the CA below it.
        pass
    expect_trade(mesh, buyer, client, seller, server)


def ask(mesh: Mesh, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Today's command, of whichever CA there is."""
    command = [sys.executable, "-m", "cli", *arguments, "--admin-socket", str(mesh.directory / "admin.sock")]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=180, cwd=ROOT)


def expect_trade(mesh: Mesh, buyer: Executable, client: Sidecar, seller: Executable, server: Sidecar) -> None:
    port = mesh.serve(seller, server.pod, "answer")
    assert mesh.run(buyer, client.pod).do("exchange", server.pod.address, port, "bread") == "got bread<end>"
    for log in (client.log, server.log):
        record = log.expect(Answer.ALLOW, Reason.SAME_GROUP, port=port)
        assert record.transport is Transport.TUNNEL


def expect_refusal(mesh: Mesh, intruder: Executable, client: Sidecar, seller: Executable, server: Sidecar) -> None:
    port = mesh.serve(seller, server.pod, "answer")
    assert mesh.run(intruder, client.pod).do("exchange", server.pod.address, port, "bread") == "<ECONNRESET>"
    client.log.expect_denied(Reason.PROGRAM_NOT_APPROVED, port=port)
