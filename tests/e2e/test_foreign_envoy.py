"""Envoy as a foreign peer, in both directions: mutual TLS with URI SANs on its own terms. `make test-peers` runs it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from bench.subjects.envoy import envoy_binary
from shared.model.policy.decision import Answer, Ending, Transport
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Action, Direction, Peer, Rule
from tests.e2e.harness.mesh import wait_until
from tests.e2e.harness.pods import end
from tests.e2e.harness.till import DIALLED, SERVED, Till
from tests.sidecar.partner import BILLING

pytestmark = [pytest.mark.needs_root, pytest.mark.peers]

ENTRANCE, BACKEND = 7001, 7002
_TYPE = "type.googleapis.com/envoy.extensions"
LET_IN = Rule(name="partner-in", action=Action.ALLOW, peers=(Peer(spiffe_id=BILLING),))
LET_OUT = Rule(name="partner-out", action=Action.ALLOW, direction=Direction.EGRESS, peers=(Peer(spiffe_id=BILLING),))


def _common(till: Till) -> dict[str, Any]:
    prefix = "spiffe://touchmark.local/ns/shop/sa/till/sha256/"
    return {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [
            {"certificate_chain": {"filename": str(till.chain)}, "private_key": {"filename": str(till.key)}}
        ],
        "validation_context": {
            "trusted_ca": {"filename": str(till.mesh_roots)},
            "match_typed_subject_alt_names": [
                {"san_type": "URI", "matcher": {"exact": f"{prefix}{till.program.digest}"}}
            ],
        },
    }


def _tls(kind: str, context: dict[str, Any]) -> dict[str, Any]:
    config = {"@type": f"{_TYPE}.transport_sockets.tls.v3.{kind}", **context}
    return {"name": "envoy.transport_sockets.tls", "typed_config": config}


def _endpoint(address: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": address, "port_value": port}}


def _proxy(name: str, listen: dict[str, Any], leads_to: dict[str, Any], **sides: dict[str, Any]) -> dict[str, Any]:
    filters = [
        {
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": {
                "@type": f"{_TYPE}.filters.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": name,
                "cluster": name,
            },
        }
    ]
    chain = {"filters": filters, **({"transport_socket": sides["downstream"]} if "downstream" in sides else {})}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": leads_to}}]}]
    cluster = {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "10s",
        "load_assignment": {"cluster_name": name, "endpoints": endpoints},
        **({"transport_socket": sides["upstream"]} if "upstream" in sides else {}),
    }
    return {"listener": {"name": name, "address": listen, "filter_chains": [chain]}, "cluster": cluster}


@contextmanager
def running_envoy(till: Till) -> Iterator[None]:
    """Envoy outside the mesh: a plain entrance that leads to the till, and an mTLS one before a backend of its own."""
    pod, common = till.mesh.outsider, _common(till)
    proxies = [
        _proxy("out", _endpoint("127.0.0.1", ENTRANCE), _endpoint(till.address, SERVED),
               upstream=_tls("UpstreamTlsContext", {"common_tls_context": common})),
        _proxy("in", _endpoint("0.0.0.0", DIALLED), _endpoint("127.0.0.1", BACKEND),
               downstream=_tls("DownstreamTlsContext",
                               {"common_tls_context": common, "require_client_certificate": True})),
    ]  # fmt: skip
    resources = {"listeners": [each["listener"] for each in proxies], "clusters": [each["cluster"] for each in proxies]}
    file = till.mesh.directory / "envoy.json"
    file.write_text(json.dumps({"static_resources": resources}))
    log = (till.mesh.directory / "envoy.log").open("w")
    command = [str(envoy_binary()), "-c", str(file), "--concurrency", "1", "--use-dynamic-base-id", "-l", "warning"]
    envoy = pod.start(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_until(
            lambda: {f":{port} " in pod.run("ss", "-Hltn").stdout for port in (ENTRANCE, DIALLED)} == {True}, "Envoy"
        )
        yield
    finally:
        end(envoy)
        log.close()


def test_envoy_reaches_the_program_under_a_rule_that_names_it(till: Till) -> None:
    with running_envoy(till):
        client = till.mesh.run(till.mesh.make_program("envoys-client"), till.mesh.outsider)
        till.be_explicit()
        assert client.do("exchange", "127.0.0.1", ENTRANCE, "bread").startswith("<")
        till.sidecar.log.expect_denied(Reason.FOREIGN_NOT_ALLOWED, port=SERVED)
        till.be_explicit(LET_IN)
        # Envoy passes a half-close on as close_notify, and the program's own end back.
        assert client.do("exchange", "127.0.0.1", ENTRANCE, "bread") == "bread<end>"
        sent, received, *_ = client.do("exchange_bulk", "127.0.0.1", ENTRANCE, 4 * 1024 * 1024)
        assert sent == received
        record = till.sidecar.log.expect(Answer.ALLOW, Reason.ALLOW_RULE, port=SERVED)
    assert (record.source.identity, record.transport, record.ending) == (BILLING, Transport.MTLS, Ending.FINISHED)


def test_the_program_reaches_envoy_which_verifies_its_hash(till: Till) -> None:
    outsider = till.mesh.outsider
    backend = till.mesh.run(till.mesh.make_program("envoys-backend"), outsider)
    assert backend.do("listen", "127.0.0.1", BACKEND, "answer") == "listening"
    with running_envoy(till):
        buyer = till.mesh.run(till.program, till.sidecar.pod)
        till.be_explicit(LET_OUT)
        assert buyer.do("exchange", outsider.address, DIALLED, "bread") == "got bread<end>"
        record = till.sidecar.log.expect(Answer.ALLOW, Reason.ALLOW_RULE, port=DIALLED)
        assert (record.destination.identity, record.transport, record.ending) == (
            BILLING, Transport.MTLS, Ending.FINISHED,
        )  # fmt: skip
        # Envoy goes by the hash in our URI: another approved program of the same workload isn't let in there.
        other = till.mesh.make_program("other-till")
        till.mesh.approve("shop/till", other)
        assert till.mesh.run(other, till.sidecar.pod).do("exchange", outsider.address, DIALLED, "bread").startswith("<")
