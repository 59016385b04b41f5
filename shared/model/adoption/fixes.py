"""What would let a refused connection pass: an approval, a rule, or advice where policy can't help. Pure.

Belongs here: the value and how one is found and tried. Doesn't: which connections are refused (``blockers.py``), or how
a fix is printed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum

import msgspec

from shared.model.identity.foreign import ForeignIdentity
from shared.model.identity.identity import Workload
from shared.model.identity.program import Program, parse_program
from shared.model.policy.documents import MeshPolicyDocument
from shared.model.policy.evaluate import NamespacePolicy, Party, compile_namespace
from shared.model.policy.reasons import EXPLANATIONS, Reason
from shared.model.policy.replay import Attempt, judge
from shared.model.policy.rules import Action, Approval, Direction, NamespaceState, Peer, PortRange, Rule

_NOT_IN_A_NAME = re.compile(r"[^a-z0-9.-]+")
_MAX_NAME = 128


class FixKind(StrEnum):
    """How a fix is applied."""

    APPROVE = "approve"
    RULE = "rule"
    ADVICE = "advice"


class Fix(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One change.

    Attributes:
        workload, program: of an approval.
        namespace, rule: of a rule: the namespace whose MeshPolicy gets it.
        advice: what a person has to do.
    """

    kind: FixKind
    workload: str = ""
    program: str = ""
    namespace: str = ""
    rule: Rule | None = None
    advice: str = ""


def approve(workload: Workload, program: Program) -> Fix:
    """Return the approval of a program for a workload."""
    return Fix(kind=FixKind.APPROVE, workload=str(workload), program=str(program))


def advise(reason: Reason, detail: str = "") -> Fix:
    """Return what people are told where no rule and no approval helps."""
    text = EXPLANATIONS[reason].fix
    return Fix(kind=FixKind.ADVICE, advice=f"{text}{_quote(detail)}" if detail else text)


def drop_detail(advice: str, detail: str) -> str:
    """Return advice without the record's detail at its end, for where that is shown beside it."""
    return advice.removesuffix(_quote(detail)) if detail else advice


def _quote(detail: str) -> str:
    return f" It said: {detail}"


def apply(fixes: Iterable[Fix], states: Mapping[str, NamespaceState]) -> dict[str, NamespaceState]:
    """Return the states with these fixes; advice changes nothing."""
    changed = dict(states)
    for fix in fixes:
        if fix.kind is FixKind.APPROVE:
            namespace, _, service_account = fix.workload.partition("/")
            state = changed.get(namespace, NamespaceState(namespace=namespace))
            changed[namespace] = with_approvals(state, ((service_account, parse_program(fix.program)),))
        elif fix.kind is FixKind.RULE and fix.rule is not None:
            state = changed.get(fix.namespace, NamespaceState(namespace=fix.namespace))
            changed[fix.namespace] = msgspec.structs.replace(state, rules=(*state.rules, fix.rule))
    return changed


def add_rule(document: MeshPolicyDocument, rule: Rule) -> MeshPolicyDocument:
    """Return a policy with one more rule, the last; where its name is taken, with a number behind it."""
    taken, name, number = {each.name for each in document.rules}, rule.name, 2
    while name in taken:
        name, number = f"{rule.name}-{number}", number + 1
    return msgspec.structs.replace(document, rules=(*document.rules, msgspec.structs.replace(rule, name=name)))


def with_approvals(state: NamespaceState, programs: Iterable[tuple[str, Program]]) -> NamespaceState:
    """Return a namespace's state in which these programs are approved as well, by service account."""
    known = {(each.service_account, each.program) for each in state.approvals}
    added = tuple(
        Approval(service_account=service_account, program=program, weak=bool(program.main))
        for service_account, program in dict.fromkeys(programs)
        if (service_account, program) not in known
    )
    return msgspec.structs.replace(state, approvals=(*state.approvals, *added))


def find_rule(attempt: Attempt, policies: Mapping[str, NamespacePolicy], reason: Reason) -> Fix:
    """Return the narrowest rule that lets this attempt pass, tried with the evaluator; advice where there is none.

    What is outside is named by its host where that is known, else by its address.

    Arguments:
        policies: in which the programs of both ends are approved; no deny rule of theirs matches.
    """
    if reason is Reason.HOST_NOT_RESOLVED:  # The rule is there: its name is to be resolved.
        return advise(reason)
    for namespace, rule in _propose(attempt, policies):
        policy = policies.get(namespace)
        if policy is None:
            continue
        # Allow rules only add up, and no deny rule matches: what this rule allows alone it allows among the others.
        alone = compile_namespace(msgspec.structs.replace(policy.state, rules=(rule,)))
        if judge(attempt, {**policies, namespace: alone}).allowed:
            return Fix(kind=FixKind.RULE, namespace=namespace, rule=rule)
    return advise(reason)


def _propose(attempt: Attempt, policies: Mapping[str, NamespacePolicy]) -> Iterator[tuple[str, Rule]]:
    """Give the rules that might do, the one to be preferred first."""
    source, destination = attempt.source, attempt.destination
    target = destination.workload or destination.listed
    ports = (PortRange(first=attempt.port, last=attempt.port),) if attempt.port else ()
    if target is not None:
        if (peer := _make_peer(source)) is not None:
            yield (
                target.namespace,
                Rule(
                    name=name_rule(describe_end(source), target.service_account, attempt.port),
                    action=Action.ALLOW,
                    direction=Direction.INGRESS,
                    workloads=(target.service_account,),
                    peers=(peer,),
                    ports=ports,
                ),
            )
        return
    if source.workload is None:
        return
    host = _find_host(destination, policies.get(source.workload.namespace))
    by_host = [(Peer(unidentified=True, hosts=(host,)), host)] if host else []
    for peer, name in (*by_host, (_make_peer(destination), describe_end(destination))):
        if peer is not None:
            yield (
                source.workload.namespace,
                Rule(
                    name=name_rule(source.workload.service_account, name, attempt.port),
                    action=Action.ALLOW,
                    direction=Direction.EGRESS,
                    workloads=(source.workload.service_account,),
                    peers=(peer,),
                    ports=ports,
                ),
            )


def _find_host(party: Party, policy: NamespacePolicy | None) -> str:
    """Return the one host that is known to have an end's address; empty: none is, or several share it.

    A sidecar says which hosts have the address: what counts is a name that the source's namespace has in a rule
    already, so that no sidecar brings a name of its own into a proposal.
    """
    if policy is None or len(party.hosts) != 1 or party.foreign is not None:
        return ""
    named = (host for rule in policy.state.rules for peer in rule.peers for host in peer.hosts)
    return party.hosts[0] if party.hosts[0] in named else ""


def _make_peer(party: Party) -> Peer | None:
    if party.foreign is not None:
        return Peer(spiffe_id=str(party.foreign))
    if party.workload is not None:
        return Peer(namespace=party.workload.namespace, service_account=party.workload.service_account)
    if party.listed is not None:
        return None
    if party.address is None:  # A question about a host, not a connection.
        return Peer(unidentified=True, hosts=party.hosts[:1]) if party.hosts else None
    return Peer(unidentified=True, cidrs=(f"{party.address}/{party.address.max_prefixlen}",))


def describe_end(party: Party) -> str:
    """Name an end for a rule's name."""
    end: Workload | ForeignIdentity | None = party.workload or party.foreign or party.listed
    host = party.hosts[0] if party.hosts else "unknown"
    return str(end if end is not None else party.address or host)


def name_rule(source: str, destination: str, port: int) -> str:
    """Name a rule by what it allows."""
    text = f"{source}-to-{destination}-{port}".lower().removeprefix("spiffe://").replace("/", "-").replace(":", "-")
    return _NOT_IN_A_NAME.sub("-", text).strip("-.")[:_MAX_NAME]
