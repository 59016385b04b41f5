"""Dialling the CA: who answers is checked by SPIFFE ID; silence and refusals are told."""

from __future__ import annotations

import contextlib
import socket
import ssl

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from shared.model.errors import UnavailableError, VerificationError
from shared.model.identity.identity import parse_spiffe_id
from sidecar.control import ca_dial as feed_dial
from sidecar.control.ca_dial import check_server, fetch_pinned_root, make_context
from sidecar.credential.credential import Credential
from tests.sidecar.little_ca import make_authority, sign_leaf


@pytest.mark.parametrize(
    "names",
    [
        (),
        (("DNS", "touchmark.test"),),
        (("URI", "spiffe://touchmark.test/ns/a/sa/b/sidecar"),),
        (("URI", "spiffe://other/touchmark/ca"),),
        (("URI", "spiffe://touchmark.test/touchmark/ca"), ("URI", "spiffe://x/y")),
    ],
)
def test_whoever_is_not_the_ca_is_refused(names: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(VerificationError):
        check_server({"subjectAltName": names}, "touchmark.test")
    check_server({"subjectAltName": (("URI", "spiffe://touchmark.test/touchmark/ca"),)}, "touchmark.test")


def test_the_leaf_is_shown_alone() -> None:
    root = make_authority("root")
    issuer, key = make_authority("issuer", root), ec.generate_private_key(ec.SECP256R1())
    leaf = sign_leaf(issuer, key.public_key(), "spiffe://touchmark.test/ns/a/sa/b/sidecar")
    credential = Credential(
        identity=parse_spiffe_id("spiffe://touchmark.test/ns/a/sa/b/sidecar"),
        chain=(leaf.public_bytes(Encoding.DER), issuer.der),
        key=key,
        generation=1,
        not_before=0.0,
        not_after=4e9,
        issuer="issuer",
    )
    taken = SSL.Context(SSL.TLS_SERVER_METHOD)
    taken.use_privatekey(key)
    taken.use_certificate(leaf)
    taken.set_verify(SSL.VERIFY_PEER, lambda *_: True)
    server = SSL.Connection(taken, None)
    server.set_accept_state()
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = make_context([root.der], credential)
    context.verify_mode = ssl.CERT_NONE
    client = context.wrap_bio(to_client, to_server)
    for _ in range(2):  # ClientHello, and what answers it; then the certificate.
        with contextlib.suppress(ssl.SSLWantReadError):
            client.do_handshake()
        server.bio_write(to_server.read())
        with contextlib.suppress(SSL.WantReadError):
            server.do_handshake()
        to_client.write(server.bio_read(65_536))
    assert server.get_peer_certificate(as_cryptography=True) == leaf
    assert server.get_peer_cert_chain(as_cryptography=True) == []  # On a server's side those beside the leaf.


async def test_a_server_that_never_shakes_hands_and_one_that_is_not_there_are_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(UnavailableError):
            await fetch_pinned_root(silent.getsockname(), "0" * 64, mark=0, timeout_s=0.2)
        address = silent.getsockname()
    with pytest.raises(UnavailableError):
        await fetch_pinned_root(address, "0" * 64, mark=0, timeout_s=0.2)


async def test_an_address_that_is_mute_does_not_take_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_dial, "_CONNECT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as mute:
        # Nobody accepts: who comes after the first ones gets no answer at all.
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(mute.getsockname())
        with pytest.raises(UnavailableError, match="can't be reached: TimeoutError"):
            await fetch_pinned_root(mute.getsockname(), "0" * 64, mark=0, timeout_s=600)
        for each in waiting:
            each.close()
