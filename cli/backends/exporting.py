"""What an export is made from: the states in force from the CA, and pods' labels from the API server. I/O."""

from __future__ import annotations

from dataclasses import dataclass

from cli.admin.client import AdminClient
from cli.backends.session import open_admin, open_cluster
from cli.backends.target import Target
from cli.cluster.connection import PODS, Object
from shared.model.errors import NotFoundError, TouchmarkError
from shared.model.policy.rules import NamespaceState


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSources:
    """States by namespace; pods as far as this user may list them.

    Attributes:
        notes: what couldn't be asked, in words.
    """

    states: dict[str, NamespaceState]
    pods: tuple[Object, ...]
    notes: tuple[str, ...]


async def read_sources(target: Target, namespace: str) -> ExportSources:
    """Ask for everything that an export of one namespace (empty: of all) needs.

    Raises:
        NotFoundError: the CA doesn't know the namespace.
        TouchmarkError: the CA doesn't answer, or not this user.
    """
    async with open_admin(target) as client:
        states, notes = await _read_states(client, namespace)
    if namespace and namespace not in states:
        raise NotFoundError(f"the CA knows no namespace {namespace}", hint="`touchmark status` lists them")
    pods: list[Object] = []
    if target.in_cluster:
        async with open_cluster(target) as cluster:
            try:
                pods = await cluster.list(PODS, keep=_keep)
            except TouchmarkError as error:
                notes.append(f"pods can't be listed, so that no labels are known: {error.message}")
    return ExportSources(states=states, pods=tuple(pods), notes=tuple(notes))


async def _read_states(client: AdminClient, namespace: str) -> tuple[dict[str, NamespaceState], list[str]]:
    try:
        return {each.namespace: each for each in (await client.list_namespaces()).namespaces}, []
    except TouchmarkError as error:
        if not namespace:
            raise
        state = await client.get_namespace(namespace)
        note = f"rules of other namespaces can't be read, so that what they let out is missing: {error.message}"
        return {namespace: state}, [note]


def _keep(pod: Object) -> Object:
    """Keep what ``choose_selectors`` reads."""
    metadata, spec = pod.get("metadata") or {}, pod.get("spec") or {}
    return {
        "metadata": {key: metadata.get(key) for key in ("namespace", "name", "labels", "annotations")},
        "spec": {
            "serviceAccountName": spec.get("serviceAccountName"),
            "hostNetwork": spec.get("hostNetwork"),
            "containers": [
                {"name": each.get("name"), "ports": each.get("ports")} for each in spec.get("containers") or ()
            ],
        },
        "status": {"phase": (pod.get("status") or {}).get("phase")},
    }
