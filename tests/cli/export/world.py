"""A mesh of three namespaces, and its pods, that every engine's export is made of."""

from __future__ import annotations

from typing import Any

from cli.export.engine import Engine
from cli.export.plan import Effect, make_plan
from cli.export.report import Export, export
from cli.export.resolving import Resolver
from cli.export.selectors import Selectors, choose_selectors
from shared.model.identity.program import Program
from shared.model.kubernetes.contract import INJECTED, SYSTEM_NAMESPACE
from shared.model.policy.rules import (
    Action,
    Approval,
    Direction,
    Mode,
    NamespaceState,
    Peer,
    PortRange,
    Requirement,
    Rule,
    WorkloadLabels,
)

PROGRAM = Program(digest="ab" * 32)
HTTP = (PortRange(first=8080, last=8080),)

RULES = (
    Rule(name="from-bank", action=Action.ALLOW, workloads=("web",), peers=(Peer(namespace="bank"),), ports=HTTP),
    Rule(
        name="from-office",
        action=Action.ALLOW,
        workloads=("web", "db"),
        peers=(Peer(unidentified=True, cidrs=("198.51.100.0/24", "2001:db8::/32")),),
        ports=(PortRange(first=8080, last=8089), PortRange(first=9090, last=9090)),
    ),
    Rule(
        name="partner",
        action=Action.ALLOW,
        peers=(Peer(spiffe_id="spiffe://partner.example/ns/a/sa/b"), Peer(namespace="bank", service_account="teller")),
        ports=HTTP,
    ),
    Rule(
        name="Only This/Program",
        action=Action.ALLOW,
        workloads=("db",),
        programs=(PROGRAM,),
        peers=(Peer(namespace="bank", service_account="teller", program=PROGRAM),),
    ),
    Rule(
        name="no-curl",
        action=Action.DENY,
        peers=(Peer(namespace="bank", service_account="teller", program=PROGRAM),),
    ),
    Rule(
        name="not-the-batch",
        action=Action.DENY,
        workloads=("db",),
        peers=(Peer(namespace="bank", service_account="batch"),),
    ),
    Rule(name="nobody", action=Action.DENY, workloads=("db",), ports=(PortRange(first=22, last=22),)),
    Rule(
        name="to-api",
        action=Action.ALLOW,
        direction=Direction.EGRESS,
        workloads=("web",),
        peers=(Peer(unidentified=True, cidrs=("203.0.113.7/32",)), Peer(namespace="bank")),
        ports=(PortRange(first=443, last=443),),
    ),
    Rule(
        name="not-out",
        action=Action.DENY,
        direction=Direction.EGRESS,
        peers=(Peer(unidentified=True, cidrs=("203.0.113.128/25",)),),
    ),
)
SHOP = NamespaceState(
    namespace="shop",
    version=7,
    mode=Mode.EXPLICIT,
    rules=RULES,
    approvals=(Approval(service_account="web", program=PROGRAM),),
    requires=(Requirement.OWN_SOCKETS,),
)
BANK = NamespaceState(
    namespace="bank",
    version=3,
    rules=(
        Rule(
            name="shop-in",
            action=Action.ALLOW,
            workloads=("teller",),
            peers=(Peer(namespace="shop", service_account="web"),),
            ports=(PortRange(first=5432, last=5432),),
        ),
    ),
)
STATES = {each.namespace: each for each in (SHOP, BANK, NamespaceState(namespace="empty"))}


def make_pod(
    namespace: str, account: str, labels: dict[str, str], *, ports: tuple[int, ...] = (), **changes: Any
) -> Any:
    return {
        "metadata": {
            "namespace": namespace,
            "name": f"{account}-0",
            "labels": {**labels, "pod-template-hash": "abc"},
            "annotations": changes.pop("annotations", {INJECTED: "0.2.0"}),
        },
        "spec": {
            "serviceAccountName": account,
            "containers": [{"name": "main", "ports": [{"containerPort": port} for port in ports]}],
            **changes,
        },
        "status": {"phase": "Running"},
    }


PODS = [
    make_pod("shop", "web", {"app": "web", "tier": "front"}, ports=(8080,)),
    make_pod("shop", "db", {"app": "db"}, ports=(5432,)),
    make_pod("bank", "teller", {"app": "teller"}, ports=(5432,)),
    make_pod("bank", "batch", {"app": "batch"}),
]


def make_selectors() -> Selectors:
    return choose_selectors(PODS)


def make_resolver(namespace: str = "shop", *, as_explicit: bool = False) -> Resolver:
    return Resolver(plan=make_plan(namespace, STATES, as_explicit=as_explicit), selectors=make_selectors())


def export_all(engine: Engine, *, as_explicit: bool = False) -> Export:
    return export(
        engine, sorted(STATES), STATES, make_selectors(), as_explicit=as_explicit, system_namespace=SYSTEM_NAMESPACE
    )


def list_losses(resolver: Resolver, effect: Effect) -> dict[str, str]:
    """Return the losses of one effect: the last message of each rule."""
    return {each.rule: each.message for each in resolver.losses if each.effect is effect}


def make_outward(action: Action, *peers: Peer, ports: tuple[PortRange, ...] = ()) -> Resolver:
    """Return an explicit namespace of one egress rule, ``shop/out``."""
    rule = Rule(name="out", action=action, direction=Direction.EGRESS, peers=peers, ports=ports)
    state = NamespaceState(namespace="shop", mode=Mode.EXPLICIT, rules=(rule,))
    return Resolver(plan=make_plan("shop", {"shop": state}), selectors=make_selectors())


def find_specs(objects: list[Any], rule: str = "shop/out") -> list[Any]:
    """Return the specs of the objects that a rule is behind."""
    return [each["spec"] for each in objects if each["metadata"].get("annotations") == {"touchmark.dev/rule": rule}]


INTERNET = Peer(unidentified=True, cidrs=("0.0.0.0/0", "::/0"))
LABELLED = NamespaceState(
    namespace="red",
    mode=Mode.EXPLICIT,
    group_label="team",
    labels=(
        WorkloadLabels(service_account="a", labels={"team": "x"}),
        WorkloadLabels(service_account="b", labels={"team": "y"}),
        WorkloadLabels(service_account="c", labels={}),
    ),
)
