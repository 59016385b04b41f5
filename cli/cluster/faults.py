"""What can go wrong on the way to a cluster's API server, each with a stable code and the next step. Pure.

Belongs here: these errors, and how an API server's answer becomes one. Doesn't: the requests (``connection.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from shared.model.errors import ConflictError, InputError, NotFoundError, RefusedError, TouchmarkError, UnavailableError
from shared.model.kubernetes.contract import GROUP

INSTALL_HINT: Final = (
    "`touchmark install` installs Touchmark and its resources for the first time, `touchmark upgrade` (or what you "
    "installed it with: kubectl apply -k, Helm) restores them"
)
_MAX_TEXT: Final = 600


class KubeconfigError(InputError):
    """There is no kubeconfig, or it can't be used."""

    code = "no_kubeconfig"


class ContextError(InputError):
    """The kubeconfig has no such context."""

    code = "unknown_context"


class UnreachableError(UnavailableError):
    """The API server can't be reached or doesn't answer in time."""

    code = "api_unreachable"


class UnauthorizedError(RefusedError):
    """The API server doesn't accept the user's credentials."""

    code = "unauthorized"


class ForbiddenError(RefusedError):
    """The API server knows the user and refuses."""

    code = "forbidden"


class NotInstalledError(UnavailableError):
    """The cluster doesn't know Touchmark's resources."""

    code = "not_installed"


class NoCAPodError(UnavailableError):
    """No CA pod is ready, or its admin API can't be reached."""

    code = "no_ca_pod"


class RejectedError(InputError):
    """The API server found a fault in an object."""

    code = "bad_object"


class OwnedElsewhereError(ConflictError):
    """Other field managers own fields that were to be written (server-side apply, "Conflicts").

    Arguments:
        owners: field manager → its fields, such as ``.spec.mode``.
    """

    code = "owned_elsewhere"

    def __init__(self, message: str, *, owners: dict[str, list[str]], hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.owners = owners


class ChangedError(ConflictError):
    """Somebody changed the object in between."""

    code = "changed"


class PreflightError(RefusedError):
    """The cluster isn't ready for an installation or upgrade."""

    code = "preflight_failed"
    exit_code = 3


class InstalledError(ConflictError):
    """Touchmark is installed there already."""

    code = "already_installed"


class ForeignObjectError(ConflictError):
    """Somebody else's object has the name of one of ours."""

    code = "foreign_object"


class StillNeededError(RefusedError):
    """Sidecars would lose their CA."""

    code = "still_needed"
    exit_code = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What was asked of the API server, as RBAC names it.

    Attributes:
        verb: such as ``list``.
        also: another verb that it needs as well.
        group: empty for the core.
        resource: plural, with its subresource: ``pods/portforward``.
        namespace: empty: of the whole cluster.
    """

    verb: str
    group: str
    resource: str
    namespace: str = ""
    name: str = ""
    also: str = ""

    def __str__(self) -> str:
        resource = f"{self.resource}.{self.group}" if self.group else self.resource
        name = f" {self.name!r}" if self.name else ""
        return f"{self.verb} {resource}{name}" + (f" in namespace {self.namespace}" if self.namespace else "")

    def advise(self) -> str:
        """Say which right is missing, so that an administrator can give it."""
        kind = "Role" if self.namespace else "ClusterRole"
        place = f" in namespace {self.namespace}" if self.namespace else ""
        verbs = ", ".join(f'"{verb}"' for verb in (self.verb, self.also) if verb)
        return (
            f'ask the cluster\'s administrator for a {kind}{place} with apiGroups: ["{self.group}"],'
            f' resources: ["{self.resource}"], verbs: [{verbs}]'
        )


def explain(code: int, status: dict[str, Any], action: Action) -> TouchmarkError:
    """Return the error for an API server's answer.

    Arguments:
        code: the HTTP status, 300 or more.
        status: the answer's ``Status`` object (Kubernetes API conventions, "Response Status Kind"); empty when it was
            something else.
    """
    message = str(status.get("message", ""))[:_MAX_TEXT]
    reason = status.get("reason", "")
    details = status.get("details")
    details = details if isinstance(details, dict) else {}
    if code == 401:
        return UnauthorizedError(
            "the API server doesn't accept these credentials",
            hint="log in again, or check the user of this context in the kubeconfig",
        )
    if code == 403:
        return _explain_forbidden(message, action)
    if code == 404:
        if action.group == GROUP and not details.get("name"):
            return NotInstalledError(f"this cluster has no {action.resource}.{GROUP}", hint=INSTALL_HINT)
        return NotFoundError(message or f"not found: {action}")
    if code == 409:
        if owners := _read_owners(details):
            return _explain_ownership(owners, action)
        return ChangedError(message or f"conflict: {action}", hint="try again")
    if code in (400, 413, 422):
        faults = "; ".join(f"{cause.get('field')}: {cause.get('message')}" for cause in _causes(details))
        return RejectedError(f"the API server rejects it: {(faults or message or reason)[:_MAX_TEXT]}")
    if code in (429, 500, 502, 503, 504):
        return UnreachableError(f"the API server can't {action}: {message or f'HTTP {code}'}", hint="try again later")
    return UnavailableError(f"the API server answered HTTP {code} to {action}: {message or 'without a reason'}")


def _explain_forbidden(message: str, action: Action) -> TouchmarkError:
    # Admission says no with the same status as RBAC: only RBAC's message says that a user "cannot" do something.
    if message and " cannot " not in message:
        return ForbiddenError(f"refused: {action}: {message}")
    return ForbiddenError(f"you may not {action}", hint=action.advise())


def _explain_ownership(owners: dict[str, list[str]], action: Action) -> OwnedElsewhereError:
    place = f" in namespace {action.namespace}" if action.namespace else ""
    owned = "; ".join(f"{owner!r} owns {', '.join(fields)}" for owner, fields in owners.items())
    return OwnedElsewhereError(
        f"{action.resource} {action.name!r}{place} is also written by another tool: {owned}",
        owners=owners,
        hint="change it with that tool, or take over these fields with --force-conflicts",
    )


def _read_owners(details: dict[str, Any]) -> dict[str, list[str]]:
    """Read whom a conflict's causes name: ``conflict with "NAME" using VERSION``, and the field beside it."""
    owners: dict[str, list[str]] = {}
    for cause in _causes(details):
        if cause.get("reason") == "FieldManagerConflict":
            _, _, rest = str(cause.get("message", "")).partition('conflict with "')
            owners.setdefault(rest.partition('"')[0] or "unknown", []).append(str(cause.get("field", "a field")))
    return owners


def _causes(details: dict[str, Any]) -> list[dict[str, Any]]:
    causes = details.get("causes")
    return [cause for cause in causes if isinstance(cause, dict)] if isinstance(causes, list) else []
