"""Rotation of the issuing authority, in a mesh of its own: under load, and with the old one distrusted afterwards."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from OpenSSL import SSL

from shared.model.policy.decision import Answer, DecisionRecord
from shared.model.policy.reasons import Reason
from shared.model.trust.bundle import AuthorityPhase
from sidecar.tunnel.frames import FrameType
from tests.e2e.harness.mesh import Mesh, wait_until
from tests.e2e.harness.shop import CLIENT, Shop
from tests.e2e.harness.strangers import Identity, Member, dial

pytestmark = pytest.mark.needs_root


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """No sidecar of another test holds this rotation up."""
    mesh = Mesh(tmp_path_factory.mktemp("rotation"))
    try:
        mesh.start_ca()
        yield mesh
    finally:
        mesh.close()


@pytest.fixture(scope="module")
def whole_shop(mesh: Mesh) -> Shop:
    """Client and server of this module's own mesh."""
    return Shop(mesh)


@pytest.fixture(scope="module")
def old(whole_shop: Shop) -> Identity:
    """A credential that the first issuer signed, in wrong hands; its member has left again."""
    joining = Member(whole_shop.mesh, whole_shop.mesh.outsider, CLIENT)
    with joining.joined(whole_shop.buyer.program) as (identity,):
        return identity


def test_rotation_of_the_issuer_under_load_fails_no_request_and_later_records_show_the_new_one(
    shop: Shop, old: Identity
) -> None:
    port = shop.sell()
    shop.be_explicit()
    buyer = shop.buy()
    answers: list[str] = []
    over = threading.Event()

    def request_on() -> None:
        while not over.is_set():
            answers.append(buyer.do("exchange", shop.address, port, "bread"))

    requests = threading.Thread(target=request_on, name="requests")
    requests.start()
    try:
        wait_until(lambda: len(answers) > 10, "requests")
        after = shop.mesh.rotate_issuer()
        done = len(answers)
        shop.server.log.wait_for(lambda record: record.port == port and after in record.issuer, f"issuer {after}")
        wait_until(lambda: len(answers) > done + 10, "requests after the rotation")
    finally:
        over.set()
        requests.join()
    assert shop.client.log.list_denied(port) == shop.server.log.list_denied(port) == []
    assert set(answers) == {"got bread<end>"}
    # The server's new certificate shows in new tunnels; a live one goes on with what it began with.
    wait_until(lambda: after in _connect_afresh(shop).issuer, "the server's renewed certificate")


def _connect_afresh(shop: Shop) -> DecisionRecord:
    port = shop.sell()
    assert shop.buy().do("exchange", shop.address, port, "bread") == "got bread<end>"
    return shop.client.log.expect(Answer.ALLOW, Reason.SAME_GROUP, port=port)


@pytest.mark.proves(Reason.PEER_DISTRUSTED)
def test_a_tainted_issuers_certificates_are_refused_and_the_mesh_goes_on(shop: Shop, old: Identity) -> None:
    port = shop.sell()
    shop.be_explicit()
    admin = shop.mesh.admin
    if not admin.rotation().previous:
        shop.mesh.rotate_issuer()
    assert shop.buy().do("exchange", shop.address, port, "one") == "got one<end>"
    (tainted,) = (each for each in admin.status().authorities if each.phase is AuthorityPhase.OLD)
    assert not _is_refused(shop, old, port), "an old issuer's certificates are still good"
    admin.taint(tainted.authority_id)
    wait_until(lambda: _is_refused(shop, old, port), "the refusal")
    shop.server.log.expect_denied(Reason.PEER_DISTRUSTED)
    for text in ("two", "three"):
        assert shop.buy().do("exchange", shop.address, port, text) == f"got {text}<end>"


def _is_refused(shop: Shop, identity: Identity, port: int) -> bool:
    try:
        with dial(shop.mesh.outsider, identity.make_context(), shop.address, port) as raw:
            raw.open(shop.address, port)
            return raw.receive() != (FrameType.ACCEPT, 1, b"")
    except (SSL.Error, OSError):  # It can end before OPEN is written.
        return True
