"""Policy values: rules, programs' approvals, and the state of one namespace that sidecars receive.

Belongs here: frozen values that can't be invalid. Doesn't: YAML (``documents.py``) or the decision
(``evaluate.py``). Pure. All values travel as they are in messages, so they are ``msgspec`` structs;
a field that is new in a release has a default, and isn't written then (``shared/model/wire/messages.py`` says why).
Those that come by the thousands can't be part of a cycle and are kept from the garbage collector, which would stop the
event loop for long (``gc=False``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

import msgspec

from shared.model.errors import InputError
from shared.model.identity.foreign import check_id_pattern, pattern_domain
from shared.model.identity.identity import check_namespace, check_service_account
from shared.model.identity.loaded_code import CodeCheck
from shared.model.identity.program import Program
from shared.model.policy.cidr import parse_cidr
from shared.model.policy.host_name import MAX_HOSTS, check_host

# A namespace's. An object in Kubernetes holds fewer (``documents.py``), and so do the states that 0.1 takes.
MAX_RULES = 10_000
FIRST_MAX_RULES = 1000
MAX_PROGRAMS = 10_000
# Workloads of a namespace with a mode of their own; manifests/crds says the same.
MAX_WORKLOAD_MODES = 250
# A digest costs a sidecar about 100 bytes, and 67 in the message that holds the whole state.
MAX_LOADED_DIGESTS = 16_384
# Why is in docs/explanation/architecture.md, "One evaluator".
NO_SERVICES = dict.fromkeys(
    ("service", "services", "serviceName"),
    "no rule names a Service: name the workloads behind it in an ingress rule of their namespace, or, outside the mesh,"
    " the addresses of its endpoints in `cidrs`",
)
# RFC 4291, section 2.5.5.2: ::ffff:0:0/96.
_IPV6 = 6
_MAPPED_SHIFT = 32
_MAPPED_PREFIX = 0xFFFF


class Mode(StrEnum):
    """How a workload treats what no rule allows: permissive allows and marks it, explicit refuses it."""

    PERMISSIVE = "permissive"
    EXPLICIT = "explicit"


class Action(StrEnum):
    """The effect of a matching rule."""

    ALLOW = "allow"
    DENY = "deny"


class Direction(StrEnum):
    """Which side of a namespace's border a rule is about: connections to its workloads, or from them."""

    INGRESS = "ingress"
    EGRESS = "egress"


class PortRange(msgspec.Struct, frozen=True, kw_only=True, gc=False, forbid_unknown_fields=True):
    """Ports ``first`` to ``last``, both included, 1 to 65535.

    Raises:
        InputError: the range is empty or leaves 1 to 65535.
    """

    first: int
    last: int

    def __post_init__(self) -> None:
        if not 1 <= self.first <= self.last <= 65535:
            raise InputError(f"not a port range: {self.first}-{self.last}", hint="ports are 1 to 65535")

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


class Peer(msgspec.Struct, frozen=True, kw_only=True, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """The peers that a rule matches.

    Either identified: any of ``namespace``, ``service_account``, ``program`` narrow it (a program never stands alone),
    all empty means every identified program of our own trust domain. Or ``unidentified``, narrowed by ``cidrs`` (never
    empty: addresses are named, or everything by ``0.0.0.0/0`` and ``::/0``) or, where a rule allows egress, by
    ``hosts``: what these names resolve to. Or ``spiffe_id`` alone: a peer of another trust domain, exactly, or all
    below a last segment ``*``.

    Attributes:
        hosts: since protocol 2.

    Raises:
        InputError: the combination is invalid.
    """

    namespace: str = ""
    service_account: str = ""
    program: Program | None = None
    unidentified: bool = False
    cidrs: tuple[str, ...] = ()
    spiffe_id: str = ""
    hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.spiffe_id:
            others = self.namespace, self.service_account, self.program, self.unidentified, self.cidrs, self.hosts
            if any(others):
                raise InputError("a spiffeID can't be combined with a namespace, program or addresses")
            check_id_pattern(self.spiffe_id)
        if self.unidentified and (self.namespace or self.service_account or self.program):
            raise InputError("an unidentified peer has no namespace, service account or program")
        if self.cidrs and self.hosts:
            raise InputError("a peer has `cidrs` or `hosts`", hint="write two peers: either is enough for a connection")
        if self.unidentified != bool(self.cidrs or self.hosts):
            raise InputError(
                "`unidentified: true` goes together with `cidrs` or `hosts`",
                hint='for any address: cidrs: ["0.0.0.0/0", "::/0"]',
            )
        if self.program is not None and not (self.namespace and self.service_account):
            raise InputError("a program needs its namespace and service account")
        if self.service_account and not self.namespace:
            raise InputError("a service account needs its namespace")
        if self.namespace:
            check_namespace(self.namespace)
        for cidr in self.cidrs:
            _check_cidr(cidr)
        for host in self.hosts:
            check_host(host)


def _check_cidr(cidr: str) -> None:
    try:
        network = parse_cidr(cidr)
    except ValueError as error:
        raise InputError(f"not a CIDR: {cidr[:80]!r} ({error})") from error
    if (
        network.version == _IPV6
        and network.shift <= _MAPPED_SHIFT
        and network.prefix >> (_MAPPED_SHIFT - network.shift) == _MAPPED_PREFIX
    ):
        # Such addresses are compared as IPv4, so that this network would silently match nothing.
        raise InputError(f"a v4-mapped CIDR matches nothing: {cidr!r}", hint="write it as IPv4, such as 10.0.0.0/8")


class Rule(msgspec.Struct, frozen=True, kw_only=True, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """One rule of a namespace.

    Attributes:
        name: unique within its policy; decisions name it.
        direction: ``ingress``: ``peers`` connect to ``workloads``; ``egress``: ``workloads`` connect to ``peers``.
        workloads: service accounts of the rule's own namespace; empty means all of them.
        programs: narrows ``workloads`` to these programs; empty means any.
        peers: the other end; empty means every *identified* program of our own trust domain and, in a ``deny`` rule,
            every peer.
        ports: the backend's; empty means all.
    """

    name: str
    action: Action
    direction: Direction = Direction.INGRESS
    workloads: tuple[str, ...] = ()
    programs: tuple[Program, ...] = ()
    peers: tuple[Peer, ...] = ()
    ports: tuple[PortRange, ...] = ()

    def __post_init__(self) -> None:
        if not self.name or len(self.name) > 128:
            raise InputError("a rule needs a name of 1 to 128 characters")
        if self.programs and not self.workloads:
            raise InputError("programs need `workloads`: name the service account")
        if (self.action is Action.DENY or self.direction is Direction.INGRESS) and any(p.hosts for p in self.peers):
            raise InputError(
                "only a rule that allows egress can name hosts",
                hint="a refusal would end where the name doesn't resolve, and a peer isn't who its address's name says:"
                " use `cidrs`",
            )


def list_hosts(rules: Iterable[Rule]) -> list[str]:
    """Return the different host names in rules, sorted."""
    return sorted({host for rule in rules for peer in rule.peers for host in peer.hosts})


class Approval(msgspec.Struct, frozen=True, kw_only=True, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """One approved program of one workload.

    Attributes:
        weak: an interpreter or multi-call binary, approved knowingly; shown in every decision.
        name: the ``Program`` object that holds it.
        approved_by: who approved it, for people.
        code: since protocol 2; what follows from loaded code that isn't among the workload's; None: it isn't looked at.
        jit: since protocol 2; the program makes code at run time: anonymous executable memory is expected.
    """

    service_account: str
    program: Program
    weak: bool = False
    name: str = ""
    approved_by: str = ""
    code: CodeCheck | None = None
    jit: bool = False


class WorkloadCode(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The objects that a workload's approved programs may load: SHA-256 digests, 64 hexadecimal digits each."""

    service_account: str
    digests: tuple[str, ...]


class WorkloadLabels(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The labels that the CA vouches for, of one workload."""

    service_account: str
    labels: dict[str, str] = {}


class WorkloadMode(msgspec.Struct, frozen=True, kw_only=True, gc=False, forbid_unknown_fields=True):
    """A workload's own mode, in the place of its namespace's.

    Raises:
        IdentityError: the service account isn't one.
    """

    service_account: str
    mode: Mode

    def __post_init__(self) -> None:
        check_service_account(self.service_account)


class Requirement(StrEnum):
    """What a namespace asks of every connection to its workloads, in either mode."""

    # The directory must not list another workload at the address from which a certificate is shown.
    MATCHING_ADDRESS = "matchingAddress"
    # The workload's own program must descend from its container's first process, whether it dials or serves.
    CONTAINER_ORIGIN = "containerOrigin"
    # Sockets that the workload's own program dials with or has accepted must be made by it, not given at its start.
    OWN_SOCKETS = "ownSockets"


class PolicyDraft(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A policy that is evaluated beside the one in force, and never enforced.

    Attributes:
        number: of this draft among those of its namespace, which grows; records name it.
        mode: None: that which is in force.
        group_label, rules, requires: as of ``NamespaceState``.
        workload_modes: as of ``NamespaceState``; None: those that are in force.

    Raises:
        InputError: there are too many rules or modes of workloads, or two of one workload.
    """

    number: int
    mode: Mode | None = None
    group_label: str = ""
    rules: tuple[Rule, ...] = ()
    requires: tuple[Requirement, ...] = ()
    workload_modes: tuple[WorkloadMode, ...] | None = None

    def __post_init__(self) -> None:
        check_workload_modes(self.workload_modes or ())
        if len(self.rules) > MAX_RULES:
            raise InputError(f"a draft holds at most {MAX_RULES} rules")


class NamespaceState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a sidecar needs to know about one namespace: mode, rules, approvals, vouched labels, at one version.

    Attributes:
        version: grows with each change of this namespace; decisions name it. 0 for a namespace without objects.
        group_label: when not empty, the mesh group is the workload's value of this vouched label; else the namespace.
        code: since protocol 2; at most one entry of each workload.
        requires: since protocol 2; without repetition.
        workload_modes: since protocol 2; by service account, at most one of each (``modes.py`` reads them).
        draft: since protocol 2; evaluated beside the rest, which alone is enforced.
    """

    namespace: str
    version: int = 0
    mode: Mode = Mode.PERMISSIVE
    group_label: str = ""
    rules: tuple[Rule, ...] = ()
    approvals: tuple[Approval, ...] = ()
    labels: tuple[WorkloadLabels, ...] = ()
    code: tuple[WorkloadCode, ...] = ()
    requires: tuple[Requirement, ...] = ()
    workload_modes: tuple[WorkloadMode, ...] = ()
    draft: PolicyDraft | None = None

    def __post_init__(self) -> None:
        check_namespace(self.namespace)
        check_workload_modes(self.workload_modes)
        if sum(len(each.digests) for each in self.code) > MAX_LOADED_DIGESTS:
            raise InputError(f"a namespace's programs name at most {MAX_LOADED_DIGESTS} different loaded objects")
        if len(self.rules) > MAX_RULES or len(self.approvals) > MAX_PROGRAMS:
            raise InputError(f"a namespace holds at most {MAX_RULES} rules and {MAX_PROGRAMS} approved programs")


def check_workload_modes(modes: tuple[WorkloadMode, ...]) -> None:
    """Refuse too many modes of workloads, or two of one workload.

    Raises:
        InputError: there are.
    """
    if len(modes) > MAX_WORKLOAD_MODES:
        raise InputError(
            f"{len(modes)} workloads have a mode of their own; at most {MAX_WORKLOAD_MODES} may",
            hint="set the namespace's mode, and let the others inherit it",
        )
    names = [each.service_account for each in modes]
    if len(set(names)) != len(names):
        raise InputError("a workload has two modes of its own")


def put_draft_in_force(state: NamespaceState, draft: PolicyDraft) -> NamespaceState:
    """Return the state that a namespace would have if this were its policy, and there was no draft."""
    return msgspec.structs.replace(
        state,
        mode=state.mode if draft.mode is None else draft.mode,
        group_label=draft.group_label,
        rules=draft.rules,
        requires=draft.requires,
        workload_modes=state.workload_modes if draft.workload_modes is None else draft.workload_modes,
        draft=None,
    )


def check_rules(rules: Sequence[Rule], *, trust_domain: str) -> None:
    """Check what no rule says of itself.

    Arguments:
        trust_domain: our own.

    Raises:
        InputError: two have the same name, a foreign peer would be one of our own, or they name too many hosts.
    """
    if (count := len(list_hosts(rules))) > MAX_HOSTS:
        raise InputError(f"{count} different hosts; a namespace's rules name at most {MAX_HOSTS}")
    for rule in rules:
        for peer in rule.peers:
            if peer.spiffe_id and pattern_domain(peer.spiffe_id) == trust_domain:
                raise InputError(
                    f"rule {rule.name}: {peer.spiffe_id} is of this mesh's own trust domain",
                    hint="name its namespace, serviceAccount and program instead of a spiffeID",
                )
    names = [rule.name for rule in rules]
    if len(set(names)) != len(names):
        raise InputError("two rules of a policy have the same name", hint="decisions name rules: give each its own")
