"""The evaluator: is this connection allowed? Sidecars enforce with it, the CLI explains and replays with it. Pure.

Order (the first that applies answers):

1. a ``deny`` rule that matches, or a requirement of the destination's namespace that isn't met: deny, in every mode;
2. an ``allow`` rule that matches: allow;
3. both ends identified (approved programs) and in the same mesh group: allow;
4. otherwise: permissive allows and marks ``would_deny``, explicit denies. The mode is that of the deciding side's own
   workload (``modes.py``).

Addresses only ever restrict. A name in an egress rule stands for the addresses to which the source's own sidecar
resolves it. A peer that shows no program is *unidentified*: ``deny`` rules match it by the workload
that its sidecar's certificate proves or, failing that, that the directory lists at its address; ``allow`` rules match
it only when they name ``unidentified`` and the directory lists no workload at its address. So a member of the mesh that
drops its certificate gains nothing.

A peer of another trust domain is *foreign*: an ``allow`` rule matches it by ``spiffe_id`` and nothing else (no rule
without peers, no namespace, no mesh group, no address); a ``deny`` rule by ``spiffe_id``, by naming no peer in
particular, or by the workload that the directory lists at its address.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

import msgspec

from shared.model.identity.identity import Workload
from shared.model.identity.loaded_code import ForeignCode, LoadedCode, find_foreign
from shared.model.identity.program import Program
from shared.model.policy.cidr import Address as Address
from shared.model.policy.matching import Matcher, compile_rule
from shared.model.policy.modes import effective_mode
from shared.model.policy.party import Party as Party
from shared.model.policy.reasons import REQUIRED, Reason
from shared.model.policy.rule_index import RuleIndex
from shared.model.policy.rules import (
    Action,
    Approval,
    Direction,
    Mode,
    NamespaceState,
    Requirement,
    put_draft_in_force,
)


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
        would_deny: allowed only because the workload that decided is permissive.
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class NamespacePolicy:
    """A ``NamespaceState`` made ready for evaluation: rules by direction, approvals, code and labels by key.

    Two are equal only when they are the same object, so that one can be part of a key.

    Attributes:
        draft: the same with the namespace's draft in the place of its policy; None: it has none.
    """

    state: NamespaceState
    approvals: Mapping[tuple[str, Program], Approval]
    labels: Mapping[str, Mapping[str, str]]
    code: Mapping[str, frozenset[str]] = field(repr=False)
    denies: Mapping[Direction, RuleIndex] = field(repr=False)
    allows: Mapping[Direction, RuleIndex] = field(repr=False)
    draft: NamespacePolicy | None = field(default=None, repr=False)

    def find_approval(self, workload: Workload, program: Program) -> Approval | None:
        """Return the approval of exactly this program (digest and main) for this workload, or None.

        A bare digest never approves an interpreter's script, and a script's approval never the bare interpreter.
        """
        if workload.namespace != self.state.namespace:
            return None
        return self.approvals.get((workload.service_account, program))

    def find_foreign_code(self, service_account: str, code: LoadedCode, *, is_jit: bool) -> ForeignCode | None:
        """Return what a program has loaded beyond its workload's approved objects; None when there is nothing."""
        return find_foreign(code, self.code.get(service_account, frozenset()), is_jit=is_jit)


def compile_namespace(state: NamespaceState) -> NamespacePolicy:
    """Compile a state for ``evaluate``. The cost is linear in rules and approvals: do it once per version."""
    steps = compile_in_steps(state)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return cast("NamespacePolicy", end.value)


def compile_in_steps(state: NamespaceState) -> Generator[None, None, NamespacePolicy]:
    """Compile a state and its draft, one rule at a step: a generator that returns the policy."""
    denies, allows = yield from _index_in_steps(state)
    policy = NamespacePolicy(
        state=state,
        approvals={(a.service_account, a.program): a for a in state.approvals},
        labels={entry.service_account: entry.labels for entry in state.labels},
        code={entry.service_account: frozenset(entry.digests) for entry in state.code},
        denies=denies,
        allows=allows,
    )
    if state.draft is None:
        return policy
    # Approvals, labels and code are the same in both.
    drafted = put_draft_in_force(state, state.draft)
    denies, allows = yield from _index_in_steps(drafted)
    return replace(policy, draft=replace(policy, state=drafted, denies=denies, allows=allows))


def _index_in_steps(
    state: NamespaceState,
) -> Generator[None, None, tuple[Mapping[Direction, RuleIndex], Mapping[Direction, RuleIndex]]]:
    """Index a state's rules: what denies, and what allows."""
    indexes = {(action, direction): RuleIndex() for action in Action for direction in Direction}
    for rule in state.rules:
        indexes[rule.action, rule.direction].add(compile_rule(state.namespace, rule))
        yield
    for index in indexes.values():
        yield from index.freeze_in_steps()
    denies = {direction: indexes[Action.DENY, direction] for direction in Direction}
    return denies, {direction: indexes[Action.ALLOW, direction] for direction in Direction}


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
            the deciding side's own workload; a connection lives only if both sides allow.
        source, destination: the ends, as far as they are proven.
        port: the backend's port, 1 to 65535.
        source_policy, destination_policy: the namespaces of both ends; the policy of the deciding side is required,
            that of a party without a workload is None.

    What this does *not* verify: certificates, attestation, or that ``listed`` is current. Callers have done it.
    """
    own = source_policy if direction is Direction.EGRESS else destination_policy
    if own is None:
        raise ValueError("the deciding side's own namespace policy is required")

    local = source if direction is Direction.EGRESS else destination
    mode = effective_mode(own.state, local.workload or local.listed)
    source_approval = _approval(source, source_policy)
    destination_approval = _approval(destination, destination_policy)
    weak = bool((source_approval and source_approval.weak) or (destination_approval and destination_approval.weak))

    def verdict(*, allowed: bool, reason: Reason, rule: str = "", would_deny: bool = False) -> Verdict:
        return Verdict(
            allowed=allowed,
            would_deny=would_deny,
            reason=reason,
            rule=rule,
            mode=mode,
            policy_version=own.state.version,
            weak=weak,
        )

    matching = Matcher(
        source=source,
        destination=destination,
        port=port,
        source_identified=source_approval is not None,
        destination_identified=destination_approval is not None or destination.is_pending,
    )

    # 1. Deny rules: the destination's ingress rules on both sides, the source's egress rules at the source.
    if destination_policy is not None:
        for rule in destination_policy.denies[Direction.INGRESS].find_candidates(
            own=destination, peer=source, port=port
        ):
            if matching.denies_ingress(rule):
                return verdict(allowed=False, reason=Reason.DENY_RULE, rule=rule.qualified_name)
    if direction is Direction.EGRESS and source_policy is not None:
        for rule in source_policy.denies[Direction.EGRESS].find_candidates(own=source, peer=destination, port=port):
            if matching.denies_egress(rule):
                return verdict(allowed=False, reason=Reason.DENY_RULE, rule=rule.qualified_name)

    # What the namespace requires of its own programs, and of every peer, outweighs its allow rules.
    if local.why_unidentified in REQUIRED:
        return verdict(allowed=False, reason=local.why_unidentified)
    if (
        direction is Direction.INGRESS
        and destination_policy is not None
        and Requirement.MATCHING_ADDRESS in destination_policy.state.requires
        and is_elsewhere(source)
    ):
        return verdict(allowed=False, reason=Reason.PEER_WORKLOAD_MISMATCH)

    # Who is there isn't known: a rule that allows strangers may not be meant for a member.
    peer = destination if direction is Direction.EGRESS else source
    if peer.workload is None and peer.why_unidentified is Reason.CA_UNAVAILABLE:
        is_permissive = mode is Mode.PERMISSIVE
        return verdict(allowed=is_permissive, reason=Reason.CA_UNAVAILABLE, would_deny=is_permissive)

    # 2. Allow rules: the destination's ingress rules; where it has no namespace, the source's egress rules.
    if destination_policy is not None:
        for rule in destination_policy.allows[Direction.INGRESS].find_candidates(
            own=destination, peer=source, port=port
        ):
            if matching.allows_ingress(rule):
                return verdict(allowed=True, reason=Reason.ALLOW_RULE, rule=rule.qualified_name)
    elif source_policy is not None:
        for rule in source_policy.allows[Direction.EGRESS].find_candidates(own=source, peer=destination, port=port):
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
    reason = _why_not(matching, source_policy, destination_policy)
    modes = {mode}
    if destination.why_unidentified is Reason.MTLS_UNAVAILABLE and destination_policy is not None:
        modes.add(effective_mode(destination_policy.state, destination.workload or destination.listed))
    if Mode.EXPLICIT in modes:
        return verdict(allowed=False, reason=reason)
    return verdict(allowed=True, reason=reason, would_deny=True)


def _approval(party: Party, policy: NamespacePolicy | None) -> Approval | None:
    if policy is None or party.workload is None or party.program is None:
        return None
    return policy.find_approval(party.workload, party.program)


def _why_not(
    matching: Matcher, source_policy: NamespacePolicy | None, destination_policy: NamespacePolicy | None
) -> Reason:
    source, destination = matching.source, matching.destination
    if destination.why_unidentified is Reason.MTLS_UNAVAILABLE:
        return Reason.MTLS_UNAVAILABLE
    if not matching.destination_identified and destination_policy is not None:
        # The listener is to blame where everything else would have done.
        served = msgspec.structs.replace(matching, destination_identified=True)
        asked = destination_policy.allows[Direction.INGRESS]
        if matching.source_identified or any(
            served.allows_ingress(rule)
            for rule in asked.find_candidates(own=destination, peer=source, port=matching.port)
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
    if destination_policy is not None:
        return Reason.NO_RULE
    if (
        destination.why_unidentified is Reason.HOST_NOT_RESOLVED
        and source_policy is not None
        and any(map(matching.concerns_source, source_policy.allows[Direction.EGRESS].naming_hosts))
    ):
        return Reason.HOST_NOT_RESOLVED  # One of the rules' names may mean this address.
    return Reason.EGRESS_NOT_ALLOWED
