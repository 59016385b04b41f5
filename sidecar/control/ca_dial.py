"""Dials the CA under the roots that it is given, and checks who answers; fetches a root that is pinned.

Belongs here: sockets, TLS, the check of the CA's SPIFFE ID. Doesn't: what is said on the stream (``feed.py``).
"""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
import time
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidMessage, InvalidStatus
from websockets.typing import Subprotocol

from shared.model.errors import UnavailableError, VerificationError
from shared.model.identity.identity import format_ca_id
from shared.model.policy.reasons import Reason
from shared.model.trust.bundle import public_key_digest
from shared.model.trust.root_hint import format_root_hint
from shared.model.wire.clock_offset import HINT
from shared.model.wire.messages import MAX_MESSAGE_BYTES, STREAM_PATH
from shared.model.wire.protocol import list_subprotocols
from shared.runtime.memory import load_key
from sidecar.credential.credential import Credential
from sidecar.sockets.address import format_endpoint

MAX_CHAIN = 8
# X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED, x509_vfy.h.
_TIME_ERRORS = frozenset({9, 10})
# A Service's packets go on to the pod that its first one went to, though it is gone: the next dial gets another one.
_CONNECT_S = 2.0


class NoAnswerError(UnavailableError):
    """Somebody is at the CA's address, but doesn't speak with us: perhaps it doesn't take our certificate."""


class ServerTimeError(VerificationError):
    """The CA's certificate isn't valid by this machine's clock: one of both clocks is wrong."""


async def fetch_pinned_root(ca: tuple[str, int], pin: str, *, mark: int, timeout_s: float) -> bytes:
    """Return the DER of the root that the CA's server presents and whose public key has the pinned digest.

    Raises:
        UnavailableError: the CA can't be reached or doesn't finish the handshake in time.
        VerificationError: no certificate that it presents has that key.

    What this does *not* verify: anything else. The connection is closed and nothing is sent on it; the next one trusts
    the root alone.
    """
    connection = await _connect(ca, mark=mark, timeout_s=timeout_s)
    connection.setblocking(False)
    try:
        chain = await asyncio.to_thread(_fetch_chain, connection, format_root_hint([pin]), timeout_s)
    except (SSL.Error, OSError, TimeoutError) as error:
        raise UnavailableError(f"no TLS 1.3 handshake with the CA at {_name(ca)}: {error!r}"[:300]) from error
    finally:
        connection.close()
    for certificate in chain:
        if public_key_digest(certificate) == pin:
            return certificate.public_bytes(Encoding.DER)
    raise VerificationError(
        f"the server at {_name(ca)} isn't the CA that made the join token",
        reason=Reason.PEER_UNTRUSTED,
        hint="check the address; if the CA's root was replaced since or its data lost, make a new join token",
    )


def make_context(roots: Sequence[bytes], credential: Credential | None) -> ssl.SSLContext:
    """Make a TLS 1.3 client context that trusts exactly these roots (DER) and shows ``credential``, if any.

    Shown is the leaf alone: the CA knows its issuers, and would keep each sidecar's copy as long as the stream is open.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # The CA is known by its SPIFFE ID (``check_server``), whatever its address is.
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=b"".join(roots))
    if credential is not None:
        load_key(context, credential.chain[:1], credential.key)
    return context


def name_roots(roots: Sequence[bytes]) -> str:
    """Return the server name that tells the CA which roots (DER) are known here."""
    return format_root_hint([public_key_digest(x509.load_der_x509_certificate(root)) for root in roots])


async def open_stream(
    ca: tuple[str, int],
    context: ssl.SSLContext,
    trust_domain: str,
    *,
    server_name: str = "",
    mark: int,
    timeout_s: float,
) -> ClientConnection:
    """Open the WebSocket to the CA and check who answers, before anything is said.

    Arguments:
        server_name: said in TLS (``name_roots``), and no more than that; empty: the CA's host.

    Raises:
        UnavailableError: it can't be reached (or, as ``NoAnswerError``: it can, and then fails us).
        VerificationError: its certificate doesn't lead to a trusted root or isn't the CA's; ``ServerTimeError``: it
            isn't valid now.
    """
    connection = await _connect(ca, mark=mark, timeout_s=timeout_s)
    try:
        stream = await connect(
            f"wss://{_name(ca)}{STREAM_PATH}",
            subprotocols=[Subprotocol(name) for name in list_subprotocols()],
            sock=connection,
            ssl=context,
            server_hostname=server_name or ca[0],
            compression=None,
            max_size=MAX_MESSAGE_BYTES,
            max_queue=64,
            open_timeout=timeout_s,
            close_timeout=2,
            ping_interval=20,
            ping_timeout=20,
            proxy=None,
            user_agent_header=None,
        )
    except ssl.SSLCertVerificationError as error:
        connection.close()
        if error.verify_code in _TIME_ERRORS:
            raise ServerTimeError(
                await _explain_time(ca, server_name or ca[0], mark=mark, timeout_s=timeout_s),
                reason=Reason.PEER_EXPIRED,
                hint=HINT,
            ) from error
        raise VerificationError(
            f"the CA's certificate doesn't hold: {error.verify_message}",
            reason=Reason.PEER_UNTRUSTED,
            hint="was the CA's root replaced while this sidecar was away? A pod reads the new one from its ConfigMap"
            " within minutes; elsewhere start the sidecar with a new join token",
        ) from error
    except (
        InvalidStatus
    ) as error:  # The CA itself, and not now: it is starting, or full, or speaks no protocol of ours.
        connection.close()
        status, said = error.response.status_code, (error.response.body or b"")[:300].decode(errors="replace").strip()
        raise UnavailableError(f"the CA at {_name(ca)} opens no stream: HTTP status {status}: {said}") from error
    except (OSError, TimeoutError, InvalidHandshake, InvalidMessage, EOFError) as error:
        connection.close()
        raise NoAnswerError(f"no stream to the CA at {_name(ca)}: {str(error) or repr(error)}"[:300]) from error
    try:
        check_server(stream.transport.get_extra_info("peercert"), trust_domain)
    except VerificationError:
        await stream.close()
        raise
    return stream


def check_server(certificate: object, trust_domain: str) -> None:
    """Check that a certificate (as ``SSLSocket.getpeercert()`` gives it) is the CA's own: exactly one URI SAN, its ID.

    Raises:
        VerificationError: it isn't.

    What this does *not* verify: signature, chain and validity, which the TLS context has.
    """
    names = certificate.get("subjectAltName", ()) if isinstance(certificate, dict) else ()
    uris = [value for kind, value in names if kind == "URI"]
    if uris != [format_ca_id(trust_domain)]:
        raise VerificationError("the server's certificate isn't the CA's", reason=Reason.PEER_UNTRUSTED)


async def _connect(ca: tuple[str, int], *, mark: int, timeout_s: float) -> socket.socket:
    loop = asyncio.get_running_loop()
    failure: Exception | None = None
    try:
        async with asyncio.timeout(timeout_s):
            for family, kind, protocol, _, address in await loop.getaddrinfo(*ca, type=socket.SOCK_STREAM):
                connection = socket.socket(family, kind, protocol)
                try:
                    connection.setblocking(False)
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    if mark:
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
                    async with asyncio.timeout(_CONNECT_S):
                        await loop.sock_connect(connection, address)
                except (OSError, TimeoutError) as error:
                    connection.close()
                    failure = error
                    continue
                except BaseException:
                    connection.close()
                    raise
                return connection
    except (OSError, TimeoutError) as error:
        failure = error
    raise UnavailableError(
        f"the CA at {_name(ca)} can't be reached: {str(failure) or repr(failure)}", hint="`touchmark ca status`"
    ) from failure


async def _explain_time(ca: tuple[str, int], server_name: str, *, mark: int, timeout_s: float) -> str:
    """Say by how much the clocks differ at least, as far as the server's certificate can be had. Nothing is trusted."""
    text, now = "the CA's certificate isn't valid by this machine's clock", time.time()
    try:
        connection = await _connect(ca, mark=mark, timeout_s=timeout_s)
        try:
            connection.setblocking(False)
            chain = await asyncio.to_thread(_fetch_chain, connection, server_name, timeout_s)
        finally:
            connection.close()
    except (SSL.Error, OSError, TimeoutError, UnavailableError):
        return text
    for certificate in chain:
        begin, end = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
        if now < begin:
            return f"{text}, which is at least {begin - now:.0f} s behind the CA's"
        if now >= end:
            return f"{text}: it ended {now - end:.0f} s ago, so the clock is ahead, or the CA's is behind"
    return text


def _fetch_chain(connection: socket.socket, server_name: str, timeout_s: float) -> list[x509.Certificate]:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_verify(SSL.VERIFY_NONE)
    tls = SSL.Connection(context, connection)
    tls.set_tlsext_host_name(server_name.encode())
    tls.set_connect_state()
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            tls.do_handshake()
            break
        except SSL.WantReadError:
            reading, writing = [connection], []
        except SSL.WantWriteError:
            reading, writing = [], [connection]
        left = deadline - time.monotonic()
        if left <= 0 or not any(select.select(reading, writing, [], left)):
            raise TimeoutError("the handshake took too long")
    return list(tls.get_peer_cert_chain(as_cryptography=True) or [])[:MAX_CHAIN]


def _name(ca: tuple[str, int]) -> str:
    return format_endpoint(ca)
