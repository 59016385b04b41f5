"""``touchmark doctor``: what this machine and this CA lack, a line each, with what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from cli import options
from cli.where import Where, takes_where

if TYPE_CHECKING:
    from cli.machine import Finding


@takes_where
def doctor(as_json: options.Json = False, *, where: Where) -> None:
    """Check this machine and the CA: ✓ or ✗ and a hint a line. Exit code 3 when something that is needed is missing."""
    from cli.exit_codes import ExitCode
    from cli.machine import examine_machine
    from cli.output import print_json, print_line

    findings = [*examine_machine(), *_examine_ca(where)]
    is_well = all(finding.is_well or finding.is_optional for finding in findings)
    if as_json:
        print_json({"is_well": is_well, "findings": findings})
    else:
        for finding in findings:
            mark = "✓" if finding.is_well else "–" if finding.is_optional else "✗"
            print_line(f"{mark} {finding.subject}: {finding.observation}")
            if finding.hint:
                print_line(f"    {finding.hint}")
    if not is_well:
        raise typer.Exit(ExitCode.CHECK_FAILED)


def _examine_ca(where: Where) -> list[Finding]:
    import asyncio

    from cli.admin_client import AdminClient
    from cli.machine import Finding
    from shared.model.admin import CAStatus, Health
    from shared.model.errors import TouchmarkError

    async def ask() -> tuple[CAStatus, Health]:
        async with AdminClient(where.admin_socket, timeout_s=5) as client:
            return await client.get_status(), await client.get_health()

    try:
        status, health = asyncio.run(ask())
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
            hint="" if health.status == "ok" else "look at the CA's log",
        ),
        Finding(
            subject="key-encryption key",
            is_well=not status.kek_generated,
            is_optional=True,
            observation=f"{status.kek_file} was "
            + ("generated at the first start, not provided" if status.kek_generated else "provided"),
            hint="back it up, apart from the data directory: without it the authorities' keys are lost"
            if status.kek_generated
            else "",
        ),
        Finding(
            subject="CA's server certificate",
            is_well=remaining_s > 0,
            observation=f"valid for {remaining_s / 3600:.1f} h more" if remaining_s > 0 else "has ended",
            hint="" if remaining_s > 0 else "restart the CA, and look at its clock",
        ),
        Finding(
            subject="sidecars",
            is_well=silent <= 0,
            is_optional=True,
            observation=f"{status.sidecars_connected} connected of {status.sidecars_live} live",
            hint="" if silent <= 0 else "`touchmark ca status` names those that aren't connected",
        ),
    ]
