"""The engines that rules are exported to. Pure; the command line is built from it."""

from __future__ import annotations

from enum import StrEnum


class Engine(StrEnum):
    """What policies are exported to."""

    NETWORK_POLICY = "networkpolicy"
    CLUSTER_NETWORK_POLICY = "clusternetworkpolicy"
    CILIUM = "cilium"
    ISTIO = "istio"
    LINKERD = "linkerd"
