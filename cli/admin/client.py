"""The client of the CA's admin API: typed calls over its Unix socket, each with a deadline. Does I/O.

Belongs here: one method per endpoint of ``shared.model.wire.admin``, and its errors. Doesn't: printing.
Longer than most by the number of endpoints: a method is a few lines.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec

from cli.admin.credentials import Authorization, Credentials
from cli.machine.kubeconfig_files import list_kubeconfig_files
from shared.model.adoption.program_queue import ProgramQueue, RefusalRequest
from shared.model.errors import InputError, TouchmarkError, UnavailableError
from shared.model.policy.rules import NamespaceState
from shared.model.wire.admin import (
    Acknowledgements,
    AuditPage,
    CAStatus,
    ClusterStatus,
    ConnectionList,
    CoverageList,
    DecisionList,
    DecisionView,
    DraftRequest,
    DraftView,
    EdgeList,
    ErrorAnswer,
    Evicted,
    EvictionRequest,
    FollowEnd,
    ForeignDomainList,
    ForeignDomainRequest,
    GenerationContent,
    Health,
    History,
    IdentityList,
    JoinTokenCreated,
    JoinTokenList,
    JoinTokenRequest,
    JournalList,
    ModeRequest,
    NamespaceList,
    PolicyCandidateRequest,
    PolicyDifference,
    PolicyDifferenceRequest,
    PolicyList,
    PolicyRequest,
    PolicyView,
    ProgramList,
    ProgramRequest,
    ProgramView,
    PromoteRequest,
    Readiness,
    RotationRequest,
    RotationStatus,
    SidecarList,
    Timeline,
    UndoRequest,
    to_error,
)
from shared.model.wire.backup import BACKUP_PATH, BackupRequest
from shared.runtime.paths import default_admin_socket

DEFAULT_TIMEOUT_S: Final = 15.0
_FOLLOW_END: Final = b'{"ended"'
BACKUP_SILENCE_S: Final = 60.0
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
_MAX_LINE_BYTES: Final = 256 * 1024
_HINT: Final = "start it with `touchmark ca serve`, or set its socket with --admin-socket or TOUCHMARK_ADMIN_SOCKET"
_CLUSTER_HINT: Final = f"-k talks to the CA in the cluster of your kubeconfig; a local one: {_HINT}"

T = TypeVar("T")


class AdminClient:
    """One session with the CA's admin API; use it as an asynchronous context manager.

    Arguments:
        socket_path: the Unix socket; None: where ``touchmark ca serve`` puts it by default.
        timeout_s: deadline of one call.
        explain: says why a call failed, where the socket is only a forward; None: by the socket itself.
        credentials: of the user, for a CA that doesn't know it by the socket; None: there are none.

    Raises (every method):
        UnavailableError: the socket doesn't answer, or not in time.
        TouchmarkError: the CA's own error, with its code and hint.
    """

    def __init__(
        self,
        socket_path: Path | None = None,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        explain: Callable[[Exception], UnavailableError] | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        self._path = str(socket_path or default_admin_socket())
        self._explain = explain or self._explain_by_socket
        self._timeout_s = timeout_s
        self._authorization = Authorization(credentials) if credentials is not None else None
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        if len(os.fsencode(self._path)) > 107:  # unix(7): sun_path holds 108 bytes with its end.
            raise InputError(f"the admin socket's path is too long: {self._path}", hint="at most 107 bytes")
        self._session = aiohttp.ClientSession(
            "http://touchmark",
            connector=aiohttp.UnixConnector(self._path),
            read_bufsize=_MAX_LINE_BYTES,
            timeout=aiohttp.ClientTimeout(total=None),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    # ---- CA ------------------------------------------------------------------------------------------------------

    async def get_status(self) -> CAStatus:
        """Return the CA at a glance."""
        return await self._call("GET", "/v1/status", CAStatus)

    async def get_health(self) -> Health:
        """Return whether the CA signs and reaches its store; a fault is an answer here, too."""
        return await self._call("GET", "/readyz", Health, accept=(503,))

    async def create_join_token(self, request: JoinTokenRequest) -> JoinTokenCreated:
        """Make a join token."""
        return await self._call("POST", "/v1/join-tokens", JoinTokenCreated, body=request)

    async def list_join_tokens(self) -> JoinTokenList:
        """Return the join tokens, newest first."""
        return await self._call("GET", "/v1/join-tokens", JoinTokenList)

    async def revoke_join_token(self, token_id: str) -> JoinTokenList:
        """Make an open join token worthless."""
        return await self._call("DELETE", f"/v1/join-tokens/{_part(token_id)}", JoinTokenList)

    async def evict(self, request: EvictionRequest) -> Evicted:
        """Evict a sidecar, or all of a workload."""
        return await self._call("POST", "/v1/evictions", Evicted, body=request)

    async def list_sidecars(self) -> SidecarList:
        """Return the sidecars that joined."""
        return await self._call("GET", "/v1/sidecars", SidecarList)

    async def list_foreign_domains(self) -> ForeignDomainList:
        """Return the other trust domains."""
        return await self._call("GET", "/v1/foreign-domains", ForeignDomainList)

    async def put_foreign_domain(self, trust_domain: str, request: ForeignDomainRequest) -> ForeignDomainList:
        """Add a trust domain with these roots, or replace its roots."""
        return await self._call("PUT", f"/v1/foreign-domains/{_part(trust_domain)}", ForeignDomainList, body=request)

    async def remove_foreign_domain(self, trust_domain: str) -> ForeignDomainList:
        """Remove a trust domain."""
        return await self._call("DELETE", f"/v1/foreign-domains/{_part(trust_domain)}", ForeignDomainList)

    async def start_rotation(self, request: RotationRequest) -> RotationStatus:
        """Start a rotation, or force the waiting one of its kind."""
        return await self._call("POST", "/v1/rotation", RotationStatus, body=request)

    async def get_rotation(self) -> RotationStatus:
        """Return where the rotation stands."""
        return await self._call("GET", "/v1/rotation", RotationStatus)

    async def revert_rotation(self) -> RotationStatus:
        """Revert the last rotation."""
        return await self._call("POST", "/v1/rotation/revert", RotationStatus)

    async def taint_authority(self, authority_id: str) -> CAStatus:
        """Distrust an old authority."""
        return await self._call("POST", f"/v1/authorities/{_part(authority_id)}/taint", CAStatus)

    async def list_audit(self, query: Mapping[str, str]) -> AuditPage:
        """Return a part of the audit log."""
        return await self._call("GET", "/v1/audit", AuditPage, query=query)

    async def prune_audit(self, through: str) -> AuditPage:
        """Remove the audit log's lines up to this one (``NUMBER:SHA256``)."""
        return await self._call("DELETE", "/v1/audit", AuditPage, query={"through": through})

    async def get_cluster(self) -> ClusterStatus:
        """Return what the CA sees of its cluster."""
        return await self._call("GET", "/v1/cluster", ClusterStatus)

    # ---- namespaces, programs, policies --------------------------------------------------------------------------

    async def list_namespaces(self) -> NamespaceList:
        """Return all namespaces."""
        return await self._call("GET", "/v1/namespaces", NamespaceList)

    async def get_namespace(self, namespace: str) -> NamespaceState:
        """Return one namespace's state."""
        return await self._call("GET", f"/v1/namespaces/{_part(namespace)}", NamespaceState)

    async def get_readiness(self, namespace: str, *, since_s: float, workload: str = "") -> Readiness:
        """Return what ``explicit`` would have refused in the last ``since_s`` seconds."""
        path = f"/v1/namespaces/{_part(namespace)}/readiness"
        return await self._call("GET", path, Readiness, query={"since_s": str(since_s), "workload": workload})

    async def assess_candidate(
        self, namespace: str, candidate: PolicyCandidateRequest, *, since_s: float, workload: str = ""
    ) -> Readiness:
        """Return what ``explicit`` would refuse with these rules instead of the current ones."""
        path = f"/v1/namespaces/{_part(namespace)}/readiness"
        query = {"since_s": str(since_s)} | ({"workload": workload} if workload else {})
        return await self._call("POST", path, Readiness, query=query, body=candidate)

    async def set_mode(self, namespace: str, request: ModeRequest) -> NamespaceState:
        """Switch a namespace's mode."""
        return await self._call("PUT", f"/v1/namespaces/{_part(namespace)}/mode", NamespaceState, body=request)

    async def confirm_mode(self, namespace: str) -> NamespaceState:
        """Keep the mode that is on trial."""
        return await self._call("POST", f"/v1/namespaces/{_part(namespace)}/mode/confirm", NamespaceState)

    async def list_history(self, namespace: str, *, limit: int) -> History:
        """Return a namespace's generations, newest first, and whether its mode is on trial."""
        path = f"/v1/namespaces/{_part(namespace)}/history"
        return await self._call("GET", path, History, query={"limit": str(limit)})

    async def get_generation(self, namespace: str, generation: int) -> GenerationContent:
        """Return all that one generation says."""
        path = f"/v1/namespaces/{_part(namespace)}/history/{generation}"
        return await self._call("GET", path, GenerationContent)

    async def undo(self, namespace: str, request: UndoRequest) -> NamespaceState:
        """Go back to an earlier generation."""
        return await self._call("POST", f"/v1/namespaces/{_part(namespace)}/undo", NamespaceState, body=request)

    async def get_acknowledgements(self, namespace: str) -> Acknowledgements:
        """Return which sidecars have installed the namespace's current version."""
        return await self._call("GET", f"/v1/namespaces/{_part(namespace)}/acknowledgements", Acknowledgements)

    async def list_programs(self, namespace: str = "") -> ProgramList:
        """Return the approved programs, of one namespace or of all."""
        return await self._call("GET", "/v1/programs", ProgramList, query={"namespace": namespace})

    async def approve_programs(self, request: ProgramRequest) -> ProgramView:
        """Approve programs for a workload."""
        return await self._call("POST", "/v1/programs", ProgramView, body=request)

    async def remove_program(self, namespace: str, name: str) -> NamespaceState:
        """Remove a ``Program`` object."""
        return await self._call("DELETE", f"/v1/programs/{_part(namespace)}/{_part(name)}", NamespaceState)

    async def get_queue(self, namespace: str = "") -> ProgramQueue:
        """Return what waits for an approval and what was refused."""
        return await self._call("GET", "/v1/programs/queue", ProgramQueue, query={"namespace": namespace})

    async def refuse_programs(self, namespace: str, request: RefusalRequest) -> ProgramQueue:
        """Refuse programs, or take refusals back."""
        return await self._call("POST", f"/v1/namespaces/{_part(namespace)}/refusals", ProgramQueue, body=request)

    async def list_policies(self, namespace: str = "") -> PolicyList:
        """Return the policies, of one namespace or of all."""
        return await self._call("GET", "/v1/policies", PolicyList, query={"namespace": namespace})

    async def put_policy(self, request: PolicyRequest) -> PolicyView:
        """Replace a namespace's policy."""
        return await self._call("PUT", "/v1/policies", PolicyView, body=request)

    async def compare_policies(self, proposed: PolicyDifferenceRequest, *, since_s: float) -> PolicyDifference:
        """Return what other policies would change for what was seen in the last ``since_s`` seconds."""
        path, query = "/v1/policies/difference", {"since_s": str(since_s)}
        return await self._call("POST", path, PolicyDifference, query=query, body=proposed)

    async def delete_policy(self, namespace: str) -> NamespaceState:
        """Delete a namespace's policy: its rules and its group; the mode stays."""
        return await self._call("DELETE", f"/v1/policies/{_part(namespace)}", NamespaceState)

    async def get_draft(self, namespace: str) -> DraftView:
        """Return a namespace's draft, and how connections would have gone by it."""
        return await self._call("GET", f"/v1/namespaces/{_part(namespace)}/draft", DraftView)

    async def put_draft(self, namespace: str, request: DraftRequest) -> NamespaceState:
        """Write a namespace's draft."""
        return await self._call("PUT", f"/v1/namespaces/{_part(namespace)}/draft", NamespaceState, body=request)

    async def drop_draft(self, namespace: str, *, number: int | None = None) -> NamespaceState:
        """Drop a namespace's draft; with ``number`` only if it is this one."""
        query = {} if number is None else {"number": str(number)}
        return await self._call("DELETE", f"/v1/namespaces/{_part(namespace)}/draft", NamespaceState, query=query)

    async def promote_draft(self, namespace: str, request: PromoteRequest) -> PolicyView:
        """Put a namespace's draft in force."""
        return await self._call("POST", f"/v1/namespaces/{_part(namespace)}/draft/promote", PolicyView, body=request)

    # ---- decisions, identities, connections ----------------------------------------------------------------------

    async def list_decisions(self, query: Mapping[str, str]) -> DecisionList:
        """Return decisions, newest first."""
        return await self._call("GET", "/v1/decisions", DecisionList, query=query)

    async def follow_decisions(self, query: Mapping[str, str]) -> AsyncIterator[DecisionView]:
        """Yield new decisions until the CA ends the stream. Raises what the CA says it has ended for, too."""
        decoder = msgspec.json.Decoder(DecisionView)
        try:
            async with self._request("GET", "/v1/decisions/follow", query=query) as response:
                if response.status != 200:
                    raise await self._read_error(response)
                # No deadline between lines: following means waiting for what may never come.
                async for line in response.content:
                    if line.startswith(_FOLLOW_END):
                        raise to_error(msgspec.json.decode(line, type=FollowEnd).ended)
                    if line.strip():
                        yield decoder.decode(line)
        except aiohttp.ClientConnectionError as error:
            raise self._explain(error) from error
        except (aiohttp.ClientError, OSError) as error:
            raise UnavailableError("the CA ended the stream", hint="is it still running?") from error
        except (msgspec.DecodeError, ValueError) as error:
            raise _odd_answer("/v1/decisions/follow", error) from error

    async def list_identities(self, query: Mapping[str, str]) -> IdentityList:
        """Return the ledger's certificates, newest first."""
        return await self._call("GET", "/v1/identities", IdentityList, query=query)

    async def list_journal(self, query: Mapping[str, str]) -> JournalList:
        """Return what happened to the authorities, newest first."""
        return await self._call("GET", "/v1/journal", JournalList, query=query)

    async def list_connections(self, query: Mapping[str, str]) -> ConnectionList:
        """Return live connections of all sidecars that answer."""
        return await self._call("GET", "/v1/connections", ConnectionList, query=query)

    async def list_edges(self, namespace: str, query: Mapping[str, str]) -> EdgeList:
        """Return a page of a namespace's edges."""
        return await self._call("GET", f"/v1/namespaces/{_part(namespace)}/edges", EdgeList, query=query)

    async def get_coverage(self, namespace: str, query: Mapping[str, str]) -> CoverageList:
        """Return how much of each workload of a namespace was observed."""
        return await self._call("GET", f"/v1/namespaces/{_part(namespace)}/coverage", CoverageList, query=query)

    async def get_timeline(self, namespace: str, query: Mapping[str, str]) -> Timeline:
        """Return what a namespace's own sidecars decided, by the hour."""
        return await self._call("GET", f"/v1/namespaces/{_part(namespace)}/timeline", Timeline, query=query)

    # ---- backup ---------------------------------------------------------------------------------------------------

    async def fetch_backup(self, request: BackupRequest) -> AsyncIterator[bytes]:
        """Yield a backup's bytes as they come; one that is broken off raises ``UnavailableError``."""
        deadline = asyncio.timeout(self._timeout_s)
        try:
            async with deadline, self._request("POST", BACKUP_PATH, body=request) as response:
                if response.status >= 300:
                    raise await self._read_error(response)
                async for data in response.content.iter_any():
                    yield data
                    # Of silence, not of the whole: a backup may be large.
                    deadline.reschedule(asyncio.get_running_loop().time() + max(self._timeout_s, BACKUP_SILENCE_S))
        except TimeoutError as error:
            raise UnavailableError("the CA stopped sending the backup", hint="check the CA's log") from error
        except aiohttp.ClientPayloadError as error:
            raise UnavailableError("the CA broke the backup off", hint="check the CA's log") from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._explain(error) from error

    # ---- one call ------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _request(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: object = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:
            raise RuntimeError("AdminClient is used outside its context")
        data = None if body is None else msgspec.json.encode(body)
        parameters = {key: value for key, value in (query or {}).items() if value}
        headers = {"Content-Type": "application/json"} if data is not None else {}
        if self._authorization is not None:
            headers |= await self._authorization.make_headers(self._session)
        async with self._session.request(method, path, params=parameters, data=data, headers=headers) as response:
            yield response

    async def _call(
        self,
        method: str,
        path: str,
        kind: type[T],
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        accept: tuple[int, ...] = (),
    ) -> T:
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._request(method, path, query=query, body=body) as response,
            ):
                if response.status >= 300 and response.status not in accept:
                    raise await self._read_error(response)
                content = await response.content.read(MAX_ANSWER_BYTES + 1)
                while chunk := await response.content.read(MAX_ANSWER_BYTES + 1 - len(content)):
                    content += chunk
        except TimeoutError as error:
            raise UnavailableError(
                f"the CA didn't answer {method} {path} within {self._timeout_s:.0f} s", hint="check the CA's log"
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._explain(error) from error
        if len(content) > MAX_ANSWER_BYTES:
            raise UnavailableError(f"the CA's answer to {path} is too large", hint="narrow the query or use --limit")
        try:
            return msgspec.json.decode(content, type=kind)
        except (msgspec.DecodeError, TouchmarkError) as error:
            raise _odd_answer(path, error) from error

    async def _read_error(self, response: aiohttp.ClientResponse) -> TouchmarkError:
        content = await response.content.read(MAX_ANSWER_BYTES)
        try:
            return to_error(msgspec.json.decode(content, type=ErrorAnswer))
        except msgspec.DecodeError:
            return UnavailableError(
                f"the CA answered HTTP {response.status} without a reason", hint="check the CA's log"
            )

    def _explain_by_socket(self, error: Exception) -> UnavailableError:
        cause = error.__cause__ or error
        if isinstance(cause, PermissionError) or isinstance(error, PermissionError):
            return UnavailableError(
                f"the admin socket {self._path} can't be opened by this user", hint="run this as the CA's user"
            )
        if not os.path.exists(self._path):
            hint = _CLUSTER_HINT if list_kubeconfig_files() else _HINT
            return UnavailableError(f"no CA here: {self._path} doesn't exist", hint=hint)
        return UnavailableError(f"no answer on {self._path}: {error}", hint=_HINT)


def _part(text: str) -> str:
    return quote(text, safe="")


def _odd_answer(path: str, error: Exception) -> UnavailableError:
    return UnavailableError(
        f"the CA's answer to {path} can't be read: {error}", hint="do `touchmark` and the CA have the same version?"
    )
