"""Our objects in a cluster: made of values, and read back with the CA's words."""

from __future__ import annotations

from typing import Any

import pytest

from cli.backends import objects
from cli.cluster.connection import MESH_POLICIES, PROGRAMS
from shared.model.errors import DocumentError
from shared.model.identity.program import Program
from shared.model.policy.documents import parse_documents
from shared.model.policy.rules import Mode
from shared.model.wire.admin import ProgramRequest

DIGEST = "ab" * 32
POLICY = """\
apiVersion: touchmark.dev/v1alpha1
kind: MeshPolicy
metadata: {name: default, namespace: shop}
spec:
  rules:
  - {name: a, action: deny}
---
apiVersion: touchmark.dev/v1alpha1
kind: Program
metadata: {name: web, namespace: shop}
spec: {serviceAccount: web, digests: ["sha256:DIGEST"], weak: true}
""".replace("DIGEST", DIGEST)


def make_policy(*, generation: int = 2, observed: int = 2, accepted: str = "True", **status: Any) -> dict[str, Any]:
    return {
        "kind": "MeshPolicy",
        "metadata": {"name": "default", "namespace": "shop", "generation": generation},
        "spec": {"mode": "explicit"},
        "status": {
            "observedGeneration": observed,
            "mode": "explicit",
            "version": 7,
            "sidecars": 3,
            "installed": 2,
            "waiting": ["web-1.abc"],
            "conditions": [{"type": "Accepted", "status": accepted, "message": "spec.rules[0]: no"}],
            **status,
        },
    }


def test_a_mode_is_written_alone() -> None:
    assert objects.make_mode("shop", Mode.EXPLICIT) == {
        "apiVersion": "touchmark.dev/v1alpha1",
        "kind": "MeshPolicy",
        "metadata": {"name": "default", "namespace": "shop"},
        "spec": {"mode": "explicit"},
    }
    assert objects.MODE_MANAGER != "touchmark"


def test_a_program_is_named_after_its_digest_and_says_who_approved() -> None:
    request = ProgramRequest(
        namespace="shop", service_account="web", programs=(Program(digest=DIGEST),), approved_by="alice"
    )
    made = objects.make_program(request)
    assert made["metadata"]["name"] == f"web-{DIGEST[:12]}"
    assert made["metadata"]["annotations"] == {"touchmark.dev/approved-by": "alice"}
    assert made["spec"] == {"serviceAccount": "web", "digests": [f"sha256:{DIGEST}"]}
    view = objects.view_program({**made, "metadata": {**made["metadata"], "creationTimestamp": "1970-01-01T00:01:00Z"}})
    assert (view.programs, view.approved_by, view.approved, view.weak) == (request.programs, "alice", 60.0, False)


def test_the_approval_s_time_is_its_last_writing_not_the_status_s() -> None:
    fields = [
        {"manager": "touchmark", "time": "1970-01-01T00:02:00Z"},
        {"manager": "ca", "time": "1970-01-01T00:09:00Z", "subresource": "status"},
    ]
    metadata = {"name": "a", "namespace": "shop", "managedFields": fields}
    value = {"metadata": metadata, "spec": {"serviceAccount": "web", "digests": [DIGEST]}}
    assert objects.view_program(value).approved == 120.0


@pytest.mark.parametrize(
    "spec", [{}, {"serviceAccount": "web", "digests": ["x"]}, {"serviceAccount": "w", "digests": 1}]
)
def test_a_program_that_can_t_be_read_is_named(spec: dict[str, Any]) -> None:
    with pytest.raises(DocumentError, match="Program shop/a can't be read"):
        objects.view_program({"metadata": {"name": "a", "namespace": "shop"}, "spec": spec})


def test_documents_become_objects_and_stripped_objects_are_documents_again() -> None:
    documents = parse_documents(POLICY)
    [(first, policy), (second, program)] = objects.make_objects(documents)
    assert (first, second) == (MESH_POLICIES, PROGRAMS)
    policy["metadata"] |= {"uid": "x", "managedFields": [], "finalizers": ["y"]}
    assert objects.strip({**policy, "status": {}})["metadata"] == {"name": "default", "namespace": "shop"}
    assert program["spec"]["weak"] is True
    assert objects.make_objects([]) == []


def test_a_mode_is_read_with_what_the_ca_says() -> None:
    state = objects.read_mode("shop", make_policy())
    assert (state.wanted, state.mode, state.version) == (Mode.EXPLICIT, Mode.EXPLICIT, 7)
    assert (state.installed, state.total, state.waiting) == (2, 3, ("web-1.abc",))
    assert state.is_observed
    assert not state.fault


def test_a_status_of_an_older_generation_says_nothing_about_this_one() -> None:
    old = make_policy(generation=3, accepted="False")
    assert not objects.is_observed(old)
    assert not objects.is_accepted(old)
    assert objects.read_fault(old) == ""
    assert not objects.is_observed({"metadata": {"generation": 1}})


def test_a_refusal_is_read_with_its_reason() -> None:
    assert objects.read_fault(make_policy(accepted="False")) == "spec.rules[0]: no"
    assert not objects.is_accepted(make_policy(accepted="False"))
    assert objects.is_accepted(make_policy())


def test_rules_that_others_wrote_are_named() -> None:
    kept = {"spec": {"rules": [{"name": "a"}, {"name": "b"}]}}
    assert objects.describe_strangers(kept, {"spec": {"rules": [{"name": "a"}]}}).endswith("another tool: b")
    assert objects.describe_strangers(kept, kept) == ""


def own_modes(value: dict[str, Any], *names: str) -> dict[str, Any]:
    fields: dict[str, Any] = {"f:spec": {"f:workloadModes": {f"f:{name}": {} for name in names}}}
    entries = [
        {"manager": "helm", "fieldsV1": {"f:spec": {"f:workloadModes": {"f:web": {}}}}},
        {"manager": objects.WORKLOAD_MODES_MANAGER, "fieldsV1": fields},
    ]
    return {**value, "metadata": {**value["metadata"], "managedFields": entries}}


def test_a_workloads_mode_is_written_with_those_that_were_written_before_and_no_other_tools() -> None:
    present = own_modes(make_policy(), "db")
    present["spec"]["workloadModes"] = {"db": "explicit", "web": "permissive"}
    modes = {"db": Mode.EXPLICIT, "job": Mode.EXPLICIT, "web": Mode.PERMISSIVE}
    value = objects.make_workload_modes("shop", present, modes, ["job"])
    assert value["spec"] == {"workloadModes": {"db": "explicit", "job": "explicit"}}
    gone = objects.make_workload_modes("shop", present, {"web": Mode.PERMISSIVE}, ["db"])
    assert gone["spec"] == {"workloadModes": {}}, "and not left out, which would leave them as they are"


def test_what_is_in_force_and_nowhere_written_is_written_with_the_first_mode() -> None:
    """The CA takes what the object says for all there is."""
    modes = {"db": Mode.EXPLICIT, "web": Mode.PERMISSIVE}
    for present in (None, make_policy()):
        value = objects.make_workload_modes("shop", present, modes, ["db"])
        assert value["spec"] == {"workloadModes": {"db": "explicit", "web": "permissive"}}


def test_workloads_modes_are_read_as_written_and_else_as_they_are_in_force() -> None:
    policy = make_policy(workloadModes={"db": "explicit", "odd": 3})
    assert objects.read_workload_modes(policy) == {"db": Mode.EXPLICIT}
    policy["spec"]["workloadModes"] = {}
    assert objects.read_workload_modes(policy) == {}
    assert objects.read_mode("shop", policy).workload_modes == ()


def test_an_explicit_workload_is_forced_as_an_explicit_namespace_is() -> None:
    value = objects.make_workload_modes("shop", None, {"db": Mode.EXPLICIT}, ["db"])
    assert "annotations" in objects.force_explicit(value, mark="1")["metadata"]
    value = objects.make_workload_modes("shop", None, {"db": Mode.PERMISSIVE}, ["db"])
    assert "annotations" not in objects.force_explicit(value, mark="1")["metadata"]
    assert "annotations" in objects.force_explicit(value, mark="1", is_inherited=True)["metadata"]
