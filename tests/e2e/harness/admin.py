"""A plain client of the CA's admin API over its Unix socket; it shares no code with the command's."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from shared.model.identity.loaded_code import ApprovedCode
from shared.model.identity.program import Program
from shared.model.policy.rules import Mode, Requirement, Rule
from shared.model.trust.bundle import RotationKind
from shared.model.wire import admin

_TIMEOUT_S = 40.0
T = TypeVar("T")


class AdminError(Exception):
    """The CA answered with an error."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("touchmark", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT_S)
        self.sock.connect(str(self._path))


class Admin:
    """Typed calls, one connection each."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def call(self, method: str, path: str, answer: type[T], body: Any = None) -> T:
        """Call an endpoint.

        Raises:
            AdminError: the answer is an error.
            OSError: nobody answers.
        """
        connection = _UnixConnection(self._path)
        try:
            data = None if body is None else msgspec.json.encode(body)
            connection.request(method, path, data, {"Content-Type": "application/json"} if data else {})
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if response.status >= 300:
            raise AdminError(f"{method} {path}: {response.status} {content.decode(errors='replace')[:500]}")
        return msgspec.json.decode(content, type=answer)

    def status(self) -> admin.CAStatus:
        """The CA at a glance."""
        return self.call("GET", "/v1/status", admin.CAStatus)

    def make_join_token(self, workload: str, addresses: tuple[str, ...]) -> admin.JoinTokenCreated:
        """Make a join token."""
        request = admin.JoinTokenRequest(workload=workload, addresses=addresses)
        return self.call("POST", "/v1/join-tokens", admin.JoinTokenCreated, request)

    def sidecars(self) -> tuple[admin.SidecarView, ...]:
        """The sidecars that joined."""
        return self.call("GET", "/v1/sidecars", admin.SidecarList).sidecars

    def set_mode(self, namespace: str, mode: Mode) -> None:
        """Switch a namespace's mode, whatever that would refuse."""
        self._put(f"/v1/namespaces/{namespace}/mode", admin.ModeRequest(mode=mode))

    def set_workload_mode(self, namespace: str, service_account: str, mode: Mode | None) -> None:
        """Give a workload a mode of its own, whatever that would refuse; None: it inherits its namespace's."""
        self._put(f"/v1/namespaces/{namespace}/mode", admin.ModeRequest(mode=mode, workloads=(service_account,)))

    def set_policy(
        self, namespace: str, rules: tuple[Rule, ...], mode: Mode, requires: tuple[Requirement, ...] = ()
    ) -> None:
        """Replace a namespace's rules, mode and requirements at once, whatever the mode would refuse."""
        request = admin.PolicyRequest(namespace=namespace, rules=rules, mode=mode, requires=requires)
        self._put("/v1/policies", request)

    def _put(self, path: str, request: admin.ModeRequest | admin.PolicyRequest) -> None:
        """Switch to explicit by force only where the CA says BLOCKED: a CA of 0.1 never does, nor knows ``force``."""
        try:
            self.call("PUT", path, Any, request)
        except AdminError as error:
            if "blocked" not in str(error):
                raise
            self.call("PUT", path, Any, msgspec.structs.replace(request, force=True))

    def approve(
        self, workload: str, *programs: Program, name: str = "", code: ApprovedCode | None = None
    ) -> admin.ProgramView:
        """Approve programs for a workload."""
        namespace, _, account = workload.partition("/")
        request = admin.ProgramRequest(
            namespace=namespace, service_account=account, programs=programs, name=name, code=code
        )
        return self.call("POST", "/v1/programs", admin.ProgramView, request)

    def remove_program(self, namespace: str, name: str) -> None:
        """Withdraw an approval."""
        self.call("DELETE", f"/v1/programs/{namespace}/{name}", Any)

    def acknowledgements(self, namespace: str) -> admin.Acknowledgements:
        """Who has installed the namespace's present version."""
        return self.call("GET", f"/v1/namespaces/{namespace}/acknowledgements", admin.Acknowledgements)

    def decisions(self, query: str) -> tuple[admin.DecisionView, ...]:
        """Query the decisions, as ``a=b&c=d``."""
        return self.call("GET", f"/v1/decisions?{query}", admin.DecisionList).decisions

    def rotate(self, *, force: bool = False, kind: RotationKind = RotationKind.ISSUER) -> admin.RotationStatus:
        """Begin a rotation, or force the one that waits."""
        return self.call("POST", "/v1/rotation", admin.RotationStatus, admin.RotationRequest(force=force, kind=kind))

    def rotation(self) -> admin.RotationStatus:
        """Where the rotation stands."""
        return self.call("GET", "/v1/rotation", admin.RotationStatus)

    def taint(self, authority_id: str) -> None:
        """Distrust an authority."""
        self.call("POST", f"/v1/authorities/{authority_id}/taint", Any)
