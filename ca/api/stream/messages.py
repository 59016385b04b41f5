"""What an authenticated sidecar says, answered: decisions, acknowledgements, subscriptions, look-ups. I/O: the store.

Belongs here: one message at a time. Doesn't: certificate requests, which take longer (``certificate_requests.py``), or
the WebSocket (``conversation.py``).
"""

from __future__ import annotations

from typing import Final

import structlog

from ca.allowance import LineAllowance
from ca.authority.authorities import Authorities
from ca.distribution.hub import Hub
from ca.distribution.live_connections import Survey
from ca.distribution.session import MAX_NAMESPACES, Session
from ca.kubernetes.view import ClusterView
from ca.metrics import Metrics
from ca.observation.decisions import Decisions as DecisionLog
from ca.observation.programs_seen import ProgramsSeen
from ca.rotation.rotation import Rotation
from ca.store.store import Store
from shared.model.errors import ProtocolError, UnavailableError
from shared.model.identity.identity import check_namespace
from shared.model.wire.messages import (
    MAX_DECISIONS_PER_MESSAGE,
    BundleInstalled,
    ConnectionsReport,
    Decisions,
    DecisionsStored,
    FromSidecar,
    Lookup,
    NamespaceInstalled,
    ProgramSeen,
    Subscribe,
)
from shared.model.wire.registration import normalise_address

_BUNDLE: Final = ""  # Among what was acknowledged; no namespace is called so.
_ROLLED_BACK: Final = "if the CA's store is an older one: it is put back by `touchmark ca restore`, not as a file"
_MAX_LOST: Final = 10**12
_log = structlog.get_logger("touchmark.ca")


class SidecarMessages:
    """Answers messages."""

    def __init__(
        self,
        *,
        store: Store,
        authorities: Authorities,
        rotation: Rotation,
        hub: Hub,
        survey: Survey,
        decisions: DecisionLog,
        programs: ProgramsSeen,
        cluster: ClusterView,
        metrics: Metrics,
    ) -> None:
        self._lines = LineAllowance()
        self._store = store
        self._authorities = authorities
        self._rotation = rotation
        self._hub = hub
        self._survey = survey
        self._decisions = decisions
        self._programs = programs
        self._cluster = cluster
        self._metrics = metrics

    async def answer(self, session: Session, message: FromSidecar) -> None:
        """Do what a message says; what there is to answer goes to the session's outbox.

        Raises:
            ProtocolError: it says what can't be, or what it says isn't said on an authenticated stream.
            RefusedError: a bound is reached.
            UnavailableError: the store fails.
        """
        match message:
            case Decisions():
                await self._take_decisions(session, message)
            case BundleInstalled(sequence=sequence):
                if not 0 < sequence <= self._authorities.bundle().sequence:
                    raise ProtocolError("a bundle was acknowledged that was never sent", hint=_ROLLED_BACK)
                await self._take_bundle_installed(session, sequence)
            case NamespaceInstalled(namespace=namespace, version=version):
                if not 0 <= version <= session.namespaces.get(namespace, -1):
                    raise ProtocolError("a namespace's version was acknowledged that was never sent")
                await self._take_namespace_installed(session, namespace, version)
            case Subscribe(namespace=namespace):
                await self._subscribe(session, check_namespace(namespace))
            case Lookup(address=address):
                normal = normalise_address(address)
                if normal != address:
                    raise ProtocolError(f"an address that isn't in canonical form: {address[:80]!r}")
                self._hub.watch(session, normal)
            case ConnectionsReport():
                self._survey.take_report(session, message)
            case ProgramSeen():
                await self._take_program(session, message)
            case _:
                raise ProtocolError("the stream is authenticated already")

    async def _take_bundle_installed(self, session: Session, sequence: int) -> None:
        # A transaction and a look at all sidecars follow: nobody has them repeated by saying the same again.
        if sequence > session.acknowledged.get(_BUNDLE, 0):
            await self._store.sidecars.mark_bundle_installed(session.instance, sequence)
            session.acknowledged[_BUNDLE] = sequence
            self._rotation.poke()

    async def _take_namespace_installed(self, session: Session, namespace: str, version: int) -> None:
        if version > session.acknowledged.get(namespace, -1):
            await self._store.sidecars.mark_namespace_installed(session.instance, namespace, version)
            session.acknowledged[namespace] = version

    async def _subscribe(self, session: Session, namespace: str) -> None:
        if namespace in session.namespaces and namespace in session.acknowledged:
            return  # It gets each later state already.
        self._hub.subscribe(session, namespace)
        await self._store.sidecars.mark_subscribed(session.instance, namespace, at_most=MAX_NAMESPACES)
        session.acknowledged.setdefault(namespace, 0)
        self._hub.send_state(session, await self._store.namespaces.get_state(namespace))

    async def _take_program(self, session: Session, message: ProgramSeen) -> None:
        def find_image() -> str:
            return self._cluster.find_image(session.pod_uid, message.container)

        try:
            await self._programs.make_room(message, workload=session.workload)
        except UnavailableError as error:
            self._metrics.failures.labels(where="programs_seen").inc()
            if self._lines.take(session.instance):
                _log.warning("programs_seen_not_stored", instance=session.instance, message=error.message)
        try:
            self._programs.take(
                message,
                instance=session.instance,
                workload=session.workload,
                image=find_image(),
                find_image=find_image if session.pod_uid and message.container else None,
            )
        except ProtocolError as error:
            # A program has a part in what is said of it: it mustn't end its sidecar's stream.
            self._metrics.failures.labels(where="programs_seen").inc()
            if self._lines.take(session.instance):
                _log.warning("program_seen_impossible", instance=session.instance, message=error.message)

    async def _take_decisions(self, session: Session, message: Decisions) -> None:
        if len(message.records) > MAX_DECISIONS_PER_MESSAGE or not 0 <= message.lost <= _MAX_LOST:
            raise ProtocolError(f"a message holds at most {MAX_DECISIONS_PER_MESSAGE} decisions")
        try:
            await self._decisions.take_in(
                message.records,
                instance=session.instance,
                workload=session.workload,
                lost=message.lost,
                batch=message.batch,
            )
        except UnavailableError as error:
            # No acknowledgement: the sidecar keeps the batch and sends it again.
            self._metrics.failures.labels(where="decisions").inc()
            if self._lines.take(session.instance):
                _log.warning("decisions_not_stored", instance=session.instance, message=error.message)
            return
        session.send(DecisionsStored(batch=message.batch))
