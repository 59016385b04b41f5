"""The evaluator: is this connection allowed? Sidecars enforce with it, the CLI explains and replays with it. Pure.

Order (the first that applies answers):

1. a ``deny`` rule that matches, or a requirement of the destination's namespace that isn't met: deny, in every mode;
2. an ``allow`` rule that matches: allow;
3. both ends identified (approved programs) and in the same mesh group: allow;
4. otherwise: permissive allows and marks ``would_deny``, explicit denies.

Addresses only ever restrict. A peer that shows no program is *unidentified*: ``deny`` rules match it by the workload
that its sidecar's certificate proves or, failing that, that the directory lists at its address; ``allow`` rules match
it only when they name ``unidentified`` and the directory lists no workload at its address. So a member of the mesh that
drops its certificate gains nothing.

A peer of another trust domain is *foreign*: an ``allow`` rule matches it by ``spiffe_id`` and nothing else (no rule
without peers, no namespace, no mesh group, no address); a ``deny`` rule by ``spiffe_id``, by naming no peer in
particular, or by the workload that the directory lists at its address.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from shared.model.identity.foreign import ForeignIdentity, is_matched
from shared.model.identity.identity import Workload
from shared.model.identity.loaded_code import ForeignCode, LoadedCode, find_foreign
from shared.model.identity.program import Program
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Action, Approval, Direction, Mode, NamespaceState, Peer, Requirement, Rule

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Party(msgspec.Struct, frozen=True, kw_only=True):
    """One end of a connection, as far as it is proven.

    Attributes:
        workload: proven by a certificate (or, on its own side, by the sidecar's own). None for a stranger.
        program: attested on its own side, proven by certificate on the other. None when there is none.
        address: where it is; None only in explanations that don't name one.
        listed: the workload that the directory lists at ``address``. Never grants anything.
        why_unidentified: why ``program`` is None, when the party is in the mesh and its sidecar said so;
            ``MTLS_UNAVAILABLE`` for a destination in the mesh that no tunnel reaches.
        is_pending: the program isn't known *yet* (before a tunnel is dialled; without a workload: before a foreign peer
            is): rules that depend on it are taken to allow, and the caller decides again once it is known, before any
            byte flows.
        foreign: proven by a certificate of another trust domain; then there is neither workload nor program.

    Raises:
        ValueError: it is foreign and ours at once.
    """

    workload: Workload | None = None
    program: Program | None = None
    foreign: ForeignIdentity | None = None
    address: Address | None = None
    listed: Workload | None = None
    why_unidentified: Reason | None = None
    is_pending: bool = False

    def __post_init__(self) -> None:
        if self.foreign is not None and (self.workload is not None or self.program is not None or self.is_pending):
            raise ValueError("a foreign party has no workload or program here")


def is_elsewhere(party: Party) -> bool:
    """Return whether a certificate was shown from an address that the directory lists for another workload.

    What this does *not* tell: a theft. An address may have been given to the party just now.
    """
    if party.listed is None:
        return False
    return party.foreign is not None or (party.workload is not None and party.workload != party.listed)


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The answer on one connection from one side.

    Attributes:
        allowed: whether it is allowed.
        would_deny: allowed only because the namespace is permissive.
        reason: why; for ``would_deny`` why it would be denied.
        rule: ``namespace/name`` of the rule that decided; empty when none did.
        mode: the mode of the side that decided.
        policy_version: the version of the deciding namespace's state.
        weak: an approval that took part is weak (an interpreter or a multi-call binary).
    """

    allowed: bool
    would_deny: bool = False
    reason: Reason
    rule: str = ""
    mode: Mode
    policy_version: int
    weak: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _CompiledPeer:
    peer: Peer
    networks: tuple[Network, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _CompiledRule:
    rule: Rule
    qualified_name: str
    workloads: frozenset[str]
    programs: frozenset[Program]
    peers: tuple[_CompiledPeer, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NamespacePolicy:
    """A ``NamespaceState`` made ready for evaluation: rules by direction, approvals, code and labels by key.

    Two are equal only when they are the same object, so that one can be part of a key.
    """

    state: NamespaceState
    approvals: Mapping[tuple[str, Program], Approval]
    labels: Mapping[str, Mapping[str, str]]
    code: Mapping[str, frozenset[str]] = field(repr=False)
    denies: Mapping[Direction, tuple[_CompiledRule, ...]] = field(repr=False)
    allows: Mapping[Direction, tuple[_CompiledRule, ...]] = field(repr=False)

    def find_approval(self, workload: Workload, program: Program) -> Approval | None:
        """Return the approval of exactly this program (digest and main) for this workload, or None.

        A bare digest never approves an interpreter's script, and a script's approval never the bare interpreter.
        """
        if workload.namespace != self.state.namespace:
            return None
        return self.approvals.get((workload.service_account, program))

    def find_foreign_code(self, approval: Approval, code: LoadedCode) -> ForeignCode | None:
        """Return what a program has loaded beyond its workload's approved objects; None when there is nothing."""
        return find_foreign(code, self.code.get(approval.service_account, frozenset()), is_jit=approval.jit)


def compile_namespace(state: NamespaceState) -> NamespacePolicy:
    """Compile a state for ``evaluate``. The cost is linear in rules and approvals: do it once per version."""
    compiled = [
        _CompiledRule(
            rule=rule,
            qualified_name=f"{state.namespace}/{rule.name}",
            workloads=frozenset(rule.workloads),
            programs=frozenset(rule.programs),
            peers=tuple(
                _CompiledPeer(peer=peer, networks=tuple(ipaddress.ip_network(cidr) for cidr in peer.cidrs))
                for peer in rule.peers
            ),
        )
        for rule in state.rules
    ]

    def select(action: Action) -> dict[Direction, tuple[_CompiledRule, ...]]:
        return {
            direction: tuple(c for c in compiled if c.rule.action is action and c.rule.direction is direction)
            for direction in Direction
        }

    return NamespacePolicy(
        state=state,
        approvals={(a.service_account, a.program): a for a in state.approvals},
        labels={entry.service_account: entry.labels for entry in state.labels},
        code={entry.service_account: frozenset(entry.digests) for entry in state.code},
        denies=select(Action.DENY),
        allows=select(Action.ALLOW),
    )


def mesh_group(policy: NamespacePolicy, workload: Workload) -> tuple[str, ...] | None:
    """Return the workload's mesh group, or None when its namespace groups by a label that isn't vouched for."""
    label = policy.state.group_label
    if not label:
        return ("namespace", workload.namespace)
    value = policy.labels.get(workload.service_account, {}).get(label)
    return None if value is None else ("label", label, value)


def evaluate(
    *,
    direction: Direction,
    source: Party,
    destination: Party,
    port: int,
    source_policy: NamespacePolicy | None,
    destination_policy: NamespacePolicy | None,
) -> Verdict:
    """Decide one connection from one side.

    Arguments:
        direction: the side that decides: ``EGRESS`` at the source (its own namespace's deny and egress rules, and the
            destination's ingress rules), ``INGRESS`` at the destination (its own ingress rules). The mode is that of
            the deciding side's own namespace; a connection lives only if both sides allow.
        source, destination: the ends, as far as they are proven.
        port: the backend's port, 1 to 65535.
        source_policy, destination_policy: the namespaces of both ends; the policy of the deciding side is required,
            that of a party without a workload is None.

    What this does *not* verify: certificates, attestation, or that ``listed`` is current. Callers have done it.
    """
    own = source_policy if direction is Direction.EGRESS else destination_policy
    if own is None:
        raise ValueError("the deciding side's own namespace policy is required")

    source_approval = _approval(source, source_policy)
    destination_approval = _approval(destination, destination_policy)
    weak = bool((source_approval and source_approval.weak) or (destination_approval and destination_approval.weak))

    def verdict(*, allowed: bool, reason: Reason, rule: str = "", would_deny: bool = False) -> Verdict:
        return Verdict(
            allowed=allowed,
            would_deny=would_deny,
            reason=reason,
            rule=rule,
            mode=own.state.mode,
            policy_version=own.state.version,
            weak=weak,
        )

    matching = _Matcher(
        source=source,
        destination=destination,
        port=port,
        source_identified=source_approval is not None,
        destination_identified=destination_approval is not None or destination.is_pending,
    )

    # 1. Deny rules: the destination's ingress rules on both sides, the source's egress rules at the source.
    if destination_policy is not None:
        for rule in destination_policy.denies[Direction.INGRESS]:
            if matching.denies_ingress(rule):
                return verdict(allowed=False, reason=Reason.DENY_RULE, rule=rule.qualified_name)
    if direction is Direction.EGRESS and source_policy is not None:
        for rule in source_policy.denies[Direction.EGRESS]:
            if matching.denies_egress(rule):
                return verdict(allowed=False, reason=Reason.DENY_RULE, rule=rule.qualified_name)

    # What the namespace requires of every peer outweighs its allow rules.
    if (
        direction is Direction.INGRESS
        and destination_policy is not None
        and Requirement.MATCHING_ADDRESS in destination_policy.state.requires
        and is_elsewhere(source)
    ):
        return verdict(allowed=False, reason=Reason.PEER_WORKLOAD_MISMATCH)

    # 2. Allow rules: the destination's ingress rules; where it has no namespace, the source's egress rules.
    if destination_policy is not None:
        for rule in destination_policy.allows[Direction.INGRESS]:
            if matching.allows_ingress(rule):
                return verdict(allowed=True, reason=Reason.ALLOW_RULE, rule=rule.qualified_name)
    elif source_policy is not None:
        for rule in source_policy.allows[Direction.EGRESS]:
            if matching.allows_egress(rule):
                return verdict(allowed=True, reason=Reason.ALLOW_RULE, rule=rule.qualified_name)

    # 3. The same mesh group.
    if (
        matching.source_identified
        and matching.destination_identified
        and source_policy is not None
        and destination_policy is not None
        and source.workload is not None
        and destination.workload is not None
    ):
        group = mesh_group(source_policy, source.workload)
        if group is not None and group == mesh_group(destination_policy, destination.workload):
            return verdict(allowed=True, reason=Reason.SAME_GROUP)

    # 4. The mode; without mutual TLS between members of the mesh, the stricter of both modes.
    reason = _why_not(matching, destination_policy)
    modes = {own.state.mode}
    if destination.why_unidentified is Reason.MTLS_UNAVAILABLE and destination_policy is not None:
        modes.add(destination_policy.state.mode)
    if Mode.EXPLICIT in modes:
        return verdict(allowed=False, reason=reason)
    return verdict(allowed=True, reason=reason, would_deny=True)


def _approval(party: Party, policy: NamespacePolicy | None) -> Approval | None:
    if policy is None or party.workload is None or party.program is None:
        return None
    return policy.find_approval(party.workload, party.program)


def _why_not(matching: _Matcher, destination_policy: NamespacePolicy | None) -> Reason:
    source, destination = matching.source, matching.destination
    if destination.why_unidentified is Reason.MTLS_UNAVAILABLE:
        return Reason.MTLS_UNAVAILABLE
    if not matching.destination_identified and destination_policy is not None:
        # The listener is to blame where everything else would have done.
        served = msgspec.structs.replace(matching, destination_identified=True)
        if matching.source_identified or any(
            served.allows_ingress(rule) for rule in destination_policy.allows[Direction.INGRESS]
        ):
            return destination.why_unidentified or Reason.LISTENER_NOT_APPROVED
    if not matching.source_identified:
        if source.workload is not None and source.program is not None:
            return Reason.PROGRAM_NOT_APPROVED
        if source.foreign is not None:
            return Reason.FOREIGN_NOT_ALLOWED
        return source.why_unidentified or Reason.PEER_UNIDENTIFIED
    if destination.foreign is not None or (destination.is_pending and destination.workload is None):
        return Reason.FOREIGN_NOT_ALLOWED
    return Reason.NO_RULE if destination_policy is not None else Reason.EGRESS_NOT_ALLOWED


class _Matcher(msgspec.Struct, frozen=True, kw_only=True):
    """Whether rules match one connection. ``*_identified`` means: an approved program, proven."""

    source: Party
    destination: Party
    port: int
    source_identified: bool
    destination_identified: bool

    def denies_ingress(self, compiled: _CompiledRule) -> bool:
        return (
            self._port_matches(compiled)
            and _own_end_denied(compiled, self.destination)
            and _peer_end_denied(compiled, self.source)
        )

    def denies_egress(self, compiled: _CompiledRule) -> bool:
        return (
            self._port_matches(compiled)
            and _own_end_denied(compiled, self.source)
            and _peer_end_denied(compiled, self.destination)
        )

    def allows_ingress(self, compiled: _CompiledRule) -> bool:
        return (
            self._port_matches(compiled)
            and _own_end_allowed(compiled, self.destination, identified=self.destination_identified)
            and _peer_end_allowed(compiled, self.source, identified=self.source_identified)
        )

    def allows_egress(self, compiled: _CompiledRule) -> bool:
        return (
            self._port_matches(compiled)
            and _own_end_allowed(compiled, self.source, identified=self.source_identified)
            and _peer_end_allowed(compiled, self.destination, identified=self.destination_identified)
        )

    def _port_matches(self, compiled: _CompiledRule) -> bool:
        ports = compiled.rule.ports
        return not ports or any(each.first <= self.port <= each.last for each in ports)


def _own_end_denied(compiled: _CompiledRule, party: Party) -> bool:
    workload = party.workload or party.listed
    if compiled.workloads and (workload is None or workload.service_account not in compiled.workloads):
        return False
    if compiled.programs and party.is_pending:
        return False
    # A deny rule that names programs also matches an end whose program isn't known: hiding it evades nothing.
    return not compiled.programs or any(_program_denied(each, party.program) for each in compiled.programs)


def _program_denied(named: Program, found: Program | None) -> bool:
    """A bare digest denies whatever script the interpreter claims to run: the claim could be forged."""
    return found is None or named == found or (not named.main and named.digest == found.digest)


def _own_end_allowed(compiled: _CompiledRule, party: Party, *, identified: bool) -> bool:
    if not identified or party.workload is None:
        return False
    if compiled.workloads and party.workload.service_account not in compiled.workloads:
        return False
    return party.is_pending or not compiled.programs or party.program in compiled.programs


def _peer_end_denied(compiled: _CompiledRule, party: Party) -> bool:
    if not compiled.peers:
        return True
    return any(_peer_denied(each, party) for each in compiled.peers)


def _peer_denied(compiled: _CompiledPeer, party: Party) -> bool:
    peer = compiled.peer
    if peer.spiffe_id:
        return party.foreign is not None and is_matched(peer.spiffe_id, party.foreign)
    if peer.unidentified:
        is_unmarked = party.program is None and party.foreign is None and not party.is_pending
        return is_unmarked and _address_matches(compiled, party.address)
    workload = party.workload or party.listed
    if workload is None:
        return not peer.namespace
    if peer.namespace and peer.namespace != workload.namespace:
        return False
    if peer.service_account and peer.service_account != workload.service_account:
        return False
    if peer.program is not None and party.is_pending:
        return False
    return peer.program is None or _program_denied(peer.program, party.program)


def _peer_end_allowed(compiled: _CompiledRule, party: Party, *, identified: bool) -> bool:
    if not compiled.peers:
        return identified
    return any(_peer_allowed(each, party, identified=identified) for each in compiled.peers)


def _peer_allowed(compiled: _CompiledPeer, party: Party, *, identified: bool) -> bool:
    peer = compiled.peer
    if peer.spiffe_id:
        if party.foreign is None:
            return party.is_pending and party.workload is None
        return is_matched(peer.spiffe_id, party.foreign)
    if peer.unidentified:
        is_proven = party.workload is not None or party.program is not None or party.foreign is not None
        is_stranger = not is_proven and party.listed is None and not party.is_pending
        return is_stranger and _address_matches(compiled, party.address)
    if not identified or party.workload is None:
        return False
    if peer.namespace and peer.namespace != party.workload.namespace:
        return False
    if peer.service_account and peer.service_account != party.workload.service_account:
        return False
    return peer.program is None or peer.program == party.program


def _address_matches(compiled: _CompiledPeer, address: Address | None) -> bool:
    if address is None:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address.version == network.version and address in network for network in compiled.networks)
