"""All listening sockets of the sidecar, and which story each accepted connection begins.

Belongs here: that mapping, the bound on live connections, the refusals that need no story. Doesn't: accepting itself
(``accept_loop.py``), the stories.
"""

from __future__ import annotations

import errno
import secrets
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Protocol

from shared.model.errors import MachineError
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction
from shared.runtime.tasks import Tasks
from sidecar.capture.accept_loop import AcceptLoop, open_listener
from sidecar.capture.captured import Captured
from sidecar.capture.claims import Claims
from sidecar.capture.original_destination import ask_original_destination, normalise_endpoint
from sidecar.capture.redirect_table import list_outbound_ports
from sidecar.capture.refusal import record_refusal
from sidecar.events import Events
from sidecar.rooms import group_address
from sidecar.settings.configuration import CaptureKind, Configuration
from sidecar.sockets.address import Endpoint, format_endpoint, is_loopback
from sidecar.sockets.ending import reset

if TYPE_CHECKING:
    from sidecar.parts import Sidecar

CarryOutbound = Callable[["Sidecar", Captured], Coroutine[Any, Any, None]]
CarryPlaintext = Callable[["Sidecar", Captured, Endpoint], Coroutine[Any, Any, None]]
ServeTunnel = Callable[["Sidecar", socket.socket, Endpoint, Endpoint], Coroutine[Any, Any, None]]


class Held(Protocol):
    """What a connection holds as long as its story lasts."""

    def leave(self) -> None:
        """Give it back."""


class Entrance(Enum):
    """What a listening socket is for."""

    TUNNEL = auto()
    REDIRECTED_OUT = auto()
    REDIRECTED_IN = auto()
    EXPLICIT_OUT = auto()
    EXPLICIT_IN = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """One open listening socket; ``fixed`` is an explicit listener's destination or application."""

    entrance: Entrance
    listener: socket.socket
    fixed: Endpoint | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stories:
    """The functions that carry connections, of ``outbound``, ``inbound`` and ``foreign``."""

    carry_outbound: CarryOutbound
    carry_plaintext: CarryPlaintext
    serve_foreign: CarryPlaintext
    serve_tunnel: ServeTunnel


def open_doors(configuration: Configuration) -> list[Door]:
    """Open every listening socket that the configuration asks for. Nothing is accepted yet.

    Raises:
        MachineError: an address can't be had; the message names it.
    """
    wanted: list[tuple[Entrance, Endpoint, Endpoint | None]] = [
        (Entrance.TUNNEL, (address, configuration.tunnel_port), None) for address in configuration.tunnel_addresses
    ]
    redirect = configuration.redirect
    mark = (redirect.mark or 0) if configuration.capture is CaptureKind.REDIRECT else 0
    if configuration.capture is CaptureKind.REDIRECT:
        # What the pod sends is redirected to loopback; what arrives keeps to the address of its interface.
        ports = list_outbound_ports(redirect.outbound_port, redirect.inbound_port, configuration.tunnel_port)
        wanted += [(Entrance.REDIRECTED_OUT, (loop, port), None) for loop in ("127.0.0.1", "::1") for port in ports]
        wanted += [(Entrance.REDIRECTED_IN, (every, redirect.inbound_port), None) for every in ("0.0.0.0", "::")]
    wanted += [(Entrance.EXPLICIT_OUT, each.listen, each.destination) for each in configuration.outbound]
    wanted += [(Entrance.EXPLICIT_IN, each.listen, each.application) for each in configuration.inbound]
    doors: list[Door] = []
    for entrance, endpoint, fixed in wanted:
        try:
            doors.append(Door(entrance=entrance, listener=open_listener(endpoint, mark=mark), fixed=fixed))
        except OSError as error:
            if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL) and endpoint[0] in ("::", "::1"):
                continue  # A machine without IPv6.
            close_doors(doors)
            hint = "another process has it: `ss -ltnp`" if error.errno == errno.EADDRINUSE else ""
            raise MachineError(f"can't listen on {format_endpoint(endpoint)}: {error.strerror}", hint=hint) from error
    return doors


def close_doors(doors: Sequence[Door]) -> None:
    """Close listening sockets that no loop has taken over."""
    for door in doors:
        door.listener.close()


class Capturing:
    """Accepts at every door and begins the stories.

    Arguments:
        tasks: of the pod's own connections and of strangers' plaintext ones, bounded by ``sidecar.rooms``.
        tunnels: of accepted tunnels and foreign peers, whose stories mind ``sidecar.handshakes`` and ``sidecar.rooms``.
    """

    def __init__(
        self, sidecar: Sidecar, doors: Sequence[Door], stories: Stories, *, tasks: Tasks, tunnels: Tasks, events: Events
    ) -> None:
        self._sidecar = sidecar
        self._stories = stories
        self._tasks = tasks
        self._tunnels = tunnels
        self._events = events
        self._loops = [self._make_loop(door) for door in doors]
        self._claims = Claims()

    def start(self) -> None:
        """Begin to accept."""
        for loop in self._loops:
            loop.start()

    def close(self) -> None:
        """Stop accepting; connections that live go on."""
        for loop in self._loops:
            loop.close()

    def _make_loop(self, door: Door) -> AcceptLoop:
        begin = {
            Entrance.TUNNEL: self._begin_tunnel,
            Entrance.REDIRECTED_OUT: self._begin_redirected_out,
            Entrance.REDIRECTED_IN: self._begin_redirected_in,
            Entrance.EXPLICIT_OUT: self._begin_explicit_out,
            Entrance.EXPLICIT_IN: self._begin_explicit_in,
        }[door.entrance]
        local = normalise_endpoint(door.listener.getsockname())
        return AcceptLoop(
            door.listener,
            lambda connection, source: begin(connection, source, local, door.fixed or local),
            on_pause=lambda error, pause_s: self._events.emit(
                "accepting_paused", listener=format_endpoint(local), error=error.strerror, pause_s=pause_s
            ),
        )

    def _begin_tunnel(self, connection: socket.socket, source: Endpoint, local: Endpoint, _: Endpoint) -> None:
        if not self._sidecar.handshakes.has_place(source[0]):
            self._refuse(connection, source, local, Direction.INGRESS, Reason.OVERLOADED)
            return
        try:
            local = normalise_endpoint(connection.getsockname())
        except OSError:
            connection.close()
            return
        story = self._stories.serve_tunnel(self._sidecar, connection, source, local)
        self._tunnels.spawn(_guard(connection, story), name="tunnel")

    def _begin_redirected_out(self, connection: socket.socket, source: Endpoint, local: Endpoint, _: Endpoint) -> None:
        destination = ask_original_destination(connection, source)
        if destination is None or destination == local:
            self._refuse(connection, source, local, Direction.EGRESS, Reason.DIRECT_CONNECTION)
            return
        self._begin_outbound(connection, source, destination, destination)

    def _begin_redirected_in(self, connection: socket.socket, source: Endpoint, local: Endpoint, _: Endpoint) -> None:
        destination = ask_original_destination(connection, source)
        if destination is None or destination[1] in self._sidecar.own_ports:
            self._refuse(connection, source, destination or local, Direction.INGRESS, Reason.DIRECT_CONNECTION)
            return
        self._begin_inbound(connection, source, destination, destination)

    def _begin_explicit_out(
        self, connection: socket.socket, source: Endpoint, local: Endpoint, fixed: Endpoint
    ) -> None:
        if not is_loopback(local[0]):
            try:
                local = normalise_endpoint(connection.getsockname())  # The listener may have a wildcard.
            except OSError:
                connection.close()
                return
        self._begin_outbound(connection, source, fixed, local, may_be_remote=may_be_remote(source, local))

    def _begin_explicit_in(self, connection: socket.socket, source: Endpoint, local: Endpoint, fixed: Endpoint) -> None:
        self._begin_inbound(connection, source, local, fixed)

    def _begin_outbound(
        self,
        connection: socket.socket,
        source: Endpoint,
        destination: Endpoint,
        app_destination: Endpoint,
        *,
        may_be_remote: bool = False,
    ) -> None:
        if (place := self._sidecar.rooms.outbound.enter("")) is None:
            self._refuse(connection, source, destination, Direction.EGRESS, Reason.OVERLOADED)
            return
        try:
            early = self._sidecar.attestor.attest_early(source, app_destination)
            claim = self._claims.enter(connection, source, app_destination)
        except BaseException:  # A fault of ours costs this connection, not a place for ever.
            place.leave()
            reset(connection)
            raise
        captured = Captured(
            connection=connection,
            source=source,
            destination=destination,
            app_destination=app_destination,
            may_be_remote=may_be_remote,
            claim=claim,
            early=early,
        )
        story = self._stories.carry_outbound(self._sidecar, captured)
        self._tasks.spawn(_guard(connection, story, place, claim), name="outbound")

    def _begin_inbound(
        self, connection: socket.socket, source: Endpoint, destination: Endpoint, application: Endpoint
    ) -> None:
        captured = Captured(connection=connection, source=source, destination=destination, app_destination=destination)
        if destination[1] in self._sidecar.mtls_ports:
            if not self._sidecar.handshakes.has_place(source[0]):
                self._refuse(connection, source, destination, Direction.INGRESS, Reason.OVERLOADED)
                return
            story = self._stories.serve_foreign(self._sidecar, captured, application)
            self._tunnels.spawn(_guard(connection, story), name="foreign")
            return
        if (place := self._sidecar.rooms.strangers.enter(group_address(source[0]))) is None:
            self._refuse(connection, source, destination, Direction.INGRESS, Reason.OVERLOADED)
            return
        story = self._stories.carry_plaintext(self._sidecar, captured, application)
        self._tasks.spawn(_guard(connection, story, place), name="inbound")

    def _refuse(
        self, connection: socket.socket, source: Endpoint, destination: Endpoint, direction: Direction, reason: Reason
    ) -> None:
        reset(connection)
        self._sidecar.recorder.record(
            record_refusal(
                direction=direction,
                reason=reason,
                source=source,
                destination=destination,
                state=self._sidecar.policies.own.state,
                mode=self._sidecar.policies.mode,
                sidecar=self._sidecar.instance,
                connection=secrets.token_hex(8),
                now=time.time(),
            )
        )


def may_be_remote(source: Endpoint, local: Endpoint) -> bool:
    """Tell whether a client may be outside the pod: loopback at both ends never is.

    One end alone says nothing: with ``route_localnet``, which kube-proxy sets on nodes, neighbours reach 127.0.0.1.
    """
    return not (is_loopback(source[0]) and is_loopback(local[0]))


async def _guard(connection: socket.socket, story: Coroutine[Any, Any, None], *held: Held) -> None:
    try:
        await story
    except BaseException:
        # A story closes what it was given, a tunnel perhaps a little later: once its last word is delivered. Should a
        # story fail, the application sees a reset, never a clean end.
        if connection.fileno() >= 0:
            reset(connection)
        raise
    finally:
        for each in held:
            each.leave()
