"""Modes, policies and approved programs, wherever they are kept: in the CA's store, or in a cluster's objects.

Belongs here: what ``mode``, ``program`` and ``policy`` ask for, and its way to a CA's own store. Doesn't: a cluster's
objects (``cluster_policy.py``), or printing. Does I/O.
"""

from __future__ import annotations

import asyncio
import getpass
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from shared.model.policy.rules import Mode

if TYPE_CHECKING:
    from cli.backends.admin_client import AdminClient
    from cli.backends.target import Where
    from shared.model.policy.documents import Document
    from shared.model.wire.admin import DecisionList, ProgramRequest, ProgramView, Readiness

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeState:
    """A namespace's mode, and how far it has come.

    Attributes:
        wanted: what is written; None where nothing is, and the mode stays as it was.
        mode: what the CA has put in force; None: it hasn't said yet.
        version: of the namespace's state; decisions name it.
        installed: how many sidecars have that version, of ``total`` that need it.
        waiting: instances of some that haven't.
        is_observed: the CA has seen what is written.
        fault: why the CA refuses what is written; empty when it doesn't.
    """

    namespace: str
    wanted: Mode | None
    mode: Mode | None
    version: int
    installed: int
    total: int
    waiting: tuple[str, ...]
    is_observed: bool = True
    fault: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether what is written is in force everywhere."""
        return self.is_observed and not self.fault and not self.waiting and self.installed >= self.total


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """One object that was written.

    Attributes:
        version: of the namespace's state in the CA; None where the CA hasn't said.
        is_confirmed: the CA has put it in force.
        note: what else its writer should know; empty when there is nothing.
    """

    kind: str
    namespace: str
    name: str
    version: int | None
    is_confirmed: bool = True
    note: str = ""


class Governor(Protocol):
    """Reads and writes modes, policies and programs. Every method raises ``TouchmarkError``."""

    async def get_readiness(self, namespace: str, *, since_s: float) -> Readiness:
        """Return what ``explicit`` would have refused."""

    async def get_mode(self, namespace: str) -> ModeState:
        """Return a namespace's mode."""

    async def set_mode(self, namespace: str, mode: Mode) -> None:
        """Write a namespace's mode; nothing else of its policy changes."""

    async def list_decisions(self, query: Mapping[str, str]) -> DecisionList:
        """Return decisions."""

    async def list_programs(self, namespace: str) -> Sequence[ProgramView]:
        """Return approved programs, of one namespace or (empty) of all."""

    async def approve_programs(self, request: ProgramRequest) -> tuple[ProgramView, bool]:
        """Write a ``Program``; return it, and whether the CA has confirmed it."""

    async def remove_program(self, namespace: str, name: str) -> None:
        """Delete a ``Program``."""

    async def list_objects(self, namespace: str) -> list[dict[str, Any]]:
        """Return policies and programs in the shape of their YAML."""

    async def apply(self, documents: Sequence[Document]) -> list[Applied]:
        """Write documents; none when one of them is refused."""

    async def delete_policy(self, namespace: str) -> None:
        """Delete a namespace's policy; the mode stays."""

    async def name_user(self) -> str:
        """Return who asks, as approvals record it."""


class LocalGovernor:
    """A CA that keeps policies and programs itself."""

    def __init__(self, client: AdminClient) -> None:
        self._client = client

    async def get_readiness(self, namespace: str, *, since_s: float) -> Readiness:
        """Return what ``explicit`` would have refused."""
        return await self._client.get_readiness(namespace, since_s=since_s)

    async def get_mode(self, namespace: str) -> ModeState:
        """Return a namespace's mode."""
        return await read_mode(self._client, namespace)

    async def set_mode(self, namespace: str, mode: Mode) -> None:
        """Switch a namespace's mode."""
        from shared.model.wire.admin import ModeRequest

        await self._client.set_mode(namespace, ModeRequest(mode=mode))

    async def list_decisions(self, query: Mapping[str, str]) -> DecisionList:
        """Return decisions."""
        return await self._client.list_decisions(query)

    async def list_programs(self, namespace: str) -> Sequence[ProgramView]:
        """Return approved programs."""
        return (await self._client.list_programs(namespace)).programs

    async def approve_programs(self, request: ProgramRequest) -> tuple[ProgramView, bool]:
        """Approve programs; the CA's answer is its confirmation."""
        return await self._client.approve_programs(request), True

    async def remove_program(self, namespace: str, name: str) -> None:
        """Delete a ``Program``."""
        await self._client.remove_program(namespace, name)

    async def list_objects(self, namespace: str) -> list[dict[str, Any]]:
        """Return policies and programs in the shape of their YAML."""
        import yaml

        from shared.model.policy.documents import MeshPolicyDocument, ProgramDocument, format_documents

        policies = (await self._client.list_policies(namespace)).policies
        programs = (await self._client.list_programs(namespace)).programs
        documents: list[Document] = [
            MeshPolicyDocument(namespace=p.namespace, mode=p.mode, group_label=p.group_label, rules=p.rules)
            for p in policies
        ]
        documents += [
            ProgramDocument(
                namespace=p.namespace,
                name=p.name,
                service_account=p.service_account,
                programs=p.programs,
                weak=p.weak,
            )
            for p in programs
        ]
        return list(yaml.safe_load_all(format_documents(documents))) if documents else []

    async def apply(self, documents: Sequence[Document]) -> list[Applied]:
        """Write documents one after the other: all have been read already, so that the CA has little to refuse."""
        return [await self._apply_one(document) for document in documents]

    async def delete_policy(self, namespace: str) -> None:
        """Delete a namespace's policy."""
        await self._client.delete_policy(namespace)

    async def name_user(self) -> str:
        """Return this user, or whoever became it by sudo."""
        try:
            return os.environ.get("SUDO_USER") or getpass.getuser()
        except (KeyError, OSError):
            return f"uid {os.getuid()}"

    async def _apply_one(self, document: Document) -> Applied:
        from shared.model.policy.documents import ProgramDocument
        from shared.model.wire.admin import PolicyRequest, ProgramRequest

        if isinstance(document, ProgramDocument):
            program = await self._client.approve_programs(
                ProgramRequest(
                    namespace=document.namespace,
                    service_account=document.service_account,
                    programs=document.programs,
                    name=document.name,
                    weak=document.weak,
                    approved_by="policy apply",
                )
            )
            return Applied(kind="Program", namespace=program.namespace, name=program.name, version=program.version)
        policy = await self._client.put_policy(
            PolicyRequest(
                namespace=document.namespace, rules=document.rules, group_label=document.group_label, mode=document.mode
            )
        )
        return Applied(kind="MeshPolicy", namespace=policy.namespace, name="default", version=policy.version)


async def read_mode(client: AdminClient, namespace: str) -> ModeState:
    """Return a namespace's mode as the CA itself knows it."""
    acknowledgements = await client.get_acknowledgements(namespace)  # First: they change by the moment.
    state = await client.get_namespace(namespace)
    return ModeState(
        namespace=namespace,
        wanted=state.mode if state.version else None,
        mode=state.mode,
        version=acknowledgements.version,
        installed=acknowledgements.installed,
        total=acknowledgements.total,
        waiting=acknowledgements.waiting,
    )


def govern(where: Where, work: Callable[[Governor], Awaitable[T]], *, is_forced: bool = False) -> T:
    """Run a verb's work on modes, policies and programs to its end and return what it returns.

    Arguments:
        is_forced: take fields over that other tools own. Only a cluster's objects have such.
    """

    async def run() -> T:
        async with reach_governor(where, is_forced=is_forced) as governor:
            return await work(governor)

    return asyncio.run(run())


@asynccontextmanager
async def reach_governor(where: Where, *, is_forced: bool = False) -> AsyncIterator[Governor]:
    """Reach what keeps modes, policies and programs.

    Raises:
        TouchmarkError: the cluster can't be used. The local CA is asked later.
    """
    if not where.in_cluster:
        from cli.backends.conversation import reach_admin

        async with reach_admin(where) as client:
            yield LocalGovernor(client)
        return
    from cli.backends.cluster_policy import ClusterGovernor
    from cli.cluster.connection import connect

    async with connect(where) as cluster, ClusterGovernor(cluster, where, is_forced=is_forced) as governor:
        yield governor
