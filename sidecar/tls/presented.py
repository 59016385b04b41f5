"""What the peer presented in its handshake, as bytes: no object is made of a certificate that is known already.

Belongs here: reading it out of OpenSSL, which pyOpenSSL does by a copy, an object and a parse for each certificate.
Doesn't: verifying it (``shared.model.trust``).
"""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL
from OpenSSL._util import ffi as _ffi
from OpenSSL._util import lib as _lib


def read_presented(tls: SSL.Connection) -> tuple[bytes, ...]:
    """Return the DER of the certificates that the peer presented, leaf first; empty when it presented none.

    What this does *not* verify: anything. After its handshake OpenSSL has checked that the peer holds the leaf's key.
    """
    ssl = _ssl_of(tls)
    stack = _lib.SSL_get_peer_cert_chain(ssl)
    count = 0 if stack == _ffi.NULL else _lib.sk_X509_num(stack)
    certificates = [_lib.sk_X509_value(stack, index) for index in range(count)]
    chain = tuple(map(_encode, certificates))
    leaf = _lib.SSL_get_peer_certificate(ssl)
    if leaf == _ffi.NULL:
        return chain
    try:
        # A chain begins with its leaf on both sides (SSL_get_peer_cert_chain(3): at a server only since OpenSSL 1.1),
        # and what is checked here is the certificate whose key was proven.
        return chain if certificates and certificates[0] == leaf else _begin_with(_encode(leaf), chain)
    finally:
        _lib.X509_free(leaf)


def read_verification_error(tls: SSL.Connection) -> int:
    """Return why OpenSSL refused the peer's chain (X509_V_ERR_* of ``x509_vfy.h``); 0 where it didn't."""
    ssl = _ssl_of(tls)
    # With a pre-shared key no chain comes, and the result is the key's, X509_V_ERR_UNSPECIFIED.
    return 0 if _lib.SSL_session_reused(ssl) else int(_lib.SSL_get_verify_result(ssl))


def _begin_with(leaf: bytes, chain: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return chain if chain[:1] == (leaf,) else (leaf, *chain)


def _encode(certificate: Any) -> bytes:
    bio = _lib.BIO_new(_lib.BIO_s_mem())
    try:
        if bio == _ffi.NULL or _lib.i2d_X509_bio(bio, certificate) != 1:
            raise MemoryError("a certificate can't be encoded")
        data = _ffi.new("char **")
        size = _lib.BIO_get_mem_data(bio, data)
        return bytes(_ffi.buffer(data[0], size))
    finally:
        _lib.BIO_free(bio)


def _ssl_of(tls: SSL.Connection) -> Any:
    connection: Any = tls
    return connection._ssl
