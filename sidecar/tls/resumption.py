"""Handshakes that rest on an earlier one: a secret that both ends derived from it, in place of certificates.

Belongs here: deriving the secrets, and how OpenSSL is told of one. Doesn't: where they are kept (``kept_secrets.py``),
verification of the peer, which follows every handshake in the same way (``sidecar/tunnel/handshake.py``), with the
chain that the peer showed then.

OpenSSL's own sessions stay unused: its cache holds 20,480 of them, with their certificates, and what cryptography binds
can neither bound it nor take a session out of it, so that one could be resumed any number of times. What is used
instead is TLS's other kind of pre-shared key, of 256 bits, known to one client and one server, for one handshake.
A key exchange is made all the same, by X25519 (``groups.py``), and no early data is ever sent or taken.

Source: RFC 8446, sections 2.2, 4.2.11 and 7.5; RFC 9257, section 6; SSL_CTX_set_psk_find_session_callback(3),
SSL_CTX_set_psk_use_session_callback(3).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from OpenSSL import SSL
from OpenSSL._util import ffi as _ffi
from OpenSSL._util import lib as _lib

from shared.model.policy.reasons import Reason
from sidecar.tls.client_hello import MAX_NAMING_BYTES
from sidecar.tls.groups import allow_classic
from sidecar.tls.handshake import HandshakeError
from sidecar.tls.kept_secrets import MAX_OFFERS, Origin, Secret, Secrets
from sidecar.tls.role import Role
from sidecar.tls.server_hello import MAX_SERVER_HELLO_BYTES, takes_secret

# A whole one leaves enough for the burst that it is the first of. One that rests on a secret replaces what it has used,
# and leaves one more, for what was lost.
PER_WHOLE: Final = MAX_OFFERS
PER_RESUMED: Final = 2

_LABEL: Final = b"EXPORTER-touchmark-resumption"
# A client of ours names one secret, and after a HelloRetryRequest once more. A stranger's ClientHello has room for two
# thousand names, for each of which OpenSSL asks.
_MOST_NAMES: Final = 8
_NAME_BYTES: Final = 16
_KEY_BYTES: Final = 32
# The only suite that two of ours agree on; its hash is the one that a secret is used with.
_CIPHER: Final = "TLS_AES_128_GCM_SHA256"
_CIPHER_ID: Final = b"\x13\x01"
_TLS_1_3: Final = 0x0304
# SSL_CTX_set_session_id_context(3): without any, a server that verifies its clients resumes nothing.
_SESSIONS_OF: Final = b"touchmark"

IS_AVAILABLE: Final = bool(getattr(_lib, "Cryptography_HAS_PSK_TLSv1_3", 0))


class Attempt:
    """One end's handshake, which may rest on a secret; made by ``resuming``.

    The server looks for it before TLS begins, by the name that it has peeked at, for it accepts X25519 only then; who
    names the same one at the same time finds none.
    """

    def __init__(
        self, tls: SSL.Connection, secrets: Secrets, binding: Hashable, role: Role, *, named: bytes = b""
    ) -> None:
        self._tls = tls
        self._secrets = secrets
        self._binding = binding
        self._role = role
        self._names_left = _MOST_NAMES
        self._steps = 0
        self._derived: dict[bytes, bytes] = {}
        self._waiting: list[asyncio.Future[None]] | None = None
        self._secret: Secret | None = None
        if IS_AVAILABLE:
            self._secret = secrets.take(binding) if role is Role.INITIATOR else secrets.find(binding, named)
        if self._secret is not None:
            allow_classic(tls)
        self._name = _ffi.new("unsigned char[]", self._secret.name) if self._secret is not None else None

    def begin(self) -> None:
        """Tell others that this handshake may leave secrets."""
        if self._role is Role.INITIATOR:
            self._secrets.begin(self._binding, rests_on_secret=self._secret is not None)

    def end(self) -> None:
        """Tell those who wait for its secrets that it has ended, in whatever way."""
        if self._role is Role.INITIATOR:
            self._secrets.end(self._binding, rests_on_secret=self._secret is not None)
        elif self._waiting is not None:
            self._secrets.end_expecting(self._derived, self._waiting)

    def note_step(self) -> None:
        """After each step, in its thread: a server's secrets are known to the client once its Finished is sent.

        The exporter is ready then; but the client has proved nothing yet: they aren't kept before the handshake's end.
        """
        if self._role is Role.RESPONDER and self._waiting is None and IS_AVAILABLE:
            with suppress(SSL.Error):  # It has asked for another key share.
                self._derive()
                self._waiting = self._secrets.expect(self._derived)

    @property
    def rests_on_secret(self) -> bool:
        """Whether the handshake, as far as it has come, rests on the secret that was taken for it."""
        return self._secret is not None and bool(_lib.SSL_session_reused(_ssl_of(self._tls)))

    def is_next_step_short(self, connection: socket.socket) -> bool:
        """Tell, once before each step, whether it computes little: no certificate is verified, nothing is signed.

        Whatever the other end sends: the client's second step reads what the server makes of its offer, and a server
        that takes no secret may send a hundred thousand bytes of certificates at once, asked for another key share or
        not. A server reads one small ClientHello in its first step, and after its own Finished there is the client's.
        """
        self._steps += 1
        if self._secret is None:
            return False
        if self._role is Role.RESPONDER:
            if self._steps > 1:
                return self._waiting is not None and self.rests_on_secret
            # Behind it may be a second one of any size, for a HelloRetryRequest that the client knows it will get.
            return len(_peek(connection, MAX_NAMING_BYTES + 1)) <= MAX_NAMING_BYTES
        if self._steps <= 2:
            return self._steps == 1 or takes_secret(_peek(connection, MAX_SERVER_HELLO_BYTES))
        return self.rests_on_secret

    def read_kept_chain(self) -> tuple[bytes, ...] | None:
        """After the handshake: what the peer presented in the one that this rests on; None: it rests on nothing.

        What this does *not* verify: the chain.

        Raises:
            HandshakeError: ``handshake_failed``: it rests on something else.
        """
        if not _lib.SSL_session_reused(_ssl_of(self._tls)):
            return None
        if self._secret is None:
            raise HandshakeError("OpenSSL resumed what it wasn't given", reason=Reason.HANDSHAKE_FAILED)
        return self._secret.origin.chain

    def count(self) -> None:
        """After the peer's verification: count this handshake by its kind."""
        has_resumed = self.rests_on_secret
        self._secrets.resumed += has_resumed
        self._secrets.full += not has_resumed

    def keep(self, chain: tuple[bytes, ...]) -> None:
        """After the peer's verification: derive secrets for later handshakes, as the peer does.

        The exporter's secret covers the whole handshake up to the server's Finished, both key shares in it: who knows
        it has been an end of this handshake.
        """
        secrets, rests_on = self._secrets, self._secret
        has_resumed = self.rests_on_secret
        if rests_on is not None and not has_resumed and self._role is Role.INITIATOR and secrets.is_settled(rests_on):
            secrets.forget(self._binding)
        if not IS_AVAILABLE or self._tls.get_cipher_name() != _CIPHER:
            return
        if not self._derived:
            self._derive()
        now = secrets.now()
        proven_at = rests_on.origin.proven_at if has_resumed and rests_on is not None else now
        origin = Origin(chain=chain, proven_at=proven_at, kept_at=now)
        whose = None if self._role is Role.INITIATOR else chain[0]
        secrets.keep(self._binding, self._derived, origin, whose=whose)

    def _derive(self) -> None:
        size = _NAME_BYTES + _KEY_BYTES
        count = PER_RESUMED if self.rests_on_secret else PER_WHOLE
        exported = self._tls.export_keying_material(_LABEL, count * size)
        self._derived = {
            exported[start : start + _NAME_BYTES]: exported[start + _NAME_BYTES : start + size]
            for start in range(0, len(exported), size)
        }

    def offer(self) -> tuple[Any, Secret] | None:
        """Return what the client offers, its name as OpenSSL reads it."""
        return None if self._secret is None or self._role is not Role.INITIATOR else (self._name, self._secret)

    def may_name_another(self) -> bool:
        """Count a name that a client says; tell whether it may still say it."""
        self._names_left -= 1
        return self._names_left >= 0

    def find(self, name: bytes) -> Secret | None:
        """Return what a client has named, if it is the one that was looked for: it is clear what this rests on."""
        secret = self._secret if self._role is Role.RESPONDER else None
        return secret if secret is not None and secret.name == name else None


# By the address of OpenSSL's connection, while its handshake goes on.
_attempts: Final[dict[int, Attempt]] = {}


@contextmanager
def resuming(
    tls: SSL.Connection, secrets: Secrets, binding: Hashable, role: Role, *, named: bytes = b""
) -> Iterator[Attempt]:
    """Let this connection's handshake rest on a secret with this binding, if both ends have it.

    Arguments:
        binding: whatever has to be the same as in the handshake that the secret is from: our own credential and its
            generation, the bundle, and for a client whom it dials.
        named: at a server, the secret that the client's peeked ClientHello names first.
    """
    address = _address_of(_ssl_of(tls))
    attempt = _attempts[address] = Attempt(tls, secrets, binding, role, named=named)
    attempt.begin()
    try:
        yield attempt
    finally:
        del _attempts[address]
        attempt.end()


def allow_resumption(context: SSL.Context, role: Role) -> None:
    """Have OpenSSL ask for a secret in each handshake of this context; it finds one within ``resuming`` alone."""
    if not IS_AVAILABLE:
        return
    inner: Any = context
    if role is Role.INITIATOR:
        _lib.SSL_CTX_set_psk_use_session_callback(inner._context, _offer)
    else:
        context.set_session_id(_SESSIONS_OF)
        _lib.SSL_CTX_set_psk_find_session_callback(inner._context, _find)


# An error in one of these is written to standard error, and 0 ends the handshake.
@_ffi.callback("int(SSL *, const EVP_MD *, const unsigned char **, size_t *, SSL_SESSION **)", error=0)  # type: ignore[untyped-decorator]
def _offer(ssl: Any, _digest: Any, name: Any, size: Any, session: Any) -> int:
    session[0] = _ffi.NULL
    attempt = _attempts.get(_address_of(ssl))
    offered = attempt.offer() if attempt is not None else None
    if offered is not None:
        name[0], size[0] = offered[0], _NAME_BYTES
        session[0] = _make_session(ssl, offered[1])
    return 1


@_ffi.callback("int(SSL *, const unsigned char *, size_t, SSL_SESSION **)", error=0)  # type: ignore[untyped-decorator]
def _find(ssl: Any, name: Any, size: int, session: Any) -> int:
    session[0] = _ffi.NULL
    attempt = _attempts.get(_address_of(ssl))
    if attempt is not None and not attempt.may_name_another():
        return 0  # It ends the handshake.
    if attempt is not None and size == _NAME_BYTES:
        secret = attempt.find(bytes(_ffi.buffer(name, size)))
        if secret is not None:
            session[0] = _make_session(ssl, secret)
    return 1  # Without a session the handshake is a whole one.


def _make_session(ssl: Any, secret: Secret) -> Any:
    """Make what OpenSSL takes a pre-shared key from; OpenSSL frees it."""
    session = _lib.Cryptography_SSL_SESSION_new()
    cipher = _lib.SSL_CIPHER_find(ssl, _CIPHER_ID)
    if (
        session == _ffi.NULL
        or cipher == _ffi.NULL
        or _lib.SSL_SESSION_set1_master_key(session, secret.key, _KEY_BYTES) != 1
        or _lib.SSL_SESSION_set_cipher(session, cipher) != 1
        or _lib.SSL_SESSION_set_protocol_version(session, _TLS_1_3) != 1
    ):
        if session != _ffi.NULL:
            _lib.SSL_SESSION_free(session)
        raise MemoryError("a pre-shared key can't be given to OpenSSL")
    return session


def _peek(connection: socket.socket, size: int) -> bytes:
    try:
        return connection.recv(size, socket.MSG_PEEK)
    except OSError:
        return b""  # The step itself meets it.


def _ssl_of(tls: SSL.Connection) -> Any:
    connection: Any = tls
    return connection._ssl


def _address_of(ssl: Any) -> int:
    return int(_ffi.cast("uintptr_t", ssl))
