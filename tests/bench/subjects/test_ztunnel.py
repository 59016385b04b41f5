"""ztunnel's settings: the server's side allows the client alone, and nothing that it sends itself meets it again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.subjects import ztunnel
from bench.subjects.subject import Backends, Network

NETWORK = Network(client="198.18.0.1", server="198.18.0.2", enter=("nsenter",))
BACKENDS = Backends(http=("198.18.0.2", 1001), sink=("198.18.0.2", 1002), network=NETWORK)


def test_each_side_serves_its_own_workload_and_only_the_client_may_reach_the_server() -> None:
    workloads, policies = ztunnel.local_configuration(NETWORK).split("policies:")
    assert "serviceAccount: client, trustDomain: cluster.local, workloadIps: [198.18.0.1], protocol: HBONE" in workloads
    assert "serviceAccount: server, trustDomain: cluster.local, workloadIps: [198.18.0.2], protocol: HBONE" in workloads
    assert (
        "action: Allow, dryRun: false, rules: [[[{principals: [!Exact cluster.local/ns/default/sa/client]}]]]"
        in policies
    )
    for side in ("client", "server"):
        settings = ztunnel.environment(side, Path("/x"))
        assert settings["PROXY_WORKLOAD_INFO"] == f"default/{side}/{side}"
        assert (settings["COMPLIANCE_POLICY"], settings["ZTUNNEL_WORKER_THREADS"]) == ("pqc", "1")


def test_its_own_connections_arent_redirected_to_it_again() -> None:
    mark = ztunnel.environment("client", Path("/x"))["PACKET_MARK"]
    rules = ztunnel.client_rules(BACKENDS, NETWORK)
    assert f"ip daddr 198.18.0.2 tcp dport {{ 1001, 1002 }} meta mark != {mark} redirect to :15001" in rules


def test_without_the_program_or_the_network_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(BenchError, match="isn't on PATH") as caught, ztunnel.run_ztunnel(tmp_path, BACKENDS):
        pass
    assert "performance.md" in caught.value.hint
    on_loopback = Backends(http=("127.0.0.1", 1001), sink=("127.0.0.1", 1002))
    with pytest.raises(BenchError) as caught, ztunnel.run_ztunnel_no_reuse(tmp_path, on_loopback):
        pass
    assert caught.value.hint == "--namespaces"
