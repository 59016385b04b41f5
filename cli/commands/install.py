"""``touchmark install``: into the kubeconfig's cluster, after a preflight, without kubectl."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import typer

from cli.commands import installing as common
from cli.commands import options
from cli.text.json_result import JsonResult, prints

if TYPE_CHECKING:
    from cli.backends.target import Target
    from cli.cluster.connection import Cluster, Object
    from cli.cluster.installation.choices import Choices
    from cli.commands.shapes import Installation

_INSTALLED: JsonResult[Installation] = JsonResult()


@prints(_INSTALLED)
def install(
    context: typer.Context,
    image: common.Image = "",
    sidecar_image: common.SidecarImages = None,
    trust_domain: common.TrustDomain = "touchmark.local",
    pull_secret: common.PullSecrets = None,
    node_selector: common.NodeSelector = None,
    priority_class: common.PriorityClass = "",
    storage_class: common.StorageClass = "",
    storage_size: common.StorageSize = "",
    database_secret: common.DatabaseSecret = "",
    database_port: common.DatabasePort = 0,
    replicas: common.Replicas = 0,
    api_server_port: common.ApiServerPorts = None,
    yes: common.Yes = False,
    dry_run: common.DryRun = False,
    output: common.Output = "",
    force: common.Force = False,
    force_conflicts: options.ForceConflicts = False,
    no_wait: common.NoWait = False,
    timeout: common.Timeout = common.WAIT_S,
    as_json: options.Json = False,
) -> None:
    """Install Touchmark in the kubeconfig's cluster: check it, show what is made, ask, apply, and wait for the CA.

    The checks are those of `touchmark doctor --pre`; exit code 3 if a required one fails. The objects are those of
    `manifests/`, written by server-side apply. `--output yaml` prints them for Git without asking any cluster. The
    namespace is that of `--system-namespace`. What an uninstallation has kept (the store, policies) is used again.
    Exit code 9 if everything is made, but the CA isn't ready in time.

    Examples: touchmark install · touchmark install --image registry.example/touchmark/ca:0.2.0 --sidecar-image
    registry.example/touchmark/sidecar:0.2.0 --pull-secret registry · touchmark install --database-secret
    touchmark-database --replicas 3 · touchmark install --output yaml > touchmark.yaml
    """
    import asyncio

    from cli.cluster.installation.choices import Choices, parse_selector

    target = replace(options.get_target(context), in_cluster=True)
    choices = Choices(
        namespace=target.system_namespace,
        image=image,
        sidecar_images=tuple(sidecar_image or ()),
        trust_domain=trust_domain,
        pull_secrets=tuple(pull_secret or ()),
        node_selector=parse_selector(node_selector or ()),
        priority_class=priority_class,
        storage_class=storage_class,
        storage_size=storage_size,
        database_secret=database_secret,
        database_port=database_port,
        replicas=replicas,
        api_server_ports=tuple(api_server_port or ()),
    )
    objects = common.make_objects(choices)
    if common.check_output(output, as_json=as_json):
        common.print_objects(objects)
        return
    manner = common.Manner(
        yes=yes,
        is_trial=dry_run,
        is_forced=force,
        takes_over=force_conflicts,
        wait_s=0 if no_wait else timeout,
        as_json=as_json,
    )
    done = asyncio.run(_install(target, choices, objects, manner))
    _report(done, target, manner)


async def _install(target: Target, choices: Choices, objects: list[Object], manner: common.Manner) -> Installation:
    from cli.backends.session import open_cluster
    from cli.cluster.installation.leftovers import find_leftovers, is_foreign_namespace
    from cli.cluster.installation.planning import plan
    from cli.commands.shapes import Installation
    from cli.text.output import print_note
    from shared.model.version import VERSION

    async with open_cluster(target) as cluster:
        await _check(cluster, choices, manner)
        leftovers = await find_leftovers(cluster, choices.namespace, has_database=bool(choices.database_secret))
        common.check_findings(leftovers, manner=manner, verb="install")
        if await is_foreign_namespace(cluster, choices.namespace):
            objects = [each for each in objects if each["kind"] != "Namespace"]
            if not manner.as_json:
                print_note(f"– the namespace {choices.namespace} was there before, and stays as it is")
        changes = await plan(cluster, objects, is_forced=manner.takes_over)
        if not manner.as_json:
            common.show_changes(changes)
        is_ready = False
        if not manner.is_trial:
            place = f"namespace {choices.namespace} of {cluster.access.server}"
            common.ask(f"Install Touchmark {VERSION} in {place}?", manner=manner, unchanged="nothing is installed")
            is_ready = await common.apply_and_wait(cluster, objects, namespace=choices.namespace, manner=manner)
    return Installation(
        namespace=choices.namespace,
        version=VERSION,
        changes=changes,
        is_applied=not manner.is_trial,
        is_ready=is_ready,
        laggards=[],
    )


async def _check(cluster: Cluster, choices: Choices, manner: common.Manner) -> None:
    """Run the preflight.

    Raises:
        InstalledError: Touchmark is there already.
        PreflightError: a required check fails.
    """
    from cli.cluster.faults import InstalledError
    from cli.cluster.membership import list_images
    from cli.cluster.preflight.judgement import API_SERVER_PORTS, judge
    from cli.cluster.preflight.questions import ask
    from shared.model.errors import TouchmarkError
    from shared.model.version import VERSION

    answers = await ask(cluster, choices.namespace)
    if answers.deployment is not None and not isinstance(answers.deployment, TouchmarkError):
        place = answers.deployment["metadata"]["namespace"]
        there = ", ".join(list_images(answers.deployment["spec"]["template"], ("ca",)))
        raise InstalledError(
            f"Touchmark is installed already, in namespace {place} ({there})",
            hint="`touchmark upgrade` changes it, also one that was begun and not finished"
            + ("" if place == choices.namespace else f" (--system-namespace {place})"),
        )
    findings = judge(
        answers,
        own_version=VERSION,
        with_volume=not (choices.database_secret or choices.storage_class),
        storage_class=choices.storage_class,
        api_server_ports=choices.api_server_ports or API_SERVER_PORTS,
    )
    common.check_findings(findings, manner=manner, verb="install")


def _report(done: Installation, target: Target, manner: common.Manner) -> None:
    import os

    from cli.backends.target import write_shell_options
    from cli.cluster.installation.next_steps import list_next_steps
    from cli.text.exit_codes import ExitCode
    from cli.text.output import print_line, print_note

    if manner.as_json:
        _INSTALLED.print(done)
    elif not done.is_applied:
        print_line("nothing was changed (--dry-run)")
    else:
        where = write_shell_options(target, os.environ)
        if done.is_ready:
            print_line(f"Touchmark {done.version} is installed in {done.namespace}, and its CA is ready")
        elif manner.wait_s:
            print_line(f"Touchmark {done.version} is installed in {done.namespace}, but its CA isn't ready")
            print_note(f"  hint: `kubectl -n {done.namespace} describe pods` and `touchmark doctor {where}` say why")
            print_note(
                f"  hint: is an image not found? `touchmark upgrade {where} --image NAME --sidecar-image NAME` goes on"
            )
        else:
            print_line(f"Touchmark {done.version} is installed in {done.namespace}; nobody waited for its CA")
        if done.is_ready or not manner.wait_s:  # While the CA isn't ready, pods that ask for a sidecar aren't made.
            print_line("Next:")
            for step in list_next_steps(where):
                print_line(f"  {step}")
    if done.is_applied and manner.wait_s and not done.is_ready:
        raise typer.Exit(ExitCode.DEADLINE)
