"""What a peer presented: the very bytes of its chain, at both ends, and why OpenSSL refused one."""

from __future__ import annotations

import pytest
from OpenSSL import SSL

from sidecar.credential.credential import Credential
from sidecar.tls.contexts import is_about_time, make_base_context, make_context
from sidecar.tls.presented import read_presented, read_verification_error
from sidecar.tls.role import Role
from tests.sidecar.pair import CLIENT, CLIENT_PROGRAM, SERVER, SERVER_PROGRAM, Mint, identify

MINT = Mint()


def make_ends(client: SSL.Context, server: SSL.Context) -> tuple[SSL.Connection, SSL.Connection]:
    """Both ends of a handshake in memory, client first."""
    ends = SSL.Connection(client), SSL.Connection(server)
    ends[0].set_connect_state()
    ends[1].set_accept_state()
    return ends


def shake_hands(client: SSL.Connection, server: SSL.Connection) -> None:
    """Pass on what each end says, until both have nothing more to say."""
    for end, other in ((client, server), (server, client)) * 3:
        try:
            end.do_handshake()
        except SSL.WantReadError:
            pass
        finally:
            try:
                other.bio_write(end.bio_read(1 << 16))
            except SSL.WantReadError:
                pass


def issue(*, client_life_s: float = 3600) -> tuple[Credential, Credential]:
    """The client's credential, and the server's."""
    client = MINT.issue(identify(CLIENT, CLIENT_PROGRAM), life_s=client_life_s)
    return client, MINT.issue(identify(SERVER, SERVER_PROGRAM))


def test_both_ends_read_the_others_chain_byte_by_byte_leaf_first() -> None:
    mine, theirs = issue()
    client, server = make_ends(
        make_context(mine, MINT.bundle, Role.INITIATOR), make_context(theirs, MINT.bundle, Role.RESPONDER)
    )
    shake_hands(client, server)
    assert read_presented(client) == theirs.chain
    assert read_presented(server) == mine.chain
    assert read_verification_error(client) == read_verification_error(server) == 0


def test_an_end_that_was_shown_nothing_reads_nothing() -> None:
    mine, theirs = issue()
    client, server = make_ends(
        make_context(mine, MINT.bundle, Role.INITIATOR), make_base_context(theirs, MINT.bundle.roots)
    )
    assert read_presented(client) == ()
    shake_hands(client, server)  # This server asks for no certificate.
    assert read_presented(server) == ()
    assert read_presented(client) == theirs.chain


@pytest.mark.parametrize(("life_s", "roots", "is_time"), [(-5, MINT, True), (3600, Mint(), False)])
def test_why_a_chain_was_refused_is_told(life_s: float, roots: Mint, is_time: bool) -> None:
    mine, theirs = issue(client_life_s=life_s)
    client, server = make_ends(
        make_context(mine, MINT.bundle, Role.INITIATOR), make_context(theirs, roots.bundle, Role.RESPONDER)
    )
    with pytest.raises(SSL.Error):
        shake_hands(client, server)
    assert read_verification_error(server) != 0
    assert is_about_time(read_verification_error(server)) is is_time
