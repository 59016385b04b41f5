"""What the engines' writers share: pods of a flow's ends, names of objects, ports, and the losses on the way. Pure."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from cli.export.plan import Effect, End, Flow, Loss, Plan
from cli.export.selectors import Labels, Selectors
from shared.model.kubernetes.contract import HEALTH_PORT, STREAM_PORT
from shared.model.policy.cidr import list_unmeant, parse_cidr, split_range
from shared.model.policy.rules import Direction, PortRange

Object = dict[str, Any]
T = TypeVar("T")

NAMESPACE_LABEL: Final = "kubernetes.io/metadata.name"
DEFAULT_NAME: Final = "touchmark-default"
DNS_NAMESPACE: Final = "kube-system"
DNS_LABELS: Final[Labels] = {"k8s-app": "kube-dns"}
CA_LABELS: Final[Labels] = {"app.kubernetes.io/name": "touchmark-ca"}
ANYWHERE: Final = ("0.0.0.0/0", "::/0")
DNS_PORT: Final = 53
_NEEDS: Final = {DNS_PORT: "the cluster's DNS", STREAM_PORT: "the CA", HEALTH_PORT: f"port {HEALTH_PORT} for probes"}
_BITS: Final = {4: 32, 6: 128}
_MAX_NAME: Final = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolver:
    """Finds pods by labels for one plan, and gathers what is lost."""

    plan: Plan
    selectors: Selectors
    losses: list[Loss] = field(default_factory=list)

    def lose(self, rule: str, effect: Effect, message: str) -> None:
        """Record a loss, once."""
        loss = Loss(rule=rule, effect=effect, message=message)
        if loss not in self.losses:
            self.losses.append(loss)

    def note(self, messages: Sequence[str]) -> None:
        """Record what holds for the whole namespace: the engine's own limits, then what all have."""
        name = self.plan.namespace
        for each in (*messages, "UDP and SCTP are refused but for DNS; Touchmark leaves them alone"):
            self.lose(name, Effect.NOTE, each)
        if count := self.selectors.outside.get(name):
            self.lose(name, Effect.STRICTER, f"{count} pods without a sidecar are isolated as well")

    def find_own(self, flow: Flow) -> list[Labels]:
        """Return labels of the flow's own pods, each on its own; ``{}``: all of the namespace."""
        if not flow.own:
            return [{}]
        return [labels for each in flow.own for labels in self.find_pods(self.plan.namespace, each, flow)]

    def find_pods(self, namespace: str, service_account: str, flow: Flow) -> list[Labels]:
        """Return labels of a workload's pods; ``{}``: all of the namespace, where no service account is named."""
        if not service_account:
            return [{}]
        workload = f"{namespace}/{service_account}"
        found = self.selectors.find(workload)
        if found is None:
            effect = Effect.LOOSER if flow.denies else Effect.STRICTER
            self.lose(flow.rule, effect, f"{workload} has no pod whose labels could be named (--pods names them)")
            return []
        if found.others:
            effect = Effect.STRICTER if flow.denies else Effect.LOOSER
            self.lose(flow.rule, effect, f"the labels of {workload}'s pods select pods of {found.others} as well")
        return list(found.selectors)

    def describe_addresses(self, flow: Flow) -> None:
        """Record that an engine matches addresses of pods of the mesh as well, where Touchmark asks for strangers."""
        if any(each.cidrs for each in flow.ends):
            effect = Effect.STRICTER if flow.denies else Effect.LOOSER
            self.lose(flow.rule, effect, "an address is matched although the peer shows an identity")

    def describe_kept(self, flow: Flow, port: int) -> None:
        """Record that a refusal leaves a port open that sidecars need."""
        self.lose(flow.rule, Effect.LOOSER, f"leaves out what sidecars need: {_NEEDS[port]}")

    def skip(self, flow: Flow, end: End, *, what: str = "") -> None:
        """Record that one end of a flow can't be said."""
        effect = Effect.LOOSER if flow.denies else Effect.STRICTER
        self.lose(flow.rule, effect, f"{what or describe_end(end)} can't be said: left out")


def describe_end(end: End) -> str:
    """Write an end for people."""
    if end.spiffe_id:
        return end.spiffe_id
    if end.cidrs:
        return ", ".join(end.cidrs)
    if end.hosts:
        return f"the host{'s' if len(end.hosts) > 1 else ''} {', '.join(end.hosts)}"
    if end.is_everyone:
        return "everyone"
    return f"{end.namespace or 'every namespace'}/{end.service_account or '*'}"


def reaches(flow: Flow, port: int) -> bool:
    """Return whether a port is among a flow's."""
    return not flow.ports or any(each.first <= port <= each.last for each in flow.ports)


def is_among(namespace: str, end: End) -> bool:
    """Return whether pods of a namespace may be among an end's, by what they are and not by address."""
    return end.is_everyone or (end.is_member and end.namespace in ("", namespace))


def list_exceptions(cidr: str) -> list[str]:
    """Return the networks within an allow rule's network that it doesn't mean: clouds' metadata addresses."""
    return [str(ipaddress.ip_network(each)) for each in list_unmeant(parse_cidr(cidr))]


def cut_exceptions(cidr: str) -> list[str]:
    """Return an allow rule's network as the networks around its exceptions, for an engine that has no exceptions."""
    found = parse_cidr(cidr)
    start, bits = found.prefix << found.shift, _BITS[found.version]
    end, parts = start + (1 << found.shift), list[tuple[int, int]]()
    for exception in list_unmeant(found):
        parts += split_range(start, int(exception) - 1)
        start = int(exception) + 1
    parts += split_range(start, end - 1)
    address = ipaddress.IPv4Address if found.version == 4 else ipaddress.IPv6Address
    return [f"{address(prefix << shift)}/{bits - shift}" for shift, prefix in parts]


def name_object(*parts: str) -> str:
    """Return an object's name: readable, a DNS label, and another one for each input: two rules never share one."""
    slug = re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]
    return f"{slug[: _MAX_NAME - 9].strip('-')}-{digest}"


def name_flow(flow: Flow, *more: str) -> str:
    """Return an object's name for a flow."""
    side = "in" if flow.direction is Direction.INGRESS else "out"
    return name_object("touchmark", side, flow.rule, *more)


def chunk(items: Sequence[T], size: int) -> list[list[T]]:
    """Cut into lists of at most ``size``."""
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def expand_ports(ports: Iterable[PortRange], limit: int) -> list[int] | None:
    """Return single ports; None when there are more than ``limit``."""
    ports = list(ports)
    if sum(each.last - each.first + 1 for each in ports) > limit:
        return None
    return sorted({port for each in ports for port in range(each.first, each.last + 1)})


def make_object(api: str, kind: str, name: str, spec: Object, *, namespace: str = "", rule: str = "") -> Object:
    """Return an object; where a rule is behind it, an annotation names it."""
    metadata: Object = {"name": name}
    if namespace:
        metadata["namespace"] = namespace
    metadata["labels"] = {"app.kubernetes.io/managed-by": "touchmark-export"}
    if rule:
        metadata["annotations"] = {"touchmark.dev/rule": rule}
    return {"apiVersion": api, "kind": kind, "metadata": metadata, "spec": spec}
