"""The three roles of the admin API, and which of them each request needs. Pure.

Belongs here: the table, and of which namespace a request is. Doesn't: who has a role (``callers.py``).

- A *reader* sees decisions, edges and states; of a namespace, or of the whole mesh.
- A *namespace operator* changes a namespace's mode, policy and programs, on a CA outside a cluster; in one the objects
  ``MeshPolicy`` and ``Program`` say them, and the API server decides who may write those.
- A *CA operator* does everything else.

A request that isn't in the table needs a CA operator. In Kubernetes a role is a right to resources that don't exist
otherwise: ``get`` in the group ``view.touchmark.dev``, ``update`` of ``namespaces`` or ``ca`` in
``operate.touchmark.dev``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import msgspec

from shared.model.errors import InputError
from shared.model.identity.identity import check_namespace, parse_workload
from shared.model.trust.admin_access import CHALLENGE_PATH
from shared.model.wire.admin import PolicyDifferenceRequest, PolicyRequest, ProgramRequest

VIEW_GROUP: Final = "view.touchmark.dev"
OPERATE_GROUP: Final = "operate.touchmark.dev"
OPERATED_NAMESPACES: Final = "namespaces"
OPERATED_CA: Final = "ca"

# Answered to anyone who reaches the port: without them neither a probe nor a caller could begin.
OPEN: Final = frozenset({"/healthz", "/readyz", "/metrics", CHALLENGE_PATH})


class Role(IntEnum):
    """A higher one has the lower ones' rights, on the Unix socket; in Kubernetes each is granted by itself."""

    READER = 1
    NAMESPACE_OPERATOR = 2
    CA_OPERATOR = 3

    def __str__(self) -> str:
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a request needs.

    Attributes:
        resource: of ``VIEW_GROUP`` for a reader, else of ``OPERATE_GROUP``.
        namespace: empty: of the whole mesh.
    """

    role: Role
    resource: str
    namespace: str = ""

    @property
    def group(self) -> str:
        """The API group of ``resource``."""
        return VIEW_GROUP if self.role is Role.READER else OPERATE_GROUP

    @property
    def verb(self) -> str:
        """The verb that is asked for."""
        return "get" if self.role is Role.READER else "update"

    def __str__(self) -> str:
        where = f" in namespace {self.namespace}" if self.namespace else " in the whole mesh"
        return f"{self.verb} {self.resource}.{self.group}{'' if self.resource == OPERATED_CA else where}"


_CA: Final = Need(role=Role.CA_OPERATOR, resource=OPERATED_CA)
_NAMESPACE: Final = Need(role=Role.NAMESPACE_OPERATOR, resource=OPERATED_NAMESPACES)


def _read(resource: str) -> Need:
    return Need(role=Role.READER, resource=resource)


# Method and path as the route is written → its need, without the namespace.
NEEDS: Final[Mapping[tuple[str, str], Need]] = {
    ("GET", "/v1/status"): _read("status"),
    ("GET", "/v1/rotation"): _read("status"),
    ("GET", "/v1/journal"): _read("status"),
    ("GET", "/v1/cluster"): _read("status"),
    ("GET", "/v1/foreign-domains"): _read("status"),
    ("GET", "/v1/audit"): _read("audit"),
    ("GET", "/v1/sidecars"): _read("sidecars"),
    ("GET", "/v1/join-tokens"): _read("sidecars"),
    ("GET", "/v1/connections"): _read("connections"),
    ("GET", "/v1/identities"): _read("identities"),
    ("GET", "/v1/decisions"): _read("decisions"),
    ("GET", "/v1/decisions/follow"): _read("decisions"),
    ("GET", "/v1/namespaces"): _read("namespaces"),
    ("GET", "/v1/namespaces/{ns}"): _read("namespaces"),
    ("GET", "/v1/namespaces/{ns}/acknowledgements"): _read("namespaces"),
    ("GET", "/v1/namespaces/{ns}/readiness"): _read("decisions"),
    ("POST", "/v1/namespaces/{ns}/readiness"): _read("decisions"),  # A question with a long body.
    ("GET", "/v1/namespaces/{namespace}/edges"): _read("edges"),
    ("GET", "/v1/namespaces/{namespace}/coverage"): _read("edges"),
    ("GET", "/v1/namespaces/{namespace}/timeline"): _read("edges"),
    ("POST", "/v1/policies/difference"): _read("decisions"),  # Likewise.
    ("GET", "/v1/programs"): _read("namespaces"),
    ("GET", "/v1/policies"): _read("namespaces"),
    ("GET", "/v1/programs/queue"): _read("decisions"),
    ("GET", "/v1/namespaces/{ns}/history"): _read("namespaces"),
    ("GET", "/v1/namespaces/{ns}/history/{generation}"): _read("namespaces"),
    ("GET", "/v1/namespaces/{ns}/draft"): _read("decisions"),
    ("PUT", "/v1/namespaces/{ns}/draft"): _NAMESPACE,  # Also in a cluster, as refusals: nothing is enforced by it.
    ("DELETE", "/v1/namespaces/{ns}/draft"): _NAMESPACE,
    ("POST", "/v1/namespaces/{ns}/draft/promote"): _NAMESPACE,
    ("PUT", "/v1/namespaces/{ns}/mode"): _NAMESPACE,
    ("POST", "/v1/namespaces/{ns}/mode/confirm"): _NAMESPACE,
    ("POST", "/v1/namespaces/{ns}/undo"): _NAMESPACE,
    ("POST", "/v1/namespaces/{ns}/refusals"): _NAMESPACE,  # Also in a cluster: they are in the CA's own store.
    ("POST", "/v1/programs"): _NAMESPACE,
    ("PUT", "/v1/policies"): _NAMESPACE,
    ("DELETE", "/v1/programs/{ns}/{name}"): _NAMESPACE,
    ("DELETE", "/v1/policies/{ns}"): _NAMESPACE,
    ("DELETE", "/v1/audit"): _CA,
    ("POST", "/v1/join-tokens"): _CA,
    ("DELETE", "/v1/join-tokens/{id}"): _CA,
    ("POST", "/v1/evictions"): _CA,
    ("POST", "/v1/rotation"): _CA,
    ("POST", "/v1/rotation/revert"): _CA,
    ("POST", "/v1/authorities/{id}/taint"): _CA,
    ("PUT", "/v1/foreign-domains/{domain}"): _CA,
    ("DELETE", "/v1/foreign-domains/{domain}"): _CA,
    ("POST", "/v1/backup"): _CA,
}
# Their namespaces stand in their bodies.
_NAMED_IN_BODY: Final[Mapping[tuple[str, str], type[ProgramRequest | PolicyRequest | PolicyDifferenceRequest]]] = {
    ("POST", "/v1/programs"): ProgramRequest,
    ("PUT", "/v1/policies"): PolicyRequest,
    ("POST", "/v1/policies/difference"): PolicyDifferenceRequest,
}
# A body that names more of them needs the role in the whole mesh: each is a question to the API server.
MAX_NAMESPACES_IN_BODY: Final = 8
# What their query narrows to one namespace.
_NARROWED: Final = frozenset(
    {"/v1/decisions", "/v1/decisions/follow", "/v1/identities", "/v1/programs", "/v1/programs/queue", "/v1/policies"}
)


def find_need(method: str, path: str, names: Mapping[str, str], query: Mapping[str, str]) -> Need | None:
    """Return what a request needs; None: it is open to anyone.

    Arguments:
        path: as the route is written, such as ``/v1/namespaces/{ns}/mode``.
        names: the path's parts by name.
        query: as the handler reads it.

    Raises:
        IdentityError: a namespace or workload isn't one.
    """
    method = "GET" if method == "HEAD" else method
    if method == "GET" and path in OPEN:
        return None
    need = NEEDS.get((method, path), _CA)
    if need is _CA:
        return need
    return Need(role=need.role, resource=need.resource, namespace=_find_namespace(path, names, query))


def is_question(method: str, path: str) -> bool:
    """Tell whether a request changes nothing, so that it may be given up when its caller goes."""
    return method in ("GET", "HEAD") or NEEDS.get((method, path), _CA).role is Role.READER


def is_named_in_body(method: str, path: str) -> bool:
    """Tell whether a request's namespaces stand in its body."""
    return (method, path) in _NAMED_IN_BODY


def find_needs_in_body(method: str, path: str, body: bytes) -> list[Need]:
    """Return what a request needs whose namespaces stand in its body: the role in each of them, or in the whole mesh.

    Raises:
        InputError: the body can't be read.
        IdentityError: a namespace isn't one.
    """
    need = NEEDS[method, path]
    try:
        said = msgspec.json.decode(body or b"{}", type=_NAMED_IN_BODY[method, path])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"the request can't be read: {error}") from error
    if isinstance(said, PolicyDifferenceRequest):
        named = [each.namespace for each in said.policies] + [each.namespace for each in said.programs]
    else:
        named = [said.namespace]
    namespaces = sorted({check_namespace(each) for each in named})
    if not 0 < len(namespaces) <= MAX_NAMESPACES_IN_BODY:
        return [need]
    return [Need(role=need.role, resource=need.resource, namespace=each) for each in namespaces]


def _find_namespace(path: str, names: Mapping[str, str], query: Mapping[str, str]) -> str:
    if named := names.get("ns") or names.get("namespace"):
        return check_namespace(named)
    if path not in _NARROWED:
        return ""
    if namespace := query.get("namespace", ""):
        # Where both are given, the answer is narrowed by both.
        return check_namespace(namespace)
    workload = query.get("workload", "")
    return parse_workload(workload).namespace if workload else ""
