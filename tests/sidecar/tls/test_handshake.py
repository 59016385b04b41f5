"""Handshakes over real sockets: what each side learns, and deadlines. Refusals: ``tests/sidecar/test_inbound.py``."""

from __future__ import annotations

import asyncio

import pytest

from shared.model.policy.reasons import Reason
from shared.model.trust.certificate import BundleVerifier
from sidecar.tls.contexts import make_context
from sidecar.tls.handshake import HandshakeError, peek_client_hello
from sidecar.tls.key_limit import RENEWED_AT_BYTES
from sidecar.tls.role import Role
from sidecar.tunnel.handshake import Keys, establish_tunnel
from sidecar.tunnel.tunnel import Tunnel
from tests.sidecar.pair import CLIENT, CLIENT_PROGRAM, SERVER, SERVER_PROGRAM, Mint, identify
from tests.sidecar.pump.test_plain_pump import tcp_pair


async def make_tunnels(
    mint: Mint, *, server: Mint | None = None, key_bytes: int = RENEWED_AT_BYTES, serves_program: bool = True
) -> tuple[Tunnel, Tunnel]:
    """Two ends of one tunnel: the initiator's and the responder's."""
    loop = asyncio.get_running_loop()
    near, far = tcp_pair()
    initiator = mint.issue(identify(CLIENT, CLIENT_PROGRAM))
    responder = (server or mint).issue(identify(SERVER, SERVER_PROGRAM if serves_program else None))
    verifier = BundleVerifier(mint.bundle)

    async def shake(role: Role) -> Tunnel:
        credential = initiator if role is Role.INITIATOR else responder
        context = make_context(credential, mint.bundle, role)
        keys = Keys(context=context, credential=credential, verifier=verifier)

        async def renew() -> Keys:
            return keys

        try:
            return await establish_tunnel(
                loop=loop,
                connection=near if role is Role.INITIATOR else far,
                keys=keys,
                renew=renew,
                role=role,
                timeout_s=20,
                port=5432,
                key_bytes=key_bytes,
            )
        except HandshakeError:
            near.close()
            raise

    try:
        outcomes = await asyncio.gather(shake(Role.INITIATOR), shake(Role.RESPONDER), return_exceptions=True)
    finally:
        if any(isinstance(each, BaseException) for each in outcomes):
            near.close()
            far.close()
    first, second = outcomes
    if isinstance(first, BaseException):
        raise first
    if isinstance(second, BaseException):
        raise second
    return first, second


async def test_a_peek_ends_at_its_deadline_and_at_the_connections_end() -> None:
    loop = asyncio.get_running_loop()
    near, far = tcp_pair()
    with near, far:
        with pytest.raises(HandshakeError) as caught:
            await peek_client_hello(loop, far, timeout_s=0.1)
        assert caught.value.reason == Reason.DEADLINE_EXCEEDED
        near.send(b"\x16\x03\x01\x02\x00abc")
        near.close()
        with pytest.raises(HandshakeError) as caught:
            await peek_client_hello(loop, far, timeout_s=20)
        assert caught.value.reason == Reason.HANDSHAKE_FAILED
