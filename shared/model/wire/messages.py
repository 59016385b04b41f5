"""The messages between a sidecar and the CA on their WebSocket, as strict tagged structs in JSON. Pure.

A sidecar's first message is ``Enrol`` (join token and CSR), ``EnrolPod`` (a pod's token and CSR), ``Resume`` (on a
TLS connection with its own certificate) or ``Renew`` (signed by its renewal key); the CA answers ``Welcome`` or
``Refusal``. Then either side sends messages at any time. Binary values are base64 in JSON. Unknown fields and tags are
refused.

What an older peer understands (``protocol.py``): a field that a protocol adds has a default (one of ``""``, ``0``,
``False``, ``None``, ``()``, which msgspec knows by identity), and defaults aren't written; ``express_in`` gives it that
default, or leaves out what can't be said without it. Nothing else may change. Long, because it is one list of messages,
and what each becomes for an older peer stands beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import msgspec

from shared.model.errors import TouchmarkError
from shared.model.identity.foreign import ForeignDomain
from shared.model.identity.identity import Workload
from shared.model.identity.loaded_code import LoadedCode
from shared.model.identity.program import Program
from shared.model.policy.decision import DecisionRecord, Ending
from shared.model.policy.modes import effective_mode
from shared.model.policy.reasons import Reason, express_in_first_codes
from shared.model.policy.rules import FIRST_MAX_RULES, Action, Direction, Mode, NamespaceState, Rule
from shared.model.trust.bundle import TrustBundle
from shared.model.wire.protocol import PROTOCOL

MAX_MESSAGE_BYTES: Final = 8 * 1024 * 1024
MAX_DECISIONS_PER_MESSAGE: Final = 500
MAX_DECISION_BYTES: Final = 65_536  # Of one record; the CA keeps up to 2,000,000.
MAX_PARENTS: Final = 8
# A fault quotes what it doesn't know, which may be a whole message.
_MAX_FAULT_CHARACTERS: Final = 300
STREAM_PATH: Final = "/v1/stream"


class _Message(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", forbid_unknown_fields=True, omit_defaults=True
):
    pass


class Registration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a sidecar reports about itself. Addresses beyond those of its join token are refused.

    Attributes:
        instance: chosen by the sidecar at start, 1 to 64 characters; names it in decisions.
        addresses: IP addresses at which its tunnel port answers.
        time_ms: since protocol 2; its clock as it opens the stream, milliseconds since the epoch; 0: not said.
    """

    instance: str
    version: str
    addresses: tuple[str, ...]
    tunnel_port: int
    capture: str
    time_ms: int = 0


# ---- sidecar → CA -------------------------------------------------------------------------------------------------


class Enrol(_Message, frozen=True, tag="enrol"):
    """First message of a sidecar without a certificate.

    Attributes:
        renewal: since protocol 2; a request by the key by which it will come back (DER); None: it keeps none.
    """

    token: str
    csr: bytes
    registration: Registration
    renewal: bytes | None = None

    def __repr__(self) -> str:
        return f"Enrol(registration={self.registration!r})"


class EnrolPod(_Message, frozen=True, tag="enrol_pod"):
    """First message of a sidecar in Kubernetes without a certificate: its pod's projected service account token."""

    token: str
    csr: bytes
    registration: Registration

    def __repr__(self) -> str:
        return f"EnrolPod(registration={self.registration!r})"


class Resume(_Message, frozen=True, tag="resume"):
    """First message of a sidecar that authenticated with its own certificate in the TLS handshake."""

    registration: Registration
    installed_sequence: int = 0


class Renew(_Message, frozen=True, tag="renew"):
    """First message of a sidecar outside Kubernetes that was away for longer than its certificate. Since protocol 2.

    Attributes:
        key: its renewal key's public part (DER, SubjectPublicKeyInfo).
        following: a request by the renewal key that takes its place (DER).
        signature: by the renewal key, over ``trust/renewal.py``'s description of this request (ECDSA, SHA-256).
    """

    csr: bytes
    key: bytes
    following: bytes
    signature: bytes
    registration: Registration


class ProgramEvidence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the sidecar saw of the process; for people, but for its loaded code.

    Attributes:
        code: since protocol 2; what an approval that names loaded objects is compared with. It isn't written when it
            isn't known.
    """

    path: str = ""
    pid: int = 0
    uid: int = -1
    code: LoadedCode | msgspec.UnsetType = msgspec.UNSET


class CertificateRequest(_Message, frozen=True, tag="certificate_request"):
    """Ask for a leaf: for a program of this sidecar's workload or, with ``program`` None, for the sidecar itself."""

    request: int
    csr: bytes
    program: Program | None = None
    evidence: ProgramEvidence = ProgramEvidence()


class ProgramSeen(_Message, frozen=True, tag="program_seen"):
    """A program of this sidecar's own workload was seen; evidence for the people who approve it. Since protocol 2.

    Attributes:
        path: of the executable.
        package: name and version of its package, by the database of its own root file system; empty: not known.
        container: the ID of its container, as its control group names it; empty: not known.
        parents: paths of its ancestors' executables, the nearest first, at most ``MAX_PARENTS``.
        code: what it has loaded; None: not known.
        has_accepted: it is what a process has loaded that has accepted a connection.
    """

    program: Program
    path: str = ""
    package: str = ""
    container: str = ""
    parents: tuple[str, ...] = ()
    code: LoadedCode | None = None
    has_accepted: bool = False


class BundleInstalled(_Message, frozen=True, tag="bundle_installed"):
    """The bundle of this sequence number is in force here."""

    sequence: int


class NamespaceInstalled(_Message, frozen=True, tag="namespace_installed"):
    """This version of a namespace's state is in force here."""

    namespace: str
    version: int


class Lookup(_Message, frozen=True, tag="lookup"):
    """Ask which workload is at this address. The CA answers with ``DirectoryEntry`` and again whenever it changes."""

    address: str


class Subscribe(_Message, frozen=True, tag="subscribe"):
    """Send the state of this namespace, now and whenever it changes."""

    namespace: str


class Decisions(_Message, frozen=True, tag="decisions"):
    """Decision records, oldest first. ``lost`` counts those dropped since the last message."""

    batch: int
    records: tuple[DecisionRecord, ...]
    lost: int = 0


class LiveConnection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One live connection, as ``touchmark connections`` shows it."""

    connection: str
    tunnel: str
    direction: str
    source: str
    destination: str
    source_workload: str
    destination_workload: str
    source_program: str
    destination_program: str
    transport: str
    would_deny: bool
    reason: str
    since: float
    bytes_sent: int
    bytes_received: int
    process: str = ""


class ConnectionsReport(_Message, frozen=True, tag="connections_report"):
    """Answer to ``ConnectionsQuery``; ``truncated`` when there were more than the limit."""

    request: int
    connections: tuple[LiveConnection, ...]
    truncated: bool = False


# ---- CA → sidecar -------------------------------------------------------------------------------------------------


class Welcome(_Message, frozen=True, tag="welcome"):
    """The sidecar is enrolled (``chain`` holds its certificate) or resumed (``chain`` is empty).

    Attributes:
        foreign: since protocol 2; the other trust domains that are known.
        ca_version: since protocol 2; for people.
        time_ms: since protocol 2; the CA's clock, milliseconds since the epoch; 0: it isn't said.
        grace_s: since protocol 2; for so many seconds after its last certificate's end the sidecar may come back by its
            renewal key; 0: the CA has none of it.
    """

    trust_domain: str
    namespace: str
    service_account: str
    chain: tuple[bytes, ...]
    bundle: TrustBundle
    state: NamespaceState
    foreign: tuple[ForeignDomain, ...] = ()
    ca_version: str = ""
    time_ms: int = 0
    grace_s: int = 0


class Refusal(_Message, frozen=True, tag="refusal"):
    """The CA refuses the stream, and closes it. ``code`` is stable, ``message`` for people."""

    code: str
    message: str
    hint: str = ""


class CertificateIssued(_Message, frozen=True, tag="certificate_issued"):
    """Answer to ``CertificateRequest``: DER chain, leaf first, without the root."""

    request: int
    chain: tuple[bytes, ...]


class CertificateRefused(_Message, frozen=True, tag="certificate_refused"):
    """Answer to ``CertificateRequest``: ``reason`` is a ``Reason`` or error code."""

    request: int
    reason: str
    message: str


class BundleChanged(_Message, frozen=True, tag="bundle_changed"):
    """Install this bundle and acknowledge it."""

    bundle: TrustBundle


class ForeignTrustChanged(_Message, frozen=True, tag="foreign_trust_changed"):
    """Replace the known other trust domains with these. Since protocol 2."""

    domains: tuple[ForeignDomain, ...]


class NamespaceChanged(_Message, frozen=True, tag="namespace_changed"):
    """Install this state and acknowledge it."""

    state: NamespaceState


class ServicePort(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One port of a Service and its ready endpoints, each an IP address with the backend's (target) port."""

    port: int
    endpoints: tuple[tuple[str, int], ...] = ()


class ServiceEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A Kubernetes Service: the sidecar picks the endpoint itself.

    Attributes:
        affinity_s: for so long a client address keeps its endpoint (``sessionAffinity: ClientIP``); 0: no affinity.
        ports: TCP ports; a port that isn't among them isn't served.
    """

    namespace: str
    name: str
    affinity_s: int = 0
    ports: tuple[ServicePort, ...] = ()


class DirectoryEntry(_Message, frozen=True, tag="directory_entry", gc=False):
    """The workload at an address. ``namespace`` empty: not in the mesh.

    Attributes:
        service: the address is a Service's; workloads are at its endpoints.
    """

    address: str
    namespace: str = ""
    service_account: str = ""
    tunnel_port: int = 0
    service: ServiceEntry | None = None


class DecisionsStored(_Message, frozen=True, tag="decisions_stored"):
    """The CA has stored this batch."""

    batch: int


class ConnectionsQuery(_Message, frozen=True, tag="connections_query"):
    """Report the live connections, at most ``limit``."""

    request: int
    limit: int


class Reissue(_Message, frozen=True, tag="reissue"):
    """Renew every credential soon: the issuing authority changed. Spread over ``spread_s`` seconds."""

    spread_s: float


FromSidecar = (
    Enrol
    | EnrolPod
    | Resume
    | Renew
    | CertificateRequest
    | BundleInstalled
    | NamespaceInstalled
    | Lookup
    | Subscribe
    | Decisions
    | ConnectionsReport
    | ProgramSeen
)
FromCA = (
    Welcome
    | Refusal
    | CertificateIssued
    | CertificateRefused
    | BundleChanged
    | ForeignTrustChanged
    | NamespaceChanged
    | DirectoryEntry
    | DecisionsStored
    | ConnectionsQuery
    | Reissue
)
Message = FromSidecar | FromCA

_encoder = msgspec.json.Encoder()
_from_sidecar: msgspec.json.Decoder[FromSidecar] = msgspec.json.Decoder(FromSidecar, strict=True)
_from_ca: msgspec.json.Decoder[FromCA] = msgspec.json.Decoder(FromCA, strict=True)


def encode_message(message: Message) -> bytes:
    """Write a message as one JSON object, in this release's own protocol."""
    return _encoder.encode(message)


def told_mode(protocol: int, message: Message, reader: Workload) -> Mode | None:
    """Return the mode that a reader of this protocol is told as a namespace's; None: all readers are sent the same."""
    if protocol >= PROTOCOL or not isinstance(message, Welcome | NamespaceChanged) or not message.state.workload_modes:
        return None
    return effective_mode(message.state, reader)


def express_in(protocol: int, message: Message, *, reader: Workload | None = None) -> Message | None:
    """Return what is sent to a peer of this protocol instead of a message; None: nothing is sent.

    Arguments:
        reader: the workload of the sidecar that it is sent to; None: it isn't known, or doesn't matter.
    """
    if protocol >= PROTOCOL:
        return message
    match message:
        case Enrol():
            return msgspec.structs.replace(message, registration=_register_before(message.registration), renewal=None)
        case EnrolPod() | Resume():
            return msgspec.structs.replace(message, registration=_register_before(message.registration))
        case Welcome():
            state = _in_first_protocol(message.state, reader)
            return msgspec.structs.replace(message, state=state, foreign=(), ca_version="", time_ms=0, grace_s=0)
        case NamespaceChanged():
            return msgspec.structs.replace(message, state=_in_first_protocol(message.state, reader))
        case ForeignTrustChanged() | ProgramSeen() | Renew():
            return None
        case Decisions():
            return msgspec.structs.replace(message, records=tuple(_record_before(each) for each in message.records))
        case CertificateRequest():
            return msgspec.structs.replace(
                message, evidence=msgspec.structs.replace(message.evidence, code=msgspec.UNSET)
            )
        case CertificateRefused(reason=Reason.CODE_NOT_APPROVED):
            return msgspec.structs.replace(message, reason=express_in_first_codes(Reason.CODE_NOT_APPROVED).value)
        case _:
            return message


def _register_before(registration: Registration) -> Registration:
    return msgspec.structs.replace(registration, time_ms=0)


def _record_before(record: DecisionRecord) -> DecisionRecord:
    """Write a record in the codes of protocol 1, without what it lacks: loaded code, Service, hosts, draft and more."""
    reason = express_in_first_codes(record.reason)
    if reason is not record.reason:
        record = msgspec.structs.replace(record, reason=reason)
    if record.ending is Ending.TIMED_OUT:
        record = msgspec.structs.replace(record, ending=Ending.SHUTDOWN)
    if record.destination.hosts is not msgspec.UNSET:
        destination = msgspec.structs.replace(record.destination, hosts=msgspec.UNSET)
        record = msgspec.structs.replace(record, destination=destination)
    if not (record.service is record.has_started is record.draft is msgspec.UNSET):
        record = msgspec.structs.replace(record, service=msgspec.UNSET, has_started=msgspec.UNSET, draft=msgspec.UNSET)
    if record.process.code is msgspec.UNSET and record.process.origin is msgspec.UNSET:
        return record
    process = msgspec.structs.replace(record.process, code=msgspec.UNSET, origin=msgspec.UNSET)
    return msgspec.structs.replace(record, process=process)


def _in_first_protocol(state: NamespaceState, reader: Workload | None) -> NamespaceState:
    """Leave out what names foreign peers, which a sidecar of protocol 1 never meets, hosts, and loaded code.

    A rule without remaining peers is left out: without peers it would match every peer. A program that may only load
    certain objects gets no certificate through a sidecar that can't say what is loaded (``ca/issuance.py``). What a
    namespace requires isn't enforced by such a sidecar, and its draft isn't evaluated. It knows no workload's own mode,
    and is told the one of its own workload as its namespace's; as another namespace's the strictest there.
    """
    rules = []
    for rule in state.rules:
        peers = tuple(peer for peer in rule.peers if not peer.spiffe_id and not peer.hosts)
        if len(peers) == len(rule.peers):
            rules.append(rule)
        elif peers:
            rules.append(msgspec.structs.replace(rule, peers=peers))
    approvals = tuple(
        msgspec.structs.replace(each, code=None, jit=False) if each.code is not None or each.jit else each
        for each in state.approvals
    )
    return msgspec.structs.replace(
        state, rules=_fit_in_first_protocol(rules), approvals=approvals, code=(), requires=(),
        mode=effective_mode(state, reader), workload_modes=(), draft=None,
    )  # fmt: skip


def _fit_in_first_protocol(rules: list[Rule]) -> tuple[Rule, ...]:
    """Leave out allow rules beyond what protocol 1 takes; where the deny rules alone are too many, deny everything."""
    if len(rules) <= FIRST_MAX_RULES:
        return tuple(rules)
    denies = sum(rule.action is Action.DENY for rule in rules)
    if denies > FIRST_MAX_RULES:
        return tuple(
            Rule(name=f"too-many-rules-for-0.1-{direction}", action=Action.DENY, direction=direction)
            for direction in Direction
        )
    kept, room = [], FIRST_MAX_RULES - denies
    for rule in rules:
        if rule.action is Action.DENY:
            kept.append(rule)
        elif room:
            kept.append(rule)
            room -= 1
    return tuple(kept)


def decode_from_sidecar(data: bytes) -> FromSidecar:
    """Read a sidecar's message.

    Raises:
        msgspec.DecodeError: the text isn't such a message. (``msgspec.ValidationError`` is one.)
    """
    with _one_kind_of_fault():
        return _from_sidecar.decode(data)


def decode_from_ca(data: bytes) -> FromCA:
    """Read a message of the CA.

    Raises:
        msgspec.DecodeError: the text isn't such a message. (``msgspec.ValidationError`` is one.)
    """
    with _one_kind_of_fault():
        return _from_ca.decode(data)


@contextmanager
def _one_kind_of_fault() -> Iterator[None]:
    try:
        yield
    except TouchmarkError as error:  # A value that can't be built: a bad namespace, digest, range of ports.
        raise msgspec.ValidationError(error.message) from error
    except UnicodeDecodeError as error:  # msgspec lets it through when a string isn't UTF-8.
        raise msgspec.DecodeError(f"not UTF-8: {error.reason}") from error
    except msgspec.DecodeError as error:
        if len(text := str(error)) <= _MAX_FAULT_CHARACTERS:
            raise
        # Nobody's log and no answer takes 8 MiB that a stranger has chosen.
        raise msgspec.DecodeError(f"{text[:_MAX_FAULT_CHARACTERS]}…") from None
