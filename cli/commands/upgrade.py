"""``touchmark upgrade``: the installation of the kubeconfig's cluster, to this command's version."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands import installing as common
from cli.commands import options
from cli.text.json_result import JsonResult, prints

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from cli.backends.target import Target
    from cli.cluster.connection import Cluster, Object
    from cli.cluster.installation.choices import Choices
    from cli.commands.shapes import Installation
    from cli.text.findings import Finding

_UPGRADED: JsonResult[Installation] = JsonResult()


class Unset(StrEnum):
    """What can be taken away: options that chose it."""

    NODE_SELECTOR = "node-selector"
    PRIORITY_CLASS = "priority-class"
    PULL_SECRET = "pull-secret"


@prints(_UPGRADED)
def upgrade(
    context: typer.Context,
    image: common.Image = "",
    sidecar_image: common.SidecarImages = None,
    pull_secret: common.PullSecrets = None,
    node_selector: common.NodeSelector = None,
    priority_class: common.PriorityClass = "",
    storage_size: common.StorageSize = "",
    database_secret: common.DatabaseSecret = "",
    database_port: common.DatabasePort = 0,
    replicas: common.Replicas = 0,
    api_server_port: common.ApiServerPorts = None,
    unset: Annotated[
        list[Unset] | None,
        typer.Option(
            "--unset",
            help="Take away what the option node-selector, priority-class or pull-secret has chosen; repeatable.",
            show_default=False,
        ),
    ] = None,
    yes: common.Yes = False,
    dry_run: common.DryRun = False,
    output: common.Output = "",
    force: common.Force = False,
    force_conflicts: options.ForceConflicts = False,
    no_wait: common.NoWait = False,
    timeout: common.Timeout = common.WAIT_S,
    as_json: options.Json = False,
) -> None:
    """Upgrade the installation to this command's version: check, show each field that changes, ask, apply, wait.

    What was chosen before stays, read from the cluster's own objects; options change it, and --unset takes it away.
    Images whose tag is a release get this one; name others by `--image` and `--sidecar-image`. Former sidecar images
    stay admitted as long as a pod has one: run it again when none is left. A CA is upgraded by one minor version at a
    time, and never to an older one. Where a field would change that another tool has written (kubectl, Helm), nothing
    is changed, unless `--force-conflicts` takes it over. At the end the pods that still have a former sidecar are
    counted. Exit code 9 if the CA isn't ready in time.

    Examples: touchmark upgrade --dry-run · touchmark upgrade --yes · touchmark upgrade --replicas 5 ·
    touchmark upgrade --unset priority-class
    """
    import asyncio

    from cli.cluster.installation.choices import parse_selector

    unsets = tuple(dict.fromkeys(unset or ()))
    target = replace(options.get_target(context), in_cluster=True)
    given = {
        "image": image,
        "sidecar_images": tuple(sidecar_image or ()),
        "pull_secrets": tuple(pull_secret or ()),
        "node_selector": parse_selector(node_selector or ()),
        "priority_class": priority_class,
        "storage_size": storage_size,
        "database_secret": database_secret,
        "database_port": database_port,
        "replicas": replicas,
        "api_server_ports": tuple(api_server_port or ()),
    }
    prints_yaml = common.check_output(output, as_json=as_json)
    manner = common.Manner(
        yes=yes,
        is_trial=dry_run,
        is_forced=force,
        takes_over=force_conflicts,
        wait_s=0 if no_wait else timeout,
        as_json=as_json,
    )
    done = asyncio.run(_upgrade(target, given, unsets, manner, prints_yaml=prints_yaml))
    if done is not None:
        _report(done, manner)


async def _upgrade(
    target: Target,
    given: Mapping[str, Any],
    unset: Sequence[Unset],
    manner: common.Manner,
    *,
    prints_yaml: bool,
) -> Installation | None:
    from cli.backends.session import open_cluster
    from cli.cluster.installation.choices import advance
    from cli.cluster.installation.leftovers import is_foreign_namespace
    from cli.cluster.installation.members import list_laggards, list_members
    from cli.cluster.installation.planning import Effect, plan
    from cli.commands.shapes import Installation
    from shared.model.version import VERSION

    async with open_cluster(target) as cluster:
        deployment = await _check(target, cluster, manner)
        found = await _read(cluster, deployment)
        members = await list_members(cluster)
        used = {each.image for each in members}
        choices = advance(found, given, version=VERSION, used_images=used, unset=unset)
        objects = common.make_objects(choices)
        if await is_foreign_namespace(cluster, choices.namespace):
            objects = [each for each in objects if each["kind"] != "Namespace"]
        if prints_yaml:
            common.print_objects(objects)
            return None
        changes = await plan(cluster, objects, is_forced=manner.takes_over)
        if unset:
            await _require_unset(cluster, objects, unset)
        if not manner.as_json:
            common.show_changes(changes)
        is_ready = False
        if not manner.is_trial:
            if any(each.effect is not Effect.UNCHANGED for each in changes):
                place = f"namespace {choices.namespace} of {cluster.access.server}"
                common.ask(f"Change Touchmark in {place}?", manner=manner, unchanged="nothing is changed")
            is_ready = await common.apply_and_wait(cluster, objects, namespace=choices.namespace, manner=manner)
            members = await list_members(cluster)
    return Installation(
        namespace=choices.namespace,
        version=VERSION,
        changes=changes,
        is_applied=not manner.is_trial,
        is_ready=is_ready,
        laggards=_name(list_laggards(members, choices.sidecar_images)),
    )


async def _require_unset(cluster: Cluster, objects: Sequence[Object], unset: Sequence[Unset]) -> None:
    """Refuse to unset what would stay.

    Raises:
        ConflictError: another tool has written it: server-side apply takes away only what its own tool wrote.
    """
    from cli.cluster.installation.bundle import DEPLOYMENTS
    from cli.cluster.installation.choices import list_kept
    from cli.cluster.installation.planning import MANAGER
    from shared.model.errors import ConflictError

    [deployment] = [each for each in objects if each["kind"] == "Deployment"]
    tried = await cluster.apply(DEPLOYMENTS, deployment, manager=MANAGER, force=True, dry_run=True)
    if kept := list_kept(tried, unset):
        raise ConflictError(
            f"nothing is changed: another tool has written {', '.join(kept)} of the CA's pods, which stays",
            hint="take it away with that tool (kubectl edit, Helm's values), then repeat",
        )


async def _check(target: Target, cluster: Cluster, manner: common.Manner) -> Object:
    """Run the preflight and return the CA's Deployment.

    Raises:
        NotInstalledError: there is none.
        PreflightError: a required check fails, the release that is there isn't known, or this one isn't its next.
    """
    from cli.cluster.faults import NotInstalledError
    from cli.cluster.preflight.judgement import EXISTING, judge
    from cli.cluster.preflight.questions import ask
    from shared.model.errors import TouchmarkError
    from shared.model.version import VERSION

    answers = await ask(cluster, target.system_namespace)
    deployment = answers.deployment
    if isinstance(deployment, TouchmarkError):
        raise deployment
    if deployment is None:
        raise NotInstalledError(
            f"no Touchmark is installed in namespace {target.system_namespace}",
            hint="`touchmark install` does it; --system-namespace names another namespace",
        )
    # The API server's port is judged at an installation: here the NetworkPolicy says what was chosen.
    findings = [each for each in judge(answers, own_version=VERSION) if each.subject != "API server's port"]
    for index, finding in enumerate(findings):
        if finding.subject == EXISTING and not finding.is_well and finding.is_optional:
            findings[index] = await _ask_release(target, finding)
    common.check_findings(findings, manner=manner, verb="upgrade")
    return deployment


async def _ask_release(target: Target, unknown: Finding) -> Finding:
    """Judge the release that the CA itself names, where its image doesn't say it."""
    from cli.backends.session import open_admin
    from cli.cluster.preflight.judgement import judge_version
    from shared.model.errors import TouchmarkError
    from shared.model.version import VERSION

    try:
        async with open_admin(target) as client:
            there = (await client.get_status()).version
    except TouchmarkError as error:
        return replace(unknown, is_optional=False, hint=f"nor does the CA say it: {error.message}")
    return judge_version(unknown.subject, f"the CA says :{there}", VERSION)


async def _read(cluster: Cluster, deployment: Object) -> Choices:
    """Return what the installation has chosen."""
    from cli.cluster.connection import CONFIG_MAPS, NETWORK_POLICIES
    from cli.cluster.installation.bundle import CLAIMS
    from cli.cluster.installation.choices import find_container, read_choices
    from shared.model.kubernetes.contract import CA_SERVICE

    namespace = deployment["metadata"]["namespace"]
    sources = find_container(deployment["spec"]["template"]["spec"]).get("envFrom") or ()
    names = [str(each["configMapRef"]["name"]) for each in sources if "configMapRef" in each]
    settings = await cluster.find(CONFIG_MAPS, namespace, names[0]) if names else None
    claim = await cluster.find(CLAIMS, namespace, CA_SERVICE)
    network = await cluster.find(NETWORK_POLICIES, namespace, CA_SERVICE)
    return read_choices(deployment, settings=settings, claim=claim, network=network)


def _name(laggards: Mapping[str, list[str]]) -> list[str]:
    return [f"{namespace}/{pod}" for namespace in sorted(laggards) for pod in sorted(laggards[namespace])]


def _report(done: Installation, manner: common.Manner) -> None:
    from cli.text.exit_codes import ExitCode
    from cli.text.output import name_some, print_line, print_note

    if manner.as_json:
        _UPGRADED.print(done)
    else:
        if not done.is_applied:
            print_line("nothing was changed (--dry-run)")
        elif done.is_ready:
            print_line(f"Touchmark {done.version} is in force in {done.namespace}, and its CA is ready")
        elif manner.wait_s:
            print_line(f"Touchmark {done.version} is applied in {done.namespace}, but its CA isn't ready")
            print_note(f"  hint: `kubectl -n {done.namespace} describe pods` and `touchmark doctor -k` say why")
        else:
            print_line(f"Touchmark {done.version} is applied in {done.namespace}; nobody waited for its CA")
        if done.laggards:
            print_line(f"{len(done.laggards)} pods have a former sidecar: {name_some(done.laggards)}")
            print_line(
                "  they get the new one when they are made anew: kubectl rollout restart deployment -n NAMESPACE"
            )
    if done.is_applied and manner.wait_s and not done.is_ready:
        raise typer.Exit(ExitCode.DEADLINE)
