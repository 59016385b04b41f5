"""The ServerHello parser: real hellos, in every cut, and hostile ones."""

from __future__ import annotations

from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL

from sidecar.tls.client_hello import ClientHello, parse_client_hello
from sidecar.tls.contexts import make_context
from sidecar.tls.groups import allow_classic
from sidecar.tls.kept_secrets import Origin, Secrets
from sidecar.tls.resumption import resuming
from sidecar.tls.role import Role
from sidecar.tls.server_hello import MAX_SERVER_HELLO_BYTES, takes_secret
from tests.sidecar.pair import SERVER, SERVER_PROGRAM, Mint, identify


def _real_flights() -> tuple[bytes, bytes, bytes]:
    """Return what a server answers that has the client's secret, that hasn't, and that takes its key share at once."""
    mint = Mint()
    credential = mint.issue(identify(SERVER, SERVER_PROGRAM))
    client_context = make_context(credential, mint.bundle, Role.INITIATOR)
    server_context = make_context(credential, mint.bundle, Role.RESPONDER)
    near, far = Secrets(), Secrets()
    flights = []
    for has_secret, any_group in ((True, False), (False, False), (False, True)):
        for secrets, whose in ((near, None), (far, b"peer")):
            origin = Origin(chain=credential.chain, proven_at=secrets.now(), kept_at=secrets.now())
            if secrets is near or has_secret:
                secrets.keep("db", {b"name of 16 bytes": bytes(32)}, origin, whose=whose)
        client, server = SSL.Connection(client_context), SSL.Connection(server_context)
        with resuming(client, near, "db", Role.INITIATOR):
            client.set_connect_state()
            with suppress(SSL.WantReadError):
                client.do_handshake()
            hello = client.bio_read(65536)
        found = parse_client_hello(hello)
        assert isinstance(found, ClientHello)
        with resuming(server, far, "db", Role.RESPONDER, named=found.secret_name):
            if any_group:
                allow_classic(server)
            server.set_accept_state()
            server.bio_write(hello)
            with suppress(SSL.WantReadError):
                server.do_handshake()
            flights.append(server.bio_read(65536))
    taken, another, at_once = flights
    return taken, another, at_once


TAKEN, ANOTHER, AT_ONCE = _real_flights()
_SIZE = 5 + int.from_bytes(TAKEN[3:5], "big")


def test_only_a_hello_that_takes_the_secret_says_so() -> None:
    assert takes_secret(TAKEN)
    assert takes_secret(TAKEN[:MAX_SERVER_HELLO_BYTES])
    assert not takes_secret(ANOTHER)  # A HelloRetryRequest.
    assert not takes_secret(AT_ONCE)
    assert len(ANOTHER) < 200 < len(AT_ONCE)


def test_a_cut_hello_says_nothing() -> None:
    assert next(cut for cut in range(len(TAKEN)) if takes_secret(TAKEN[:cut])) == _SIZE


@given(st.data())
def test_a_hello_with_other_bytes_is_read_within_its_bounds(data: st.DataObject) -> None:
    changed = bytearray(TAKEN[:_SIZE])
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, _SIZE - 1))] = data.draw(st.integers(0, 255))
    takes_secret(bytes(changed))
    if changed[0] != 22 or changed[5] != 2:
        assert not takes_secret(bytes(changed))


@given(st.binary(max_size=MAX_SERVER_HELLO_BYTES))
def test_arbitrary_bytes_take_nothing_or_are_refused(data: bytes) -> None:
    assert not takes_secret(data) or b"\x00\x29" in data
