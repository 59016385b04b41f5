"""Both sides' answers, for workloads, addresses and recorded decisions."""

from __future__ import annotations

import msgspec
import pytest

from cli.commands.explain import read_end, split_port
from cli.main import run
from cli.text.exit_codes import ExitCode
from shared.model.errors import InputError
from shared.model.identity.program import Program
from shared.model.policy.modes import make_modes
from shared.model.policy.rules import Action, Approval, Direction, Mode, NamespaceState, Peer, Rule
from shared.model.wire.admin import DecisionList, NamespaceList, SidecarList
from tests.cli.cluster.observation.test_named_ends import make_pod, make_service
from tests.cli.edges import ALLOW, list_edges, make_edge
from tests.cli.edges import DB as DB_END
from tests.cli.edges import WEB as WEB_END
from tests.cli.fake_api import FakeAPI, make_status
from tests.cli.fake_ca import FakeCA
from tests.cli.observations import DENIAL, SIDECAR

WEB, DB = Program(digest="a" * 64), Program(digest="b" * 64)


@pytest.fixture
def shop(ca: FakeCA) -> FakeCA:
    approvals = (Approval(service_account="web", program=WEB), Approval(service_account="db", program=DB))
    ca.answers["GET /v1/namespaces"] = NamespaceList(
        namespaces=(NamespaceState(namespace="shop", version=3, mode=Mode.EXPLICIT, approvals=approvals),)
    )
    ca.answers["GET /v1/sidecars"] = SidecarList(sidecars=())
    return ca


def test_two_approved_programs_of_one_namespace_are_allowed_by_both_sides(
    shop: FakeCA, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["explain", "shop/web", "shop/db:5432"]) == ExitCode.SUCCESS
    printed = capsys.readouterr().out
    assert "port 5432: allowed" in printed
    assert printed.count("allow, same_group") == 2
    assert "source's side (shop, explicit, version 3)" in printed


def test_a_refusal_ends_with_3_and_says_what_is_missing(shop: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", f"bank/teller@sha256:{'c' * 64}", "shop/web:80"]) == ExitCode.CHECK_FAILED
    printed = capsys.readouterr().out
    assert "destination's side (shop, explicit, version 3): DENY, program_not_approved" in printed
    assert f"touchmark program approve bank/teller sha256:{'c' * 64}" in printed
    assert "add to spec.rules of MeshPolicy shop/default:" in printed
    assert run(["explain", "shop/web", "192.0.2.7:443", "--json"]) == ExitCode.CHECK_FAILED
    (side,) = msgspec.json.decode(capsys.readouterr().out)["sides"]
    assert (side["verdict"]["reason"], side["missing"][0][1]["rule"]["direction"]) == ("egress_not_allowed", "egress")


def test_a_workload_that_nobody_knows_is_named_with_what_follows(
    shop: FakeCA, capsys: pytest.CaptureFixture[str]
) -> None:
    permissive = NamespaceState(
        namespace="shop", approvals=(Approval(service_account="web", program=WEB),),
        workload_modes=make_modes({"db": Mode.PERMISSIVE}),
    )  # fmt: skip
    shop.answers["GET /v1/namespaces"] = NamespaceList(namespaces=(permissive,))
    assert run(["explain", "shop/wbe", "shop/db:5432"]) == ExitCode.UNKNOWN
    printed = capsys.readouterr().out
    assert "port 5432: allowed" in printed
    assert "? shop/wbe isn't known" in printed
    assert "(did you mean shop/web?)" in printed
    assert "ask about its address instead" in printed
    assert run(["explain", "shop/wbe", "shop/db:5432", "--json"]) == ExitCode.UNKNOWN
    assert msgspec.json.decode(capsys.readouterr().out)["unknown"] == ["shop/wbe"]
    assert run(["explain", "shop/web", "shop/db:5432"]) == ExitCode.SUCCESS
    printed = capsys.readouterr().out
    assert "isn't known" not in printed
    assert "? no program of shop/db is approved" in printed, "else its certificate is missed, and not its approval"
    assert "`touchmark program approve shop/db --from-decisions`" in printed
    assert "shop/web is" not in printed


def test_a_pod_is_its_workload_and_a_service_what_it_was_seen_to_lead_to(
    shop: FakeCA, capsys: pytest.CaptureFixture[str]
) -> None:
    pod = msgspec.structs.replace(SIDECAR, instance="web-5d9f", workload="shop/web")
    shop.answers["GET /v1/sidecars"] = SidecarList(sidecars=(pod,))
    edge = make_edge(WEB_END, DB_END, msgspec.structs.replace(ALLOW, service="shop/orders:80"), port=5432)
    shop.answers["GET /v1/namespaces/shop/edges"] = list_edges(edge)
    assert run(["explain", "shop/web-5d9f", "shop/orders:80"]) == ExitCode.SUCCESS
    printed = capsys.readouterr().out
    assert "shop/web " in printed and "shop/db " in printed and "port 5432: allowed" in printed
    assert "shop/web-5d9f is shop/web\n" in printed
    assert "shop/orders is shop/db, port 5432\n" in printed
    assert run(["explain", "shop/web-5d9f", "shop/orders:80", "--json"]) == ExitCode.SUCCESS
    assert msgspec.json.decode(capsys.readouterr().out)["resolved"] == [
        {"asked": "shop/web-5d9f", "end": "shop/web", "port": None},
        {"asked": "shop/orders", "end": "shop/db", "port": 5432},
    ]
    assert run(["explain", "shop/db", "shop/web-5d9f:80"]) == ExitCode.SUCCESS
    other = make_edge(WEB_END, WEB_END, msgspec.structs.replace(ALLOW, service="shop/orders:80"), port=80)
    shop.answers["GET /v1/namespaces/shop/edges"] = list_edges(edge, other)
    run(["explain", "shop/web", "shop/orders:80"])
    assert "? shop/orders isn't known" in capsys.readouterr().out, "it leads to two workloads"


def test_a_host_is_explained_by_the_rules_that_name_it(shop: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "shop/web", "api.example.com:443"]) == ExitCode.CHECK_FAILED
    printed = capsys.readouterr().out
    assert "→ api.example.com, port 443: REFUSED" in printed
    assert "hosts:\n" in printed
    assert run(["explain", "shop/web", "*.example.com:443"]) == ExitCode.BAD_INPUT
    assert "wildcard" in capsys.readouterr().err


def test_who_asks_about_an_address_is_told_of_rules_that_name_hosts(
    shop: FakeCA, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["explain", "shop/web", "192.0.2.7:443"]) == ExitCode.CHECK_FAILED
    printed = capsys.readouterr().out
    assert "→ unidentified 192.0.2.7, port 443: REFUSED" in printed
    assert "host instead" not in printed
    courier = Rule(
        name="courier", action=Action.ALLOW, direction=Direction.EGRESS,
        peers=(Peer(unidentified=True, hosts=("api.courier.example",)),),
    )  # fmt: skip
    shop.answers["GET /v1/namespaces"] = NamespaceList(
        namespaces=(NamespaceState(namespace="shop", mode=Mode.EXPLICIT, rules=(courier,)),)
    )
    assert run(["explain", "shop/web", "192.0.2.7:443"]) == ExitCode.CHECK_FAILED
    assert "ask about the host instead (api.courier.example)" in capsys.readouterr().out
    assert run(["explain", "shop/web", "other.example:443"]) == ExitCode.CHECK_FAILED
    assert "host instead" not in capsys.readouterr().out


def test_a_recorded_decision_is_explained_by_the_current_rules(
    shop: FakeCA, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.answers["GET /v1/decisions"] = DecisionList(decisions=(DENIAL,))
    assert run(["explain", str(DENIAL.id)]) == ExitCode.CHECK_FAILED
    assert "program_not_approved" in capsys.readouterr().out
    assert run(["explain", "99999"]) == ExitCode.NOT_FOUND
    assert run(["explain", "shop/web"]) == ExitCode.BAD_INPUT


def test_ends_are_read_as_records_show_them(shop: FakeCA) -> None:
    states = {state.namespace: state for state in shop.answers["GET /v1/namespaces"].namespaces}
    assert read_end("shop/web", states, ()).program == str(WEB)
    assert read_end("2001:db8::7", states, ()).address == "[2001:db8::7]:0"
    assert read_end("spiffe://elsewhere.example/x", states, ()).identity == "spiffe://elsewhere.example/x"
    assert read_end("bank/teller", states, ()).why == "peer_unidentified"
    two = NamespaceState(
        namespace="shop", approvals=tuple(Approval(service_account="web", program=each) for each in (WEB, DB))
    )
    with pytest.raises(InputError, match="which one"):
        read_end("shop/web", {"shop": two}, ())
    assert split_port("[2001:db8::7]:443") == ("2001:db8::7", 443)
    for text in ("shop/web", "shop/web:0", "shop/web:x"):
        with pytest.raises(InputError):
            split_port(text)


def test_a_pod_and_a_service_are_resolved_by_the_cluster_with_the_users_rights(
    cluster_ca: FakeCA, api: FakeAPI, capsys: pytest.CaptureFixture[str]
) -> None:
    approvals = (Approval(service_account="web", program=WEB), Approval(service_account="db", program=DB))
    state = NamespaceState(namespace="shop", version=3, mode=Mode.EXPLICIT, approvals=approvals)
    cluster_ca.answers["GET /v1/namespaces"] = NamespaceList(namespaces=(state,))
    cluster_ca.answers["GET /v1/sidecars"] = SidecarList(sidecars=())
    pods = "GET /api/v1/namespaces/shop/pods"
    api.answers[f"{pods}/web-0"] = make_pod("web-0", account="web")
    api.answers[pods] = {"items": [make_pod("db-0"), make_pod("db-1")]}
    api.answers["GET /api/v1/namespaces/shop/services/db"] = make_service({"port": 5432, "targetPort": "sql"})
    assert run(["explain", "pod/web-0", "svc/db", "-n", "shop", "-k"]) == ExitCode.SUCCESS
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].endswith("port 5433: allowed")
    assert printed[-2:] == ["pod/shop/web-0 is shop/web", "svc/shop/db is shop/db, port 5433 (2 pods)"]
    assert ("labelSelector", "app=db") in api.requests[-1][1].items()
    assert run(["explain", f"pod/shop/web-0@{'c' * 64}", "shop/db:5433", "-k", "--json"]) == ExitCode.CHECK_FAILED
    answer = msgspec.json.decode(capsys.readouterr().out)
    assert answer["source"]["program"] == f"sha256:{'c' * 64}"
    assert answer["resolved"] == [{"asked": f"pod/shop/web-0@{'c' * 64}", "end": f"shop/web@{'c' * 64}", "port": None}]
    for wrong in (["svc/shop/db", "shop/db:80"], ["shop/web", "pod/shop/web-0"]):
        assert run(["explain", *wrong, "-k"]) == ExitCode.BAD_INPUT
    assert run(["explain", "shop/web", "svc/shop/cache:80", "-k"]) == ExitCode.NOT_FOUND
    api.answers[pods] = make_status(403, "Forbidden", "you cannot list pods")
    assert run(["explain", "shop/web", "svc/shop/db", "-k"]) == ExitCode.REFUSED
    assert "list pods" in capsys.readouterr().err


def test_outside_a_cluster_nobody_knows_pods(shop: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "shop/web", "svc/shop/db:5432"]) == ExitCode.BAD_INPUT
    assert "known to a cluster alone" in capsys.readouterr().err
