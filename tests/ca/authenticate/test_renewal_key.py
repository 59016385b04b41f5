"""A renewal counts on the stream that it was signed for, for the request that it was signed with."""

from __future__ import annotations

import msgspec
import pytest

from ca.authenticate.renewal_key import Channel, digest_renewal_key, verify_renewal
from shared.model.errors import VerificationError
from shared.model.trust.join_token import JoinToken
from shared.model.wire.messages import Registration, Renew
from sidecar.credential.renewal_key import begin_renewal_key

CHANNEL = Channel(nonce=bytes(32), server_certificate=b"server")
REGISTRATION = Registration(instance="web-1", version="0", addresses=(), tunnel_port=15008, capture="listeners")
TOKEN = JoinToken(
    token_id="t", secret="s", ca="127.0.0.1:1", trust_domain="touchmark.local", root_pin="00" * 32, workload="shop/web"
)


async def sign() -> Renew:
    key = begin_renewal_key(TOKEN, instance="web-1", directory=None)
    return await key.renew(b"csr", REGISTRATION, nonce=CHANNEL.nonce, server_certificate=CHANNEL.server_certificate)


async def test_what_was_signed_for_this_stream_counts() -> None:
    message = await sign()
    verify_renewal(message, CHANNEL, trust_domain="touchmark.local")
    assert len(digest_renewal_key(message.key)) == 32


async def test_nothing_that_was_signed_can_be_changed() -> None:
    message, other = await sign(), await sign()
    instance = msgspec.structs.replace(REGISTRATION, instance="web-2")
    changed = [
        msgspec.structs.replace(message, csr=b"another"),
        msgspec.structs.replace(message, following=other.following),
        msgspec.structs.replace(message, registration=instance),
        msgspec.structs.replace(message, key=other.key),
        msgspec.structs.replace(message, signature=other.signature),
        msgspec.structs.replace(message, key=b"no key"),
        msgspec.structs.replace(message, key=message.key + bytes(300)),
        msgspec.structs.replace(message, signature=bytes(1000)),
    ]
    for each in changed:
        with pytest.raises(VerificationError):
            verify_renewal(each, CHANNEL, trust_domain="touchmark.local")


async def test_another_nonce_server_or_trust_domain_is_another_stream() -> None:
    message = await sign()
    for channel in (
        Channel(nonce=bytes(31) + b"1", server_certificate=b"server"),
        Channel(nonce=bytes(32), server_certificate=b"impostor"),
    ):
        with pytest.raises(VerificationError):
            verify_renewal(message, channel, trust_domain="touchmark.local")
    with pytest.raises(VerificationError):
        verify_renewal(message, CHANNEL, trust_domain="other.local")
