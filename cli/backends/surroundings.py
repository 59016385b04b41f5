"""What surrounds a policy, as lint judges by it: namespaces, workloads, Services, approvals. I/O.

Belongs here: gathering what this user may see. Doesn't: judging (``shared.model.adoption.lint``). What can't be
asked is left out, and not judged by.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cli.admin.client import AdminClient
from cli.cluster.connection import NAMESPACES, SERVICE_ACCOUNTS, SERVICES, Cluster, Kind, Object
from shared.model.adoption.lint import Surroundings
from shared.model.errors import TouchmarkError
from shared.model.identity.program import Program
from shared.model.policy.documents import Document, DraftDocument, MeshPolicyDocument, ProgramDocument
from shared.model.policy.rules import NamespaceState
from shared.model.wire.admin import NamespaceList, ProgramView, SidecarList


async def look_around_locally(client: AdminClient) -> Surroundings:
    """Ask the CA on this machine: who has joined, and what is approved."""
    try:
        sidecars: SidecarList = await client.list_sidecars()
        namespaces: NamespaceList = await client.list_namespaces()
    except TouchmarkError:
        return Surroundings()
    approvals = [
        (f"{state.namespace}/{each.service_account}", each.program)
        for state in namespaces.namespaces
        for each in state.approvals
    ]
    workloads = {each.workload for each in sidecars.sidecars} | {workload for workload, _ in approvals}
    return Surroundings(
        namespaces=frozenset({each.namespace for each in namespaces.namespaces})
        | {workload.partition("/")[0] for workload in workloads},
        workloads=frozenset(workloads),
        members={address: each.workload for each in sidecars.sidecars for address in each.addresses},
        approvals=_group(approvals),
    )


def list_workloads_of(around: Surroundings, namespace: str) -> frozenset[str] | None:
    """Return the service accounts of a namespace's workloads; None where they aren't known."""
    if around.workloads is None:
        return None
    parts = (workload.partition("/") for workload in around.workloads)
    return frozenset(name for its, _, name in parts if its == namespace)


async def list_service_accounts(cluster: Cluster, namespace: str) -> frozenset[str] | None:
    """Ask the API server for a namespace's service accounts; None where this user may not list them."""
    accounts = await _list(cluster, SERVICE_ACCOUNTS, namespace)
    return None if accounts is None else frozenset(map(_name, accounts))


async def look_around_cluster(cluster: Cluster, programs: Sequence[ProgramView] | None) -> Surroundings:
    """Ask the API server for namespaces, service accounts and Services, as far as this user may list them."""
    namespaces = await _list(cluster, NAMESPACES)
    accounts = await _list(cluster, SERVICE_ACCOUNTS)
    services = await _list(cluster, SERVICES) or []
    workloads = None if accounts is None else frozenset(f"{_namespace(each)}/{_name(each)}" for each in accounts)
    return Surroundings(
        namespaces=None if namespaces is None else frozenset(map(_name, namespaces)),
        workloads=workloads,
        services={
            address: f"{_namespace(each)}/{_name(each)}"
            for each in services
            for address in ((each.get("spec") or {}).get("clusterIPs") or [(each.get("spec") or {}).get("clusterIP")])
            if address and address != "None"
        },
        approvals=None
        if programs is None
        else _group((f"{view.namespace}/{view.service_account}", each) for view in programs for each in view.programs),
    )


async def _list(cluster: Cluster, kind: Kind, namespace: str = "") -> list[Object] | None:
    try:
        return await cluster.list(kind, namespace)
    except TouchmarkError:
        return None


def _name(value: Object) -> str:
    return str((value.get("metadata") or {}).get("name") or "")


def _namespace(value: Object) -> str:
    return str((value.get("metadata") or {}).get("namespace") or "")


def _group(approvals: Iterable[tuple[str, Program]]) -> dict[str, frozenset[Program]]:
    found: dict[str, set[Program]] = {}
    for workload, program in approvals:
        found.setdefault(workload, set()).add(program)
    return {workload: frozenset(programs) for workload, programs in found.items()}


def add_documents(around: Surroundings, documents: Iterable[Document]) -> Surroundings:
    """Return the surroundings with what these documents bring along: namespaces, and programs with their workloads."""
    import msgspec

    documents = list(documents)
    namespaces = {each.namespace for each in documents}
    programs = [each for each in documents if isinstance(each, ProgramDocument)]
    approvals = None
    if around.approvals is not None:
        approvals = dict(around.approvals)
        for each in programs:
            workload = f"{each.namespace}/{each.service_account}"
            approvals[workload] = approvals.get(workload, frozenset()) | set(each.programs)
    return msgspec.structs.replace(
        around,
        namespaces=None if around.namespaces is None else around.namespaces | namespaces,
        approvals=approvals,
    )


def read_states(documents: Iterable[Document]) -> list[NamespaceState]:
    """Return the policies among documents as lint judges them."""
    return [_make_state(each) for each in documents if isinstance(each, MeshPolicyDocument)]


def read_drafted_states(documents: Iterable[Document]) -> list[NamespaceState]:
    """Return the drafts among documents likewise."""
    return [_make_state(each.policy) for each in documents if isinstance(each, DraftDocument)]


def _make_state(policy: MeshPolicyDocument) -> NamespaceState:
    return NamespaceState(
        namespace=policy.namespace,
        group_label=policy.group_label,
        rules=policy.rules,
        workload_modes=policy.workload_modes or (),
    )
