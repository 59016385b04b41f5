"""Who asks on the admin API, and whether it has a role. I/O: the user database, the API server.

On the Unix socket the kernel says who connected (unix(7), SO_PEERCRED): root and the CA's own user are CA operators, a
configured group reads. On the loopback port it says nothing, and anyone who may forward a port to the pod has reached
it: there a caller shows its own credentials for the cluster, and the cluster's authorisation decides. Without a cluster
nobody has a role on the port.

What this does *not* verify: that the process at the other end of the socket is the one that connected. It may have
passed the connection on.
"""

from __future__ import annotations

import asyncio
import grp
import os
import pwd
import shlex
import socket
import struct
from collections.abc import Callable
from typing import Final, Protocol

from aiohttp import web

from ca.api.access.roles import Need, Role
from ca.authenticate.user_certificate import UserCertificates
from ca.kubernetes.view import ClusterUser, ClusterUsers
from shared.model.errors import InputError, NotAllowedError, NotAuthenticatedError
from shared.model.trust.admin_access import BEARER, CERTIFICATE_SCHEME, MAX_AUTHORIZATION_CHARACTERS, parse_proof
from shared.model.wire.admin_audit import AuditActor

_UCRED: Final = struct.Struct("3i")  # unix(7), SO_PEERCRED: pid, uid, gid.
_SO_PEERGROUPS: Final = 59  # asm-generic/socket.h; the same on x86 and ARM.
_MAX_GROUPS: Final = 256  # What Python's getsockopt takes, 1,024 bytes; whoever is in more groups has no role by one.
_MAX_NAME_CHARACTERS: Final = 400  # A service account of the cluster has up to 339.


class Caller(Protocol):
    """Who asks."""

    @property
    def actor(self) -> AuditActor:
        """What the audit log calls it."""
        ...

    async def check(self, need: Need) -> None:
        """Check that it may do what a request needs.

        Raises:
            NotAllowedError: it may not.
            UnavailableError: that isn't known now.
        """
        ...


class LocalCaller:
    """A process at the Unix socket.

    Arguments:
        role: None: the socket's file let it in, and it has none.
        readers: the group that reads, for the refusal; empty: there is none.
    """

    def __init__(self, actor: AuditActor, *, role: Role | None, readers: str = "") -> None:
        self.actor = actor
        self._role = role
        self._readers = readers

    async def check(self, need: Need) -> None:
        """Check the role. Raises as ``Caller.check``."""
        if self._role is None or self._role < need.role:
            reads = f"; the group {self._readers} reads" if self._readers else ""
            raise NotAllowedError(
                f"{self.actor.name or f'uid {self.actor.uid}'} isn't a {need.role} here",
                hint=f"run this as root or as the CA's user{reads}",
            )


class UserCaller:
    """A user of the cluster at the loopback port."""

    def __init__(self, user: ClusterUser, users: ClusterUsers, *, origin: str) -> None:
        self.actor = AuditActor(kind="user", name=user.name[:_MAX_NAME_CHARACTERS], origin=origin)
        self._user = user
        self._users = users

    async def check(self, need: Need) -> None:
        """Ask the cluster's authorisation. Raises as ``Caller.check``."""
        try:
            await self._users.check_allowed(
                self._user, verb=need.verb, group=need.group, resource=need.resource, namespace=need.namespace
            )
        except NotAllowedError as error:
            raise NotAllowedError(error.message, hint=_hint_at_grant(need, self._user)) from error


class Callers:
    """Finds out who asks.

    Arguments:
        users: of the cluster; None: there is none.
        readers_gid: the group that reads on the Unix socket; None: there is none.
        clock: seconds since the epoch.
    """

    def __init__(self, *, users: ClusterUsers | None, readers_gid: int | None, clock: Callable[[], float]) -> None:
        self._users = users
        self._readers_gid = readers_gid
        self.certificates = (
            UserCertificates(read_roots=users.read_client_roots, clock=clock) if users is not None else None
        )

    async def identify(self, request: web.Request, *, is_again: bool = False) -> Caller:
        """Return who sent a request.

        Arguments:
            is_again: the request was authenticated before: a challenge that has ended since then still holds.

        Raises:
            NotAuthenticatedError: it doesn't say, or not credibly, or the connection has ended.
            UnavailableError: the API server can't be asked.
        """
        transport = request.transport
        peer = None if transport is None else transport.get_extra_info("socket")
        if transport is None or peer is None:
            raise NotAuthenticatedError("the connection had ended")
        if peer.family == socket.AF_UNIX:
            return await self._identify_process(peer)
        address = transport.get_extra_info("peername") or ("", 0)
        user = await self._identify_user(request.headers.get("Authorization", ""), is_again=is_again)
        assert self._users is not None
        return UserCaller(user, self._users, origin=f"{address[0]} port {address[1]}")

    async def _identify_process(self, peer: socket.socket) -> LocalCaller:
        pid, uid, gid = _UCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        name = await asyncio.to_thread(_find_user, uid)
        actor = AuditActor(kind="socket", name=name[:_MAX_NAME_CHARACTERS], uid=uid, gid=gid, pid=pid)
        role = None
        if uid in (0, os.geteuid()):
            role = Role.CA_OPERATOR
        elif self._readers_gid is not None and self._readers_gid in (gid, *_list_groups(peer)):
            role = Role.READER
        readers = "" if self._readers_gid is None else await asyncio.to_thread(_find_group, self._readers_gid)
        return LocalCaller(actor, role=role, readers=readers)

    async def _identify_user(self, authorization: str, *, is_again: bool) -> ClusterUser:
        if self._users is None or self.certificates is None:
            raise NotAuthenticatedError(
                "nobody has a role on the admin port of a CA outside a cluster", hint="use the admin socket"
            )
        if len(authorization) > MAX_AUTHORIZATION_CHARACTERS:
            raise NotAuthenticatedError("the credentials are too long")
        scheme, _, value = authorization.partition(" ")
        if scheme.lower() == BEARER.lower() and value:
            return await self._users.review_token(value.strip())
        if scheme == CERTIFICATE_SCHEME:
            try:
                proof = parse_proof(value)
            except InputError as error:
                raise NotAuthenticatedError(error.message, hint=error.hint) from error
            return await self.certificates.authenticate(proof, is_again=is_again)
        raise NotAuthenticatedError(
            "the CA's admin port wants the caller's own credentials for the cluster",
            hint="use `touchmark -k` of 0.2, with a kubeconfig that has a bearer token or a client certificate",
        )


def _hint_at_grant(need: Need, user: ClusterUser) -> str:
    # The command is copied into a shell. A name that can't be written there, or not whole, is the reader's to fill in.
    is_writable = user.name.isprintable() and len(user.name) <= _MAX_NAME_CHARACTERS
    whom = f"--user={shlex.quote(user.name) if is_writable else 'NAME'}"
    if need.role is Role.CA_OPERATOR:
        return (
            "a cluster administrator can grant it: kubectl create clusterrolebinding NAME"
            f" --clusterrole=touchmark-operator {whom}"
        )
    role = "touchmark-view" if need.role is Role.READER else "touchmark-edit"
    if need.namespace:
        return (
            f"whoever administers the namespace can grant it: kubectl -n {need.namespace} create rolebinding NAME"
            f" --clusterrole={role} {whom}"
        )
    return (
        "ask for one namespace with --namespace; for all of them a cluster administrator can grant it:"
        f" kubectl create clusterrolebinding NAME --clusterrole={role} {whom}"
    )


def find_gid(name: str) -> int:
    """Return a group's number, by its name or as written.

    Raises:
        InputError: there is no such group.
    """
    if name.isascii() and name.isdecimal():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError as error:
        raise InputError(f"there is no group {name[:80]!r}", hint="name one of /etc/group, or its number") from error


def _list_groups(peer: socket.socket) -> tuple[int, ...]:
    """Return the supplementary groups that the peer had when it connected (socket(7), SO_PEERGROUPS; Linux 4.13)."""
    try:
        raw = peer.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MAX_GROUPS * 4)
    except OSError:
        return ()
    return struct.unpack(f"{len(raw) // 4}I", raw)


def _find_user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # A container's user often has no name.
        return ""


def _find_group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
