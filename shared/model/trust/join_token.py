"""Join tokens: single-use enrolment outside Kubernetes. Pure.

A token says where the CA is, pins the root's public key (so that first trust needs no file), and carries a secret of
256 bits. What it allows (workload, addresses, labels, expiry) is kept by the CA under ``token_id``: the text that
travels carries them for people only.
"""

from __future__ import annotations

import base64
import binascii

import msgspec

from shared.model.errors import InputError

_PREFIX = "touchmark1."
_MAX_BYTES = 4096


class JoinToken(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the text of a join token says.

    Attributes:
        token_id: names the token in the CA's store.
        secret: 43 URL-safe base64 characters; the CA stores only its SHA-256.
        ca: ``host:port`` of the CA.
        trust_domain: the CA's.
        root_pin: SHA-256 (hexadecimal) of the root's SubjectPublicKeyInfo.
        workload: ``namespace/service-account``.
    """

    token_id: str
    secret: str
    ca: str
    trust_domain: str
    root_pin: str
    workload: str

    def __repr__(self) -> str:
        return f"JoinToken(token_id={self.token_id!r}, workload={self.workload!r})"


def format_join_token(token: JoinToken) -> str:
    """Write the token as one word that survives a shell."""
    return _PREFIX + base64.urlsafe_b64encode(msgspec.json.encode(token)).decode().rstrip("=")


def parse_join_token(text: str) -> JoinToken:
    """Read a token.

    Raises:
        InputError: the text isn't a join token. The message never repeats it.
    """
    text = text.strip()
    if not text.startswith(_PREFIX) or len(text) > _MAX_BYTES:
        raise InputError("not a join token", hint="make one with `touchmark ca join-token NAMESPACE/SERVICE-ACCOUNT`")
    body = text[len(_PREFIX) :]
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)), type=JoinToken)
    except (msgspec.DecodeError, binascii.Error, ValueError) as error:
        raise InputError("the join token is damaged", hint="copy all of it; it is one word") from error
