"""Contexts and words for foreign peers; whole handshakes: ``tests/sidecar/test_foreign_*.py``."""

from __future__ import annotations

import pytest
from OpenSSL import SSL

from sidecar.mesh.foreign_trust import ForeignRoots
from sidecar.tls.foreign_handshake import ForeignContexts, PeerNote, describe_fault, make_foreign_context
from sidecar.tls.role import Role
from tests.sidecar.little_ca import TRUST_DOMAIN, make_authority
from tests.sidecar.pair import CLIENT, CLIENT_PROGRAM, Mint, identify
from tests.sidecar.partner import Partner, make_context

MINT, PARTNER = Mint(), Partner()


def test_a_context_is_made_once_for_credential_bundle_foreign_roots_and_role() -> None:
    contexts, roots = ForeignContexts(max_contexts=3), ForeignRoots()
    credential = MINT.issue(identify(CLIENT, CLIENT_PROGRAM))
    first = contexts.get(credential, MINT.bundle, roots, Role.RESPONDER)
    assert contexts.get(credential, MINT.bundle, roots, Role.RESPONDER) is first
    assert contexts.get(credential, MINT.bundle, roots, Role.INITIATOR) is not first
    roots.install([PARTNER.roots], own=TRUST_DOMAIN)
    second = contexts.get(credential, MINT.bundle, roots, Role.RESPONDER)
    assert second is not first
    contexts.get(MINT.issue(identify(CLIENT, CLIENT_PROGRAM)), MINT.bundle, roots, Role.RESPONDER)
    contexts.get(MINT.issue(identify(CLIENT, CLIENT_PROGRAM)), MINT.bundle, roots, Role.RESPONDER)
    assert contexts.get(credential, MINT.bundle, roots, Role.RESPONDER) is second  # The oldest two have gone.


@pytest.mark.parametrize("anchor", ["root", "an authority that another one signed"])
def test_tls_itself_takes_a_chain_to_any_anchor_and_refuses_another(anchor: str) -> None:
    top = make_authority("top")
    partner = PARTNER if anchor == "root" else Partner(root=make_authority("middle", top))
    credential = MINT.issue(identify(CLIENT, CLIENT_PROGRAM))
    context = make_foreign_context(credential, (partner.root.der,), Role.RESPONDER)
    assert _shake_hands(context, make_context(Partner().issue(), MINT.bundle.roots)) == "certificate verify failed"
    if anchor == "root":
        assert _shake_hands(context, make_context(partner.issue(), MINT.bundle.roots)) == ""
    else:
        partner.issuer = partner.root  # Its path length of 0 admits leaves only.
        svid = partner.issue()
        assert _shake_hands(context, make_context(svid, MINT.bundle.roots)) == ""


def test_openssls_words_are_told_without_its_libraries() -> None:
    assert describe_fault(SSL.Error([("SSL routines", "", "unsupported protocol")])) == "unsupported protocol"
    assert describe_fault(SSL.Error()) == ""
    assert describe_fault(SSL.SysCallError(-1, "Unexpected EOF")) == "Unexpected EOF"
    assert describe_fault(OSError(104, "reset")) == "[Errno 104] reset"


def _shake_hands(server_context: SSL.Context, client_context: SSL.Context) -> str:
    """Shake hands in memory; return why the server's side failed."""
    server, client = SSL.Connection(server_context), SSL.Connection(client_context)
    server.set_app_data(PeerNote())
    server.set_accept_state()
    client.set_connect_state()
    is_done = {server: False, client: False}
    while not all(is_done.values()):
        for one, other in ((client, server), (server, client)):
            try:
                one.do_handshake()
                is_done[one] = True
            except SSL.WantReadError:
                pass
            except SSL.Error as error:
                return describe_fault(error)
            try:
                while True:
                    other.bio_write(one.bio_read(65536))
            except SSL.WantReadError:
                pass
    return ""
