"""What a namespace allows and refuses, as flows that an engine which knows no programs could enforce. Pure.

Belongs here: the meaning of rules, mesh groups and mode without programs, and what that loses. Doesn't: any engine's
objects (one module each), pods and their labels (``selectors.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from shared.model.policy.rules import Action, Direction, Mode, NamespaceState, Peer, PortRange, Rule

SAME_GROUP = "same mesh group"


class Effect(StrEnum):
    """What a loss does: the engine allows more than Touchmark, or less, or it is only good to know."""

    LOOSER = "looser"
    STRICTER = "stricter"
    NOTE = "note"


class Loss(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """Something that the engine can't say as Touchmark does.

    Attributes:
        rule: ``namespace/name``, or only the namespace where no single rule is meant.
    """

    rule: str
    effect: Effect
    message: str

    def __str__(self) -> str:
        return f"{self.effect}: {self.rule}: {self.message}"


class End(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """The other end of a flow. All empty: any workload of the mesh.

    Attributes:
        hosts: names of what is outside the mesh.
        spiffe_id: of another trust domain; may end with ``/*``.
        is_everyone: members, strangers and addresses alike; only of what is refused.
    """

    namespace: str = ""
    service_account: str = ""
    cidrs: tuple[str, ...] = ()
    spiffe_id: str = ""
    is_everyone: bool = False
    hosts: tuple[str, ...] = ()

    @property
    def is_member(self) -> bool:
        """Whether this is one or more workloads of the mesh, and nothing else."""
        return not (self.cidrs or self.hosts or self.spiffe_id or self.is_everyone)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """Connections of one direction that are allowed or refused.

    Attributes:
        rule: ``namespace/name`` of the rule that says so, or ``SAME_GROUP``.
        own: service accounts of the namespace that is exported; empty: all.
        ports: the backend's; empty: all.
    """

    rule: str
    direction: Direction
    denies: bool = False
    own: tuple[str, ...] = ()
    ends: tuple[End, ...]
    ports: tuple[PortRange, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One namespace's flows, in a stable order.

    Attributes:
        is_closed: what no flow allows is refused; otherwise only what flows refuse is.
    """

    namespace: str
    version: int
    is_closed: bool
    flows: tuple[Flow, ...]
    losses: tuple[Loss, ...]


def make_plan(namespace: str, states: Mapping[str, NamespaceState], *, as_explicit: bool = False) -> Plan:
    """Read a namespace's flows out of all namespaces' states.

    Rules of other namespaces count where they let workloads of this one out to theirs.

    Arguments:
        states: by namespace, those in force.
        as_explicit: as if the namespace were explicit.
    """
    state = states.get(namespace) or NamespaceState(namespace=namespace)
    is_closed = as_explicit or state.mode is Mode.EXPLICIT
    losses = list(_describe_losses(state, is_closed=is_closed))
    flows = [flow for rule in state.rules for flow in _read_rule(namespace, rule)]
    if is_closed:
        flows += _list_group(state, states)
        for other in sorted(set(states) - {namespace}):
            for rule in states[other].rules:
                found = _read_foreign_rule(namespace, other, rule)
                flows += found
                if found and rule.programs:
                    losses.append(_narrowed(f"{other}/{rule.name}", rule))
    else:
        flows = [flow for flow in flows if flow.denies]
    return Plan(
        namespace=namespace,
        version=state.version,
        is_closed=is_closed,
        flows=tuple(sorted(flows, key=_order)),
        losses=tuple(sorted(set(losses))),
    )


def _order(flow: Flow) -> tuple[object, ...]:
    return (not flow.denies, flow.direction, flow.rule, flow.own, flow.ends, [(p.first, p.last) for p in flow.ports])


def _read_rule(namespace: str, rule: Rule) -> list[Flow]:
    denies = rule.action is Action.DENY
    if _names_programs(rule) and denies:
        return []  # Refusing the whole workload would break its other programs; the loss says that nothing is refused.
    ends = tuple(sorted(map(_read_peer, rule.peers))) if rule.peers else (End(is_everyone=denies),)
    if rule.direction is Direction.EGRESS and not denies:
        # Out of the namespace, an allow rule is asked only about what is outside the mesh.
        ends = tuple(each for each in ends if not each.is_member)
    if not ends:
        return []
    return [
        Flow(
            rule=f"{namespace}/{rule.name}",
            direction=rule.direction,
            denies=denies,
            own=tuple(sorted(rule.workloads)),
            ends=ends,
            ports=rule.ports,
        )
    ]


def _read_peer(peer: Peer) -> End:
    return End(
        namespace=peer.namespace,
        service_account=peer.service_account,
        cidrs=tuple(sorted(peer.cidrs)),
        hosts=tuple(sorted(peer.hosts)),
        spiffe_id=peer.spiffe_id,
    )


def _read_foreign_rule(namespace: str, other: str, rule: Rule) -> list[Flow]:
    """Return what another namespace's rule lets out of this one."""
    if rule.action is Action.DENY or rule.direction is Direction.EGRESS:
        return []
    accounts: set[str] = set()
    for peer in rule.peers or (Peer(),):
        if not peer.unidentified and not peer.spiffe_id and peer.namespace in ("", namespace):
            accounts.add(peer.service_account)
    if not accounts:
        return []
    ends = [End(namespace=other, service_account=each) for each in sorted(rule.workloads)] or [End(namespace=other)]
    own = () if "" in accounts else tuple(sorted(accounts))
    return [Flow(rule=f"{other}/{rule.name}", direction=Direction.EGRESS, own=own, ends=tuple(ends), ports=rule.ports)]


def _list_group(state: NamespaceState, states: Mapping[str, NamespaceState]) -> list[Flow]:
    """Return the flows among a mesh group: the namespace, or all workloads of the same vouched label."""
    if not state.group_label:
        end = End(namespace=state.namespace)
        return [Flow(rule=SAME_GROUP, direction=each, ends=(end,)) for each in (Direction.INGRESS, Direction.EGRESS)]
    groups: dict[str, list[End]] = {}
    for each in states.values():
        if each.group_label == state.group_label:
            for entry in each.labels:
                if (value := entry.labels.get(state.group_label)) is not None:
                    end = End(namespace=each.namespace, service_account=entry.service_account)
                    groups.setdefault(value, []).append(end)
    return [
        Flow(rule=SAME_GROUP, direction=direction, own=own, ends=tuple(sorted(ends)))
        for _, ends in sorted(groups.items())
        if (own := tuple(sorted(e.service_account for e in ends if e.namespace == state.namespace)))
        for direction in (Direction.INGRESS, Direction.EGRESS)
    ]


def _names_programs(rule: Rule) -> bool:
    return bool(rule.programs) or any(peer.program is not None for peer in rule.peers)


def _narrowed(name: str, rule: Rule) -> Loss:
    if rule.action is Action.DENY:
        return Loss(rule=name, effect=Effect.LOOSER, message="refuses programs, which can't be said: it is left out")
    return Loss(rule=name, effect=Effect.LOOSER, message="names programs: any program of the workload is allowed")


def _describe_losses(state: NamespaceState, *, is_closed: bool) -> list[Loss]:
    name = state.namespace
    losses = [
        _narrowed(f"{name}/{rule.name}", rule)
        for rule in state.rules
        if _names_programs(rule) and (is_closed or rule.action is Action.DENY)
    ]
    if state.requires:
        required = ", ".join(state.requires)
        losses.append(Loss(rule=name, effect=Effect.LOOSER, message=f"requires {required}, which can't be said"))
    for each in state.workload_modes:
        if (each.mode is Mode.EXPLICIT) is not is_closed:
            effect = Effect.STRICTER if is_closed else Effect.LOOSER
            message = f"{each.service_account} is {each.mode} by a mode of its own, which isn't exported"
            losses.append(Loss(rule=name, effect=effect, message=message))
    if is_closed:
        message = f"only {len(state.approvals)} approved programs are let through; which program it is can't be said"
        losses.append(Loss(rule=name, effect=Effect.NOTE, message=message))
    else:
        message = (
            "permissive: what no rule allows passes and is marked (would deny), which can't be said; only deny rules"
            " are exported. --explicit exports what explicit mode would enforce"
        )
        losses.append(Loss(rule=name, effect=Effect.NOTE, message=message))
    return losses
