"""Peers on the tunnel port that aren't sidecars: hand-made clients and servers, with real and wrong certificates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from shared.model.policy.reasons import Reason
from sidecar.tunnel.frames import HEADER, FrameType
from tests.e2e.harness.shop import CLIENT, Shop
from tests.e2e.harness.strangers import (
    TUNNEL_PORT,
    Identity,
    Member,
    dial,
    make_plain_context,
    serving,
    steal_issuer,
)
from tests.sidecar.little_ca import Authority, make_authority, sign_leaf

pytestmark = pytest.mark.needs_root


@pytest.fixture(autouse=True)
def _explicit(shop: Shop) -> None:
    shop.be_explicit()


@pytest.fixture(scope="module")
def member(whole_shop: Shop) -> Iterator[Identity]:
    """A real credential of the approved client program, in wrong hands."""
    joining = Member(whole_shop.mesh, whole_shop.mesh.outsider, CLIENT)
    with joining.joined(whole_shop.buyer.program) as (identity,):
        yield identity


def _sign(issuer: Authority, shop: Shop, *, life_s: float = 600, workload: str = "client") -> Identity:
    key = ec.generate_private_key(ec.SECP256R1())
    uri = f"spiffe://touchmark.local/ns/shop/sa/{workload}/sha256/{shop.buyer.digest}"
    leaf = sign_leaf(issuer, key.public_key(), uri, life_s=life_s)
    return Identity(key, (leaf.public_bytes(Encoding.DER), issuer.der))


def _is_refused(shop: Shop, context: SSL.Context, port: int) -> bool:
    """Whether the server's sidecar ends the connection: in the handshake, or (TLS 1.3) right after ours."""
    try:
        with dial(shop.mesh.outsider, context, shop.address, port) as raw:
            return raw.receive() is None
    except (SSL.Error, OSError):
        return True


# ---- what a member may not ask for -----------------------------------------------------------------------------------


def test_the_hand_made_client_is_served_when_it_behaves(shop: Shop, member: Identity) -> None:
    port = shop.sell()
    with dial(shop.mesh.outsider, member.make_context(), shop.address, port) as raw:
        raw.open(shop.address, port)
        assert raw.receive() == (FrameType.ACCEPT, 1, b"")
        raw.send(FrameType.DATA, 1, b"bread")
        raw.send(FrameType.END, 1)
        assert raw.receive() == (FrameType.DATA, 1, b"got bread")
        assert raw.receive() == (FrameType.END, 1, b"")


@pytest.mark.proves(Reason.DESTINATION_NOT_SERVED)
@pytest.mark.parametrize("what", ["another address", "another port", "loopback", "the sidecar itself", "its capture"])
def test_open_reaches_nothing_but_the_tunnels_own_destination(shop: Shop, member: Identity, what: str) -> None:
    port, other = shop.sell(), shop.sell()
    named, address, wanted = {
        "another address": (port, shop.mesh.outsider.address, port),
        "another port": (port, shop.address, other),
        "loopback": (port, "127.0.0.1", port),
        "the sidecar itself": (TUNNEL_PORT, shop.address, TUNNEL_PORT),
        "its capture": (15001, shop.address, 15001),
    }[what]
    with dial(shop.mesh.outsider, member.make_context(), shop.address, named) as raw:
        raw.open(address, wanted)
        raw.send(FrameType.DATA, 1, b"data behind a refusal is discarded")
        assert raw.receive_refusal() == "destination_not_served"
        raw.send(FrameType.END, 1)
        shop.server.log.expect_denied(Reason.DESTINATION_NOT_SERVED)
        # Nothing of it is left: the tunnel serves what it may.
        if what == "another port":
            raw.open(shop.address, port, epoch=2)
            assert raw.receive() == (FrameType.ACCEPT, 2, b"")


@pytest.mark.proves(Reason.PROTOCOL_ERROR)
@pytest.mark.parametrize("what", ["wrong epoch", "oversized", "unknown type", "truncated OPEN", "DATA before OPEN"])
def test_frames_that_break_the_protocol_end_the_tunnel(shop: Shop, member: Identity, what: str) -> None:
    port = shop.sell("echo")
    with dial(shop.mesh.outsider, member.make_context(), shop.address, port) as raw:
        if what in ("wrong epoch", "oversized", "unknown type"):
            raw.open(shop.address, port)
            assert raw.receive() == (FrameType.ACCEPT, 1, b"")
        if what == "wrong epoch":
            raw.send(FrameType.DATA, 2, b"x")
        elif what == "oversized":
            raw.send_bytes(HEADER.pack(FrameType.DATA, 1, 16381))
        elif what == "unknown type":
            raw.send_bytes(HEADER.pack(99, 1, 0))
        elif what == "truncated OPEN":
            raw.send(FrameType.OPEN, 1, b"short")
        else:
            raw.send(FrameType.DATA, 1, b"x")
        assert raw.receive() is None
    shop.server.log.expect_denied(Reason.PROTOCOL_ERROR, port=port)


# ---- handshakes that fail --------------------------------------------------------------------------------------------


@pytest.mark.proves(Reason.HANDSHAKE_FAILED)
@pytest.mark.parametrize("what", ["TLS 1.2", "no certificate", "wrong ALPN", "no ALPN", "no TLS"])
def test_whoever_doesnt_speak_the_tunnels_tls_is_refused(shop: Shop, member: Identity, what: str) -> None:
    port = shop.sell()
    if what == "no TLS":
        visitor = shop.mesh.run(shop.intruder, shop.mesh.outsider)
        got = visitor.do("exchange", shop.address, TUNNEL_PORT, "GET / HTTP/1.1\r\n\r\n")
        assert got in ("<end>", "<ECONNRESET>")
    else:
        makers: dict[str, Callable[[], SSL.Context]] = {
            "TLS 1.2": lambda: member.make_context(version=SSL.TLS1_2_VERSION),
            "no certificate": make_plain_context,
            "wrong ALPN": lambda: member.make_context(alpn=b"h2"),
            "no ALPN": lambda: member.make_context(alpn=b""),
        }
        assert _is_refused(shop, makers[what](), port)
    shop.server.log.expect_denied(Reason.HANDSHAKE_FAILED)


@pytest.mark.proves(Reason.DEADLINE_EXCEEDED)
def test_a_peer_that_never_finishes_its_handshake_is_closed_in_time(shop: Shop) -> None:
    hurried = shop.mesh.add_sidecar("shop/server", main="sidecar")
    visitor = shop.mesh.run(shop.intruder, shop.mesh.outsider)
    assert visitor.do("connect", "silent", hurried.pod.address, TUNNEL_PORT) == "connected"
    visitor.do("send", "silent", "\x16\x03\x01")
    visitor.begin("receive_rest", "silent")
    hurried.log.expect_denied(Reason.DEADLINE_EXCEEDED)
    assert visitor.answer() in ("<end>", "<ECONNRESET>")
    hurried.end()


# ---- certificates that don't hold ------------------------------------------------------------------------------------


@pytest.mark.proves(Reason.PEER_UNTRUSTED)
@pytest.mark.parametrize("what", ["foreign", "self-signed"])
def test_a_foreign_or_self_signed_certificate_is_refused(shop: Shop, what: str) -> None:
    port = shop.sell()
    root = make_authority("root")
    identity = _sign(make_authority("issuer", root) if what == "foreign" else root, shop)
    assert _is_refused(shop, identity.make_context(), port)
    shop.server.log.expect_denied(Reason.PEER_UNTRUSTED)


@pytest.mark.proves(Reason.PEER_EXPIRED)
def test_an_expired_certificate_of_the_real_issuer_is_refused(shop: Shop, tmp_path: Path) -> None:
    port = shop.sell()
    issuer = steal_issuer(shop.mesh, tmp_path)
    assert not _is_refused_after_open(shop, _sign(issuer, shop), port), "the same with life left is served"
    assert _is_refused(shop, _sign(issuer, shop, life_s=-5).make_context(), port)
    shop.server.log.expect_denied(Reason.PEER_EXPIRED)


def _is_refused_after_open(shop: Shop, identity: Identity, port: int) -> bool:
    with dial(shop.mesh.outsider, identity.make_context(), shop.address, port) as raw:
        raw.open(shop.address, port)
        return raw.receive() != (FrameType.ACCEPT, 1, b"")


@pytest.mark.proves(Reason.PEER_WORKLOAD_MISMATCH)
def test_an_impostor_at_a_members_address_is_refused(shop: Shop, member: Identity) -> None:
    pod = shop.mesh.network.add("corner")
    victim = Member(shop.mesh, pod, "shop/corner", (pod.address,))
    with victim.joined(), serving(pod, member):
        assert shop.buy().do("exchange", pod.address, 8080, "bread") == "<ECONNRESET>"
    record = shop.client.log.expect_denied(Reason.PEER_WORKLOAD_MISMATCH, port=8080)
    assert record.destination.listed == "shop/corner"
