"""One connection's way to a Service. That connections follow it is shown by ``tests/sidecar/test_outbound.py``."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction
from shared.model.wire.messages import ServiceEntry, ServicePort
from sidecar.connection.connection import Connection, Refused
from sidecar.connection.parties import Parties
from sidecar.routing.route import MAX_ENDPOINTS_TRIED, Route, Router
from sidecar.routing.service_endpoints import Endpoints
from sidecar.tunnel.dial_failures import DialFailures

ENDPOINTS = tuple((f"198.18.1.{number}", 8080) for number in range(1, 6))
SERVICE = ServiceEntry(namespace="shop", name="api", ports=(ServicePort(port=80, endpoints=ENDPOINTS),))


def a_route() -> tuple[Route, DialFailures, Any]:
    parties = Parties(Direction.EGRESS, source=("198.18.0.1", 1), destination=("198.18.255.1", 80))
    parties.issuer = "x"
    connection = SimpleNamespace(parties=parties, detail="", tunnel="y")
    failures = DialFailures()
    router = Router(
        directory=cast("Any", None),
        endpoints=Endpoints(lambda _: 0),
        failures=failures,
        tunnel_port=15008,
        timeout_s=30,
    )
    return Route(cast("Connection", connection), router), failures, connection


def test_the_connection_is_turned_to_the_endpoint_and_nothing_of_the_one_before_stays() -> None:
    route, _, connection = a_route()
    route.take_endpoint(SERVICE, now=0)
    assert (connection.parties.destination_endpoint, connection.parties.port) == (ENDPOINTS[0], 8080)
    assert str(connection.parties.destination.address) == "198.18.1.1"
    parties = connection.parties
    assert (parties.peer, parties.destination_identity, parties.issuer, connection.tunnel) == (None, None, "", "")
    assert route.dialled == ("198.18.255.1", 80)
    assert parties.service == "shop/api:80"  # The record's: by which Service, and its port.


def test_no_more_than_three_endpoints_are_tried_each_once() -> None:
    route, _, connection = a_route()
    assert not route.may_try_another()
    seen = []
    for turn in range(MAX_ENDPOINTS_TRIED):
        route.take_endpoint(SERVICE, now=0)
        seen.append(connection.parties.destination_endpoint)
        assert route.may_try_another() is (turn < MAX_ENDPOINTS_TRIED - 1)
    assert seen == list(ENDPOINTS[:3])


@pytest.mark.parametrize("failed", [(ENDPOINTS[0][0], 15008), ENDPOINTS[0]])
def test_an_endpoint_whose_tunnel_or_own_port_failed_lately_is_avoided(failed: tuple[str, int]) -> None:
    route, failures, connection = a_route()
    failures.note(failed, now=0)
    route.take_endpoint(SERVICE, now=1)
    assert connection.parties.destination_endpoint != ENDPOINTS[0]


def test_an_endpoint_that_another_program_couldnt_dial_isnt_avoided() -> None:
    route, failures, connection = a_route()
    failures.note(ENDPOINTS[0], program="another", now=0)
    route.take_endpoint(SERVICE, now=1)
    assert connection.parties.destination_endpoint == ENDPOINTS[0]


def test_the_detail_names_the_service_once() -> None:
    route, _, connection = a_route()
    assert (route.describe(""), route.describe("why")) == ("", "why")
    refused = Refused(Reason.NO_RULE, "why")
    assert route.explain(refused) is refused
    route.take_endpoint(SERVICE, now=0)
    route.take_endpoint(SERVICE, now=0)
    assert connection.detail == "service shop/api"
    assert route.describe(route.describe("why")) == "service shop/api; why"
    explained = route.explain(refused)
    assert (explained.reason, explained.detail) == (Reason.NO_RULE, "service shop/api; why")
    with pytest.raises(Refused, match="service shop/api has no ready endpoint for port 80") as caught:
        route.take_endpoint(ServiceEntry(namespace="shop", name="api", ports=(ServicePort(port=80),)), now=0)
    assert caught.value.reason is Reason.DESTINATION_UNREACHABLE
