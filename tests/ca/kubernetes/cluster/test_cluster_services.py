"""A cluster IP is its Service's ready endpoints, as kube-proxy would see them."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from ca.kubernetes.cluster import cluster_services as services
from ca.kubernetes.cluster.cluster_services import (
    EndpointSlice,
    Service,
    ServiceIndex,
    ServiceRecord,
    SliceRecord,
    trim_service,
    trim_slice,
)
from shared.model.wire.messages import ServiceEntry, ServicePort

V4, V6 = "198.19.0.10", "2001:db8::a"


def make_service(*addresses: str, name: str = "web", ports: Any = None, **spec: Any) -> ServiceRecord:
    given = [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}] if ports is None else ports
    body = {
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": "x"}},
        "spec": {"clusterIPs": list(addresses), "ports": given, **spec},
    }
    return trim_service(msgspec.json.decode(json.dumps(body), type=Service))


def make_slice(
    *endpoints: Any, name: str = "web-1", service: str = "web", kind: str = "IPv4", ports: Any = None
) -> SliceRecord:
    body = {
        "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": service}},
        "addressType": kind,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}] if ports is None else ports,
        "endpoints": [
            {"addresses": [each], "conditions": {"ready": True}} if isinstance(each, str) else each
            for each in endpoints
        ],
    }
    return trim_slice(msgspec.json.decode(json.dumps(body), type=EndpointSlice))


class Told:
    """An index, and the addresses of which it said that they have changed."""

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self.index = ServiceIndex(on_addresses=self.addresses.extend)

    def take(self) -> list[str]:
        told = sorted(self.addresses)
        self.addresses.clear()
        return told

    def entry(self, address: str = V4) -> ServiceEntry | None:
        found = self.index.get_entry(address)
        return None if found is None else found.service

    def endpoints(self, address: str = V4) -> list[tuple[str, int]]:
        entry = self.entry(address)
        return [] if entry is None else [endpoint for port in entry.ports for endpoint in port.endpoints]


def test_a_service_is_its_ports_with_the_backends_ports() -> None:
    told = Told()
    told.index.services.apply(make_service(V4))
    told.index.slices.apply(make_slice("198.18.0.3", "198.18.0.2"))
    assert told.take() == [V4, V4]
    assert told.entry() == ServiceEntry(
        namespace="shop",
        name="web",
        ports=(ServicePort(port=80, endpoints=(("198.18.0.2", 8080), ("198.18.0.3", 8080))),),
    )
    assert told.index.get_entry("198.19.0.99") is None
    assert (len(told.index), len(told.index.services), len(told.index.slices)) == (1, 1, 1)


def test_slices_before_their_service_count_as_well() -> None:
    told = Told()
    told.index.slices.apply(make_slice("198.18.0.2"))
    assert told.take() == []
    told.index.services.apply(make_service(V4))
    assert told.endpoints() == [("198.18.0.2", 8080)]


def test_only_ready_endpoints_count() -> None:
    told = Told()
    told.index.services.apply(make_service(V4))
    told.index.slices.apply(
        make_slice(
            "198.18.0.2",
            {"addresses": ["198.18.0.3"], "conditions": {"ready": False, "serving": True, "terminating": True}},
            {"addresses": ["198.18.0.4"], "conditions": {}},  # "nil should be interpreted as true"
            {"addresses": ["198.18.0.5"]},
            {"addresses": None},
        )
    )
    assert told.endpoints() == [("198.18.0.2", 8080), ("198.18.0.4", 8080), ("198.18.0.5", 8080)]


def test_several_slices_are_joined_and_an_endpoint_in_two_is_one() -> None:
    told = Told()
    told.index.services.apply(make_service(V4))
    told.index.slices.apply(make_slice("198.18.0.2", "198.18.0.3"))
    # While a Deployment changes its named port, the slices of old and new pods have other numbers.
    told.index.slices.apply(make_slice("198.18.0.9", name="web-2", ports=[{"name": "http", "port": 9090}]))
    told.index.slices.apply(make_slice("198.18.0.3", name="web-3"))
    assert told.endpoints() == [("198.18.0.2", 8080), ("198.18.0.3", 8080), ("198.18.0.9", 9090)]
    told.index.slices.remove(make_slice(name="web-1"))
    told.index.slices.remove(make_slice(name="web-1"))
    assert told.endpoints() == [("198.18.0.3", 8080), ("198.18.0.9", 9090)]


def test_each_family_has_its_own_endpoints() -> None:
    told = Told()
    told.index.services.apply(make_service(V4, V6))
    told.index.slices.apply(make_slice("198.18.0.2"))
    told.take()
    told.index.slices.apply(make_slice("2001:db8::2", name="web-6", kind="IPv6"))
    assert told.take() == [V6]
    assert told.endpoints(V4) == [("198.18.0.2", 8080)]
    assert told.endpoints(V6) == [("2001:db8::2", 8080)]


def test_ports_are_joined_by_name_and_only_tcp_counts() -> None:
    told = Told()
    ports = [
        {"name": "http", "port": 80},
        {"name": "db", "port": 5432, "protocol": "TCP"},
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "nobody", "port": 99},
    ]
    of_slice = [
        {"name": "db", "port": 15432, "protocol": "TCP"},
        {"name": "http", "port": 8080},
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "nobody", "port": None},
    ]
    told.index.services.apply(make_service(V4, ports=ports))
    told.index.slices.apply(make_slice("198.18.0.2", ports=of_slice))
    entry = told.entry()
    assert entry is not None
    assert [(port.port, port.endpoints) for port in entry.ports] == [
        (80, (("198.18.0.2", 8080),)),
        (5432, (("198.18.0.2", 15432),)),
        (99, ()),
    ]


def test_the_one_port_without_a_name_is_joined_with_its_like() -> None:
    told = Told()
    told.index.services.apply(make_service(V4, ports=[{"port": 80}]))
    told.index.slices.apply(make_slice("198.18.0.2", ports=[{"name": "", "port": 8080}]))
    assert told.endpoints() == [("198.18.0.2", 8080)]


@pytest.mark.parametrize(
    ("spec", "affinity_s"),
    [
        ({}, 0),
        ({"sessionAffinity": "None"}, 0),
        ({"sessionAffinity": "ClientIP"}, 10_800),
        ({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}}, 60),
    ],
)
def test_session_affinity_has_its_time(spec: dict[str, Any], affinity_s: int) -> None:
    assert make_service(V4, **spec).affinity_s == affinity_s


def test_headless_and_external_services_have_no_address() -> None:
    told = Told()
    told.index.services.apply(make_service("None"))
    told.index.services.apply(
        trim_service(
            msgspec.json.decode(
                '{"metadata": {"name": "out", "namespace": "shop"}, "spec": {"type": "ExternalName"}}', type=Service
            )
        )
    )
    assert told.take() == []
    assert len(told.index) == 0
    assert make_slice("example.test", kind="FQDN").ready == ()
    told.index.slices.apply(
        trim_slice(
            msgspec.json.decode(
                '{"metadata": {"name": "x"}, "addressType": "IPv4", "endpoints": null, "ports": null}',
                type=EndpointSlice,
            )
        )
    )


def test_a_change_is_told_once_and_no_change_not_at_all() -> None:
    told = Told()
    told.index.services.apply(make_service(V4))
    told.index.slices.apply(make_slice("198.18.0.2"))
    told.take()
    told.index.services.apply(make_service(V4))
    told.index.slices.apply(make_slice("198.18.0.2"))
    assert told.take() == []
    told.index.slices.apply(make_slice("198.18.0.2", service="other"))
    assert told.take() == [V4]
    assert told.endpoints() == []


def test_a_service_that_goes_leaves_its_address() -> None:
    told = Told()
    told.index.services.apply(make_service(V4))
    told.take()
    told.index.services.apply(make_service("198.19.0.11"))
    assert told.take() == [V4, "198.19.0.11"]
    assert told.entry(V4) is None
    told.index.services.remove(make_service("198.19.0.11"))
    told.index.services.remove(make_service("198.19.0.11"))
    assert told.take() == ["198.19.0.11"]
    assert len(told.index) == 0


def test_a_cluster_ip_given_to_another_service_stays_with_it() -> None:
    told = Told()
    told.index.services.apply(make_service(V4, name="old"))
    told.index.services.apply(make_service(V4, name="new"))
    told.index.services.remove(make_service(V4, name="old"))
    entry = told.entry()
    assert entry is not None and entry.name == "new"


def test_lists_replace_what_was_known() -> None:
    told = Told()
    told.index.services.replace([make_service(V4), make_service("198.19.0.11", name="other")])
    told.index.slices.replace([make_slice("198.18.0.2"), make_slice("198.18.0.3", name="web-2")])
    told.take()
    told.index.services.replace([make_service(V4)])
    told.index.slices.replace([make_slice("198.18.0.3", name="web-2")])
    assert told.take() == [V4, "198.19.0.11"]
    assert told.endpoints() == [("198.18.0.3", 8080)]


def test_a_huge_service_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "MAX_ENDPOINTS", 3)
    told = Told()
    told.index.services.apply(make_service(V4))
    told.index.slices.apply(make_slice(*(f"198.18.0.{number}" for number in range(1, 9))))
    assert len(told.endpoints()) == 3
