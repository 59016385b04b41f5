"""MeshPolicy and Program objects on a real API server: they reach store and sidecars, and tell what became of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ca.runtime.compose import RunningCA
from shared.model.policy.rules import Mode
from shared.model.wire.messages import NamespaceChanged, NamespaceInstalled
from tests.ca.conftest import postgresql as postgresql
from tests.ca.postgresql import PostgreSQL
from tests.ca.running import Admin, FakeSidecar, eventually, running_ca
from tests.kubernetes.harness.api_server import ApiServer
from tests.kubernetes.test_crds import placed
from tests.shared.model.policy.object_cases import A, policy, program

RULE = {"name": "web", "action": "allow", "ports": [80]}
Get = Callable[[str], Any]


@pytest.fixture(scope="module", autouse=True)
def installed(api_server: ApiServer) -> None:
    api_server.install_definitions()
    api_server.create_namespace("touchmark-system")


@pytest.fixture
def shop(api_server: ApiServer, namespace: str) -> Iterator[str]:
    """A namespace whose objects are gone after the test, so that they are in no later one's store."""
    yield namespace
    for kind in ("meshpolicies", "programs"):
        api_server.kubectl("delete", f"{kind}.touchmark.dev", "--all", "-n", namespace)


@contextlib.asynccontextmanager
async def clustered(directory: Path, api_server: ApiServer, **options: Any) -> AsyncIterator[RunningCA]:
    """A CA in the cluster, which it has read."""
    directory.mkdir(exist_ok=True)
    settings: dict[str, Any] = {"kubernetes": True, "sidecar_images": ("example.test/sidecar:1",), **options}
    async with running_ca(directory, kubeconfig=api_server.admin, **settings) as services:
        cluster = services.cluster
        await eventually(lambda: cluster.is_synced, deadline_s=60)
        yield services


async def ask(api_server: ApiServer, *arguments: str) -> Any:
    return await asyncio.to_thread(api_server.kubectl.get, *arguments)


async def apply(api_server: ApiServer, *documents: dict[str, Any]) -> None:
    await asyncio.to_thread(api_server.kubectl.apply, *documents)


async def status(api_server: ApiServer, kind: str, name: str, namespace: str) -> dict[str, Any]:
    found: dict[str, Any] = (await ask(api_server, kind, name, "-n", namespace)).get("status", {})
    return found


def accepted(status: dict[str, Any]) -> str:
    for condition in status.get("conditions", []):
        if condition["type"] == "Accepted":
            return str(condition["status"])
    return ""


async def test_an_applied_policy_reaches_the_sidecar_and_its_status_says_so(
    api_server: ApiServer, shop: str, tmp_path: Path
) -> None:
    async with clustered(tmp_path, api_server) as services:
        await eventually(lambda: services.cluster.is_leader, deadline_s=60)
        async with FakeSidecar(services) as sidecar:
            await sidecar.enrol("web-1", "198.18.0.2", workload=f"{shop}/web")
            await apply(api_server, placed(policy({"mode": "explicit", "rules": [RULE]}), shop))
            changed = await sidecar.expect(NamespaceChanged)
            assert (changed.state.namespace, changed.state.mode) == (shop, Mode.EXPLICIT)
            assert [rule.name for rule in changed.state.rules] == ["web"]

            async def is_waiting() -> bool:
                return (await status(api_server, "mp", "default", shop)).get("waiting") == ["web-1"]

            await eventually(is_waiting, deadline_s=60)
            await sidecar.send(NamespaceInstalled(namespace=shop, version=changed.state.version))

            async def is_installed() -> bool:
                found = await status(api_server, "mp", "default", shop)
                return bool(found.get("installed") == 1 and found["waiting"] == [] and accepted(found) == "True")

            await eventually(is_installed, deadline_s=60)
            found = await status(api_server, "mp", "default", shop)
            assert (found["mode"], found["version"], found["sidecars"]) == ("explicit", changed.state.version, 1)
            assert found["observedGeneration"] == 1

            # The admin API writes none of it: the objects would take it back.
            async with Admin(services) as admin:
                refused = await admin.fail("PUT", f"/v1/namespaces/{shop}/mode", 409, {"mode": "permissive"})
                assert "MeshPolicy" in refused.message

            await apply(api_server, placed(program(digests=[A]), shop))
            assert (await sidecar.expect(NamespaceChanged)).state.approvals[0].name == "postgres"

            async def is_approved() -> bool:
                return accepted(await status(api_server, "prog", "postgres", shop)) == "True"

            await eventually(is_approved, deadline_s=60)
            await asyncio.to_thread(api_server.kubectl, "delete", "prog", "postgres", "-n", shop)
            assert (await sidecar.expect(NamespaceChanged)).state.approvals == ()
            await asyncio.to_thread(api_server.kubectl, "delete", "mp", "default", "-n", shop)
            state = (await sidecar.expect(NamespaceChanged)).state
            assert (state.mode, state.rules) == (Mode.EXPLICIT, ())


async def test_an_object_that_only_we_refuse_keeps_the_old_rules_and_says_why(
    api_server: ApiServer, shop: str, tmp_path: Path
) -> None:
    async with clustered(tmp_path, api_server) as services:
        await apply(api_server, placed(policy({"mode": "explicit", "rules": [RULE]}), shop))
        await eventually(lambda: has_rule(services, shop, "web"), deadline_s=60)
        bad = {"name": "bad", "action": "allow", "peers": [{"unidentified": True, "cidrs": ["10.0.0.1/8"]}]}
        await apply(api_server, placed(policy({"mode": "permissive", "rules": [bad]}), shop))

        async def is_refused() -> bool:
            return accepted(await status(api_server, "mp", "default", shop)) == "False"

        await eventually(is_refused, deadline_s=60)
        found = await status(api_server, "mp", "default", shop)
        (condition,) = found["conditions"]
        assert (condition["reason"], found["observedGeneration"], found["mode"]) == ("Invalid", 2, "explicit")
        assert condition["message"].startswith("spec.rules[0].peers[0].cidrs[0]: not a CIDR")
        assert await has_rule(services, shop, "web")
        good = {"name": "good", "action": "allow", "peers": [{"unidentified": True, "cidrs": ["10.0.0.0/8"]}]}
        await apply(api_server, placed(policy({"rules": [good]}), shop))
        await eventually(lambda: has_rule(services, shop, "good"), deadline_s=60)


async def has_rule(services: RunningCA, namespace: str, name: str) -> bool:
    state = await services.store.namespaces.get_state(namespace)
    return [rule.name for rule in state.rules] == [name]


async def test_what_was_deleted_while_the_ca_was_away_is_noticed_and_no_version_is_spent(
    api_server: ApiServer, shop: str, tmp_path: Path
) -> None:
    await apply(api_server, placed(policy({"mode": "explicit"}), shop))
    await apply(api_server, placed(program(), shop), placed(program("kept"), shop))

    async def has_programs(services: RunningCA, *names: str) -> bool:
        # By the state that counts: the rows are there some moments before it is put together anew.
        state = await services.store.namespaces.get_state(shop)
        return tuple(approval.name for approval in state.approvals) == names

    async with clustered(tmp_path, api_server) as services:
        await eventually(lambda: has_programs(services, "kept", "postgres"), deadline_s=60)
        version = (await services.store.namespaces.get_state(shop)).version
    await asyncio.to_thread(api_server.kubectl, "delete", "prog", "postgres", "-n", shop)
    async with clustered(tmp_path, api_server) as services:
        await eventually(lambda: has_programs(services, "kept"), deadline_s=60)
        assert (await services.store.namespaces.get_state(shop)).version == version + 1


async def test_a_restart_of_the_api_server_is_survived(
    make_api_server: Callable[..., ApiServer], tmp_path: Path
) -> None:
    server = make_api_server()
    server.install_definitions()
    server.create_namespace("touchmark-system")
    server.create_namespace("shop")
    async with clustered(tmp_path, server) as services:
        await eventually(lambda: services.cluster.is_leader, deadline_s=60)
        # On this thread: the API server ends with the thread that started it.
        server.restart(kill=True)
        await apply(server, policy({"mode": "explicit", "rules": [RULE]}))
        await eventually(lambda: has_rule(services, "shop", "web"), deadline_s=60)


async def test_two_replicas_and_a_killed_leader(
    api_server: ApiServer, shop: str, tmp_path: Path, postgresql: PostgreSQL
) -> None:
    """The other takes over once the Lease has run out, and goes on; what was applied meanwhile isn't lost."""
    url = postgresql.url_for(tmp_path)
    (tmp_path / "one").mkdir()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ca", "--kubernetes", "--sidecar-image", "example.test/sidecar:1"),
        *("--listen", "127.0.0.1:0", "--kek-file", tmp_path / "kek"),
        *("--data-dir", tmp_path / "one" / "data", "--admin-socket", tmp_path / "one" / "admin.sock"),
        env={**os.environ, "TOUCHMARK_DATABASE_URL": url, "KUBECONFIG": str(api_server.admin)},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(60):
            while b'"leading"' not in await process.stderr.readline():
                pass
        drain = asyncio.create_task(process.stderr.read())
        async with (
            clustered(tmp_path / "two", api_server, database=url, kek_file=tmp_path / "kek") as services,
            FakeSidecar(services) as sidecar,
        ):
            await sidecar.enrol("web-1", "198.18.0.2", workload=f"{shop}/web")
            await apply(api_server, placed(policy({"mode": "explicit", "rules": [RULE]}), shop))
            changed = await sidecar.expect(NamespaceChanged)
            assert changed.state.mode is Mode.EXPLICIT
            assert not services.cluster.is_leader
            await sidecar.send(NamespaceInstalled(namespace=shop, version=changed.state.version))

            async def is_installed() -> bool:
                return bool((await status(api_server, "mp", "default", shop)).get("installed") == 1)

            await eventually(is_installed, deadline_s=60)
            process.send_signal(signal.SIGKILL)
            await process.wait()
            await drain
            await apply(api_server, placed(policy({"mode": "explicit", "rules": []}), shop))
            await eventually(lambda: services.cluster.is_leader, deadline_s=120)
            changed = await sidecar.expect(NamespaceChanged)
            assert changed.state.rules == ()
            await sidecar.send(NamespaceInstalled(namespace=shop, version=changed.state.version))

            async def is_observed() -> bool:
                found = await status(api_server, "mp", "default", shop)
                return bool(found["observedGeneration"] == 2 and found["installed"] == 1)

            await eventually(is_observed, deadline_s=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
