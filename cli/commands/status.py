"""``touchmark status``: the mesh at a glance, on this machine or in a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from cli.backends.target import Where, takes_where
from cli.commands import options

if TYPE_CHECKING:
    from cli.backends.admin_client import AdminClient
    from cli.machine.machine import Finding
    from cli.text.overview import NamespaceRow, Observation

_MAX_IDENTITIES = 10_000


@takes_where
def status(as_json: options.Json = False, *, where: Where) -> None:
    """Show versions, and each namespace's mode and sidecars; then what is wrong. Exit code 3 when something is.

    `touchmark doctor` looks further: at this machine, or with -k at the cluster.
    """
    from cli.backends.conversation import talk
    from cli.text.exit_codes import ExitCode
    from cli.text.output import print_json
    from cli.text.overview import examine, list_rows
    from shared.model.version import VERSION

    observed = talk(where, lambda client: observe(client, is_in_cluster=where.in_cluster))
    rows = list_rows(observed)
    problems = [finding for finding in examine(observed, own_version=VERSION) if not finding.is_well]
    if as_json:
        print_json(_describe(observed, rows, problems))
    else:
        _show(observed, rows, problems)
    if any(not problem.is_optional for problem in problems):
        raise typer.Exit(ExitCode.CHECK_FAILED)


async def observe(client: AdminClient, *, is_in_cluster: bool) -> Observation:
    """Ask the CA for everything that an overview needs. A CA outside a cluster has no cluster to tell of."""
    from cli.text.overview import Observation
    from shared.model.errors import NotFoundError, UnavailableError

    cluster = None
    if is_in_cluster:
        try:
            cluster = await client.get_cluster()
        except (NotFoundError, UnavailableError):
            pass  # An older CA, or one that serves a cluster without looking into it.
    query = {"alive": "true", "limit": str(_MAX_IDENTITIES)}
    return Observation(
        ca=await client.get_status(),
        health=await client.get_health(),
        sidecars=(await client.list_sidecars()).sidecars,
        namespaces=(await client.list_namespaces()).namespaces,
        identities=(await client.list_identities(query)).identities,
        cluster=cluster,
    )


def _describe(observed: Observation, rows: list[NamespaceRow], problems: list[Finding]) -> dict[str, Any]:
    from cli.text.overview import count_versions
    from shared.model.version import VERSION

    return {
        "is_well": all(problem.is_optional for problem in problems),
        "trust_domain": observed.ca.trust_domain,
        "versions": {"command": VERSION, "ca": observed.ca.version, "sidecars": count_versions(observed)},
        "sidecars_connected": observed.ca.sidecars_connected,
        "sidecars_live": observed.ca.sidecars_live,
        "bundle_sequence": observed.ca.bundle_sequence,
        "rotation": observed.ca.rotation.step,
        "namespaces": rows,
        "problems": problems,
    }


def _show(observed: Observation, rows: list[NamespaceRow], problems: list[Finding]) -> None:
    from cli.text.findings import print_finding
    from cli.text.output import print_line, print_table
    from cli.text.overview import count_versions

    versions = count_versions(observed)
    mixed = " (mixed)" if len({*versions, observed.ca.version}) > 1 else ""
    print_line(
        f"{observed.ca.trust_domain}: CA {observed.ca.version}, sidecars {', '.join(versions) or 'none'}{mixed};"
        f" {observed.ca.sidecars_connected} of {observed.ca.sidecars_live} connected;"
        f" trust bundle {observed.ca.bundle_sequence}; rotation: {observed.ca.rotation.step}"
    )
    print_line()
    columns = ["NAMESPACE", "MODE", "VERSION", "CONNECTED", "INSTALLED", "SIDECARS OF"]
    if observed.cluster is not None:
        columns += ["INJECTED", "NOT INJECTED"]
    print_table(columns, (_format_row(row) for row in rows), empty="no namespace has a sidecar or a policy")
    print_line()
    for problem in problems:
        print_finding(problem)
    if not problems:
        print_line("✓ nothing is wrong")


def _format_row(row: NamespaceRow) -> list[str]:
    cells = [
        row.namespace,
        row.mode or "permissive (unsaid)",
        str(row.version),
        f"{row.connected}/{row.live}",
        f"{row.installed}/{row.live}",
        " ".join(row.versions) or "-",
    ]
    if row.injected is not None:
        cells += [str(row.injected), str(row.not_injected) if row.not_injected else "-"]
    return cells
