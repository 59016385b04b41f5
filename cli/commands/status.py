"""``touchmark status``: the mesh at a glance, on this machine or in a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from cli.commands import options
from cli.text.json_result import JsonResult, prints

if TYPE_CHECKING:
    from cli.admin.observation import Observation
    from cli.admin.overview import NamespaceRow
    from cli.commands.shapes import MeshStatus
    from cli.text.findings import Finding


_STATUS: JsonResult[MeshStatus] = JsonResult()


@prints(_STATUS)
def status(
    context: typer.Context,
    as_json: options.Json = False,
) -> None:
    """Show versions, each namespace's mode and sidecars, and problems. Exit code 3 if there are any.

    `touchmark doctor` checks more: this machine, or with -k the cluster.

    Examples: touchmark status · touchmark status --json · touchmark status -k
    """
    from cli.admin.observation import observe
    from cli.admin.overview import examine, list_rows
    from cli.backends.session import ask_admin
    from cli.text.exit_codes import ExitCode
    from shared.model.version import VERSION

    target = options.get_target(context)
    observed = ask_admin(target, lambda client: observe(client, is_in_cluster=target.in_cluster))
    rows = list_rows(observed)
    problems = [finding for finding in examine(observed, own_version=VERSION) if not finding.is_well]
    if as_json:
        _STATUS.print(_describe(observed, rows, problems))
    else:
        _show(observed, rows, problems)
    if any(not problem.is_optional for problem in problems):
        raise typer.Exit(ExitCode.CHECK_FAILED)


def _describe(observed: Observation, rows: list[NamespaceRow], problems: list[Finding]) -> MeshStatus:
    from cli.admin.overview import count_versions
    from cli.commands.shapes import MeshStatus, Versions
    from shared.model.version import VERSION

    return MeshStatus(
        is_well=all(problem.is_optional for problem in problems),
        trust_domain=observed.ca.trust_domain,
        versions=Versions(command=VERSION, ca=observed.ca.version, sidecars=count_versions(observed)),
        sidecars_connected=observed.ca.sidecars_connected,
        sidecars_live=observed.ca.sidecars_live,
        bundle_sequence=observed.ca.bundle_sequence,
        rotation=observed.ca.rotation.step,
        namespaces=rows,
        problems=problems,
    )


def _show(observed: Observation, rows: list[NamespaceRow], problems: list[Finding]) -> None:
    from cli.admin.overview import count_versions
    from cli.text.findings import print_findings
    from cli.text.output import print_line, print_table

    versions = count_versions(observed)
    mixed = " (mixed)" if len({*versions, observed.ca.version}) > 1 else ""
    print_line(
        f"{observed.ca.trust_domain}: CA {observed.ca.version}, sidecars {', '.join(versions) or 'none'}{mixed};"
        f" {observed.ca.sidecars_connected} of {observed.ca.sidecars_live} connected;"
        f" trust bundle {observed.ca.bundle_sequence}; rotation: {observed.ca.rotation.step}"
    )
    print_line()
    columns = ["NAMESPACE", "MODE", "VERSION", "CONNECTED", "INSTALLED", "SIDECAR VERSIONS"]
    if observed.cluster is not None:
        columns += ["INJECTED", "NOT INJECTED"]
    print_table(columns, (_format_row(row) for row in rows), empty="no namespace has a sidecar or a policy")
    print_line()
    print_findings(problems)
    if not problems:
        print_line("✓ no problems found")


def _format_row(row: NamespaceRow) -> list[str]:
    cells = [
        row.namespace,
        _name_mode(row),
        str(row.version),
        f"{row.connected}/{row.live}",
        f"{row.installed}/{row.live}",
        " ".join(row.versions) or "-",
    ]
    if row.injected is not None:
        cells += [str(row.injected), str(row.not_injected) if row.not_injected else "-"]
    return cells


def _name_mode(row: NamespaceRow) -> str:
    from shared.model.policy.modes import name_modes

    own = name_modes(row.workload_modes)
    return f"{row.mode} ({own})" if own else row.mode or "permissive (default)"
