"""What is known of a connection's two ends: where they are, who they are, what proved it.

Belongs here: these facts, and policy's verdict on them. Doesn't: when they become known (the stories), what follows
from a verdict (``connection.py``). No I/O.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final, Protocol

from msgspec.structs import replace

from shared.model.identity.foreign import ForeignIdentity
from shared.model.identity.identity import Identity
from shared.model.identity.loaded_code import LoadedCode
from shared.model.policy.decision import Origin, ProcessRecord
from shared.model.policy.evaluate import NamespacePolicy, Party, Verdict, evaluate
from shared.model.policy.rules import Direction, Mode
from shared.model.trust.certificate import VerifiedPeer
from shared.model.trust.foreign_certificate import ForeignPeer
from sidecar.sockets.address import Endpoint, parse_ip

if TYPE_CHECKING:
    from sidecar.attest.facts import Attestation, ProcessFacts

_NO_PROCESS: Final = ProcessRecord()


class PolicySource(Protocol):
    """The policies in force here: of the sidecar's own namespace, and of others where they are known."""

    @property
    def own(self) -> NamespacePolicy:
        """Of the sidecar's own namespace."""

    @property
    def mode(self) -> Mode:
        """The mode of the sidecar's own workload."""

    def get(self, namespace: str) -> NamespacePolicy | None:
        """Of any namespace; None where it isn't known."""


class Parties:
    """Both ends of one connection, as far as they are proven.

    Attributes:
        direction: egress: the source is the local end; ingress: the destination is.
        source, destination: what policy is asked about.
        port: the destination's.
        source_identity, destination_identity: what the certificates in use say; for the record.
        attestation, process: of the local end.
        peer: what the other end's certificate proved.
        issuer: of that certificate; for the record.
        service: ``namespace/name:port`` of the Service that was dialled; empty where it was none.
    """

    __slots__ = (
        "attestation",
        "destination",
        "destination_endpoint",
        "destination_identity",
        "direction",
        "issuer",
        "peer",
        "port",
        "process",
        "service",
        "source",
        "source_endpoint",
        "source_identity",
    )

    def __init__(self, direction: Direction, *, source: Endpoint, destination: Endpoint) -> None:
        self.direction = direction
        self.source_endpoint = source
        self.source = Party(address=parse_ip(source[0]))
        self.source_identity: Identity | ForeignIdentity | None = None
        self.attestation: Attestation | None = None
        self.process: ProcessRecord = _NO_PROCESS
        self.service = ""
        self.turn_to(destination)

    def turn_to(self, destination: Endpoint) -> None:
        """Make this endpoint the destination. Nothing of an earlier one stays."""
        self.destination_endpoint = destination
        self.port = destination[1]
        self.destination = Party(address=parse_ip(destination[0]))
        self.destination_identity: Identity | ForeignIdentity | None = None
        self.peer: VerifiedPeer | ForeignPeer | None = None
        self.issuer = ""

    def note_process(self, process: ProcessFacts | None, digest: str = "") -> None:
        """Remember the local process for the record."""
        if process is not None:
            self.process = ProcessRecord(pid=process.pid, uid=process.uid, path=process.shown_path, digest=digest)

    def note_code(self, code: LoadedCode) -> None:
        """Have the record say what the local process has loaded."""
        self.process = replace(self.process, code=code)

    def note_attestation(self, attestation: Attestation) -> None:
        """Remember which program opened or serves this connection."""
        self.attestation = attestation
        self.note_process(attestation.process, attestation.program.digest)
        if attestation.origin is not Origin.UNKNOWN:
            self.process = replace(self.process, origin=attestation.origin)

    def note_peer(self, peer: VerifiedPeer | ForeignPeer) -> None:
        """Remember what the other end's certificate proved."""
        self.peer, self.issuer = peer, peer.issuer
        if self.direction is Direction.EGRESS:
            self.destination_identity = peer.identity
        else:
            self.source_identity = peer.identity

    def evaluate(self, policies: PolicySource) -> Verdict:
        """Return the verdict of the current policies on what is known."""
        source_policy, destination_policy = self.find_policies(policies)
        return evaluate_once(
            self.direction, self.source, self.destination, self.port, source_policy, destination_policy
        )

    def concerns(self, namespace: str) -> bool:
        """Return whether a namespace's policy takes part in the verdict."""
        for party in (self.source, self.destination):
            workload = party.workload or party.listed
            if workload is not None and workload.namespace == namespace:
                return True
        return False

    def find_policies(self, policies: PolicySource) -> tuple[NamespacePolicy | None, NamespacePolicy | None]:
        """Return the policies of the source's and of the destination's namespace."""
        if self.direction is Direction.EGRESS:
            return policies.own, _policy_of(self.destination, policies)
        return _policy_of(self.source, policies), policies.own


def _policy_of(party: Party, policies: PolicySource) -> NamespacePolicy | None:
    workload = party.workload or party.listed
    return None if workload is None else policies.get(workload.namespace)


def forget_verdicts() -> None:
    """Drop remembered verdicts: they would be right still, but they keep old policies in memory."""
    evaluate_once.cache_clear()


@lru_cache(maxsize=1024)
def evaluate_once(
    direction: Direction,
    source: Party,
    destination: Party,
    port: int,
    source_policy: NamespacePolicy | None,
    destination_policy: NamespacePolicy | None,
) -> Verdict:
    """Evaluate, or remember: the answer depends on nothing but these values, and a changed policy is another object."""
    return evaluate(
        direction=direction,
        source=source,
        destination=destination,
        port=port,
        source_policy=source_policy,
        destination_policy=destination_policy,
    )
