"""Who a user of the cluster is and what it may do, asked of the API server. I/O.

Belongs here: TokenReview, SubjectAccessReview and the roots of client certificates. Doesn't: what the admin API asks
them for (``ca/api/access``).

Answers aren't remembered: whoever loses a right has lost it at the next request. What this does *not* verify: who holds
the token. Whoever it was leaked to is its user, here as at the API server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import msgspec

from ca.kubernetes.api.client import ClusterClient
from ca.kubernetes.view import ClusterUser
from shared.model.errors import NotAllowedError, NotAuthenticatedError, NotFoundError, UnavailableError

REVIEWS_AT_ONCE: Final = 8
MAX_WAITING: Final = 128
REVIEW_DEADLINE_S: Final = 10.0
_TOKEN_REVIEWS: Final = "/apis/authentication.k8s.io/v1/tokenreviews"
_ACCESS_REVIEWS: Final = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
# The API server itself keeps it, for those who take its client certificates in its place.
_CLIENT_ROOTS: Final = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication"


class _UserInfo(msgspec.Struct):
    username: str = ""
    uid: str = ""
    groups: list[str] | None = None
    extra: dict[str, list[str]] | None = None


class _TokenStatus(msgspec.Struct):
    authenticated: bool = False
    user: _UserInfo = msgspec.field(default_factory=_UserInfo)


class _TokenReview(msgspec.Struct):
    status: _TokenStatus = msgspec.field(default_factory=_TokenStatus)


class _AccessStatus(msgspec.Struct):
    allowed: bool = False
    denied: bool = False


class _AccessReview(msgspec.Struct):
    status: _AccessStatus = msgspec.field(default_factory=_AccessStatus)


class _ConfigMap(msgspec.Struct):
    data: dict[str, str] | None = None


class UserReviews:
    """Asks the API server; a few questions at once."""

    def __init__(self, client: ClusterClient) -> None:
        self._client = client
        self._turn = asyncio.Semaphore(REVIEWS_AT_ONCE)
        self._waiting = 0

    async def review_token(self, token: str) -> ClusterUser:
        """Return whose token it is, for the API server's own audience: a token for another one is nobody's.

        Raises:
            NotAuthenticatedError: the API server doesn't know it.
            UnavailableError: it doesn't answer, or too many ask.
        """
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
        async with self._place():
            status = (await self._client.post(_TOKEN_REVIEWS, body, _TokenReview, deadline_s=REVIEW_DEADLINE_S)).status
        if not status.authenticated or not status.user.username:
            raise NotAuthenticatedError(
                "the API server doesn't know the token", hint="log in to the cluster again; does `kubectl` work?"
            )
        user = status.user
        return ClusterUser(
            name=user.username,
            uid=user.uid,
            groups=tuple(user.groups or ()),
            extra={name: tuple(values) for name, values in (user.extra or {}).items()},
        )

    async def check_allowed(self, user: ClusterUser, *, verb: str, group: str, resource: str, namespace: str) -> None:
        """Check that the cluster's authorisation lets a user do this; ``namespace`` empty: in all of them.

        Raises:
            NotAllowedError: it doesn't.
            UnavailableError: the API server doesn't answer, or too many ask.
        """
        attributes = {"verb": verb, "group": group, "resource": resource, "namespace": namespace}
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": user.name,
                "uid": user.uid,
                "groups": list(user.groups),
                "extra": {name: list(values) for name, values in user.extra.items()},
                "resourceAttributes": {name: value for name, value in attributes.items() if value},
            },
        }
        async with self._place():
            answer = await self._client.post(_ACCESS_REVIEWS, body, _AccessReview, deadline_s=REVIEW_DEADLINE_S)
        if not answer.status.allowed or answer.status.denied:
            where = f"in namespace {namespace}" if namespace else "in the whole cluster"
            raise NotAllowedError(f"{user.name[:200]} may not {verb} {resource}.{group} {where}")

    async def read_client_roots(self) -> bytes:
        """Return the roots of the API server's client certificates, PEM; empty: it takes none.

        Raises:
            UnavailableError: the API server doesn't answer, or too many ask.
        """
        async with self._place():
            try:
                found = await self._client.get(_CLIENT_ROOTS, _ConfigMap, deadline_s=REVIEW_DEADLINE_S)
            except NotFoundError:
                return b""
        return (found.data or {}).get("client-ca-file", "").encode()

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        if self._waiting >= MAX_WAITING:
            raise UnavailableError("too many admin requests wait for the API server", hint="try again")
        self._waiting += 1
        try:
            async with self._turn:
                yield
        finally:
            self._waiting -= 1
