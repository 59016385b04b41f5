"""``touchmark uninstall``: takes away what ``install`` (or kubectl, by the same manifests) has made."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands import installing as common
from cli.commands import options
from cli.text.json_result import JsonResult, prints

if TYPE_CHECKING:
    from cli.backends.target import Target
    from cli.cluster.connection import Cluster
    from cli.cluster.installation.removal import Removal
    from cli.commands.shapes import Uninstallation

_UNINSTALLED: JsonResult[Uninstallation] = JsonResult()


@prints(_UNINSTALLED)
def uninstall(
    context: typer.Context,
    delete_data: Annotated[
        bool,
        typer.Option("--delete-data", help="Also the CA's volume and key, and the namespace if nothing else is in it."),
    ] = False,
    delete_policies: Annotated[
        bool,
        typer.Option(
            "--delete-policies", help="Also the definitions of MeshPolicy and Program, with all such objects."
        ),
    ] = False,
    yes: common.Yes = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be deleted, and delete nothing.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Although sidecars would lose their CA, or Helm has installed it.")
    ] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Don't wait until everything is gone.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait until everything is gone.")] = 120,
    as_json: options.Json = False,
) -> None:
    """Uninstall Touchmark from the kubeconfig's cluster; its store, its key and all policies are kept.

    First it looks whether sidecars are left: without a CA, explicit namespaces refuse connections within seconds. It
    then says how each namespace leaves, and deletes nothing (exit code 3). Deleted is what has the label
    app.kubernetes.io/part-of=touchmark, in the CA's namespace and of the whole cluster. Kept are the CA's volume with
    the Secret that encrypts its keys, for a later installation, and the definitions of MeshPolicy and Program, with
    which every policy and approval would go. A PostgreSQL is never touched.

    Examples: touchmark uninstall --dry-run · touchmark uninstall · touchmark uninstall --delete-data --delete-policies
    """
    import asyncio

    from cli.text.exit_codes import ExitCode

    target = replace(options.get_target(context), in_cluster=True)
    manner = common.Manner(
        yes=yes, is_trial=dry_run, is_forced=force, takes_over=False, wait_s=0 if no_wait else timeout, as_json=as_json
    )
    done = asyncio.run(_uninstall(target, manner, deletes_data=delete_data, deletes_definitions=delete_policies))
    if as_json:
        _UNINSTALLED.print(done)
    else:
        _report(done, target, was_waited_for=manner.wait_s > 0)
    if done.remaining:
        raise typer.Exit(ExitCode.DEADLINE)


async def _uninstall(
    target: Target, manner: common.Manner, *, deletes_data: bool, deletes_definitions: bool
) -> Uninstallation:
    from cli.backends.session import open_cluster
    from cli.cluster.faults import NotInstalledError
    from cli.cluster.installation.removal import Part, plan_removal, remove, wait_gone
    from cli.commands.shapes import Uninstallation
    from cli.text.output import print_note

    def tell(said: str) -> None:
        if not manner.as_json:
            print_note(f"  {said}")

    async with open_cluster(target) as cluster:
        removal = await plan_removal(
            cluster,
            target.system_namespace,
            deletes_data=deletes_data,
            deletes_definitions=deletes_definitions,
            deletes_helms=manner.is_forced,
        )
        if not removal.deleted:
            raise NotInstalledError(
                f"nothing to delete of an installation in namespace {target.system_namespace}",
                hint="--delete-data and --delete-policies delete what was kept; --system-namespace names another one",
            )
        await _check(target, cluster, manner)
        # Who may not delete all of it deletes nothing: half of an installation refuses pods.
        await remove(cluster, removal.deleted, is_trial=True)
        if not manner.as_json:
            _show(removal)
        remaining: list[Part] = []
        if not manner.is_trial:
            question = f"Delete {len(removal.deleted)} objects of {cluster.access.server}?"
            if deletes_data:
                question = f"{question} The CA's keys are lost for ever, and its ledger unless it is in PostgreSQL."
            common.ask(question, manner=manner, unchanged="nothing is deleted")
            await remove(cluster, removal.deleted)
            if manner.wait_s:
                remaining = await wait_gone(cluster, removal.deleted, timeout_s=manner.wait_s, tell=tell)
    return Uninstallation(
        deleted=list(removal.deleted),
        kept=list(removal.kept),
        foreign=list(removal.foreign),
        remaining=remaining,
        is_applied=not manner.is_trial,
    )


async def _check(target: Target, cluster: Cluster, manner: common.Manner) -> None:
    """Look who would lose the CA: pods, and machines as far as the CA still says.

    Raises:
        StillNeededError: somebody would, or a CA that runs can't be asked, and nobody forces it.
    """
    from cli.admin.leaving import judge_leaving, list_explicit_workloads, list_living
    from cli.backends.session import open_admin
    from cli.cluster.faults import NoCAPodError, StillNeededError
    from cli.cluster.installation.members import group, list_members, read_modes
    from cli.text.findings import print_findings
    from cli.text.output import name_some, print_note
    from shared.model.errors import TouchmarkError

    modes, own = await read_modes(cluster)
    living = group(await list_members(cluster))
    try:
        async with open_admin(target) as client:
            states = (await client.list_namespaces()).namespaces
            modes |= {state.namespace: state.mode for state in states}
            own |= list_explicit_workloads(states)
            told = list_living((await client.list_sidecars()).sidecars)
    except TouchmarkError as error:
        told = {}
        if not isinstance(error, NoCAPodError) and not (manner.is_forced or manner.is_trial):
            raise StillNeededError(
                f"nothing is deleted: the CA runs, and can't be asked for its sidecars: {error.message}",
                hint=f"{error.hint or 'ask it as somebody who may'}; --force deletes the CA all the same",
            ) from error
        if not manner.as_json:
            print_note(f"– the CA can't be asked for sidecars outside this cluster: {error.message}")
    # Sidecars of machines have other namespaces; those of pods are named by the API server.
    living = {**told, **living}
    findings = [each for each in judge_leaving(modes, living, own) if not each.is_well]
    if findings and not manner.as_json:
        print_findings(findings)
    if findings and not (manner.is_forced or manner.is_trial):
        raise StillNeededError(
            f"nothing is deleted: {name_some(f'{each.subject} ({each.observation})' for each in findings)}",
            hint=f"{findings[0].hint}; --force deletes the CA all the same",
        )


def _show(removal: Removal) -> None:
    from cli.text.output import print_line

    print_line(f"{len(removal.deleted)} objects to delete:")
    for part in removal.deleted:
        print_line(f"  {part}")
    for part in removal.kept:
        print_line(f"  kept: {part}")


def _report(done: Uninstallation, target: Target, *, was_waited_for: bool) -> None:
    from cli.text.output import name_some, print_line, print_note

    if not done.is_applied:
        print_line("nothing was deleted (--dry-run)")
        return
    if done.remaining:
        print_line("Touchmark is deleted, but not all of it is gone yet:")
        for part in done.remaining:
            print_note(f"  ✗ {part}")
    elif was_waited_for:
        print_line(f"Touchmark is uninstalled from {target.system_namespace}")
    else:
        print_line(f"Touchmark is deleted from {target.system_namespace}; nobody waited until all of it was gone")
    kinds = {part.kind for part in done.kept}
    if kinds & {"PersistentVolumeClaim", "Secret"}:
        print_line("  the CA's store and key are kept: `touchmark install` uses them again, --delete-data deletes them")
    if "CustomResourceDefinition" in kinds:
        print_line("  policies and programs are kept: --delete-policies deletes them with their definitions")
    if done.foreign:
        print_line(f"  the namespace stays, for what else is in it: {name_some(done.foreign)}")
