"""A pod's or a Service's name becomes the end that a connection to it has; what isn't one end is refused."""

from __future__ import annotations

from typing import Any

import pytest

from cli.cluster.observation.named_ends import ObjectName, read_name, read_pod, read_service
from shared.model.errors import InputError, NotFoundError
from shared.model.kubernetes.contract import SIDECAR_CONTAINER

HEX = "a" * 64
DB = ObjectName(kind="svc", namespace="shop", name="db")


def make_pod(
    name: str, *, account: str = "db", injected: bool = True, address: str = "198.18.0.9", **status: Any
) -> dict[str, Any]:
    sidecar = [{"name": SIDECAR_CONTAINER}] if injected else []
    ports = [{"name": "sql", "containerPort": 5433}, {"name": "udp", "containerPort": 53, "protocol": "UDP"}]
    return {
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"serviceAccountName": account, "initContainers": sidecar, "containers": [{"ports": ports}]},
        "status": {"phase": "Running", "podIP": address, **status},
    }


def make_service(*ports: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {"spec": {"selector": {"app": "db"}, "clusterIP": "192.0.2.1", "ports": list(ports), **spec}}


@pytest.mark.parametrize(
    ("text", "namespace", "name"),
    [
        ("pod/shop/web-0", "", ObjectName(kind="pod", namespace="shop", name="web-0")),
        ("po/web-0", "shop", ObjectName(kind="pod", namespace="shop", name="web-0")),
        ("svc/shop/db:5432", "", ObjectName(kind="svc", namespace="shop", name="db", port="5432")),
        ("services/db:sql", "shop", ObjectName(kind="svc", namespace="shop", name="db", port="sql")),
        (f"svc/shop/db@sha256:{HEX}", "", ObjectName(kind="svc", namespace="shop", name="db", program=f"sha256:{HEX}")),
        (
            f"pod/shop/web-0@sha256:{HEX}/main:none:80",
            "",
            ObjectName(kind="pod", namespace="shop", name="web-0", program=f"sha256:{HEX}/main:none", port="80"),
        ),
        (
            f"pod/shop/web-0@{HEX}/main:none",
            "",
            ObjectName(kind="pod", namespace="shop", name="web-0", program=f"{HEX}/main:none"),
        ),
        ("pod/web-0", "", None),  # A workload of a namespace of that name.
        ("services/billing:80", "", None),
        ("shop/web", "shop", None),
        ("api.example.com:443", "shop", None),
        ("[2001:db8::7]:443", "shop", None),
        ("spiffe://elsewhere.example/pod/x", "shop", None),
        ("", "shop", None),
        ("4711", "shop", None),
    ],
)
def test_names_are_told_from_workloads(text: str, namespace: str, name: ObjectName | None) -> None:
    assert read_name(text, namespace) == name


def test_a_pod_is_its_workload_and_a_stranger_without_a_sidecar() -> None:
    wanted = ObjectName(kind="pod", namespace="shop", name="db-0", program=HEX, port="5433")
    found = read_pod(make_pod("db-0"), wanted)
    assert (found.text, found.port, found.note) == (f"shop/db@{HEX}", 5433, "pod/shop/db-0:5433 is shop/db")
    assert read_pod(make_pod("db-0", account=""), DB).text == "shop/default"
    found = read_pod(make_pod("db-0", injected=False), DB)
    assert (found.text, found.port) == ("198.18.0.9", None)
    assert found.note.endswith("is 198.18.0.9, without a sidecar")
    with pytest.raises(NotFoundError, match="no address yet"):
        read_pod(make_pod("db-0", injected=False, address=""), DB)
    with pytest.raises(InputError, match="by number"):
        read_pod(make_pod("db-0"), ObjectName(kind="pod", namespace="shop", name="db-0", port="sql"))


@pytest.mark.parametrize(
    ("target", "spec", "port"),
    [(None, {}, 5432), (6000, {}, 6000), ("sql", {}, 5433), (6000, {"clusterIP": "None"}, 5432)],
)
def test_a_service_leads_to_its_pods_target_port(target: int | str | None, spec: dict[str, Any], port: int) -> None:
    one = {"name": "postgres", "port": 5432} | ({} if target is None else {"targetPort": target})
    pods = [make_pod("db-1"), make_pod("db-0"), make_pod("db-2", phase="Failed")]
    for asked in ("", "5432", "postgres"):
        wanted = ObjectName(kind="svc", namespace="shop", name="db", port=asked)
        found = read_service(make_service(one, {"port": 53, "protocol": "UDP"}, **spec), pods, wanted)
        assert (found.text, found.port) == ("shop/db", port)
        assert found.note.endswith(f"is shop/db, port {port} (2 pods)")


def test_more_than_one_kind_of_pods_is_asked_about_singly() -> None:
    pods = [
        make_pod("db-0"),
        make_pod("old-0", account="old"),
        make_pod("plain", injected=False, address="2001:db8::1"),
    ]
    with pytest.raises(InputError, match="3 kinds of pods") as raised:
        read_service(make_service({"port": 5432}), pods, DB)
    assert raised.value.hint == "ask about shop/db:5432 or shop/old:5432 or [2001:db8::1]:5432"


def test_a_service_outside_the_mesh_is_one_of_its_addresses_or_its_host() -> None:
    pods = [make_pod(f"plain-{index}", injected=False, address=f"198.18.0.{index}") for index in (2, 1)]
    found = read_service(make_service({"port": 5432}), pods, DB)
    assert (found.text, found.port) == ("198.18.0.1", 5432)
    assert found.note.endswith("(2 pods without a sidecar)")
    wanted = ObjectName(kind="svc", namespace="shop", name="db", port="443")
    host = {"spec": {"type": "ExternalName", "externalName": "db.example.com."}}
    assert read_service(host, (), wanted).text == "db.example.com"
    with pytest.raises(InputError, match="by number"):
        read_service(host, (), DB)


def test_a_service_without_pods_or_with_other_ports_is_nobody() -> None:
    with pytest.raises(NotFoundError, match="no pod"):
        read_service(make_service({"port": 5432}), [], DB)
    with pytest.raises(NotFoundError, match="no pod"):
        read_service(make_service({"port": 5432, "targetPort": "http"}), [make_pod("db-0")], DB)
    with pytest.raises(InputError, match="by hand"):
        read_service(make_service({"port": 5432}, selector={}), [], DB)
    with pytest.raises(InputError, match="2 TCP ports: which one"):
        read_service(make_service({"port": 80}, {"port": 443}), [make_pod("db-0")], DB)
    wanted = ObjectName(kind="svc", namespace="shop", name="db", port="81")
    with pytest.raises(InputError, match="no such TCP port") as raised:
        read_service(make_service({"port": 80}, {"port": 443}), [make_pod("db-0")], wanted)
    assert raised.value.hint == "it has 80, 443: svc/shop/db:PORT"
