"""Options that several verbs share, and the command class that adds those that say where the CA is.

Importing it costs nothing but typer. Doesn't belong here: what the options mean (``cli/backends/target.py``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand

from cli.backends.target import Target, choose_target
from shared.model.kubernetes.contract import SYSTEM_NAMESPACE

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text, also for errors.")]
AdminSocket = Annotated[
    Path | None,
    typer.Option(
        "--admin-socket",
        envvar="TOUCHMARK_ADMIN_SOCKET",
        help="The CA's admin socket.",
        show_default="the default of `touchmark ca serve`",
    ),
]


def complete_context(incomplete: str) -> list[str]:
    """Return the kubeconfig's contexts that begin like this, for the shell; none when it can't be read."""
    from cli.machine.kubeconfig_files import list_kubeconfig_files

    names: list[str] = []
    try:
        import yaml

        for path in list_kubeconfig_files():
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            names += [str(each["name"]) for each in content["contexts"]]
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return []
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]


Kubernetes = Annotated[
    bool,
    typer.Option("--kubernetes", "-k", envvar="TOUCHMARK_KUBERNETES", help="Use the CA in the kubeconfig's cluster."),
]
KubeContext = Annotated[
    str,
    typer.Option(
        "--context",
        help="The kubeconfig context to use; implies -k.",
        show_default="the current context",
        autocompletion=complete_context,
    ),
]
Kubeconfig = Annotated[
    str,
    typer.Option(
        "--kubeconfig", envvar="KUBECONFIG", help="Path of the kubeconfig; implies -k.", show_default="~/.kube/config"
    ),
]
SystemNamespace = Annotated[str, typer.Option("--system-namespace", help="The CA's namespace; implies -k.")]
MOMENT_HELP: Final = "Only what was {} then: 2026-11-28, 2026-11-28T14:30 (UTC), or 90m, 7d ago."
Since = Annotated[str, typer.Option("--since", help="How far back: 90s, 30m, 24h, 7d.")]
TimeoutS = Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait for every sidecar to confirm.")]
ForceConflicts = Annotated[
    bool,
    typer.Option("--force-conflicts", help="In Kubernetes: take over fields owned by another tool (kubectl, Helm)."),
]
IgnoreLint = Annotated[
    bool,
    typer.Option("--ignore-lint", help="Apply despite errors of lint, such as names of what is still to come."),
]


class TargetCommand(TyperCommand):
    """A verb with the options that say where the CA is, after its own: ``@app.command(cls=TargetCommand)``.

    The verb takes ``context: typer.Context`` and reads them with ``get_target``.
    """

    def __init__(self, name: str | None, *, params: list[Any] | None = None, **settings: Any) -> None:
        super().__init__(name, params=[*(params or ()), *_list_target_options()], **settings)

    def invoke(self, ctx: Any) -> Any:
        """Turn the shared options into a ``Target``, and run the verb with its own."""
        given = {name: ctx.params.pop(name) for name in _TARGET_OPTIONS}
        if given["admin_socket"] is not None:
            given["admin_socket"] = Path(given["admin_socket"])
        typed = frozenset(name for name in given if _is_typed(ctx, name))
        ctx.obj = choose_target(typed=typed, **given)
        return super().invoke(ctx)


def get_target(context: typer.Context) -> Target:
    """Return where a verb's CA is. The verb's command is a ``TargetCommand``."""
    target = context.obj
    if not isinstance(target, Target):
        raise TypeError("the verb isn't registered with cls=TargetCommand")
    return target


def _declare_target_options(
    kubernetes: Kubernetes = False,
    context: KubeContext = "",
    kubeconfig: Kubeconfig = "",
    system_namespace: SystemNamespace = SYSTEM_NAMESPACE,
    admin_socket: AdminSocket = None,
) -> None:
    """Declare the shared options as a verb declares its own; never called."""


_TARGET_OPTIONS: Final = ("kubernetes", "context", "kubeconfig", "system_namespace", "admin_socket")


def _list_target_options() -> list[Any]:
    app = typer.Typer(add_completion=False)
    app.command()(_declare_target_options)
    return [option for option in typer.main.get_command(app).params if option.name in _TARGET_OPTIONS]


def _is_typed(context: Any, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
