"""Whether a namespace's LimitRanges and ResourceQuotas admit a container of ours. Pure.

Source: Kubernetes documentation, "Limit Ranges" and "Resource Quotas".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final

from cli.cluster.connection import Object
from shared.model.errors import InputError
from shared.model.injection.settings import DEFAULT_CPU_REQUEST, DEFAULT_MEMORY_LIMIT, DEFAULT_MEMORY_REQUEST
from shared.model.kubernetes.quantity import parse_quantity


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a container asks for: ``requests`` and ``limits`` by resource, as Kubernetes writes quantities.

    Attributes:
        counted: what is made besides, by a quota's name for it.
    """

    what: str
    requests: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, str] = field(default_factory=dict)
    counted: Mapping[str, str] = field(default_factory=dict)


# As deployment.yaml of manifests/base and volume-claim.yaml of overlays/single ask, and as injection does by default.
POD: Final = {"pods": "1", "count/pods": "1"}
VOLUME: Final = {"persistentvolumeclaims": "1", "count/persistentvolumeclaims": "1", "requests.storage": "1Gi"}
CA: Final = Demand(what="the CA", requests={"cpu": "100m", "memory": "128Mi"}, limits={"memory": "512Mi"})
SIDECAR: Final = Demand(
    what="a sidecar",
    requests={"cpu": DEFAULT_CPU_REQUEST, "memory": DEFAULT_MEMORY_REQUEST},
    limits={"memory": DEFAULT_MEMORY_LIMIT},
)


def find_faults(demand: Demand, *, limit_ranges: Iterable[Object], quotas: Iterable[Object]) -> list[str]:
    """Return why one more such container wouldn't be admitted in a namespace; none when it would.

    Arguments:
        limit_ranges, quotas: of that namespace. Quotas with a scope are left out: whether they count isn't known.
    """
    ranges = [
        item
        for each in limit_ranges
        for item in (each.get("spec") or {}).get("limits") or ()
        if item.get("type") == "Container"
    ]
    limits = {**_merge(ranges, "default"), **demand.limits}
    requests = {**limits, **_merge(ranges, "defaultRequest"), **demand.requests}
    return [
        *(fault for item in ranges for fault in _find_range_faults(item, requests, limits)),
        *(fault for quota in quotas for fault in _find_quota_faults(quota, requests, limits, demand.counted)),
    ]


def _merge(ranges: Iterable[Object], key: str) -> dict[str, str]:
    return {name: str(value) for item in ranges for name, value in (item.get(key) or {}).items()}


def _find_range_faults(item: Object, requests: Mapping[str, str], limits: Mapping[str, str]) -> Iterator[str]:
    for name, most in (item.get("max") or {}).items():
        if name not in limits:
            yield f"a LimitRange asks for a limit of {name}"
        elif _read(limits[name]) > _read(most):
            yield f"a LimitRange allows {most} of {name} a container, and its limit is {limits[name]}"
    for name, least in (item.get("min") or {}).items():
        if name in requests and _read(requests[name]) < _read(least):
            yield f"a LimitRange asks for {least} of {name} or more, and it requests {requests[name]}"
    for name, ratio in (item.get("maxLimitRequestRatio") or {}).items():
        if name in limits and name in requests and _read(limits[name]) > _read(ratio) * _read(requests[name]):
            yield f"a LimitRange allows a limit of {ratio} times the request of {name}"


def _find_quota_faults(
    quota: Object, requests: Mapping[str, str], limits: Mapping[str, str], counted: Mapping[str, str]
) -> Iterator[str]:
    spec, status = quota.get("spec") or {}, quota.get("status") or {}
    if spec.get("scopes") or spec.get("scopeSelector"):
        return
    used = status.get("used") or {}
    name = quota["metadata"]["name"]
    for key, hard in (spec.get("hard") or {}).items():
        kind, _, resource = key.rpartition(".")
        if key in counted:
            asked = counted.get(key)
        elif resource in ("cpu", "memory") and kind in ("", "requests", "limits"):
            asked = (limits if kind == "limits" else requests).get(resource)
        else:
            continue
        if asked is None:
            yield f"the quota {name} counts {key}, so that each container has to name it"
        elif _read(asked) > _read(hard) - _read(used.get(key, "0")):
            yield f"the quota {name} has {used.get(key, '0')} of {hard} {key} in use, and it needs {asked}"


def _read(quantity: Any) -> Fraction:
    """Read what the API server has checked; what can't be read counts as nothing."""
    try:
        return Fraction(parse_quantity(str(quantity)))
    except InputError:
        return Fraction(0)
