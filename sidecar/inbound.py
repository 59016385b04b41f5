"""The story of an inbound tunnel and of its connections:

peek SNI → attest listener → terminate → identify → open → decide → pump → record.

``serve_tunnel`` and ``serve_connection`` read top to bottom like this sentence; start there. ``carry_plaintext`` is for
what comes from outside the mesh. Belongs here: the order of steps and what each failure does.
"""

from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from shared.model.errors import ProtocolError, VerificationError
from shared.model.policy.decision import Ending, Transport
from shared.model.policy.evaluate import is_elsewhere
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction, Requirement
from sidecar.connection.connection import Connection, Refused, record_refused
from sidecar.connection.parties import Parties
from sidecar.listener import (
    Listener,
    attest_application,
    attest_listener,
    choose_listener_credential,
    is_approved,
    note_listener,
    serves_listener,
)
from sidecar.mesh.directory_cache import listed_workload
from sidecar.proving import await_clearance, see_accepted
from sidecar.pump.tunnel_pump import TunnelPump
from sidecar.rooms import Place
from sidecar.sockets.address import Endpoint
from sidecar.sockets.ending import reset_after_delivery
from sidecar.steps import (
    dial_application,
    look_up,
    look_up_if_known,
    obtain_policy,
    pump_plainly,
    wait_for_handshake,
)
from sidecar.tls.client_hello import parse_port_name
from sidecar.tls.contexts import Contexts
from sidecar.tls.handshake import peek_client_hello
from sidecar.tls.role import Role
from sidecar.tunnel.frames import FrameType, Opening, decode_opening
from sidecar.tunnel.handshake import Keys, establish_tunnel
from sidecar.tunnel.no_program import choose_why
from sidecar.tunnel.tunnel import Loss, Tunnel

if TYPE_CHECKING:
    from sidecar.capture.captured import Captured
    from sidecar.parts import Sidecar

_contexts = Contexts()
# The responder waits longer than the initiator keeps a tunnel, so that OPEN and CLOSING seldom cross.
_IDLE_FACTOR = 2.0
_CLOSING_S = 1.0


async def serve_tunnel(sidecar: Sidecar, connection: socket.socket, source: Endpoint, local: Endpoint) -> None:
    """Serve one TCP connection on the tunnel's port: its handshake, then application connections one after another.

    Arguments:
        connection: accepted and non-blocking; closed here in every case.
        source: the other sidecar's address and port.
        local: the address and port at which the connection arrived.
    """
    try:
        with sidecar.handshakes.enter(source[0]):
            tunnel, port, listener = await terminate(sidecar, connection, source, local)
    except VerificationError as error:
        sidecar.counts.fail_handshake(Reason(error.reason))
        _record_refused_tunnel(sidecar, source, local, Refused(Reason(error.reason), error.message))
        connection.close()
        return
    except BaseException:
        connection.close()
        raise
    try:
        place = sidecar.rooms.peers.enter(source[0])
        if place is None:
            await _say_closing(tunnel)  # Nothing was processed: another endpoint may be tried.
            raise Refused(Reason.OVERLOADED, "too many tunnels of peers")
        with place:
            has_served = False
            while not tunnel.is_closed and not tunnel.turns.is_closing:
                turn = await next_turn(sidecar, tunnel, place)
                if turn is None:
                    break
                has_served = True
                await serve_connection(sidecar, tunnel, turn, source=source, local=(local[0], port))
            if not has_served and not is_approved(sidecar, listener):
                await record_unasked(sidecar, tunnel, listener, source=source, local=(local[0], port))
            await _say_closing(tunnel)
    except Refused as error:
        _record_refused_tunnel(sidecar, source, (local[0], port), error)
    finally:
        tunnel.close()


async def terminate(
    sidecar: Sidecar, connection: socket.socket, source: Endpoint, local: Endpoint
) -> tuple[Tunnel, int, Listener]:
    """Read the port from the peer's SNI, attest its listener, and do the TLS handshake with its credential.

    Raises:
        VerificationError: the handshake fails or the peer's certificate doesn't hold.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    hello = await peek_client_hello(loop, connection, timeout_s=sidecar.limits.client_hello_s)
    await wait_for_handshake(sidecar, source[0])
    port = parse_port_name(hello.server_name) or 0
    listener = await attest_listener(sidecar, (local[0], port))

    async def find_keys() -> Keys:
        credential = await choose_listener_credential(sidecar, listener)
        context = _contexts.get(credential, sidecar.trust.bundle, Role.RESPONDER)
        return Keys(context=context, credential=credential, verifier=sidecar.trust.verifier)

    tunnel = await establish_tunnel(
        loop=loop,
        connection=connection,
        keys=await find_keys(),
        renew=find_keys,
        role=Role.RESPONDER,
        timeout_s=sidecar.limits.handshake_s,
        secrets=sidecar.secrets,
        whom=port,
        named=hello.secret_name,
        trace=sidecar.trace,
        key_bytes=sidecar.limits.key_bytes,
    )
    sidecar.handshakes.note_known(source[0])
    sidecar.counts.handshakes.observe(loop.time() - began)
    if tunnel.credential.identity.program is None:
        tunnel.say_why(listener.why or Reason.LISTENER_NOT_APPROVED)
    return tunnel, port, listener


async def record_unasked(
    sidecar: Sidecar, tunnel: Tunnel, listener: Listener, *, source: Endpoint, local: Endpoint
) -> None:
    """Record a tunnel that was opened for a listener and then not used, because this listener isn't approved.

    The initiator's record can't name the program that listens here, nor its path.
    """
    parties = Parties(Direction.INGRESS, source=source, destination=local)
    parties.note_peer(tunnel.peer)
    identity = tunnel.peer.identity
    parties.source = replace(parties.source, workload=identity.workload, program=identity.program)
    note_listener(sidecar, parties, listener)
    parties.destination_identity = tunnel.credential.identity
    await obtain_policy(sidecar, identity.workload.namespace)
    verdict = parties.evaluate(sidecar.policies)
    if verdict.reason is (listener.why or Reason.LISTENER_NOT_APPROVED):
        if parties.attestation is not None and (code := sidecar.code.tell(parties.attestation)) is not None:
            parties.note_code(code)
        refused = Refused(verdict.reason, listener.detail or "the initiator was shown no approved program, and left")
        record_refused(sidecar, parties, refused, transport=Transport.TUNNEL)


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One OPEN that came, with the pump that already keeps what follows it."""

    opening: Opening
    pump: TunnelPump


async def next_turn(sidecar: Sidecar, tunnel: Tunnel, place: Place) -> Turn | None:
    """Wait for the next OPEN; None when the tunnel ended, was idle for too long, must make room, or this sidecar ends.

    Raises:
        Refused: the peer broke the protocol instead.
    """
    waiter = _OpenWaiter(tunnel)
    timer = tunnel.loop.call_later(sidecar.limits.idle_tunnel_s * _IDLE_FACTOR, waiter.expire)
    sidecar.draining.watch(waiter.expire)
    sidecar.rooms.peers.note_idle(waiter, place)
    try:
        return await waiter.turn
    finally:
        timer.cancel()
        sidecar.draining.forget(waiter.expire)
        sidecar.rooms.peers.note_busy(waiter)


async def serve_connection(sidecar: Sidecar, tunnel: Tunnel, turn: Turn, *, source: Endpoint, local: Endpoint) -> None:
    """Serve one OPEN: everything is checked again, against the current policies, programs and bundle.

    Arguments:
        local: the address at which the tunnel arrived and the port that its SNI named: the only destination allowed.
    """
    opening, pump = turn.opening, turn.pump
    end_wait_s = sidecar.limits.open_s
    with Connection(
        sidecar,
        Direction.INGRESS,
        source=(source[0], opening.source[1]),
        destination=opening.destination,
        connection_id=opening.connection,
    ) as connection:
        try:
            connection.tunnel, connection.transport = tunnel.id, Transport.TUNNEL
            connection.detail = "" if opening.source[0] == source[0] else f"source claimed: {opening.source[0]}"
            connection.note_pump(pump, Transport.TUNNEL)
            identify(sidecar, connection, tunnel, opening)
            await look_up_source(sidecar, connection)
            if opening.destination != local:
                raise Refused(Reason.DESTINATION_NOT_SERVED, "OPEN names another destination than the tunnel's")
            listener = await attest_listener(sidecar, local)
            if not serves_listener(sidecar, tunnel.credential, listener):
                # The listener, or its approval, is another one than this tunnel's certificate says: nothing was
                # processed, so the initiator may try again and meets the right certificate.
                end_as_unprocessed(tunnel, connection)
                return
            note_listener(sidecar, connection.parties, listener)
            connection.watch_program()
            connection.parties.destination_identity = tunnel.credential.identity
            if listener.application is None:
                raise Refused(Reason.DESTINATION_NOT_SERVED)
            await obtain_policy(sidecar, tunnel.peer.identity.workload.namespace)
            connection.decide()
            await await_clearance(sidecar, connection)
            application = connection.application = await dial_application(sidecar, listener.application)
            acceptance = await see_accepted(sidecar, connection, application)
            connection.check_not_revoked()
            if pump.finished.done():  # The initiator has given up.
                connection.note_end(pump.finished.result())
                return
            acceptance.hold_answers(pump)
            pump.accept(application)
        except Refused as error:
            connection.refusal, connection.detail = error.reason, error.detail or connection.detail
            if not pump.finished.done():
                pump.refuse(error.reason)
                try:
                    async with asyncio.timeout(end_wait_s):
                        await pump.finished.wait()
                except TimeoutError:
                    tunnel.close()
            connection.ending = Ending.REFUSED if connection.ending is Ending.NONE else connection.ending
            raise
        await acceptance.wait_for_answer()
        await acceptance.prove()
        end = await pump.finished.wait()
        connection.note_end(end)
        note_listed(sidecar, connection)
        if end.ending is not Ending.FINISHED and connection.ending is not Ending.POLICY_CHANGED:
            count = await reset_after_delivery(tunnel.loop, application, end.unsent, deadline_s=sidecar.limits.reset_s)
            connection.note_delivery(count, to_application=True)
        if tunnel.turns.is_aborting:
            tunnel.send(FrameType.ABORT)  # Not before: the next OPEN would wait until this one's application is gone.


def identify(sidecar: Sidecar, connection: Connection, tunnel: Tunnel, opening: Opening) -> None:
    """Say who the peer is by its certificate, checked against the current bundle and clock.

    Raises:
        Refused: it no longer verifies.
    """
    now = time.time()
    if tunnel.peer.bundle_sequence != sidecar.trust.bundle.sequence or now >= tunnel.peer.not_after:
        try:
            tunnel.peer = sidecar.trust.verifier.verify_peer(tunnel.peer.chain, now=now)
        except VerificationError as error:
            raise Refused(Reason(error.reason), error.message) from error
    identity, parties = tunnel.peer.identity, connection.parties
    parties.note_peer(tunnel.peer)
    parties.source = replace(
        parties.source,
        workload=identity.workload,
        program=identity.program,
        why_unidentified=None if identity.program else choose_why(opening.why),
    )


async def look_up_source(sidecar: Sidecar, connection: Connection) -> None:
    """Say whom the directory lists at the peer's address: evidence, and what the own namespace may require to match.

    Only where it is required is an address that isn't known here waited for: a tunnel's certificate proves its peer,
    and a CA that is away refuses nobody else.

    Raises:
        Refused: it is required, and the CA didn't answer.
    """
    address = connection.parties.source_endpoint[0]
    if Requirement.MATCHING_ADDRESS in sidecar.policies.own.state.requires:
        await look_up(sidecar, address)
    else:
        sidecar.directory.ask_ahead(address)
    note_listed(sidecar, connection)


def note_listed(sidecar: Sidecar, connection: Connection) -> None:
    """Remember whom the directory lists at the peer's address, if that is known and isn't remembered yet."""
    parties, address = connection.parties, connection.parties.source_endpoint[0]
    entry = None if parties.source.listed is not None else sidecar.directory.get(address)
    if entry is None or not entry.namespace:
        return
    listed = listed_workload(entry)
    parties.source = replace(parties.source, listed=listed)
    if is_elsewhere(parties.source):
        connection.detail = f"the directory lists {listed} at {address}. {connection.detail}".rstrip()


async def carry_plaintext(sidecar: Sidecar, captured: Captured, application: Endpoint) -> None:
    """Carry a plain connection from outside the mesh to the application: always from an *unidentified* source."""
    with Connection(
        sidecar,
        Direction.INGRESS,
        source=captured.source,
        destination=captured.destination,
        application=captured.connection,
    ) as connection:
        entry = await look_up_if_known(sidecar, captured.source[0], Direction.INGRESS, is_stranger=True)
        connection.parties.source = replace(
            connection.parties.source,
            listed=listed_workload(entry) if entry is not None and entry.namespace else None,
            why_unidentified=Reason.CA_UNAVAILABLE if entry is None else Reason.PEER_UNIDENTIFIED,
        )
        connection.transport = Transport.PLAINTEXT
        listener = await attest_application(sidecar, application)
        note_listener(sidecar, connection.parties, listener)
        connection.watch_program()
        connection.decide()
        await await_clearance(sidecar, connection)
        await pump_plainly(sidecar, connection, application, Reason.APPLICATION_UNREACHABLE)


def end_as_unprocessed(tunnel: Tunnel, connection: Connection) -> None:
    """Say CLOSING with the epoch before this OPEN's: it was not processed. Its retry leaves the record."""
    tunnel.say_unprocessed()
    connection.forget()


async def _say_closing(tunnel: Tunnel) -> None:
    if not tunnel.is_reusable:
        return
    tunnel.send(FrameType.CLOSING)
    # The peer ends the tunnel. Were it closed here while its OPEN lies unread, the kernel would reset it, and the peer
    # could see that before it sees CLOSING: it would not know that it may try again.
    waiter = _OpenWaiter(tunnel)
    timer = tunnel.loop.call_later(_CLOSING_S, waiter.expire)
    try:
        await waiter.turn
    finally:
        timer.cancel()


def _record_refused_tunnel(sidecar: Sidecar, source: Endpoint, local: Endpoint, refused: Refused) -> None:
    parties = Parties(Direction.INGRESS, source=source, destination=local)
    record_refused(sidecar, parties, refused, transport=Transport.TUNNEL)


class _OpenWaiter:
    """The user of a responder's idle tunnel: waits for OPEN, and puts a pump in its own place at once."""

    __slots__ = ("_tunnel", "turn")

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel
        self.turn: asyncio.Future[Turn | None] = tunnel.loop.create_future()
        tunnel.attach(self)

    @property
    def is_waiting(self) -> bool:
        """Whether nothing has come yet."""
        return not self.turn.done()

    def expire(self) -> None:
        """Nothing was opened for too long."""
        if not self.turn.done():
            self._tunnel.detach()
            self.turn.set_result(None)

    def on_data(self, payloads: list[memoryview]) -> None:
        """Nothing may come: ``turns`` has refused it before."""

    def on_frame(self, frame: int, payload: bytes) -> None:
        """OPEN begins a turn.

        Raises:
            ProtocolError: its payload is malformed.
        """
        if frame != FrameType.OPEN:
            raise ProtocolError(f"frame {frame} instead of OPEN")
        opening = decode_opening(payload)
        pump = TunnelPump(self._tunnel)
        self._tunnel.user = pump
        if not self.turn.done():
            self.turn.set_result(Turn(opening=opening, pump=pump))

    def on_drained(self) -> None:
        """Nothing waits to be written."""

    def on_lost(self, loss: Loss, detail: str) -> None:
        """The tunnel ended."""
        if self.turn.done():
            return
        if loss is Loss.PROTOCOL:
            self.turn.set_exception(Refused(Reason.PROTOCOL_ERROR, detail))
        else:
            self.turn.set_result(None)
