"""Answers what is asked through the admin socket, from the sidecar's parts as they are now. Never a key. No I/O."""

from __future__ import annotations

import os
from itertools import islice
from typing import TYPE_CHECKING

from shared.model.errors import RefusedError
from shared.model.version import VERSION
from shared.model.wire.sidecar_admin import (
    MAX_LISTED,
    Answer,
    Bound,
    ConnectionsQuestion,
    Dump,
    DumpQuestion,
    HeldCredential,
    Level,
    LevelQuestion,
    NamespaceInForce,
    Question,
    SidecarConnections,
)
from sidecar.administration.metrics import list_bounds
from sidecar.events import LEVELS
from sidecar.probing.life import Draining, Life, Serving

if TYPE_CHECKING:
    from shared.model.policy.rules import NamespaceState
    from sidecar.control.uplink import Uplink
    from sidecar.credential.credential import Credential
    from sidecar.credential.renewal_key import RenewalKey
    from sidecar.events import Events
    from sidecar.parts import Sidecar


class Answers:
    """Knows one sidecar, in every stage of its life.

    Arguments:
        instance: its name.
        renewal: the key by which it comes back; None: it has no use for one.
    """

    def __init__(
        self, life: Life, *, instance: str, uplink: Uplink, events: Events, renewal: RenewalKey | None = None
    ) -> None:
        self._life = life
        self._instance = instance
        self._uplink = uplink
        self._events = events
        self._renewal = renewal

    def answer(self, question: Question) -> Answer:
        """Answer one question.

        Raises:
            RefusedError: it asks for something that isn't there.
        """
        match question:
            case DumpQuestion():
                return self._dump(_bound(question.limit))
            case ConnectionsQuestion():
                return self._list_connections(_bound(question.limit))
            case LevelQuestion():
                return self._choose_level(question.level)

    def _choose_level(self, level: str) -> Level:
        if level:
            if level not in LEVELS:
                raise RefusedError(f"not a level: {level[:80]!r}", hint=f"one of {', '.join(LEVELS)}")
            self._events.set_level(level)
        return Level(instance=self._instance, level=self._events.level)

    def _list_connections(self, limit: int) -> SidecarConnections:
        stage = self._life.stage
        if not isinstance(stage, Serving):
            return SidecarConnections(instance=self._instance, connections=())
        connections, truncated = stage.sidecar.connections.describe(limit)
        return SidecarConnections(instance=self._instance, connections=connections, truncated=truncated)

    def _dump(self, limit: int) -> Dump:
        stage, uplink, renewal = self._life.stage, self._uplink, self._renewal
        bare = Dump(
            instance=self._instance,
            version=VERSION,
            pid=os.getpid(),
            stage="serving" if isinstance(stage, Serving) else "draining" if isinstance(stage, Draining) else "joining",
            log_level=self._events.level,
            ca_connected=uplink.is_connected,
            ca_version=uplink.ca_version,
            ca_fault=uplink.fault,
            renewal_kept_in=renewal.place if renewal is not None and renewal.is_known else "",
            renewal_grace_s=0 if renewal is None else renewal.grace_s,
        )
        return _complete(bare, stage.sidecar, limit) if isinstance(stage, Serving) else bare


def _complete(bare: Dump, sidecar: Sidecar, limit: int) -> Dump:
    recorder, credentials = sidecar.recorder, sidecar.credentials
    return Dump(
        instance=bare.instance,
        version=bare.version,
        pid=bare.pid,
        stage=bare.stage,
        log_level=bare.log_level,
        ca_connected=bare.ca_connected,
        ca_version=bare.ca_version,
        ca_fault=bare.ca_fault,
        renewal_kept_in=bare.renewal_kept_in,
        renewal_grace_s=bare.renewal_grace_s,
        workload=str(sidecar.workload),
        trust_domain=sidecar.trust_domain,
        bundle_sequence=sidecar.trust.bundle.sequence,
        connections=len(sidecar.connections),
        idle_tunnels=len(sidecar.connector),
        records_waiting=recorder.waiting,
        records_lost=recorder.lost_total + recorder.lost_lines,
        bounds=tuple(Bound(name=name, used=used, limit=most) for name, used, most in list_bounds(sidecar)),
        namespaces=tuple(_describe_namespace(each, sidecar) for each in sidecar.policies.list_in_force()[:limit]),
        credentials=tuple(
            _describe_credential(each) for each in islice((credentials.own, *credentials.list_held()), limit)
        ),
        directory=tuple(sidecar.directory.list_known(limit)),
        directory_size=len(sidecar.directory),
    )


def _describe_namespace(state: NamespaceState, sidecar: Sidecar) -> NamespaceInForce:
    is_own = state.namespace == sidecar.workload.namespace
    return NamespaceInForce(
        namespace=state.namespace,
        version=state.version,
        mode=sidecar.policies.mode.value if is_own else state.mode.value,
        rules=len(state.rules),
        approvals=len(state.approvals),
    )


def _describe_credential(credential: Credential) -> HeldCredential:
    return HeldCredential(identity=str(credential.identity), not_after=credential.not_after, issuer=credential.issuer)


def _bound(limit: int) -> int:
    return max(1, min(limit, MAX_LISTED))
