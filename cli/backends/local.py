"""Modes, policies and approved programs in the CA's own store, through its admin API. Does I/O."""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from cli.admin.client import AdminClient
from cli.backends.base import Applied, ModeState, SwitchTerms, WorkloadSwitch
from cli.backends.surroundings import list_workloads_of, look_around_locally
from cli.cluster.draft_object import SeenDraft
from shared.model.adoption.lint import Surroundings
from shared.model.adoption.program_queue import ProgramQueue, RefusalRequest
from shared.model.errors import InputError, NotFoundError
from shared.model.kubernetes.contract import TRIAL
from shared.model.policy.documents import (
    DRAFT_NAME,
    Document,
    DraftDocument,
    MeshPolicyDocument,
    ProgramDocument,
    make_plain,
)
from shared.model.policy.modes import name_modes
from shared.model.policy.rules import Mode, NamespaceState, WorkloadMode
from shared.model.wire.admin import (
    DecisionList,
    DraftRequest,
    DraftView,
    GenerationContent,
    History,
    ModeRequest,
    ModeTrial,
    PolicyCandidateRequest,
    PolicyRequest,
    ProgramRequest,
    ProgramView,
    PromoteRequest,
    Readiness,
    UndoRequest,
)


class LocalPolicyBackend:
    """A CA that keeps policies and programs itself."""

    def __init__(self, client: AdminClient) -> None:
        self._client = client

    async def get_readiness(self, namespace: str, *, since_s: float, workload: str = "") -> Readiness:
        """Return what ``explicit`` would have refused."""
        return await self._client.get_readiness(namespace, since_s=since_s, workload=workload)

    async def get_mode(self, namespace: str) -> ModeState:
        """Return a namespace's mode."""
        return await read_trial(self._client, await read_mode(self._client, namespace))

    async def set_mode(self, namespace: str, mode: Mode, terms: SwitchTerms) -> None:
        """Switch a namespace's mode."""
        request = ModeRequest(
            mode=mode,
            for_s=terms.for_s,
            expected_version=terms.expected_version,
            force=terms.is_forced,
            since_s=terms.since_s,
        )
        await self._client.set_mode(namespace, request)

    async def set_workload_modes(self, namespace: str, switch: WorkloadSwitch, terms: SwitchTerms) -> None:
        """Switch workloads' own modes."""
        request = ModeRequest(
            mode=switch.mode,
            workloads=switch.service_accounts,
            for_s=terms.for_s,
            expected_version=terms.expected_version,
            force=terms.is_forced,
            since_s=terms.since_s,
        )
        await self._client.set_mode(namespace, request)

    async def confirm_mode(self, namespace: str) -> None:
        """Keep the mode that would go back by itself."""
        await self._client.confirm_mode(namespace)

    async def list_history(self, namespace: str, *, limit: int) -> History:
        """Return a namespace's generations, newest first."""
        return await self._client.list_history(namespace, limit=limit)

    async def get_generation(self, namespace: str, generation: int) -> GenerationContent:
        """Return all that one generation says."""
        return await self._client.get_generation(namespace, generation)

    async def restore(self, content: GenerationContent, *, newest: int, terms: SwitchTerms) -> Sequence[str]:
        """Have the CA restore it, all in one transaction."""
        request = UndoRequest(to=content.generation, expected=newest, force=terms.is_forced, since_s=terms.since_s)
        await self._client.undo(content.namespace, request)
        return ()

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

    async def get_queue(self, namespace: str) -> ProgramQueue:
        """Return what waits for an approval and what was refused."""
        return await self._client.get_queue(namespace)

    async def refuse_programs(self, namespace: str, request: RefusalRequest) -> ProgramQueue:
        """Refuse programs, or take refusals back."""
        return await self._client.refuse_programs(namespace, request)

    async def list_objects(self, namespace: str) -> list[dict[str, Any]]:
        """Return policies and programs in the shape of their YAML.

        Of modes on trial those are shown to which they go back, so that what was printed doesn't make a trial permanent
        when it is applied.
        """
        policies = (await self._client.list_policies(namespace)).policies
        programs = (await self._client.list_programs(namespace)).programs
        trials = [await self._find_trial(p.namespace) for p in policies]
        documents: list[Document] = [
            MeshPolicyDocument(
                namespace=p.namespace,
                mode=p.mode if trial is None or trial.workload_modes is not None else trial.back_to,
                group_label=p.group_label,
                rules=p.rules,
                requires=p.requires,
                workload_modes=_settle_workload_modes(p.workload_modes, trial) or None,
            )
            for p, trial in zip(policies, trials, strict=True)
        ]
        documents += [
            ProgramDocument(
                namespace=p.namespace,
                name=p.name,
                service_account=p.service_account,
                programs=p.programs,
                weak=p.weak,
                code=p.code,
            )
            for p in programs
        ]
        plain = make_plain(documents)
        for each, trial in zip(plain, trials, strict=False):
            if trial is not None:
                each["metadata"]["annotations"] = {TRIAL: _describe_trial(trial)}
        return plain

    async def _find_trial(self, namespace: str) -> ModeTrial | None:
        """Return what is on trial in a namespace; an older CA knows no trials."""
        try:
            return (await self._client.list_history(namespace, limit=1)).trial
        except NotFoundError:
            return None

    async def apply(
        self, documents: Sequence[Document], *, is_forced: bool = False, expected_version: int | None = None
    ) -> list[Applied]:
        """Write documents one after the other: all have been read already, so that the CA has little to refuse.

        Programs first: a policy that makes its namespace explicit is judged by the approvals that come with it.
        """
        for document in documents:
            if isinstance(document, MeshPolicyDocument) and document.trial is not None:
                raise InputError(
                    "spec.trial is for clusters", hint=f"touchmark mode {document.namespace} {document.mode} --for 10m"
                )
        order = sorted(range(len(documents)), key=lambda index: isinstance(documents[index], MeshPolicyDocument))
        applied = {
            index: await self._apply_one(documents[index], is_forced=is_forced, expected_version=expected_version)
            for index in order
        }
        return [applied[index] for index in range(len(documents))]

    async def list_workloads(self, namespace: str) -> frozenset[str] | None:
        """Return the service accounts of those that have joined or whose programs are approved."""
        return list_workloads_of(await self.look_around(), namespace)

    async def look_around(self) -> Surroundings:
        """Return what exists beside policies."""
        return await look_around_locally(self._client)

    async def assess_candidate(
        self, namespace: str, candidate: PolicyCandidateRequest, *, since_s: float, workload: str = ""
    ) -> Readiness:
        """Return what ``explicit`` would refuse with other rules."""
        return await self._client.assess_candidate(namespace, candidate, since_s=since_s, workload=workload)

    async def delete_policy(self, namespace: str, *, is_draft: bool = False) -> None:
        """Delete a namespace's policy, or its draft."""
        await (self._client.drop_draft(namespace) if is_draft else self._client.delete_policy(namespace))

    async def get_draft(self, namespace: str) -> DraftView:
        """Return a namespace's draft."""
        return await self._client.get_draft(namespace)

    async def look_at_draft(self, namespace: str) -> SeenDraft:
        """Return a namespace's draft; the CA itself compares it with the policy when it puts it in force."""
        return SeenDraft(view=await self.get_draft(namespace))

    async def put_draft(self, document: MeshPolicyDocument, *, is_first: bool = False) -> NamespaceState:
        """Write a policy as its namespace's draft."""
        return await self._client.put_draft(document.namespace, make_draft(document, is_first=is_first))

    async def drop_draft(self, namespace: str, *, number: int | None = None) -> None:
        """Drop a namespace's draft."""
        await self._client.drop_draft(namespace, number=number)

    async def promote_draft(self, seen: SeenDraft, *, is_forced: bool = False) -> Applied:
        """Have the CA put the draft in force and drop it, in one transaction."""
        view = seen.view
        # What was shown as outdated was confirmed; what somebody wrote since then wasn't.
        request = PromoteRequest(number=view.draft.number, force=is_forced, takes_back=view.is_outdated)
        policy = await self._client.promote_draft(view.namespace, request)
        return Applied(kind="MeshPolicy", namespace=policy.namespace, name="default", version=policy.version)

    async def name_user(self) -> str:
        """Return this user, or the user who called sudo."""
        try:
            return os.environ.get("SUDO_USER") or getpass.getuser()
        except (KeyError, OSError):
            return f"uid {os.getuid()}"

    async def _apply_one(self, document: Document, *, is_forced: bool, expected_version: int | None) -> Applied:
        if isinstance(document, ProgramDocument):
            program = await self._client.approve_programs(
                ProgramRequest(
                    namespace=document.namespace,
                    service_account=document.service_account,
                    programs=document.programs,
                    name=document.name,
                    weak=document.weak,
                    approved_by="policy apply",
                    code=document.code,
                )
            )
            return Applied(kind="Program", namespace=program.namespace, name=program.name, version=program.version)
        if isinstance(document, DraftDocument):
            state = await self.put_draft(document.policy)
            return Applied(
                kind="MeshPolicy",
                namespace=document.namespace,
                name=DRAFT_NAME,
                version=state.version,
                is_draft=True,
            )
        mode, workload_modes, note = document.mode, document.workload_modes, ""
        names_modes = mode is not None or workload_modes is not None
        if names_modes and (trial := await self._find_trial(document.namespace)) is not None:
            if trial.workload_modes is None and mode is trial.back_to:
                mode, note = None, f"left on trial: {_describe_trial(trial)}"
            elif trial.workload_modes is not None and workload_modes == trial.workload_modes:
                workload_modes, note = None, f"left on trial: {_describe_trial(trial)}"
            elif (mode if trial.workload_modes is None else workload_modes) is not None:
                note = f"ended a trial: {_describe_trial(trial)}"
        policy = await self._client.put_policy(
            PolicyRequest(
                namespace=document.namespace,
                rules=document.rules,
                group_label=document.group_label,
                mode=mode,
                requires=document.requires,
                force=is_forced,
                expected_version=expected_version,
                workload_modes=workload_modes,
            )
        )
        return Applied(kind="MeshPolicy", namespace=policy.namespace, name="default", version=policy.version, note=note)


def _settle_workload_modes(modes: tuple[WorkloadMode, ...], trial: ModeTrial | None) -> tuple[WorkloadMode, ...]:
    """Return the workloads' modes that stay."""
    return modes if trial is None or trial.workload_modes is None else trial.workload_modes


def _describe_trial(trial: ModeTrial) -> str:
    until = datetime.fromtimestamp(trial.until, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    if trial.workload_modes is not None:
        return f"modes of workloads until {until}, then {name_modes(trial.workload_modes) or 'none of their own'}"
    return f"{trial.mode} until {until}, then {trial.back_to}"


def make_draft(document: MeshPolicyDocument, *, is_first: bool = False) -> DraftRequest:
    """Return a policy as the CA takes a draft."""
    return DraftRequest(
        rules=document.rules,
        group_label=document.group_label,
        mode=document.mode,
        requires=document.requires,
        workload_modes=document.workload_modes,
        is_first=is_first,
    )


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
        workload_modes=state.workload_modes,
    )


async def read_trial(client: AdminClient, state: ModeState) -> ModeState:
    """Add whether the mode is on trial; an older CA knows no trials."""
    try:
        trial = (await client.list_history(state.namespace, limit=1)).trial
    except NotFoundError:
        return state
    if trial is None:
        return state
    if trial.workload_modes is not None:
        return replace(state, workload_modes_back_to=trial.workload_modes, until=trial.until)
    return replace(state, back_to=trial.back_to, until=trial.until)
