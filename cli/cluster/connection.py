"""A connection to the API server with the user's rights: plain JSON requests, each with a deadline and a bound. I/O.

Belongs here: one method per kind of request, and its errors. Doesn't: what the objects mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import quote

import aiohttp
import msgspec

from cli.cluster.faults import Action, NotInstalledError, UnreachableError, explain
from cli.cluster.kubeconfig import Access, load_access
from shared.model.errors import NotFoundError, UnavailableError
from shared.model.kubernetes.contract import GROUP
from shared.runtime.open_sockets import OpenSockets

CONNECT_DEADLINE_S: Final = 10.0
REQUEST_DEADLINE_S: Final = 30.0
CLOSE_DEADLINE_S: Final = 10.0  # Two seconds were too few for a starved machine.
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
MAX_OBJECTS: Final = 50_000
PAGE: Final = 500
_MAX_TEXT_FIELD: Final = 65_536

Object = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of object: ``group`` is empty for the core."""

    group: str
    version: str
    plural: str

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Return the path of one object, or of all of a namespace (empty: of all namespaces)."""
        parts = ["/apis", self.group, self.version] if self.group else ["/api", self.version]
        if namespace:
            parts += ["namespaces", quote(namespace, safe="")]
        parts += [self.plural, *(quote(part, safe="") for part in (name, subresource) if part)]
        return "/".join(parts)


PODS: Final = Kind(group="", version="v1", plural="pods")
NAMESPACES: Final = Kind(group="", version="v1", plural="namespaces")
SERVICES: Final = Kind(group="", version="v1", plural="services")
SERVICE_ACCOUNTS: Final = Kind(group="", version="v1", plural="serviceaccounts")
MESH_POLICIES: Final = Kind(group=GROUP, version="v1alpha1", plural="meshpolicies")
PROGRAMS: Final = Kind(group=GROUP, version="v1alpha1", plural="programs")
NETWORK_POLICIES: Final = Kind(group="networking.k8s.io", version="v1", plural="networkpolicies")
DEFINITIONS: Final = Kind(group="apiextensions.k8s.io", version="v1", plural="customresourcedefinitions")
WEBHOOKS: Final = Kind(group="admissionregistration.k8s.io", version="v1", plural="mutatingwebhookconfigurations")
ADMISSION_POLICIES: Final = Kind(
    group="admissionregistration.k8s.io", version="v1", plural="validatingadmissionpolicies"
)
ADMISSION_BINDINGS: Final = Kind(
    group="admissionregistration.k8s.io", version="v1", plural="validatingadmissionpolicybindings"
)
CONFIG_MAPS: Final = Kind(group="", version="v1", plural="configmaps")
SELF_ACCESS_REVIEWS: Final = Kind(group="authorization.k8s.io", version="v1", plural="selfsubjectaccessreviews")
SELF_REVIEWS: Final = Kind(group="authentication.k8s.io", version="v1", plural="selfsubjectreviews")
ACCESS_REVIEWS: Final = Kind(group="authorization.k8s.io", version="v1", plural="subjectaccessreviews")


@dataclass(slots=True, kw_only=True)
class Cluster:
    """One API server, as one user.

    Attributes:
        server_time: seconds since the epoch, of the last answer's Date header; 0 before the first. To the second.

    Raises (every method):
        UnreachableError: the server doesn't answer, or not in time.
        TouchmarkError: its own answer (``faults.explain``).
    """

    access: Access
    session: aiohttp.ClientSession = field(repr=False)
    server_time: float = 0.0

    async def get(self, kind: Kind, namespace: str, name: str) -> Object:
        """Return one object."""
        action = _name("get", kind, namespace, name)
        return await self._call("GET", kind.path(namespace, name), action)

    async def find(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """Return one object, or None when it doesn't exist."""
        try:
            return await self.get(kind, namespace, name)
        except NotFoundError:
            return None

    async def list(
        self, kind: Kind, namespace: str = "", *, keep: Callable[[Object], Object] | None = None, **query: str
    ) -> list[Object]:
        """Return all objects of a namespace (empty: of all), page by page.

        Arguments:
            keep: returns what is kept of an object, where there may be many; None: all of it.
            query: such as ``labelSelector``.

        Raises:
            UnavailableError: there are more than ``MAX_OBJECTS``.
        """
        action = _name("list", kind, namespace)
        found: list[Object] = []
        token = ""
        while True:
            page = await self._call(
                "GET", kind.path(namespace), action, query={"limit": str(PAGE), "continue": token, **query}
            )
            items = page.get("items") or []
            found += [keep(item) for item in items] if keep else items
            token = (page.get("metadata") or {}).get("continue") or ""
            if not token:
                return found
            if len(found) > MAX_OBJECTS:
                raise UnavailableError(f"more than {MAX_OBJECTS} {kind.plural}", hint="name one namespace")

    async def apply(
        self, kind: Kind, value: Object, *, manager: str, force: bool = False, dry_run: bool = False
    ) -> Object:
        """Write the fields of ``value`` by server-side apply, strictly, and return the whole object.

        Arguments:
            value: with ``metadata.name``, and ``metadata.namespace`` unless its kind is of the whole cluster.
            manager: the field manager that owns these fields from now on.
            force: take fields over that other managers own.
        """
        metadata = value["metadata"]
        namespace, name = metadata.get("namespace", ""), metadata["name"]
        query = {
            "fieldManager": manager,
            "fieldValidation": "Strict",
            "force": "true" if force else "",
            "dryRun": "All" if dry_run else "",
        }
        return await self._call(
            "PATCH",
            kind.path(namespace, name),
            # An apply that makes the object asks for "create" as well.
            Action(verb="patch", also="create", group=kind.group, resource=kind.plural, namespace=namespace, name=name),
            query=query,
            body=value,
            content_type="application/apply-patch+yaml",  # JSON is YAML.
        )

    async def merge(self, kind: Kind, value: Object, *, manager: str) -> Object:
        """Change the fields of ``value`` by a merge patch, in which None takes a field away, whoever wrote it."""
        namespace, name = value["metadata"]["namespace"], value["metadata"]["name"]
        return await self._call(
            "PATCH",
            kind.path(namespace, name),
            Action(verb="patch", group=kind.group, resource=kind.plural, namespace=namespace, name=name),
            query={"fieldManager": manager, "fieldValidation": "Strict"},
            body=value,
            content_type="application/merge-patch+json",
        )

    async def create(
        self, kind: Kind, value: Object, namespace: str = "", *, manager: str = "", dry_run: bool = False
    ) -> Object:
        """Create an object: one that only asks something (a review), on trial, or that mayn't be there yet.

        Raises:
            ChangedError: it is there.
        """
        query = ({"fieldManager": manager} if manager else {}) | ({"dryRun": "All"} if dry_run else {})
        action = _name("create", kind, namespace)
        return await self._call("POST", kind.path(namespace), action, query=query, body=value)

    async def delete(
        self, kind: Kind, namespace: str, name: str, *, dry_run: bool = False, resource_version: str = ""
    ) -> None:
        """Delete one object.

        Arguments:
            resource_version: only this version of it; empty: any.

        Raises:
            ChangedError: it has another version.
        """
        query = {"dryRun": "All"} if dry_run else {}
        # meta/v1 DeleteOptions, in which the server looks for the fields of any API group.
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"resourceVersion": resource_version}}
        await self._call(
            "DELETE",
            kind.path(namespace, name),
            _name("delete", kind, namespace, name),
            query=query,
            body=options if resource_version else None,
        )

    async def get_path(self, path: str) -> Object:
        """Return what a path outside the resources answers, such as ``/version``."""
        return await self._call("GET", path, Action(verb="get", group="", resource=path))

    async def open_websocket(
        self, path: str, query: Mapping[str, str], *, protocol: str, action: Action, max_message_bytes: int
    ) -> aiohttp.ClientWebSocketResponse:
        """Open a WebSocket to a subresource that streams.

        Raises:
            UnavailableError: the server doesn't speak ``protocol``.
        """
        try:
            async with asyncio.timeout(CONNECT_DEADLINE_S + REQUEST_DEADLINE_S):
                websocket = await self.session.ws_connect(
                    self.access.server + path,
                    params=dict(query),
                    # A kubelet's streams are no JSON: asked for that, it answers 406.
                    headers={**self._headers(), "Accept": "*/*"},
                    protocols=(protocol,),
                    max_msg_size=max_message_bytes,
                    autoclose=True,
                    heartbeat=30,
                    proxy=self.access.proxy or None,
                    ssl=self.access.tls or True,
                    server_hostname=self.access.server_name or None,
                )
        except aiohttp.WSServerHandshakeError as error:
            # The library keeps the answer's status and drops its text.
            raise explain(error.status, {}, action) from error
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise self._unreachable(error) from error
        if websocket.protocol != protocol:
            await websocket.close()
            raise UnavailableError(
                f"the API server doesn't speak {protocol} to {action.resource}", hint="is there a proxy in between?"
            )
        return websocket

    async def _call(
        self,
        method: str,
        path: str,
        action: Action,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = "application/json",
    ) -> Object:
        data = None if body is None else msgspec.json.encode(body)
        headers = self._headers() | ({"Content-Type": content_type} if data is not None else {})
        try:
            async with (
                asyncio.timeout(REQUEST_DEADLINE_S),
                self.session.request(
                    method,
                    self.access.server + path,
                    params={key: value for key, value in (query or {}).items() if value},
                    data=data,
                    headers=headers,
                    allow_redirects=False,
                    proxy=self.access.proxy or None,
                    ssl=self.access.tls or True,
                    server_hostname=self.access.server_name or None,
                ) as response,
            ):
                self._note_time(response)
                content = b""
                while chunk := await response.content.read(MAX_ANSWER_BYTES + 1 - len(content)):
                    content += chunk
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise self._unreachable(error) from error
        if len(content) > MAX_ANSWER_BYTES:
            raise UnavailableError(f"the answer to {action} is too large", hint="name one namespace")
        answer = _decode(content)
        if response.status >= 300:
            raise explain(response.status, answer or {}, action)
        if answer is None:
            raise UnreachableError(
                f"{self.access.server} doesn't answer {action} like an API server", hint="is there a proxy?"
            )
        return answer

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": "touchmark"}
        return headers | ({"Authorization": self.access.authorization} if self.access.authorization else {})

    def _note_time(self, response: aiohttp.ClientResponse) -> None:
        try:
            self.server_time = parsedate_to_datetime(response.headers["Date"]).timestamp()
        except (KeyError, ValueError):
            self.server_time = 0.0

    def _unreachable(self, error: BaseException) -> UnreachableError:
        context = f" (context {self.access.context})" if self.access.context else ""
        said = f"within {REQUEST_DEADLINE_S:.0f} s" if isinstance(error, TimeoutError) else f": {error}"
        return UnreachableError(
            f"the API server {self.access.server}{context} can't be reached {said}".replace(" :", ":"),
            hint="does `kubectl get --raw /readyz` work? --context selects another cluster",
        )


@asynccontextmanager
async def connect(kubeconfig: str = "", context: str = "") -> AsyncIterator[Cluster]:
    """Connect to the cluster of a kubeconfig's context; both as ``load_access`` takes them. No request is sent yet.

    Raises:
        KubeconfigError: see ``kubeconfig.load_access``, also for the errors below.
        ContextError: unknown.
        UnauthorizedError: no credentials.
    """
    access = await load_access(kubeconfig, context)
    sockets = OpenSockets()
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(socket_factory=sockets.open),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_DEADLINE_S),
        trust_env=True,  # HTTPS_PROXY and NO_PROXY, as for kubectl.
        max_field_size=_MAX_TEXT_FIELD,
    )
    try:
        async with session:
            yield Cluster(access=access, session=session)
    finally:
        await sockets.wait_closed(timeout_s=CLOSE_DEADLINE_S)


def is_missing(error: Exception) -> bool:
    """Return whether an error means that the requested object doesn't exist."""
    return isinstance(error, NotFoundError | NotInstalledError)


def _name(verb: str, kind: Kind, namespace: str, name: str = "") -> Action:
    return Action(verb=verb, group=kind.group, resource=kind.plural, namespace=namespace, name=name)


def _decode(content: bytes) -> Object | None:
    try:
        value = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return value if isinstance(value, dict) else None
