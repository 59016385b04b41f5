"""Options that several verbs share. Pure: importing it costs nothing but typer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text; errors, too.")]
AdminSocket = Annotated[
    Path | None,
    typer.Option(
        "--admin-socket",
        envvar="TOUCHMARK_ADMIN_SOCKET",
        help="The CA's admin socket.",
        show_default="where `touchmark ca serve` puts it",
    ),
]


def complete_context(incomplete: str) -> list[str]:
    """Return the kubeconfig's contexts that begin like this, for the shell; none when it can't be read."""
    from cli.backends.target import list_kubeconfig_files

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
    typer.Option(
        "--kubernetes", "-k", envvar="TOUCHMARK_KUBERNETES", help="The CA in the cluster that the kubeconfig names."
    ),
]
KubeContext = Annotated[
    str,
    typer.Option(
        "--context",
        help="A context of the kubeconfig; means -k, too.",
        show_default="the kubeconfig's current one",
        autocompletion=complete_context,
    ),
]
Kubeconfig = Annotated[
    str,
    typer.Option(
        "--kubeconfig", envvar="KUBECONFIG", help="The kubeconfig; means -k, too.", show_default="~/.kube/config"
    ),
]
SystemNamespace = Annotated[
    str, typer.Option("--system-namespace", help="The namespace in which the CA runs; means -k, too.")
]
Since = Annotated[str, typer.Option("--since", help="How far back: 90s, 30m, 24h, 7d.")]
TimeoutS = Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait for everybody's confirmation.")]
ForceConflicts = Annotated[
    bool,
    typer.Option("--force-conflicts", help="In Kubernetes: take over fields that another tool (kubectl, Helm) owns."),
]
