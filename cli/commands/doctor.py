"""``touchmark doctor``: what this machine, this CA or this cluster lacks, and what to do about it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands import options
from cli.text.json_result import JsonResult, prints

if TYPE_CHECKING:
    from cli.backends.target import Target
    from cli.text.findings import Finding, Findings

_FINDINGS: JsonResult[Findings] = JsonResult()


@prints(_FINDINGS)
def doctor(
    context: typer.Context,
    cluster: Annotated[bool, typer.Option("--cluster", help="Check the kubeconfig's cluster; the same as -k.")] = False,
    before_uninstall: Annotated[
        bool, typer.Option("--before-uninstall", help="Check only what would break without the CA, and how to leave.")
    ] = False,
    before_installation: Annotated[
        bool, typer.Option("--pre", help="Check whether the kubeconfig's cluster is ready for an installation.")
    ] = False,
    no_volume: Annotated[
        bool,
        typer.Option(
            "--no-volume", help="With --pre: the CA gets PostgreSQL, or a volume that names its storage class."
        ),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Check this machine and the CA: one line per check, ✓ or ✗ with a hint. Exit code 3 if a required check fails.

    With -k, check the cluster instead: the installation, the CA's permissions and pods, the webhook (with a dry-run
    pod), what keeps pods out of the mesh or from reaching each other, refused enrolments, clocks and versions. Checks
    that you lack permissions for are reported as unknown.

    With --pre, check before an installation or upgrade: the API server's version, your permissions, the admission API,
    an existing installation, limits and quotas, Pod Security, nodes, storage, and the API server's port.

    Examples: touchmark doctor · touchmark doctor -k · touchmark doctor --pre · touchmark doctor --before-uninstall
    """
    from cli.text.exit_codes import ExitCode
    from cli.text.findings import make_findings, print_findings

    target = options.get_target(context)
    if before_installation:
        findings = _examine_before(replace(target, in_cluster=True), with_volume=not no_volume)
    elif before_uninstall:
        findings = _examine_leaving(replace(target, in_cluster=True) if cluster else target)
    elif cluster or target.in_cluster:
        findings = _examine_cluster(replace(target, in_cluster=True))
    else:
        from cli.machine.machine import examine_machine

        findings = [*examine_machine(), *_examine_ca(target)]
    found = make_findings(findings)
    if as_json:
        _FINDINGS.print(found)
    else:
        print_findings(findings)
    if not found.is_well:
        raise typer.Exit(ExitCode.CHECK_FAILED)


def _examine_leaving(target: Target) -> list[Finding]:
    from cli.admin.client import AdminClient
    from cli.admin.leaving import examine_leaving
    from cli.backends.session import ask_admin

    async def ask(client: AdminClient) -> list[Finding]:
        namespaces, sidecars = await client.list_namespaces(), await client.list_sidecars()
        return examine_leaving(namespaces.namespaces, sidecars.sidecars)

    return ask_admin(target, ask)


def _examine_before(target: Target, *, with_volume: bool) -> list[Finding]:
    """Ask and judge a cluster that has no installation yet. Without an API server there is one finding."""
    import asyncio

    from cli.backends.session import open_cluster
    from cli.cluster.preflight.judgement import judge
    from cli.cluster.preflight.questions import Answers, ask
    from cli.text.findings import Finding
    from shared.model.errors import TouchmarkError
    from shared.model.version import VERSION

    async def run() -> Answers:
        async with open_cluster(target) as cluster:
            return await ask(cluster, target.system_namespace)

    try:
        return judge(asyncio.run(run()), own_version=VERSION, with_volume=with_volume)
    except TouchmarkError as error:
        return [Finding(subject="API server", is_well=False, observation=error.message, hint=error.hint)]


def _examine_cluster(target: Target) -> list[Finding]:
    """Ask and judge. Without an API server there is one finding."""
    import asyncio

    from cli.backends.session import open_cluster
    from cli.cluster.examination import examine_cluster
    from cli.cluster.snapshot import ClusterSnapshot, take_snapshot
    from cli.text.findings import Finding
    from shared.model.errors import TouchmarkError
    from shared.model.version import VERSION

    async def ask() -> ClusterSnapshot:
        async with open_cluster(target) as cluster:
            return await take_snapshot(cluster, target.system_namespace)

    try:
        return examine_cluster(asyncio.run(ask()), own_version=VERSION)
    except TouchmarkError as error:
        return [Finding(subject="API server", is_well=False, observation=error.message, hint=error.hint)]


def _examine_ca(target: Target) -> list[Finding]:
    import asyncio

    from cli.admin.client import AdminClient
    from cli.admin.overview import (
        examine_database_clock,
        examine_disk,
        examine_sidecar_clocks,
        examine_undone_evictions,
    )
    from cli.text.findings import Finding
    from shared.model.errors import TouchmarkError
    from shared.model.wire.admin import CAStatus, Health, SidecarList

    async def ask() -> tuple[CAStatus, Health, SidecarList]:
        async with AdminClient(target.admin_socket, timeout_s=5) as client:
            return await client.get_status(), await client.get_health(), await client.list_sidecars()

    try:
        status, health, listed = asyncio.run(ask())
    except TouchmarkError as error:
        return [Finding(subject="CA", is_well=False, observation=error.message, hint=error.hint)]
    faults = [f"{name}: {fault}" for name, fault in health.checks.items() if fault != "ok"]
    silent = status.sidecars_live - status.sidecars_connected
    remaining_s = status.server_not_after - status.now
    return [
        Finding(
            subject="CA",
            is_well=health.status == "ok",
            observation=f"{status.trust_domain} on {status.listen}, "
            + ("signs and reaches its store" if health.status == "ok" else "; ".join(faults) or health.status),
            hint="" if health.status == "ok" else "check the CA's log",
        ),
        *examine_disk(status),
        *examine_database_clock(status),
        *examine_undone_evictions(status),
        Finding(
            subject="key-encryption key",
            is_well=not status.kek_generated,
            is_optional=True,
            observation=f"{status.kek_file} was "
            + ("generated at the first start, not provided" if status.kek_generated else "provided"),
            hint="back it up separately from the data directory: without it the authorities' keys are lost"
            if status.kek_generated
            else "",
        ),
        Finding(
            subject="CA's server certificate",
            is_well=remaining_s > 0,
            observation=f"valid for {remaining_s / 3600:.1f} h more" if remaining_s > 0 else "has expired",
            hint="" if remaining_s > 0 else "restart the CA and check its clock",
        ),
        Finding(
            subject="sidecars",
            is_well=silent <= 0,
            is_optional=True,
            observation=f"{status.sidecars_connected} connected of {status.sidecars_live} live",
            hint="" if silent <= 0 else "`touchmark ca status` lists those that aren't connected",
        ),
        examine_sidecar_clocks(listed.sidecars),
    ]
