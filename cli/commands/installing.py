"""What ``touchmark install`` and ``upgrade`` have in common: their options, the plan they show, applying, waiting."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import typer

from shared.model.errors import InputError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cli.cluster.connection import Cluster, Object
    from cli.cluster.installation.choices import Choices
    from cli.cluster.installation.planning import Change
    from cli.text.findings import Finding

WAIT_S: Final = 300.0
Image = Annotated[str, typer.Option("--image", help="The CA's image.", show_default="touchmark/ca of this version")]
SidecarImages = Annotated[
    list[str] | None,
    typer.Option("--sidecar-image", help="A sidecar's image that may join; repeatable, new pods get the first."),
]
TrustDomain = Annotated[
    str, typer.Option("--trust-domain", help="The domain of all SPIFFE IDs; it can't be changed later.")
]
PullSecrets = Annotated[
    list[str] | None,
    typer.Option("--pull-secret", help="A Secret with the registry's credentials, for the CA's image; repeatable."),
]
NodeSelector = Annotated[
    list[str] | None, typer.Option("--node-selector", help="A node's label for the CA, KEY=VALUE; repeatable.")
]
PriorityClass = Annotated[
    str, typer.Option("--priority-class", help="The CA's priority class, such as system-cluster-critical.")
]
StorageClass = Annotated[str, typer.Option("--storage-class", help="The storage class of the CA's volume.")]
StorageSize = Annotated[str, typer.Option("--storage-size", help="The size of the CA's volume.", show_default="1Gi")]
DatabaseSecret = Annotated[
    str,
    typer.Option("--database-secret", help="The Secret with a PostgreSQL's URL (key url): three replicas, no volume."),
]
DatabasePort = Annotated[
    int, typer.Option("--database-port", help="PostgreSQL's port.", show_default="5432", min=0, max=65535)
]
Replicas = Annotated[int, typer.Option("--replicas", help="Of the CA, with PostgreSQL.", show_default="3", min=0)]
ApiServerPorts = Annotated[
    list[int] | None,
    typer.Option(
        "--api-server-port",
        help="A port on which the CA may reach the API server; repeatable.",
        show_default="443 and 6443",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask for confirmation.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Have the API server try each object, and change nothing.")]
Output = Annotated[str, typer.Option("--output", "-o", help="yaml: print the objects, and change nothing.")]
Force = Annotated[bool, typer.Option("--force", help="Go on although a check fails.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Don't wait until the CA is ready.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait until the CA is ready.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How a verb goes about it.

    Attributes:
        wait_s: for the CA; 0: not at all.
    """

    yes: bool
    is_trial: bool
    is_forced: bool
    takes_over: bool
    wait_s: float
    as_json: bool


def check_output(output: str, *, as_json: bool) -> bool:
    """Return whether YAML is asked for.

    Raises:
        InputError: another form is.
    """
    if output not in ("", "yaml"):
        raise InputError(f"--output: not a form of output: {output[:80]!r}", hint="--output yaml")
    if output and as_json:
        raise InputError("--output yaml and --json can't be combined", hint="choose one")
    return bool(output)


def make_objects(choices: Choices) -> list[Object]:
    """Return an installation's objects."""
    from cli.cluster.installation.bundle import load_objects
    from cli.cluster.installation.rendering import render

    return render(load_objects(has_database=bool(choices.database_secret)), choices)


def print_objects(objects: Sequence[Object]) -> None:
    """Print objects as YAML."""
    import yaml

    from cli.text.output import print_line

    print_line(yaml.safe_dump_all(objects, sort_keys=False, width=120).rstrip())


def check_findings(findings: Iterable[Finding], *, manner: Manner, verb: str) -> None:
    """Show what isn't well, on standard error.

    Raises:
        PreflightError: a required check fails, and nobody forces it.
    """
    from cli.cluster.faults import PreflightError
    from cli.text.findings import print_findings
    from cli.text.output import name_some, print_note

    told = [each for each in findings if not each.is_well or each.subject.endswith("from before")]
    failed = [each for each in told if not each.is_well and not each.is_optional]
    if not manner.as_json:
        print_findings(told, write=print_note)
    if failed and not manner.is_forced:
        said = name_some((f"{each.subject}: {each.observation}" for each in failed), most=3)
        raise PreflightError(
            f"nothing is changed: the cluster isn't ready: {said}",
            hint=f"{failed[0].hint or 'see above'}; `touchmark doctor --pre` shows all checks, --force {verb}s anyway",
        )


def show_changes(changes: Sequence[Change]) -> None:
    """Print what is to change; nothing is changed yet."""
    from cli.cluster.installation.planning import Effect
    from cli.text.output import print_line

    verbs = {Effect.CREATED: "create", Effect.CHANGED: "change"}
    words = {Effect.CREATED: "to create", Effect.CHANGED: "to change", Effect.UNCHANGED: "unchanged"}
    counts = [f"{sum(each.effect is effect for each in changes)} {words[effect]}" for effect in Effect]
    print_line(f"{len(changes)} objects: {', '.join(counts)}")
    for change in changes:
        if change.effect is Effect.UNCHANGED:
            continue
        place = f"{change.namespace}/" if change.namespace else ""
        print_line(f"  {verbs[change.effect]}: {change.kind} {place}{change.name}{'' if change.is_tried else ' *'}")
        for field in change.fields:
            print_line(f"      {field.path}: {field.before or 'nothing'} → {field.after or 'nothing'}")
    if not all(each.is_tried for each in changes):
        print_line("  * its namespace isn't there yet, so that the API server can't try it")


def ask(question: str, *, manner: Manner, unchanged: str) -> None:
    """Ask for confirmation.

    Raises:
        RefusedError: the answer is no, or nobody can be asked.
    """
    if manner.yes:
        return
    if manner.as_json or not sys.stdin.isatty():
        raise RefusedError(
            f"{unchanged}: not a terminal, so there is no confirmation",
            hint="--yes does it without, --dry-run shows what would change",
        )
    if not typer.confirm(question, err=True):
        raise RefusedError(unchanged)


async def apply_and_wait(cluster: Cluster, objects: Sequence[Object], *, namespace: str, manner: Manner) -> bool:
    """Apply the objects, wait for the CA, and return whether it is ready.

    Raises:
        TouchmarkError: the API server refuses one. What was applied before stays.
    """
    from cli.cluster.installation.planning import apply
    from cli.cluster.installation.readiness import wait_ready
    from cli.text.output import print_note

    await apply(cluster, objects, is_forced=manner.takes_over)
    if not manner.wait_s:
        return False

    def tell(said: str) -> None:
        if not manner.as_json:
            print_note(f"  {said}")

    return await wait_ready(cluster, namespace, timeout_s=manner.wait_s, tell=tell)
