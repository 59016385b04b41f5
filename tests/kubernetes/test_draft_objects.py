"""Drafts as objects on a real API server: evaluated, never in force, put in force by the command, whichever release."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.main import run
from cli.text.exit_codes import ExitCode
from shared.model.policy.rules import Mode, put_draft_in_force
from shared.model.wire.messages import NamespaceChanged
from tests.ca.running import FakeSidecar, eventually
from tests.kubernetes.forwarding import NAMESPACE, running_ca_pod
from tests.kubernetes.harness.api_server import ApiServer
from tests.kubernetes.harness.processes import wait_until
from tests.kubernetes.test_crds import placed
from tests.kubernetes.test_policy_objects import accepted, apply, ask, clustered, status
from tests.kubernetes.webhook_ca import WebhookCA
from tests.releases import previous
from tests.shared.model.policy.object_cases import policy, program

ROOT = Path(__file__).parents[2]
RULE = {"name": "web", "action": "allow", "direction": "ingress", "ports": [80]}
SPEC: dict[str, Any] = {"draft": True, "mode": "explicit", "rules": [RULE], "workloadModes": {"db": "permissive"}}
DEADLINE_S = 120


@pytest.fixture(scope="module")
def server(make_api_server: Callable[..., ApiServer]) -> ApiServer:
    made = make_api_server()
    for name in ("default", NAMESPACE):
        made.create_namespace(name)
    made.kubectl("apply", "-k", str(ROOT / "manifests" / "overlays" / "single"))
    # Nothing routes its Service here: the CA's own fixture brings one with URLs.
    made.kubectl("delete", "mutatingwebhookconfiguration", "touchmark")
    made.kubectl.wait_until_established()
    return made


@pytest.fixture
def shop(server: ApiServer) -> Iterator[str]:
    name = f"shop-{uuid.uuid4().hex[:8]}"
    server.create_namespace(name)
    yield name
    server.kubectl("delete", "meshpolicies.touchmark.dev,programs.touchmark.dev", "--all", "-n", name)


async def test_a_draft_object_is_evaluated_beside_the_policy_and_ends_with_the_object(
    server: ApiServer, shop: str, tmp_path: Path
) -> None:
    async with clustered(tmp_path, server) as services:
        await eventually(lambda: services.cluster.is_leader, deadline_s=DEADLINE_S)
        async with FakeSidecar(services) as sidecar:
            await sidecar.enrol("web-1", "198.18.0.2", workload=f"{shop}/web")
            await apply(server, placed(policy(SPEC, name="draft"), shop))
            told = (await sidecar.expect(NamespaceChanged)).state
            assert (told.mode, told.rules, told.workload_modes) == (Mode.PERMISSIVE, (), ())
            assert told.draft is not None
            drafted = put_draft_in_force(told, told.draft)

            async def is_taken() -> bool:
                return accepted(await status(server, "mp", "draft", shop)) == "True"

            await eventually(is_taken, deadline_s=DEADLINE_S)
            (condition,) = (await status(server, "mp", "draft", shop))["conditions"]
            assert condition["reason"] == "Draft"
            assert "mode" not in await status(server, "mp", "draft", shop), "no mode of it is in force"
            await apply(server, placed(policy({**SPEC, "draft": False}), shop))
            enforced = (await sidecar.expect(NamespaceChanged)).state
            assert (enforced.mode, enforced.rules, enforced.workload_modes) == (
                drafted.mode,
                drafted.rules,
                drafted.workload_modes,
            )
            server.kubectl("delete", "mp", "draft", "-n", shop)
            ended = (await sidecar.expect(NamespaceChanged)).state
            assert (ended.draft, ended.rules) == (None, enforced.rules)


async def test_a_definition_of_the_previous_release_makes_no_draft_a_policy(
    server: ApiServer, shop: str, tmp_path: Path
) -> None:
    """After a downgrade the API server leaves `draft` out of what it has stored, and refuses a status of that name."""
    before = previous.unpack(tmp_path) / "manifests" / "crds" / "meshpolicies.yaml"
    await apply(server, placed(policy(SPEC, name="draft"), shop), placed(program(), shop))
    try:
        server.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(before))
        wait_until(lambda: "draft" not in server.kubectl.get("mp", "draft", "-n", shop)["spec"], timeout_s=DEADLINE_S)
        async with clustered(tmp_path / "ca", server) as services:

            async def has_looked() -> bool:
                """The leader looks at MeshPolicies before Programs."""
                return bool(await services.store.namespaces.list_programs(shop))

            await eventually(has_looked, deadline_s=DEADLINE_S)
            state = await services.store.namespaces.get_state(shop)
            assert (state.mode, state.rules, state.draft) == (Mode.PERMISSIVE, (), None)
    finally:
        server.install_definitions()
    assert (await ask(server, "mp", "draft", "-n", shop))["spec"]["draft"] is True


@pytest.fixture
def ca(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebhookCA]:
    monkeypatch.setenv("KUBECONFIG", str(server.admin))
    monkeypatch.setenv("TOUCHMARK_KUBERNETES", "1")
    own = WebhookCA(server, tmp_path)
    own.kubeconfig = server.service_account_kubeconfig(NAMESPACE, "touchmark-ca")  # With the installation's own rights.
    with own as running, running_ca_pod(server, tmp_path) as kubelet:
        kubelet.forward_to = tmp_path / "admin.sock"
        yield running


@pytest.mark.usefixtures("ca")
def test_a_draft_object_is_put_in_force_by_the_command_alone(
    server: ApiServer, shop: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(spec: dict[str, Any]) -> None:
        server.kubectl.apply(placed(policy(spec, name="draft"), shop))

    def is_taken(name: str) -> bool:
        found = server.kubectl.get("mp", name, "-n", shop)
        seen = found.get("status", {})
        return seen.get("observedGeneration") == found["metadata"]["generation"] and accepted(seen) == "True"

    write({"draft": True, "mode": "permissive", "rules": [RULE], "workloadModes": {}})
    wait_until(lambda: is_taken("draft"), timeout_s=DEADLINE_S)
    for options in (["--mode", "explicit"], ["--mode", "explicit", "--replace"], ["--drop"]):
        capsys.readouterr()
        assert run(["policy", "draft", shop, *options]) == ExitCode.CONFLICT
        assert f"what MeshPolicy {shop}/draft says" in capsys.readouterr().err
    assert run(["policy", "draft", shop]) == ExitCode.UNKNOWN
    assert "edit that object, or delete it" in capsys.readouterr().out
    assert run(["policy", "draft", shop, "--promote", "--ignore-lint"]) == ExitCode.SUCCESS
    assert server.kubectl.get("mp", "default", "-n", shop)["spec"] == {"mode": "permissive", "rules": [RULE]} | {
        "workloadModes": {}
    }
    assert server.kubectl("get", "mp", "-n", shop, "-o", "name").split() == ["meshpolicy.touchmark.dev/default"]
    # As a file, for which the policy in force is another object.
    file = tmp_path / "draft.yaml"
    for modes in ("{db: permissive}", "{}"):
        file.write_text(
            "apiVersion: touchmark.dev/v1alpha1\nkind: MeshPolicy\n"
            f"metadata: {{name: draft, namespace: {shop}}}\nspec: {{draft: true, workloadModes: {modes}}}\n"
        )
        assert run(["policy", "apply", "-f", str(file), "--ignore-lint"]) in (ExitCode.SUCCESS, ExitCode.DEADLINE)
    assert server.kubectl.get("mp", "draft", "-n", shop)["spec"] == {"draft": True, "workloadModes": {}}
    assert run(["policy", "delete", "-f", str(file)]) == ExitCode.SUCCESS
    assert server.kubectl("get", "mp", "-n", shop, "-o", "name").split() == ["meshpolicy.touchmark.dev/default"]


@pytest.mark.usefixtures("ca")
def test_a_draft_that_takes_another_tools_rule_away_isnt_put_in_force_without_that(
    server: ApiServer, shop: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Server-side apply would leave the rule, in force beside what sidecars evaluated without it."""
    old = {**RULE, "name": "old"}

    def write(name: str, spec: dict[str, Any]) -> None:
        server.kubectl.apply(placed(policy(spec, name=name), shop))

        def is_taken() -> bool:
            found = server.kubectl.get("mp", name, "-n", shop)
            seen = found.get("status", {})
            return seen.get("observedGeneration") == found["metadata"]["generation"] and accepted(seen) == "True"

        wait_until(is_taken, timeout_s=DEADLINE_S)

    write("default", {"rules": [old, RULE]})
    write("draft", {"draft": True, "rules": [RULE]})
    promote = ["policy", "draft", shop, "--promote", "--ignore-lint"]
    capsys.readouterr()
    assert run(promote) == ExitCode.CONFLICT
    assert "though the draft doesn't say it: rule old" in capsys.readouterr().err
    assert server.kubectl.get("mp", "default", "-n", shop)["spec"]["rules"] == [old, RULE]
    assert server.kubectl.get("mp", "draft", "-n", shop)["spec"]["draft"] is True
    write("default", {"rules": [RULE]})
    write("draft", {"draft": True, "rules": [RULE, old]})
    assert run(promote) == ExitCode.SUCCESS
    assert server.kubectl.get("mp", "default", "-n", shop)["spec"]["rules"] == [RULE, old]
