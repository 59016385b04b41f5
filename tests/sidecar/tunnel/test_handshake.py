"""A tunnel's handshake (``sidecar.tunnel.handshake``) over real sockets: what each side learns."""

from __future__ import annotations

import msgspec
import pytest

from shared.model.errors import VerificationError
from shared.model.policy.reasons import Reason
from shared.model.trust.bundle import TrustBundle
from sidecar.tls.handshake import HandshakeError
from tests.sidecar.pair import CLIENT, CLIENT_PROGRAM, SERVER, SERVER_PROGRAM, Mint, identify
from tests.sidecar.tls.test_handshake import make_tunnels


async def test_each_side_learns_the_others_identity_and_both_the_same_id() -> None:
    first, second = await make_tunnels(Mint())
    assert first.peer.identity == identify(SERVER, SERVER_PROGRAM)
    assert second.peer.identity == identify(CLIENT, CLIENT_PROGRAM)
    assert first.id == second.id
    assert len(first.id) == 16
    first.close()
    second.close()


async def test_the_client_refuses_a_server_of_another_ca() -> None:
    with pytest.raises(HandshakeError) as caught:
        await make_tunnels(Mint(), server=Mint())
    assert caught.value.reason == Reason.PEER_UNTRUSTED


class Careless(Mint):
    """A CA whose bundle lists an issuer that no root of it has signed."""

    @property
    def bundle(self) -> TrustBundle:
        """The trust bundle, with the root of another CA."""
        return msgspec.structs.replace(super().bundle, roots=(Mint().root.der,))


async def test_an_issuer_that_no_root_of_the_bundle_signed_vouches_for_nobody() -> None:
    """OpenSSL takes the bundle's issuers as ends of a chain; who signed them is verified after the handshake."""
    with pytest.raises(VerificationError) as caught:
        await make_tunnels(Careless())
    assert caught.value.reason == Reason.PEER_UNTRUSTED
