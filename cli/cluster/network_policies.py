"""Would a NetworkPolicy drop what the mesh needs? The policies' own meaning, evaluated against our ports. Pure.

Source: https://kubernetes.io/docs/concepts/services-networking/network-policies/ and the API's reference
(networking.k8s.io/v1). A policy that lets an application's port through and not the tunnel's breaks every connection
between meshed pods, because it is the tunnel that travels. Policies that let nothing through from one pod to another
are meant so, and no fault.

What this can't know: what a network plugin adds (its own policies; how it takes ``ipBlock`` for pods), and whether it
enforces policies at all. Traffic between a pod and its own node (the kubelet's probes) passes whatever policies say,
as Kubernetes defines it; not every plugin holds to that.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from shared.model.kubernetes.contract import HEALTH_PORT, STREAM_PORT, TUNNEL_PORT, WEBHOOK_PORT

MAX_GROUPS: Final = 200
_ALL: Final = ((1, 65_535),)

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PodGroup:
    """Pods that no policy tells apart.

    Attributes:
        example: the name of one of them.
        labels: of the pods.
        addresses: of some of them.
        ports: container ports by name.
    """

    namespace: str
    example: str
    labels: Mapping[str, str] = field(default_factory=dict)
    addresses: tuple[str, ...] = ()
    ports: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.example}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """Something that the mesh needs and policies drop.

    Attributes:
        port: TCP, at the destination.
        side: ``egress`` of the source or ``ingress`` of the destination.
        source, destination: the pods; a name for what is no pod.
        policies: ``namespace/name`` of those that isolate that side. One of them, or a further one, has to allow it.
    """

    port: int
    side: str
    source: str
    destination: str
    policies: tuple[str, ...]


class NetworkPolicies:
    """A cluster's policies, ready to be asked.

    Arguments:
        policies: NetworkPolicy objects.
        namespaces: namespace → its labels.
    """

    def __init__(self, policies: Iterable[Mapping[str, Any]], namespaces: Mapping[str, Mapping[str, str]]) -> None:
        self._by_namespace: dict[str, list[Mapping[str, Any]]] = {}
        for policy in policies:
            self._by_namespace.setdefault(policy["metadata"]["namespace"], []).append(policy)
        self._namespaces = namespaces
        self._applying: dict[tuple[str, str], list[Mapping[str, Any]]] = {}  # By group and side: asked for each pair.

    def find_tunnel_drops(self, groups: Sequence[PodGroup]) -> list[Drop]:
        """Return where applications may speak and the tunnel may not, among meshed pods."""
        drops = []
        for source in groups:
            for destination in groups:
                out = self.allow_egress(source, destination)
                into = self.allow_ingress(source, destination)
                if _intersect(out, into):
                    drops += self._find_drops(source, destination, TUNNEL_PORT, out, into)
        return drops

    def find_stream_drops(self, groups: Sequence[PodGroup], ca: PodGroup) -> list[Drop]:
        """Return which meshed pods can't reach the CA."""
        drops = []
        for source in groups:
            out, into = self.allow_egress(source, ca), self.allow_ingress(source, ca)
            drops += self._find_drops(source, ca, STREAM_PORT, out, into)
        return drops

    def find_webhook_drops(self, ca: PodGroup) -> list[Drop]:
        """Return whether the API server, which is no pod that a selector could name, can't reach the webhook."""
        return self._find_outside_drops([ca], WEBHOOK_PORT, "the API server")

    def find_probe_drops(self, groups: Sequence[PodGroup]) -> list[Drop]:
        """Return where no policy allows probes, so that only Kubernetes' exception for a pod's own node does."""
        return self._find_outside_drops(groups, HEALTH_PORT, "the kubelet")

    def allow_egress(self, source: PodGroup, destination: PodGroup) -> Ranges:
        """Return the TCP ports of ``destination`` that ``source`` may dial, as its own side's policies say."""
        return self._allow(source, "egress", destination, ports_of=destination)

    def allow_ingress(self, source: PodGroup, destination: PodGroup) -> Ranges:
        """Return the TCP ports of ``destination`` that ``source`` may dial, as the destination's policies say."""
        return self._allow(destination, "ingress", source, ports_of=destination)

    def _find_outside_drops(self, groups: Sequence[PodGroup], port: int, source: str) -> list[Drop]:
        drops = []
        for group in groups:
            rules = self._list_rules(group, "ingress")
            if rules is not None and not any(
                _contains(_read_ports(rule, group), port)
                for _, rule in rules
                if not rule.get("from") or any(peer.get("ipBlock") for peer in rule["from"])
            ):
                policies = self._name_isolating(group, "ingress")
                drops.append(Drop(port=port, side="ingress", source=source, destination=str(group), policies=policies))
        return drops

    def _find_drops(self, source: PodGroup, destination: PodGroup, port: int, out: Ranges, into: Ranges) -> list[Drop]:
        drops = []
        for side, isolated, allowed in (("egress", source, out), ("ingress", destination, into)):
            if not _contains(allowed, port):
                drops.append(
                    Drop(
                        port=port,
                        side=side,
                        source=str(source),
                        destination=str(destination),
                        policies=self._name_isolating(isolated, side),
                    )
                )
        return drops

    def _allow(self, isolated: PodGroup, side: str, peer: PodGroup, *, ports_of: PodGroup) -> Ranges:
        rules = self._list_rules(isolated, side)
        if rules is None:
            return _ALL
        end = "from" if side == "ingress" else "to"
        allowed: list[tuple[int, int]] = []
        for namespace, rule in rules:
            peers = rule.get(end)
            if not peers or any(self._is_peer(each, peer, namespace) for each in peers):
                allowed += _read_ports(rule, ports_of)
        return tuple(allowed)

    def _list_rules(self, group: PodGroup, side: str) -> list[tuple[str, Mapping[str, Any]]] | None:
        """Return the rules that apply to a group, with their namespace; None when nothing isolates it."""
        applying = self._list_applying(group, side)
        if not applying:
            return None
        return [(group.namespace, rule) for policy in applying for rule in (policy.get("spec") or {}).get(side) or ()]

    def _list_applying(self, group: PodGroup, side: str) -> list[Mapping[str, Any]]:
        key = (str(group), side)
        if key not in self._applying:
            self._applying[key] = [
                policy
                for policy in self._by_namespace.get(group.namespace, ())
                if side in _read_sides(policy)
                and is_selected((policy.get("spec") or {}).get("podSelector"), group.labels)
            ]
        return self._applying[key]

    def _name_isolating(self, group: PodGroup, side: str) -> tuple[str, ...]:
        return tuple(
            sorted(f"{group.namespace}/{policy['metadata']['name']}" for policy in self._list_applying(group, side))
        )

    def _is_peer(self, peer: Mapping[str, Any], group: PodGroup, namespace: str) -> bool:
        if block := peer.get("ipBlock"):
            return any(_is_in_block(address, block) for address in group.addresses)
        if (selector := peer.get("namespaceSelector")) is not None:
            if not is_selected(selector, self._namespaces.get(group.namespace, {})):
                return False
        elif group.namespace != namespace:
            return False
        return peer.get("podSelector") is None or is_selected(peer["podSelector"], group.labels)


def group_pods(pods: Iterable[Mapping[str, Any]]) -> list[PodGroup]:
    """Put pods into groups by namespace and labels. What differs between pods of one template is left out.

    Bounded by the caller: see ``MAX_GROUPS``.
    """
    groups: dict[tuple[str, tuple[tuple[str, str], ...]], PodGroup] = {}
    for pod in pods:
        metadata, spec, status = pod.get("metadata") or {}, pod.get("spec") or {}, pod.get("status") or {}
        labels = {key: value for key, value in (metadata.get("labels") or {}).items() if key not in _PER_POD}
        key = (metadata.get("namespace", ""), tuple(sorted(labels.items())))
        if key in groups:
            continue
        containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
        groups[key] = PodGroup(
            namespace=metadata.get("namespace", ""),
            example=metadata.get("name", ""),
            labels=labels,
            addresses=tuple(each["ip"] for each in status.get("podIPs") or () if each.get("ip")),
            ports={
                port["name"]: port["containerPort"]
                for container in containers
                for port in container.get("ports") or ()
                if port.get("name") and port.get("protocol", "TCP") == "TCP"
            },
        )
    return list(groups.values())


def is_selected(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Return whether a LabelSelector selects; an empty one selects everything."""
    selector = selector or {}
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(_holds(each, labels) for each in selector.get("matchExpressions") or ())


_PER_POD: Final = frozenset(
    {
        "apps.kubernetes.io/pod-index",
        "batch.kubernetes.io/controller-uid",
        "batch.kubernetes.io/job-completion-index",
        "controller-revision-hash",
        "controller-uid",
        "pod-template-hash",
        "statefulset.kubernetes.io/pod-name",
    }
)


def _holds(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, operator, values = expression.get("key", ""), expression.get("operator"), expression.get("values") or ()
    match operator:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
    return False


def _read_sides(policy: Mapping[str, Any]) -> tuple[str, ...]:
    spec = policy.get("spec") or {}
    types = spec.get("policyTypes")
    if not types:  # The API server fills it in like this.
        return ("ingress", "egress") if spec.get("egress") else ("ingress",)
    return tuple(str(each).lower() for each in types)


def _read_ports(rule: Mapping[str, Any], group: PodGroup) -> Ranges:
    """Return the TCP ports that a rule names; all when it names none."""
    ports = rule.get("ports")
    if not ports:
        return _ALL
    ranges: list[tuple[int, int]] = []
    for each in ports:
        if each.get("protocol", "TCP") != "TCP":
            continue
        first = each.get("port")
        if first is None:
            ranges += _ALL
        elif isinstance(first, int):
            ranges.append((first, int(each.get("endPort") or first)))
        elif first in group.ports:
            ranges.append((group.ports[first], group.ports[first]))
    return tuple(ranges)


def _is_in_block(address: str, block: Mapping[str, Any]) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
        return parsed in ipaddress.ip_network(block.get("cidr", ""), strict=False) and not any(
            parsed in ipaddress.ip_network(each, strict=False) for each in block.get("except") or ()
        )
    except ValueError:
        return False


def _contains(ranges: Ranges, port: int) -> bool:
    return any(first <= port <= last for first, last in ranges)


def _intersect(left: Ranges, right: Ranges) -> bool:
    return any(first <= end and start <= last for first, last in left for start, end in right)
