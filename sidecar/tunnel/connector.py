"""Gets a tunnel to another sidecar, and takes it back: the pool's only user.

Belongs here: taking an idle tunnel and verifying its peer again, dialling and the handshake where there is none,
watching tunnels while they are idle. Doesn't: which idle tunnel is taken (``pool.py``, pure), what to do without one
(``sidecar/outbound.py``), the peer's program (policy's to judge).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from shared.model.errors import VerificationError
from shared.model.identity.identity import Workload
from shared.model.policy.reasons import Reason
from sidecar.sockets.address import Endpoint, format_endpoint
from sidecar.sockets.dial import DialError, dial
from sidecar.sockets.ending import DELIVERY_DEADLINE_S
from sidecar.tls.contexts import Contexts
from sidecar.tls.handshake import HandshakeError
from sidecar.tls.kept_secrets import Secrets
from sidecar.tls.key_limit import RENEWED_AT_BYTES
from sidecar.tls.role import Role
from sidecar.tunnel.dial_failures import DialFailures, is_about_address
from sidecar.tunnel.dial_queue import DialQueue
from sidecar.tunnel.frames import FrameType
from sidecar.tunnel.handshake import Keys, establish_tunnel
from sidecar.tunnel.pool import TunnelKey, TunnelPool
from sidecar.tunnel.trace import FrameTrace
from sidecar.tunnel.tunnel import Loss, Tunnel

if TYPE_CHECKING:
    from sidecar.credential.credential import Credential
    from sidecar.mesh.trust import Trust

# Nothing there speaks our TLS: as good as no answer. Any other reason is about the peer's certificate.
_NO_ANSWER = frozenset({Reason.HANDSHAKE_FAILED, Reason.DEADLINE_EXCEEDED})
# So many tunnels may wait for the answer to ABORT; further ones are closed.
MAX_ABORTED = 512
# To discard more than this costs more than a handshake, and a peer may go on for as long as it is let.
MAX_DISCARDED_BYTES = 4 * 1024 * 1024


FindCredential = Callable[[], Awaitable["Credential"]]


class Connector:
    """Idle tunnels, and how new ones are made.

    Arguments:
        failures: where a failed dial is remembered, by program; shared with routing.
        mark: SO_MARK for the sidecar's own sockets; 0 for none.
        dial_s, handshake_s: deadlines of a TCP connect and a whole handshake.
        trace: of the tunnels' frames; None for none.
        key_bytes: when so much was encrypted with one key, new ones are made.

    Attributes:
        reused, opened, failed: how often a connection took an idle tunnel, got a new one, or none.
        secrets: of handshakes, for later ones with the same peers.
    """

    def __init__(
        self,
        pool: TunnelPool,
        failures: DialFailures,
        trust: Trust,
        *,
        mark: int,
        dial_s: float,
        handshake_s: float,
        trace: FrameTrace | None = None,
        key_bytes: int = RENEWED_AT_BYTES,
    ) -> None:
        self._pool = pool
        self._aborted: dict[Tunnel, TunnelKey] = {}  # Their peers haven't answered ABORT yet.
        self._failures = failures
        self._trust = trust
        self._mark = mark
        self._dial_s = dial_s
        self._handshake_s = handshake_s
        self._trace = trace
        self._key_bytes = key_bytes
        self._contexts = Contexts()
        self.secrets = Secrets()
        self._queue = DialQueue(patience_s=dial_s + handshake_s)
        self.reused = 0
        self.opened = 0
        self.failed = 0

    def __len__(self) -> int:
        return len(self._pool)

    async def acquire(
        self, key: TunnelKey, credential: Credential, *, tunnel_port: int, renew: FindCredential | None = None
    ) -> Tunnel:
        """Take an idle tunnel, or dial a new one, to the sidecar at the key's destination.

        Arguments:
            credential: of the key's identity and generation.
            tunnel_port: the other sidecar's.
            renew: finds the same program's current credential, for a tunnel that uses up its keys; None: this one.

        Raises:
            DialError: mutual TLS can't be had: nothing answers there, or didn't lately for this program.
            VerificationError: the certificate of what answers doesn't hold, or it is another workload
                (``peer_workload_mismatch``).

        What this does *not* verify: the peer's program.
        """
        if (idle := self._take_idle(key)) is not None:
            return idle
        try:
            return await self._acquire_in_turn(key, credential, renew, tunnel_port=tunnel_port)
        except (DialError, VerificationError):
            self.failed += 1
            raise

    async def _acquire_in_turn(
        self, key: TunnelKey, credential: Credential, renew: FindCredential | None, *, tunnel_port: int
    ) -> Tunnel:
        try:
            async with self._queue.place(key):
                # While it waited, another connection's turn may have ended.
                if (idle := self._take_idle(key)) is not None:
                    return idle
                now, address = time.time(), (key.destination[0], tunnel_port)
                bundle = self._trust.bundle
                try:
                    tunnel = await self._open(address, key, credential, renew)
                except VerificationError:
                    if self._trust.bundle is bundle:
                        raise
                    # What the peer shows may be known by the newer bundle alone, which came during the handshake.
                    tunnel = await self._open(address, key, credential, renew)
        except TimeoutError as error:
            raise DialError(f"{key.destination[0]}: too many dials wait") from error
        try:
            self._check_peer(tunnel, key.workload, now)
        except VerificationError:
            tunnel.close()
            raise
        tunnel.call_when_closed(self._forget_tunnel)
        self.opened += 1
        return tunnel

    def _take_idle(self, key: TunnelKey) -> Tunnel | None:
        """Take an idle tunnel whose peer still holds; close those that are of no use."""
        now, loop = time.time(), asyncio.get_running_loop()
        while True:
            tunnel, unusable = self._pool.take(key, now=loop.time(), wall=now)
            for each in unusable:
                each.close()
            if tunnel is None:
                return None
            try:
                self._check_peer(tunnel, key.workload, now)
            except VerificationError:
                tunnel.close()
            else:
                self.reused += 1
                return tunnel

    def release(self, key: TunnelKey, tunnel: Tunnel) -> None:
        """Take back a tunnel whose turn has ended; one that can't be used again is closed.

        One whose turn was aborted comes back when its peer has answered that.
        """
        if tunnel.turns.is_aborting and not tunnel.is_closed and len(self._aborted) < MAX_ABORTED:
            self._aborted[tunnel] = key
            tunnel.attach(_AbortedTunnel(tunnel, self._take_back))
            return
        for surplus in self._pool.give_back(key, tunnel, now=tunnel.loop.time()):
            surplus.close()
        if tunnel.is_reusable:
            tunnel.attach(_IdleTunnel(self._pool, tunnel))

    def _take_back(self, tunnel: Tunnel) -> None:
        """The peer of an aborted turn has answered that."""
        key = self._aborted.pop(tunnel, None)
        if key is not None:
            self.release(key, tunnel)

    def _forget_tunnel(self, tunnel: Tunnel) -> None:
        self._pool.discard(tunnel)
        self._aborted.pop(tunnel, None)

    def forget(self, address: str) -> None:
        """Close the tunnels without a connection to an address whose node has gone."""
        aborted = [tunnel for tunnel, key in self._aborted.items() if key.destination[0] == address]
        for tunnel in (*self._pool.take_out(address), *aborted):
            tunnel.close()

    def reap(self, *, now: float) -> None:
        """Close what was idle for too long, and drop old failures; ``now`` is the loop's time."""
        for tunnel in self._pool.reap(now=now):
            tunnel.close()
        self._failures.reap(now=now)

    def close(self) -> None:
        """Close every tunnel without a connection."""
        for tunnel in (*self._pool.drain(), *self._aborted):
            tunnel.close()

    def _keys_of(self, credential: Credential) -> Keys:
        bundle = self._trust.bundle
        context = self._contexts.get(credential, bundle, Role.INITIATOR)
        return Keys(context=context, credential=credential, verifier=self._trust.verifier)

    async def _open(
        self, address: Endpoint, key: TunnelKey, credential: Credential, renew: FindCredential | None
    ) -> Tunnel:
        port = key.destination[1]

        async def find_keys() -> Keys:
            return self._keys_of(credential if renew is None else await renew())

        loop, where = asyncio.get_running_loop(), format_endpoint(address)
        failures, program, began = self._failures, str(credential.identity.program or ""), loop.time()
        if failures.is_recent(address, program=program, now=began) or failures.is_recent(
            address, program=program, port=port, now=began
        ):
            raise DialError(f"{where} didn't answer lately")
        try:
            connection = await dial(loop, address, mark=self._mark, timeout_s=self._dial_s)
        except DialError as error:
            if is_about_address(error):
                failures.note(address, program=program, began=began, now=loop.time())
            raise
        try:
            tunnel = await establish_tunnel(
                loop=loop,
                connection=connection,
                keys=self._keys_of(credential),
                renew=find_keys,
                role=Role.INITIATOR,
                timeout_s=self._handshake_s,
                port=port,
                secrets=self.secrets,
                whom=(key, address),
                trace=self._trace,
                key_bytes=self._key_bytes,
            )
        except BaseException as error:
            connection.close()
            if isinstance(error, HandshakeError) and error.reason in _NO_ANSWER:
                failures.note(address, program=program, port=port, began=began, now=loop.time())
                raise DialError(f"{where}: {error.message}") from error
            raise
        failures.note_answer(address, program=program, now=loop.time())
        failures.note_answer(address, program=program, port=port, now=loop.time())
        return tunnel

    def _check_peer(self, tunnel: Tunnel, expected: Workload, now: float) -> None:
        """Check, before each OPEN, both certificates' end, the current bundle and the peer's workload.

        Raises:
            VerificationError: the tunnel must not carry another connection.
        """
        if now >= tunnel.not_after:
            raise VerificationError("a certificate of the tunnel has ended", reason=Reason.PEER_EXPIRED)
        if tunnel.peer.bundle_sequence != self._trust.bundle.sequence:
            tunnel.peer = self._trust.verifier.verify_peer(tunnel.peer.chain, now=now)
        found = tunnel.peer.identity.workload
        if found != expected:
            raise VerificationError(
                f"{found} answers where the directory lists {expected}", reason=Reason.PEER_WORKLOAD_MISMATCH
            )


class _AbortedTunnel:
    """The user of a tunnel whose turn was aborted: it discards what still comes, until the peer has answered ABORT."""

    __slots__ = ("_discarded", "_on_answered", "_timer", "_tunnel")

    def __init__(self, tunnel: Tunnel, on_answered: Callable[[Tunnel], None]) -> None:
        self._tunnel = tunnel
        self._on_answered = on_answered
        self._discarded = 0
        self._timer = tunnel.loop.call_later(DELIVERY_DEADLINE_S, tunnel.close)

    def on_data(self, payloads: list[memoryview]) -> None:
        """Nobody wants it any more; more than a bound ends the tunnel."""
        self._discarded += sum(map(len, payloads))
        if self._discarded > MAX_DISCARDED_BYTES:
            self._timer.cancel()
            self._tunnel.close()

    def on_frame(self, frame: int, payload: bytes) -> None:
        """ABORT ends the turn; END says nothing new; anything else that may come ends the tunnel."""
        if frame == FrameType.END:
            return
        self._timer.cancel()
        if frame == FrameType.ABORT:
            self._tunnel.detach()
            self._tunnel.loop.call_soon(self._on_answered, self._tunnel)
        else:
            self._tunnel.close()

    def on_drained(self) -> None:
        """Nothing waits to be written."""

    def on_lost(self, loss: Loss, detail: str) -> None:
        """It wasn't in the pool."""
        self._timer.cancel()


class _IdleTunnel:
    """The user of an idle tunnel: it only waits for the tunnel's end."""

    __slots__ = ("_pool", "_tunnel")

    def __init__(self, pool: TunnelPool, tunnel: Tunnel) -> None:
        self._pool = pool
        self._tunnel = tunnel

    def on_data(self, payloads: list[memoryview]) -> None:
        """Nothing may come: ``turns`` has refused it before."""

    def on_frame(self, frame: int, payload: bytes) -> None:
        """CLOSING, the only frame that may come, ends the tunnel."""
        self._pool.discard(self._tunnel)
        self._tunnel.close()

    def on_drained(self) -> None:
        """Nothing waits to be written."""

    def on_lost(self, loss: Loss, detail: str) -> None:
        """The pool forgets the tunnel by ``call_when_closed``."""
