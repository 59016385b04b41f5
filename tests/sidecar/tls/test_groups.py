"""Only a handshake that rests on a secret may be made without ML-KEM. With both ends: ``test_resumption.py``."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from OpenSSL import SSL

from shared.model.policy.reasons import Reason
from sidecar.tls import groups
from sidecar.tls.groups import allow_classic, check_group, require_hybrid
from sidecar.tls.handshake import HandshakeError


class Made(SSL.Connection):
    """What says that it was made by this group."""

    def __init__(self, group: str | None) -> None:
        self._group = group

    def get_group_name(self) -> str | None:
        """Return it."""
        return self._group


@pytest.mark.parametrize(
    ("group", "rests_on_secret", "holds"),
    [
        ("X25519MLKEM768", False, True),
        ("X25519MLKEM768", True, True),
        ("x25519", True, True),
        ("x25519", False, False),
        ("secp256r1", True, False),
        ("SecP256r1MLKEM768", False, False),
        (None, True, False),
    ],
)
def test_only_the_hybrid_group_holds_or_x25519_with_a_secret(
    group: str | None, rests_on_secret: bool, holds: bool
) -> None:
    if holds:
        check_group(Made(group), rests_on_secret=rests_on_secret)
        return
    with pytest.raises(HandshakeError) as caught:
        check_group(Made(group), rests_on_secret=rests_on_secret)
    assert caught.value.reason == Reason.HANDSHAKE_FAILED


def make_hello(*, is_classic: bool) -> bytes:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    require_hybrid(context)
    tls = SSL.Connection(context, None)
    if is_classic:
        allow_classic(tls)
    tls.set_connect_state()
    with pytest.raises(SSL.WantReadError):
        tls.do_handshake()
    return tls.bio_read(65536)


def test_a_hello_has_one_key_share() -> None:
    """1,216 bytes of the hybrid one, 32 of X25519's (RFC 8446, section 4.2.8), each behind its group and length."""
    whole, short = make_hello(is_classic=False), make_hello(is_classic=True)
    share, classic = b"\x11\xec\x04\xc0", b"\x00\x1d\x00\x20"
    assert share in whole and classic not in whole
    assert classic in short and share not in short
    assert b"\x00\x04\x00\x1d\x11\xec" in short  # Both groups are listed.


def test_an_openssl_without_the_group_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse = SimpleNamespace(SSL_CTX_set1_curves_list=lambda *_: 0, SSL_set1_curves_list=lambda *_: 0)
    monkeypatch.setattr(groups, "_lib", refuse)
    context = SSL.Context(SSL.TLS_METHOD)
    with pytest.raises(RuntimeError, match="X25519MLKEM768"):
        require_hybrid(context)
    with pytest.raises(RuntimeError, match="X25519"):
        allow_classic(SSL.Connection(context, None))
