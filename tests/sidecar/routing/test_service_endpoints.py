"""The choice of a Service's endpoint: fair, sticky where it is asked for, around what failed, and bounded."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.model.wire.messages import ServiceEntry, ServicePort
from sidecar.routing.service_endpoints import MAX_REMEMBERED, Endpoints, NoEndpointError, describe_service, has_another
from sidecar.sockets.address import Endpoint

THREE: tuple[Endpoint, ...] = (("198.18.1.1", 8080), ("198.18.1.2", 8080), ("198.18.1.3", 9090))


def service(*endpoints: Endpoint, affinity_s: int = 0) -> ServiceEntry:
    ports = (ServicePort(port=80, endpoints=endpoints), ServicePort(port=81))
    return ServiceEntry(namespace="shop", name="api", affinity_s=affinity_s, ports=ports)


def choose(
    endpoints: Endpoints, entry: ServiceEntry, *, port: int = 80, client: str = "198.18.0.1", now: float = 0.0,
    tried: tuple[Endpoint, ...] = (), failed: tuple[Endpoint, ...] = (),
) -> Endpoint:  # fmt: skip
    return endpoints.choose(
        entry, port, client=client, now=now, tried=tried, has_failed=lambda endpoint: endpoint in failed
    )


def drawing(seed: int = 1) -> Endpoints:
    return Endpoints(random.Random(seed).randrange)


def test_every_ready_endpoint_gets_its_share() -> None:
    endpoints = drawing()
    counts = Counter(choose(endpoints, service(*THREE)) for _ in range(3000))
    assert set(counts) == set(THREE)
    assert min(counts.values()) > 900
    assert len(endpoints) == 0  # Nothing is remembered where no affinity is asked for.


def test_a_client_keeps_its_endpoint_for_the_time_since_it_was_last_chosen() -> None:
    endpoints, entry = drawing(), service(*THREE, affinity_s=10)
    first = choose(endpoints, entry)
    for now in range(0, 90, 9):
        assert choose(endpoints, entry, now=now) == first
    later = {choose(endpoints, entry, now=81 + 10 * turn) for turn in range(1, 40)}
    assert later == set(THREE)


def test_clients_ports_and_services_have_endpoints_of_their_own() -> None:
    endpoints, entry = drawing(), service(*THREE, affinity_s=10)
    assert {choose(endpoints, entry, client=f"198.18.0.{number}") for number in range(50)} == set(THREE)
    assert len(endpoints) == 50


def test_affinity_ends_with_the_endpoints_readiness_and_where_it_fails() -> None:
    endpoints = drawing()
    first = choose(endpoints, service(*THREE, affinity_s=10))
    others = tuple(each for each in THREE if each != first)
    second = choose(endpoints, service(*others, affinity_s=10))
    assert second in others
    third = choose(endpoints, service(*others, affinity_s=10), failed=(second,))
    assert third not in (first, second)
    assert choose(endpoints, service(*THREE, affinity_s=10)) == third


def test_what_is_remembered_is_bounded_and_the_oldest_goes_first() -> None:
    endpoints, entry = drawing(), service(*THREE, affinity_s=10)
    for number in range(MAX_REMEMBERED + 10):
        choose(endpoints, entry, client=str(number))
    assert len(endpoints) == MAX_REMEMBERED


def test_endpoints_that_failed_are_avoided_while_there_are_others() -> None:
    endpoints, entry = drawing(), service(*THREE)
    for _ in range(50):
        assert choose(endpoints, entry, failed=THREE[:2]) == THREE[2]
    assert {choose(endpoints, entry, failed=THREE) for _ in range(50)} == set(THREE)


def test_an_endpoint_is_tried_once() -> None:
    endpoints, entry = drawing(), service(*THREE)
    assert choose(endpoints, entry, tried=THREE[:2], failed=THREE) == THREE[2]
    with pytest.raises(NoEndpointError, match="service shop/api has no endpoint for port 80 that answers"):
        choose(endpoints, entry, tried=THREE)
    assert has_another(entry, 80, THREE[:2])
    assert not has_another(entry, 80, THREE)
    assert not has_another(entry, 82, ())


def test_a_port_that_is_not_served_and_one_without_endpoints_are_told_apart() -> None:
    with pytest.raises(NoEndpointError, match="service shop/api has no port 82"):
        choose(drawing(), service(*THREE), port=82)
    with pytest.raises(NoEndpointError, match="service shop/api has no ready endpoint for port 81"):
        choose(drawing(), service(*THREE, affinity_s=1), port=81)
    assert describe_service(service()) == "service shop/api"


@given(st.sets(st.sampled_from(THREE)), st.sets(st.sampled_from(THREE)), st.integers(0, 5), st.integers(0, 99))
def test_whatever_happened_a_ready_untried_endpoint_is_chosen_if_there_is_one(
    tried: set[Endpoint], failed: set[Endpoint], affinity_s: int, seed: int
) -> None:
    endpoints, entry = drawing(seed), service(*THREE, affinity_s=affinity_s)
    choose(endpoints, entry)
    if len(tried) == len(THREE):
        with pytest.raises(NoEndpointError):
            choose(endpoints, entry, tried=tuple(tried))
        return
    chosen = choose(endpoints, entry, tried=tuple(tried), failed=tuple(failed))
    assert chosen in THREE
    assert chosen not in tried
    assert chosen not in failed or set(THREE) - tried <= failed
