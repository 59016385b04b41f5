"""Rotation of the root, in a mesh of its own: under load, with a killed CA, an absent sidecar, an older join token."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from OpenSSL import SSL

from shared.model.policy.decision import Answer
from shared.model.policy.reasons import Reason
from shared.model.trust.bundle import AuthorityPhase, RotationKind
from sidecar.tunnel.frames import FrameType
from tests.e2e.harness.mesh import Mesh, Sidecar, wait_until
from tests.e2e.harness.programs import Actor
from tests.e2e.harness.shop import CLIENT, Shop
from tests.e2e.harness.strangers import Identity, Member, dial

pytestmark = pytest.mark.needs_root


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """No sidecar of another test holds this rotation up."""
    mesh = Mesh(tmp_path_factory.mktemp("root"))
    try:
        mesh.start_ca()
        yield mesh
    finally:
        mesh.close()


@pytest.fixture(scope="module")
def whole_shop(mesh: Mesh) -> Shop:
    """Client and server of this module's own mesh."""
    return Shop(mesh)


@dataclass(kw_only=True)
class Load:
    """Requests one after another on connections of their own, and one connection that lives all along."""

    shop: Shop
    port: int
    long_port: int
    buyer: Actor
    holder: Actor
    answers: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.over.is_set():
            self.answers.append(self.buyer.do("exchange", self.shop.address, self.port, "bread"))

    def wait_for_more(self, what: str) -> None:
        """Wait until ten more requests were answered."""
        done = len(self.answers)
        wait_until(lambda: len(self.answers) >= done + 10, what)

    def is_alive(self) -> bool:
        """Whether the long connection carries bytes both ways."""
        self.holder.do("send", "long", "x")
        return bool(self.holder.do("receive", "long", 1) == "x")


def begin_load(shop: Shop) -> tuple[Load, threading.Thread]:
    load = Load(
        shop=shop, port=shop.sell(), long_port=shop.sell("echo"), buyer=shop.buy(), holder=shop.buy()
    )  # fmt: skip
    assert load.holder.do("connect", "long", shop.address, load.long_port) == "connected"
    assert load.is_alive()
    thread = threading.Thread(target=load.run, name="requests")
    thread.start()
    return load, thread


def find_sequence(mesh: Mesh, sidecar: Sidecar) -> int:
    """Which trust bundle the CA knows a sidecar to have; 0 while it has no stream."""
    (view,) = [each for each in mesh.admin.sidecars() if each.instance == sidecar.instance]
    return view.installed_sequence if view.connected else 0


def is_refused(mesh: Mesh, identity: Identity, shop: Shop, port: int) -> bool:
    """Whether the server's sidecar refuses a peer with these credentials, in the handshake or after it."""
    try:
        with dial(mesh.outsider, identity.make_context(), shop.address, port) as raw:
            raw.open(shop.address, port)
            return raw.receive() != (FrameType.ACCEPT, 1, b"")
    except (SSL.Error, OSError):
        return True


def test_the_root_is_rotated_under_load_and_nobody_is_locked_out(mesh: Mesh, shop: Shop) -> None:
    shop.be_explicit()
    admin, away = mesh.admin, mesh.add_sidecar("shop/away")
    late = mesh.network.add("late")
    token = admin.make_join_token("shop/late", (late.address, late.address6))
    with Member(mesh, mesh.outsider, CLIENT).joined(shop.buyer.program) as (stolen,):
        pass  # Somebody has credentials below the old root.
    load, thread = begin_load(shop)
    try:
        load.wait_for_more("requests")
        # One sidecar is away: it is named, and nothing is signed with the new root.
        away.pause()
        begun = admin.rotate(kind=RotationKind.ROOT)
        assert (begun.step, begun.kind) == ("prepared", RotationKind.ROOT)
        assert any(laggard.startswith(f"{away.instance} ") for laggard in begun.waiting_for)
        assert begun.open_tokens == (f"{token.token_id} (shop/late)",)
        # The CA is killed in between; the absent sidecar loses its stream by it and never hears of the new root.
        mesh.end_ca()
        load.wait_for_more("requests while the CA is away")
        mesh.start_ca()
        others = [shop.client, shop.server]
        wait_until(lambda: mesh.are_connected([each.instance for each in others]), "the streams")
        for each in others:
            wait_until(lambda each=each: find_sequence(mesh, each) >= begun.sequence, "the bundle")  # type: ignore[misc]
        status = admin.rotation()
        assert (status.step, status.root) == ("prepared", begun.previous_root)
        assert all(laggard.startswith((f"{away.instance} ", "hand-made")) for laggard in status.waiting_for)
        forced = admin.rotate(force=True, kind=RotationKind.ROOT)
        assert (forced.step, forced.root) == ("active", begun.next_root)
        after = forced.issuer
        wait_until(lambda: after in connect_afresh(shop), f"issuer {after} on both sides")
        load.wait_for_more("requests after the rotation")
        assert load.is_alive(), "a connection from before lives on"
        # Whoever knows the old root alone comes in all the same: the sidecar that was away, and an older token.
        away.resume()
        wait_until(lambda: find_sequence(mesh, away) >= begun.sequence, "the absent sidecar's return")
        newcomer = mesh.begin_sidecar("shop/late", late, "late", settings="capture: redirect", token=token.token)
        mesh.wait_ready(newcomer)
        assert admin.rotation().open_tokens == ()
        mesh.add_sidecar("shop/new")
        load.wait_for_more("requests with newcomers")
        assert load.is_alive()
        assert not is_refused(mesh, stolen, shop, load.port), "what the old root's issuer signed is still good"
    finally:
        load.over.set()
        thread.join()
    assert shop.client.log.list_denied(load.port) == shop.server.log.list_denied(load.port) == []
    assert set(load.answers) == {"got bread<end>"}
    check_a_tainted_root(mesh, shop, stolen, load)


def check_a_tainted_root(mesh: Mesh, shop: Shop, stolen: Identity, load: Load) -> None:
    """The old root was stolen, say: everything below it is refused at once, and the mesh goes on."""
    (old,) = (
        each for each in mesh.admin.status().authorities if each.kind == "root" and each.phase is AuthorityPhase.OLD
    )
    mesh.admin.taint(old.authority_id)
    wait_until(lambda: is_refused(mesh, stolen, shop, load.port), "the refusal")
    assert load.holder.do("receive_rest", "long") == "<ECONNRESET>", "its peer's certificate is of the tainted root"
    for text in ("two", "three"):
        assert shop.buy().do("exchange", shop.address, load.port, text) == f"got {text}<end>"


def connect_afresh(shop: Shop) -> str:
    """The issuer that the client's sidecar sees behind a new connection."""
    port = shop.sell()
    assert shop.buy().do("exchange", shop.address, port, "bread") == "got bread<end>"
    return shop.client.log.expect(Answer.ALLOW, Reason.SAME_GROUP, port=port).issuer
