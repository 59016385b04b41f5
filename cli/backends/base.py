"""The interface through which ``mode``, ``program`` and ``policy`` read and write policies and programs. Pure.

Belongs here: the protocol and its values. Doesn't: the CA's own store (``local.py``) or a cluster's objects
(``cluster.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from shared.model.policy.rules import Mode, WorkloadMode

if TYPE_CHECKING:
    from cli.cluster.draft_object import SeenDraft
    from shared.model.adoption.lint import Surroundings
    from shared.model.adoption.program_queue import ProgramQueue, RefusalRequest
    from shared.model.policy.documents import Document, MeshPolicyDocument
    from shared.model.policy.rules import NamespaceState
    from shared.model.wire.admin import (
        DecisionList,
        DraftView,
        GenerationContent,
        History,
        PolicyCandidateRequest,
        ProgramRequest,
        ProgramView,
        Readiness,
    )


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
        back_to: the mode to which it goes back by itself ``until`` (seconds since the epoch); None: it stays.
        workload_modes: of workloads with a mode of their own, as set or (where nothing is) in force.
        workload_modes_back_to: those to which these go back ``until``; None: they stay.
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
    back_to: Mode | None = None
    until: float = 0.0
    workload_modes: tuple[WorkloadMode, ...] = ()
    workload_modes_back_to: tuple[WorkloadMode, ...] | None = None

    @property
    def is_complete(self) -> bool:
        """Whether what is written is in force everywhere."""
        return self.is_observed and not self.fault and not self.waiting and self.installed >= self.total


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """One object that was written.

    Attributes:
        version: of the namespace's state in the CA; None where the CA hasn't said.
        is_confirmed: the CA has put it in force; it keeps a draft.
        is_draft: nothing of it is in force.
        note: what else its writer should know; empty when there is nothing.
    """

    kind: str
    namespace: str
    name: str
    version: int | None
    is_confirmed: bool = True
    is_draft: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchTerms:
    """What holds for a switch of a mode.

    Attributes:
        for_s: seconds after which the CA goes back by itself, unless it is confirmed; None: it stays.
        expected_version: the version of the namespace's state that was looked at; None: whichever it is.
        is_forced: switch to explicit although that would refuse connections that were seen.
        since_s: explicit is judged by what was seen in so many seconds; None: in a day.
    """

    for_s: float | None = None
    expected_version: int | None = None
    is_forced: bool = False
    since_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadSwitch:
    """A switch of workloads' own modes.

    Attributes:
        service_accounts: theirs, at least one.
        mode: None: they inherit their namespace's.
    """

    service_accounts: tuple[str, ...]
    mode: Mode | None


class PolicyBackend(Protocol):
    """Reads and writes modes, policies and programs. Every method raises ``TouchmarkError``."""

    async def get_readiness(self, namespace: str, *, since_s: float, workload: str = "") -> Readiness:
        """Return what ``explicit`` would have refused."""

    async def get_mode(self, namespace: str) -> ModeState:
        """Return a namespace's mode."""

    async def set_mode(self, namespace: str, mode: Mode, terms: SwitchTerms) -> None:
        """Write a namespace's mode; nothing else of its policy changes.

        Raises:
            BlockedError: the CA knows of connections that explicit mode would refuse.
            ConflictError: the namespace has changed since it was looked at.
        """

    async def set_workload_modes(self, namespace: str, switch: WorkloadSwitch, terms: SwitchTerms) -> None:
        """Write the modes that workloads have of their own; nothing else of the policy changes. Raises likewise."""

    async def confirm_mode(self, namespace: str) -> None:
        """Keep the mode that would go back by itself."""

    async def list_history(self, namespace: str, *, limit: int) -> History:
        """Return a namespace's generations, newest first."""

    async def get_generation(self, namespace: str, generation: int) -> GenerationContent:
        """Return all that one generation says."""

    async def restore(self, content: GenerationContent, *, newest: int, terms: SwitchTerms) -> Sequence[str]:
        """Give a namespace what it said in a generation; return what couldn't be given back, in words.

        Arguments:
            newest: the newest generation that the user has seen.
            terms: of a switch to explicit that this includes.
        """

    async def list_decisions(self, query: Mapping[str, str]) -> DecisionList:
        """Return decisions."""

    async def list_programs(self, namespace: str) -> Sequence[ProgramView]:
        """Return approved programs, of one namespace or (empty) of all."""

    async def approve_programs(self, request: ProgramRequest) -> tuple[ProgramView, bool]:
        """Write a ``Program``; return it, and whether the CA has confirmed it."""

    async def remove_program(self, namespace: str, name: str) -> None:
        """Delete a ``Program``."""

    async def get_queue(self, namespace: str) -> ProgramQueue:
        """Return what waits for an approval and what was refused, in one namespace or (empty) in all.

        Raises:
            NotFoundError: the CA is of 0.1.
        """

    async def refuse_programs(self, namespace: str, request: RefusalRequest) -> ProgramQueue:
        """Refuse programs, or take refusals back; return the namespace's queue after it."""

    async def list_objects(self, namespace: str) -> list[dict[str, Any]]:
        """Return policies and programs in the shape of their YAML."""

    async def apply(
        self, documents: Sequence[Document], *, is_forced: bool = False, expected_version: int | None = None
    ) -> list[Applied]:
        """Write documents; none when one of them is refused.

        Arguments:
            is_forced: also where explicit mode would refuse connections that were seen.
            expected_version: of the policies' namespace, as ``get_mode`` says it; None: whichever it is.

        Raises:
            ConflictError: the namespace has changed since it was looked at.
        """

    async def list_workloads(self, namespace: str) -> frozenset[str] | None:
        """Return the service accounts that are known in a namespace; None where this user can't ask."""

    async def look_around(self) -> Surroundings:
        """Return what exists beside policies, as far as this user may see it; never fails."""

    async def assess_candidate(
        self, namespace: str, candidate: PolicyCandidateRequest, *, since_s: float, workload: str = ""
    ) -> Readiness:
        """Return what ``explicit`` would refuse with other rules than the current ones.

        Arguments:
            workload: of this one; empty: of those without a mode of their own, also by the candidate.
        """

    async def delete_policy(self, namespace: str, *, is_draft: bool = False) -> None:
        """Delete a namespace's policy; the mode stays. Or its draft, where that is a document, and nothing else."""

    async def get_draft(self, namespace: str) -> DraftView:
        """Return a namespace's draft, and how connections would have gone by it.

        Raises:
            NotFoundError: it has none.
        """

    async def look_at_draft(self, namespace: str) -> SeenDraft:
        """Return a namespace's draft with what it is to be put in force over.

        Raises:
            NotFoundError: it has none; ConflictError: the CA doesn't know yet what the objects say.
        """

    async def put_draft(self, document: MeshPolicyDocument, *, is_first: bool = False) -> NamespaceState:
        """Write a policy as its namespace's draft, which nothing enforces; return the namespace's state.

        Arguments:
            is_first: not in the place of another one.

        Raises:
            ConflictError: there is another one, or an object says it.
        """

    async def drop_draft(self, namespace: str, *, number: int | None = None) -> None:
        """Drop a namespace's draft; with ``number`` only this one.

        Raises:
            NotFoundError: it has none; ConflictError: it has another one by now, or an object says it.
        """

    async def promote_draft(self, seen: SeenDraft, *, is_forced: bool = False) -> Applied:
        """Put a draft in force, over what was looked at and nothing newer, and drop it.

        Arguments:
            seen: the draft that was looked at.
            is_forced: also where explicit mode would refuse connections that were seen.

        Raises:
            ConflictError: the policy in force or the draft has changed since.
        """

    async def name_user(self) -> str:
        """Return who asks, as approvals record it."""
