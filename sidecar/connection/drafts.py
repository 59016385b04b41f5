"""What draft policies say of a connection, beside the policies in force: for its record, and for nothing else.

Belongs here: the drafts' verdict, as enforcing them would give it, and where it can't be known. Doesn't: the verdict
that counts (``connection.py``), compiling drafts (``sidecar/mesh/policies.py``). No I/O.

The drafts of both ends' namespaces are taken together. There is no verdict where what happened doesn't tell what they
would do:

- something other than this side's policy refused the connection;
- what refused the local program is no requirement of the draft, so that nobody knows the program;
- the draft requires that programs make their own sockets, and the policy in force doesn't: nobody has looked;
- the draft names hosts that the policy in force doesn't name for the same workloads and ports, or that weren't asked
  for again, since the policy in force had answered without them: nobody knows whether one has the address.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol
from weakref import WeakKeyDictionary

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from shared.model.policy.decision import Answer, DraftVerdict, Origin, name_draft
from shared.model.policy.evaluate import NamespacePolicy, Party, Verdict
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction, Mode, PortRange, Requirement, Rule
from sidecar.connection.parties import Parties, PolicySource, evaluate_once

_REQUIREMENTS: Final = {
    Reason.PROCESS_ORIGIN: Requirement.CONTAINER_ORIGIN,
    Reason.SOCKET_NOT_OWN: Requirement.OWN_SOCKETS,
}
# Said where no rule allows an address outside the mesh: by a name's address another one could have.
_BY_HOSTS: Final = frozenset({Reason.EGRESS_NOT_ALLOWED, Reason.HOST_NOT_RESOLVED})
# Where the policy in force says so, names aren't asked for again (``sidecar/outbound.py``).
_SETTLED: Final = frozenset({Reason.ALLOW_RULE, Reason.DENY_RULE})
# A host as rules name it: workloads, ports, name.
_Named = tuple[tuple[str, ...], tuple[PortRange, ...], str]
# Hosts by policy: as those in force name them, and as its draft does.
_hosts: WeakKeyDictionary[NamespacePolicy, tuple[frozenset[_Named], frozenset[_Named]]] = WeakKeyDictionary()


class Decided(Protocol):
    """What is asked of a connection."""

    @property
    def parties(self) -> Parties:
        """Both ends."""

    @property
    def verdict(self) -> Verdict | None:
        """The latest decision."""

    @property
    def refusal(self) -> Reason | None:
        """Why it was refused."""

    @property
    def refused_in_explicit(self) -> Reason | None:
        """Why explicit mode would have closed it, where permissive mode let it go on."""


def judge_by_drafts(
    connection: Decided,
    policies: PolicySource,
    source_policy: NamespacePolicy | None,
    destination_policy: NamespacePolicy | None,
) -> DraftVerdict | UnsetType:
    """Return what the drafts say of a connection that is recorded now; unset: nothing, or it isn't known.

    Arguments:
        source_policy, destination_policy: of both ends' namespaces, as ``Parties.find_policies`` found them.
    """
    parties, enforced = connection.parties, connection.verdict
    if (source_policy is None or source_policy.draft is None) and (
        destination_policy is None or destination_policy.draft is None
    ):
        return UNSET  # As for nearly all: each connection is asked about when it is recorded.
    drafts = tuple(
        dict.fromkeys(
            name_draft(each.state.namespace, each.state.draft.number)
            for each in (source_policy, destination_policy)
            if each is not None and each.state.draft is not None
        )
    )
    if enforced is None or (connection.refusal is not None and enforced.allowed):
        return UNSET
    own = policies.own.draft or policies.own
    is_egress = parties.direction is Direction.EGRESS
    local = parties.source if is_egress else parties.destination
    required = _REQUIREMENTS.get(local.why_unidentified) if local.why_unidentified is not None else None
    if required is not None and required not in own.state.requires:
        return UNSET
    local = _require_origin(parties, local, own)
    verdict = evaluate_once(
        parties.direction,
        local if is_egress else parties.source,
        parties.destination if is_egress else local,
        parties.port,
        _with_draft(source_policy),
        _with_draft(destination_policy),
    )
    if verdict.allowed and Requirement.OWN_SOCKETS in own.state.requires and not _looks_for_sockets(policies):
        return UNSET
    if verdict.reason in _BY_HOSTS and _is_unresolved(policies.own, verdict.reason, enforced.reason):
        return UNSET
    return _describe(verdict, connection.refused_in_explicit, drafts)


def _require_origin(parties: Parties, local: Party, own: NamespacePolicy) -> Party:
    """Return the local end as it is where its program must descend from its container's first process."""
    attestation = parties.attestation
    if (
        Requirement.CONTAINER_ORIGIN not in own.state.requires
        or attestation is None
        or local.program is None
        or attestation.origin is Origin.CONTAINER
    ):
        return local
    return replace(local, program=None, why_unidentified=Reason.PROCESS_ORIGIN)


def _looks_for_sockets(policies: PolicySource) -> bool:
    return Requirement.OWN_SOCKETS in policies.own.state.requires


def _is_unresolved(own: NamespacePolicy, reason: Reason, enforced_reason: Reason) -> bool:
    """Tell whether the draft's names were not all looked up, or others failed that it doesn't name."""
    if own.draft is None:
        return False
    known = _hosts.get(own)
    if known is None:
        known = _hosts[own] = (_list_hosts(own.state.rules), _list_hosts(own.draft.state.rules))
    enforced, drafted = known
    if not drafted <= enforced or (drafted and enforced_reason in _SETTLED):
        return True
    return reason is Reason.HOST_NOT_RESOLVED and drafted != enforced


def _list_hosts(rules: Iterable[Rule]) -> frozenset[_Named]:
    return frozenset((rule.workloads, rule.ports, host) for rule in rules for peer in rule.peers for host in peer.hosts)


def _with_draft(policy: NamespacePolicy | None) -> NamespacePolicy | None:
    return policy if policy is None or policy.draft is None else policy.draft


def _describe(verdict: Verdict, unproven: Reason | None, drafts: tuple[str, ...]) -> DraftVerdict:
    """Write a verdict as a record would have it (``describe.py``), had it been in force."""
    is_denied = not verdict.allowed or (unproven is not None and verdict.mode is Mode.EXPLICIT)
    reason = verdict.reason
    if unproven is not None and verdict.allowed and (is_denied or not verdict.would_deny):
        reason = unproven
    return DraftVerdict(
        answer=Answer.DENY if is_denied else Answer.ALLOW,
        would_deny=not is_denied and (verdict.would_deny or unproven is not None),
        reason=reason,
        rule=verdict.rule if reason is verdict.reason else "",
        drafts=drafts,
    )
