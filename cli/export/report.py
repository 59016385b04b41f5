"""An export as text: the objects as YAML, what is lost as a comment above them. Pure.

Belongs here: the table of engines and the text. Doesn't: asking for states and pods (``cli.backends.exporting``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from cli.export.cilium import write_cilium_policies
from cli.export.cluster_network_policy import write_cluster_network_policies
from cli.export.engine import Engine
from cli.export.istio import write_istio_policies
from cli.export.linkerd import write_linkerd_policies
from cli.export.network_policy import write_network_policies
from cli.export.plan import Effect, Loss, make_plan
from cli.export.resolving import Object, Resolver
from cli.export.selectors import Selectors
from cli.text.printable import escape
from cli.text.yaml_stream import write_document
from shared.model.policy.rules import NamespaceState


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """Objects for another engine, and what they can't say.

    Attributes:
        versions: of each exported namespace's state.
    """

    engine: Engine
    versions: dict[str, int]
    objects: list[Object]
    losses: list[Loss]

    @property
    def is_exact(self) -> bool:
        """Whether nothing is looser or stricter; notes don't count."""
        return all(each.effect is Effect.NOTE for each in self.losses)


_Write = Callable[[Resolver, str], list[Object]]
_WRITERS: Final[Mapping[Engine, _Write]] = {
    Engine.NETWORK_POLICY: write_network_policies,
    Engine.CLUSTER_NETWORK_POLICY: write_cluster_network_policies,
    Engine.CILIUM: write_cilium_policies,
    Engine.ISTIO: lambda resolver, _: write_istio_policies(resolver),
    Engine.LINKERD: lambda resolver, _: write_linkerd_policies(resolver),
}


def export(
    engine: Engine,
    namespaces: list[str],
    states: Mapping[str, NamespaceState],
    selectors: Selectors,
    *,
    as_explicit: bool = False,
    system_namespace: str,
) -> Export:
    """Export namespaces' rules; the same states and pods always give the same text."""
    objects: list[Object] = []
    losses: list[Loss] = []
    versions = {}
    for namespace in sorted(namespaces):
        plan = make_plan(namespace, states, as_explicit=as_explicit)
        resolver = Resolver(plan=plan, selectors=selectors)
        objects += _WRITERS[engine](resolver, system_namespace)
        losses += [*plan.losses, *resolver.losses]
        versions[namespace] = plan.version
    return Export(engine=engine, versions=versions, objects=objects, losses=sorted(set(losses), key=_order))


def write_export(found: Export) -> str:
    """Write the objects as YAML, under a comment that says what is lost."""
    versions = ", ".join(f"{name} (version {version})" for name, version in found.versions.items())
    lines = [f"# Exported by touchmark to {found.engine} from the rules in force: {versions}"]
    lines += [f"# {escape(str(each))}" for each in found.losses]
    text = "\n".join(lines) + "\n"
    if not found.objects:
        return text + "# nothing to enforce\n"
    return text + "".join(f"---\n{write_document(each)}" for each in found.objects)


def _order(loss: Loss) -> tuple[int, str, str]:
    return list(Effect).index(loss.effect), loss.rule, loss.message
