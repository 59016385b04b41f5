"""What the sidecar serves: never its own ports, never another address."""

from __future__ import annotations

from typing import Any, cast

from shared.model.identity.identity import Workload
from sidecar.parts import Sidecar
from sidecar.sockets.address import Endpoint


def a_sidecar(applications: dict[Endpoint, Endpoint] | None) -> Sidecar:
    nothing = cast("Any", None)
    return Sidecar(
        workload=Workload(namespace="shop", service_account="db"), trust_domain="t", instance="i", attestor=nothing,
        code=nothing, credentials=nothing, directory=nothing, policies=nothing, trust=nothing, recorder=nothing,
        connections=nothing, connector=nothing, router=nothing, addresses=frozenset({"198.18.0.2"}), tunnel_port=15008,
        own_ports=frozenset({15008}), applications=applications,
    )  # fmt: skip


def test_under_redirect_an_application_is_where_it_says() -> None:
    sidecar = a_sidecar(None)
    assert sidecar.application_of("198.18.0.2", 5432) == ("198.18.0.2", 5432)
    assert sidecar.application_of("198.18.0.2", 15008) is None
    assert sidecar.application_of("198.18.0.3", 5432) is None


def test_with_listeners_only_what_is_configured_is_served() -> None:
    sidecar = a_sidecar({("198.18.0.2", 5432): ("127.0.0.1", 1)})
    assert sidecar.application_of("198.18.0.2", 5432) == ("127.0.0.1", 1)
    assert sidecar.application_of("198.18.0.2", 5433) is None
