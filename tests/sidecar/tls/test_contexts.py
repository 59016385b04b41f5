"""Contexts: one for each credential, bundle and role; bounded."""

from __future__ import annotations

import msgspec
import pytest
from OpenSSL import SSL

from sidecar.tls.contexts import ALPN, Contexts, is_about_time, make_context
from sidecar.tls.role import Role
from tests.sidecar.pair import CLIENT, CLIENT_PROGRAM, SERVER, SERVER_PROGRAM, Mint, identify

MINT = Mint()


def test_a_context_is_made_once_and_anew_for_a_renewed_credential_or_another_bundle() -> None:
    contexts, identity = Contexts(), identify(CLIENT, CLIENT_PROGRAM)
    credential, renewed = MINT.issue(identity), MINT.issue(identity)
    first = contexts.get(credential, MINT.bundle, Role.INITIATOR)
    assert contexts.get(credential, MINT.bundle, Role.INITIATOR) is first
    others = [
        contexts.get(renewed, MINT.bundle, Role.INITIATOR),
        contexts.get(credential, msgspec.structs.replace(MINT.bundle, sequence=2), Role.INITIATOR),
        contexts.get(credential, MINT.bundle, Role.RESPONDER),
    ]
    assert first not in others
    assert len({id(each) for each in others}) == 3


def test_the_least_used_context_is_dropped() -> None:
    contexts = Contexts(max_contexts=2)
    credentials = [MINT.issue(identify(CLIENT, CLIENT_PROGRAM)) for _ in range(3)]
    made = [contexts.get(each, MINT.bundle, Role.INITIATOR) for each in credentials]
    assert contexts.get(credentials[2], MINT.bundle, Role.INITIATOR) is made[2]
    assert contexts.get(credentials[0], MINT.bundle, Role.INITIATOR) is not made[0]


def _connect(
    initiator: SSL.Context, responder: SSL.Context, session: SSL.Session | None = None
) -> tuple[SSL.Connection, SSL.Connection, int]:
    """Shake hands in memory: client, server, and the size of the server's flight."""
    client, server = SSL.Connection(initiator), SSL.Connection(responder)
    client.set_connect_state()
    server.set_accept_state()
    if session is not None:
        client.set_session(session)
    with pytest.raises(SSL.WantReadError):
        client.do_handshake()
    server.bio_write(client.bio_read(65536))
    with pytest.raises(SSL.WantReadError):
        server.do_handshake()
    flight = server.bio_read(65536)
    client.bio_write(flight)
    client.do_handshake()
    server.bio_write(client.bio_read(65536))
    server.do_handshake()
    server.send(b"x")
    client.bio_write(server.bio_read(65536))
    assert client.recv(1) == b"x"  # What follows a handshake, such as a session's offer, has been read as well.
    return client, server, len(flight)


def test_both_ends_agree_on_tls_1_3_aes_128_gcm_the_hybrid_group_and_alpn() -> None:
    initiator = make_context(MINT.issue(identify(CLIENT, CLIENT_PROGRAM)), MINT.bundle, Role.INITIATOR)
    responder = make_context(MINT.issue(identify(SERVER, SERVER_PROGRAM)), MINT.bundle, Role.RESPONDER)
    client, server, _ = _connect(initiator, responder)
    assert client.get_protocol_version_name() == "TLSv1.3"
    assert client.get_cipher_name() == "TLS_AES_128_GCM_SHA256"
    assert client.get_group_name() == "X25519MLKEM768"
    assert client.get_alpn_proto_negotiated() == server.get_alpn_proto_negotiated() == ALPN
    label = b"EXPORTER-touchmark-tunnel-id"
    assert client.export_keying_material(label, 8) == server.export_keying_material(label, 8)


def test_no_session_is_resumed_past_the_checks_against_the_bundle_of_now() -> None:
    initiator = make_context(MINT.issue(identify(CLIENT, CLIENT_PROGRAM)), MINT.bundle, Role.INITIATOR)
    responder = make_context(MINT.issue(identify(SERVER, SERVER_PROGRAM)), MINT.bundle, Role.RESPONDER)
    first, _, full = _connect(initiator, responder)
    session = first.get_session()
    assert session is not None
    again, _, second = _connect(initiator, responder, session)
    # A resumed handshake's flight has no certificates: these would be missing several hundred bytes.
    assert abs(full - second) < 32
    assert again.get_peer_certificate() is not None


def test_time_errors_are_told_from_others() -> None:
    assert [is_about_time(error) for error in (10, 9, 18, 0)] == [True, True, False, False]
