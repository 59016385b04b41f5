"""Modes, policies and programs in a cluster: written as objects by server-side apply, read with the CA's status. I/O.

Belongs here: what is written and read for each question of a command. Doesn't: how an object is written beside other
tools, and waiting for the CA's word on it (``object_writer.py``); the objects' fields (``objects.py``). What needs the
CA's own store (decisions, readiness) is asked by a port-forward that is opened when it is first needed. Longer than
most: one class answers the whole of ``PolicyBackend`` (``base.py``).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from cli.admin.client import AdminClient
from cli.backends import objects
from cli.backends.base import Applied, ModeState, SwitchTerms, WorkloadSwitch
from cli.backends.local import make_draft, read_mode
from cli.backends.object_writer import MAX_ATTEMPTS, ObjectWriter
from cli.backends.restoring import plan
from cli.backends.surroundings import list_service_accounts, look_around_cluster
from cli.cluster import draft_object
from cli.cluster.connection import MESH_POLICIES, PROGRAMS, SELF_REVIEWS, Cluster, Kind, Object
from cli.cluster.draft_object import SeenDraft, SeenObject
from cli.cluster.faults import ChangedError, ForbiddenError, NoCAPodError, OwnedElsewhereError
from cli.cluster.observation import cron_jobs
from cli.cluster.port_forward import forward_admin
from shared.model.adoption.approval_name import choose_name, list_names
from shared.model.adoption.lint import Surroundings
from shared.model.adoption.program_queue import ProgramQueue, RefusalRequest
from shared.model.errors import ConflictError, InputError, NotFoundError, TouchmarkError
from shared.model.kubernetes.contract import FIELD_MANAGER
from shared.model.policy.documents import DRAFT_NAME, POLICY_NAME, Document, MeshPolicyDocument, ModeTrial
from shared.model.policy.modes import change_modes, make_modes, read_modes
from shared.model.policy.rules import Mode, NamespaceState
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

# As in the CA (ca/store/namespace_history.py).
MIN_TRIAL_S: Final = 1.0
MAX_TRIAL_S: Final = 30 * 86_400.0


class ClusterPolicyBackend:
    """One cluster's policies and programs; use it as an asynchronous context manager.

    Arguments:
        system_namespace: the namespace in which the CA runs.
        is_forced: take over fields that other tools own.
    """

    def __init__(self, cluster: Cluster, system_namespace: str, *, is_forced: bool = False) -> None:
        self._cluster = cluster
        self._system_namespace = system_namespace
        self._is_forced = is_forced
        self._writer = ObjectWriter(cluster, is_forced=is_forced)
        self._stack = AsyncExitStack()
        self._client: AdminClient | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    # ---- what the CA knows -------------------------------------------------------------------------------------------

    async def get_readiness(self, namespace: str, *, since_s: float, workload: str = "") -> Readiness:
        """Return what ``explicit`` would have refused."""
        found = await (await self._reach_admin()).get_readiness(namespace, since_s=since_s, workload=workload)
        return await cron_jobs.complete(self._cluster, found)

    async def list_decisions(self, query: Mapping[str, str]) -> DecisionList:
        """Return decisions."""
        return await (await self._reach_admin()).list_decisions(query)

    # ---- mode --------------------------------------------------------------------------------------------------------

    async def get_mode(self, namespace: str) -> ModeState:
        """Return a namespace's mode, from its MeshPolicy; the CA itself is asked where there is none.

        A deleted MeshPolicy leaves its mode in force, which no object shows any more.
        """
        policy = await self._cluster.find(MESH_POLICIES, namespace, POLICY_NAME)
        if policy is not None:
            return objects.read_mode(namespace, policy)
        try:
            state = await read_mode(await self._reach_admin(), namespace)
        except (ForbiddenError, NoCAPodError) as error:
            raise NotFoundError(
                f"namespace {namespace} has no MeshPolicy, and the CA can't be asked for its mode: {error.message}",
                hint=error.hint,
            ) from error
        return replace(state, wanted=None)

    async def set_mode(self, namespace: str, mode: Mode, terms: SwitchTerms) -> None:
        """Write the mode alone: whatever else the MeshPolicy says stays, and one is made where there is none.

        The API server refuses what the CA's webhook finds blocked. What changes between the look at the version and the
        write is judged there as well.
        """
        if terms.expected_version is not None:
            await self._check_version(namespace, terms.expected_version)
        trial = None if terms.for_s is None else await self._plan_trial(namespace, mode, terms.for_s)
        value = objects.make_mode(namespace, mode, trial)
        if terms.is_forced:
            value = objects.force_explicit(value, mark=_draw_mark())
        await self._writer.write(MESH_POLICIES, value, manager=objects.MODE_MANAGER)

    async def set_workload_modes(self, namespace: str, switch: WorkloadSwitch, terms: SwitchTerms) -> None:
        """Write workloads' own modes alone, as ``set_mode`` writes the namespace's.

        Raises:
            OwnedElsewhereError: another tool has written a mode that is to be taken away.
        """
        if terms.for_s is not None:
            raise InputError(
                "in a cluster only a namespace's mode goes back by itself: spec.trial is about that alone",
                hint="give the other workloads the present mode as their own, then the namespace --for: `touchmark mode"
                f" {namespace} permissive --workload OTHER -k`, `touchmark mode {namespace} explicit --for 10m -k`",
            )
        if terms.expected_version is not None:
            await self._check_version(namespace, terms.expected_version)
        is_inherited, kept = switch.mode is None, None
        for _ in range(MAX_ATTEMPTS):
            present = await self._cluster.find(MESH_POLICIES, namespace, POLICY_NAME)
            # Where there is no object, one that was deleted may have left modes in force.
            if present is None:
                known = (await self.get_mode(namespace)).workload_modes
            else:
                known = make_modes(objects.read_workload_modes(present))
            wanted = read_modes(change_modes(known, switch.service_accounts, switch.mode))
            removable = objects.list_removable(present, switch.service_accounts) if is_inherited else []
            if removable:
                value = objects.make_removal(namespace, removable)
            else:
                value = objects.make_workload_modes(namespace, present, wanted, switch.service_accounts)
            if terms.is_forced:
                value = objects.force_explicit(value, mark=_draw_mark(), is_inherited=is_inherited)
            if present is not None and (version := present["metadata"].get("resourceVersion")):
                value["metadata"]["resourceVersion"] = version  # What was read is what is changed.
            try:
                if removable:
                    kept = await self._cluster.merge(MESH_POLICIES, value, manager=objects.WORKLOAD_MODES_MANAGER)
                else:
                    kept = await self._writer.write(MESH_POLICIES, value, manager=objects.WORKLOAD_MODES_MANAGER)
                break
            except ChangedError:
                continue
        if kept is None:
            raise ChangedError(f"MeshPolicy {namespace}/{POLICY_NAME} keeps changing", hint="try again")
        left = sorted({*(kept["spec"].get("workloadModes") or {})} & {*switch.service_accounts})
        if left and is_inherited:
            raise OwnedElsewhereError(
                f"the mode of {', '.join(left)} in MeshPolicy {namespace}/{POLICY_NAME} was written by another tool",
                owners={},
                hint="remove it from spec.workloadModes there",
            )

    async def _check_version(self, namespace: str, expected: int) -> None:
        state = await (await self._reach_admin()).get_namespace(namespace)
        if state.version != expected:
            raise ConflictError(
                f"namespace {namespace} is at version {state.version}, no longer at version {expected}",
                hint=f"`touchmark mode {namespace} history -k` says who changed what; look again, then repeat",
            )

    async def _plan_trial(self, namespace: str, mode: Mode, for_s: float) -> ModeTrial:
        """Return when a mode is to go back, by the API server's clock, and to what.

        Raises:
            InputError: that isn't possible.
            ConflictError: there is nothing to go back to.
        """
        if not MIN_TRIAL_S <= for_s <= MAX_TRIAL_S:
            raise InputError(f"a mode goes back after {MIN_TRIAL_S:.0f} s to {MAX_TRIAL_S / 86_400:.0f} days")
        state = await self._get_mode_in_force(namespace)
        back_to = state.back_to or state.mode or Mode.PERMISSIVE
        if mode is back_to:
            raise ConflictError(
                f"{namespace} is {mode} already: there is nothing to go back to"
                if state.back_to is None
                else f"{namespace} goes back to {mode} by itself",
                hint=f"without --for, `touchmark mode {namespace} {mode} -k` keeps it",
            )
        now = self._cluster.server_time or time.time()
        return ModeTrial(back_to=back_to, until=float(math.ceil(now + for_s)))

    async def _get_mode_in_force(self, namespace: str) -> ModeState:
        """Return a namespace's mode; that of the CA itself while no MeshPolicy says it."""
        state = await self.get_mode(namespace)
        return state if state.mode is not None else await read_mode(await self._reach_admin(), namespace)

    async def confirm_mode(self, namespace: str) -> None:
        """Keep the mode that would go back by itself: its trial is taken out of the MeshPolicy.

        Raises:
            ConflictError: none is on trial, or it has gone back.
            OwnedElsewhereError: another tool wrote the trial.
        """
        policy = await self._cluster.find(MESH_POLICIES, namespace, POLICY_NAME)
        state = None if policy is None else objects.read_mode(namespace, policy)
        now = self._cluster.server_time or time.time()
        if policy is None or state is None or state.wanted is None or state.back_to is None or state.until <= now:
            raise ConflictError(
                f"the mode of {namespace} isn't on trial: there is nothing to confirm",
                hint=f"`touchmark mode {namespace} history -k` shows whether it went back",
            )
        await self._settle(namespace, state.wanted, seen=policy)

    async def _settle(self, namespace: str, mode: Mode, *, seen: Object | None = None, is_forced: bool = False) -> None:
        """Write the mode without a trial.

        Arguments:
            seen: only if the object is still this one; None: whichever it is.
            is_forced: also where explicit mode would refuse connections that were seen.
        """
        value = objects.make_mode(namespace, mode)
        if seen is not None:
            value["metadata"]["uid"] = seen["metadata"].get("uid")
        if is_forced:
            value = objects.force_explicit(value, mark=_draw_mark())
        kept = await self._writer.write(MESH_POLICIES, value, manager=objects.MODE_MANAGER)
        if objects.has_trial(kept):
            raise OwnedElsewhereError(
                f"the trial in MeshPolicy {namespace}/{POLICY_NAME} was written by another tool",
                owners={},
                hint="remove spec.trial there",
            )

    # ---- history -----------------------------------------------------------------------------------------------------

    async def list_history(self, namespace: str, *, limit: int) -> History:
        """Return what the CA has put in force in this namespace, newest first."""
        return await (await self._reach_admin()).list_history(namespace, limit=limit)

    async def get_generation(self, namespace: str, generation: int) -> GenerationContent:
        """Return all that one generation says."""
        return await (await self._reach_admin()).get_generation(namespace, generation)

    async def restore(self, content: GenerationContent, *, newest: int, terms: SwitchTerms) -> Sequence[str]:
        """Write the objects as they were then, after the API server has tried all of them.

        Raises:
            OwnedElsewhereError: another tool owns some of it; nothing is written.
            ConflictError: the namespace has changed since.
        """
        namespace = content.namespace
        present = await self._cluster.find(MESH_POLICIES, namespace, POLICY_NAME)
        is_tried = present is not None and objects.has_trial(present)
        if present is not None and content.tried is not None:
            state = objects.read_mode(namespace, present)
            if content.tried is state.wanted and (state.back_to is not None or not is_tried):
                # The mode on trial stays as it is, and still goes back; one that was confirmed stays, too.
                content, is_tried = msgspec.structs.replace(content, mode=content.tried), False
        steps = plan(content, await self._cluster.list(PROGRAMS, namespace), is_forced=self._is_forced)
        policy = objects.keep_workload_modes(steps.policy, present)
        policy = objects.force_explicit(policy, mark=_draw_mark()) if terms.is_forced else policy
        writes = [*((PROGRAMS, value) for value in steps.programs), (MESH_POLICIES, policy)]
        for kind, value in writes:
            await self._writer.write(kind, value, manager=FIELD_MANAGER, dry_run=True)
        for name in steps.deleted:
            await self._cluster.delete(PROGRAMS, namespace, name, dry_run=True)
        listed = (await self.list_history(namespace, limit=1)).generations
        if not listed or listed[0].generation != newest:
            raise ConflictError(f"{namespace} has changed since", hint="look again, then repeat")
        left = []
        for kind, value in writes:
            kept = await self._writer.write(kind, value, manager=FIELD_MANAGER)
            if kind is PROGRAMS:
                await self._writer.wait_for_acceptance(kind, kept)  # The mode is judged by the approvals that it needs.
            if kind is MESH_POLICIES and (said := objects.describe_strangers(kept, value)):
                left.append(f"MeshPolicy {namespace}/{POLICY_NAME}: {said}")
        if is_tried:
            await self._settle(namespace, content.mode, is_forced=terms.is_forced)
        left += await self._drop_workload_modes(namespace, read_modes(content.workload_modes), terms)
        for name in steps.deleted:
            await self._cluster.delete(PROGRAMS, namespace, name)
        return left

    async def _drop_workload_modes(self, namespace: str, wanted: Mapping[str, Mode], terms: SwitchTerms) -> list[str]:
        """Take away workloads' own modes that aren't wanted; return which couldn't be, in words."""
        present = await self._cluster.find(MESH_POLICIES, namespace, POLICY_NAME)
        known = {} if present is None else objects.read_workload_modes(present)
        if not (surplus := tuple(sorted({*known} - {*wanted}))):
            return []
        try:
            await self.set_workload_modes(
                namespace, WorkloadSwitch(service_accounts=surplus, mode=None), SwitchTerms(is_forced=terms.is_forced)
            )
        except OwnedElsewhereError as error:
            return [f"{error.message} ({error.hint})"]
        return []

    # ---- programs ----------------------------------------------------------------------------------------------------

    async def list_programs(self, namespace: str) -> Sequence[ProgramView]:
        """Return approved programs, by namespace and name."""
        views = [objects.view_program(value) for value in await self._cluster.list(PROGRAMS, namespace)]
        return sorted(views, key=lambda view: (view.namespace, view.name))

    async def approve_programs(self, request: ProgramRequest) -> tuple[ProgramView, bool]:
        """Write a ``Program`` and wait a while for the CA."""
        if not request.name:
            request = msgspec.structs.replace(request, name=await self._choose_name(request))
        written = await self._writer.write(PROGRAMS, objects.make_program(request), manager=FIELD_MANAGER)
        seen = await self._writer.wait_for_acceptance(PROGRAMS, written)
        return objects.view_program(seen), objects.is_accepted(seen)

    async def _choose_name(self, request: ProgramRequest) -> str:
        kept = {}
        for name in list_names(request.service_account, request.programs):
            value = await self._cluster.find(PROGRAMS, request.namespace, name)
            if value is not None:
                view = objects.view_program(value)
                kept[name] = (view.service_account, view.programs)
        return choose_name(request.service_account, request.programs, kept)

    async def remove_program(self, namespace: str, name: str) -> None:
        """Delete a ``Program``."""
        await self._cluster.delete(PROGRAMS, namespace, name)

    async def get_queue(self, namespace: str) -> ProgramQueue:
        """Return what waits for an approval and what was refused: the CA keeps that, no object does."""
        return await (await self._reach_admin()).get_queue(namespace)

    async def refuse_programs(self, namespace: str, request: RefusalRequest) -> ProgramQueue:
        """Refuse programs, or take refusals back, at the CA (``ca/store/programs_seen/refusals.py`` says why there)."""
        return await (await self._reach_admin()).refuse_programs(namespace, request)

    # ---- policies ----------------------------------------------------------------------------------------------------

    async def list_objects(self, namespace: str) -> list[dict[str, Any]]:
        """Return policies, then programs, in the shape of their YAML."""
        found = []
        for kind, name in ((MESH_POLICIES, "MeshPolicy"), (PROGRAMS, "Program")):
            values = await self._cluster.list(kind, namespace)
            found += [objects.strip({**value, "kind": name}) for value in values]
        return found

    async def apply(
        self,
        documents: Sequence[Document],
        *,
        is_forced: bool = False,
        expected_version: int | None = None,
        seen: SeenObject | None = None,
    ) -> list[Applied]:
        """Write documents, after the API server has tried all of them, and wait a while for the CA.

        Programs first: a policy that makes its namespace explicit is judged by the approvals that come with it. A
        policy takes the place of the MeshPolicy that was ``seen``, as a whole, and of no later one; None: of any.
        """
        made = objects.make_objects(documents)
        if is_forced:
            made = [
                (kind, objects.force_explicit(value, mark=_draw_mark(), is_inherited="workloadModes" in value["spec"]))
                for kind, value in made
            ]
        for kind, value in made:
            tried = await self._writer.write(kind, await self._keep(value), manager=FIELD_MANAGER, dry_run=True)
            if seen is not None:
                objects.refuse_leftovers(tried, value)
        applied: dict[int, Applied] = {}
        for wanted in (PROGRAMS, MESH_POLICIES):
            written = {
                index: await self._write_document(kind, value, expected_version, seen, is_forced=is_forced)
                for index, (kind, value) in enumerate(made)
                if kind is wanted
            }
            for index, kept in written.items():
                value = made[index][1]
                if objects.has_trial(kept) and "mode" in value["spec"] and "trial" not in value["spec"]:
                    await self._settle(value["metadata"]["namespace"], Mode(value["spec"]["mode"]), is_forced=is_forced)
                applied[index] = await self._conclude(wanted, value, kept)
        return [applied[index] for index in range(len(made))]

    async def _keep(self, value: Object) -> Object:
        """Return what to write so that workloads' modes that this wrote before are left."""
        if value["kind"] != "MeshPolicy" or value["spec"].get("workloadModes"):
            return value
        metadata = value["metadata"]
        present = await self._cluster.find(MESH_POLICIES, metadata["namespace"], metadata["name"])
        return objects.keep_workload_modes(value, present)

    async def _write_document(
        self, kind: Kind, value: Object, expected_version: int | None, seen: SeenObject | None, *, is_forced: bool
    ) -> Object:
        """Write an object over the expected version, and then take away the workloads' modes that it says are none."""
        if kind is PROGRAMS:
            kept = await self._writer.write(kind, value, manager=FIELD_MANAGER)
        else:
            kept = await self._write_policy(value, expected_version, seen)
        if not objects.empties_workload_modes(value):
            return kept
        gone = tuple(objects.list_removable(kept, kept["spec"].get("workloadModes") or {}))
        if not gone:
            return kept
        namespace = value["metadata"]["namespace"]
        if objects.is_draft(value):
            gone_from_draft = objects.make_removal(namespace, gone, name=DRAFT_NAME)
            return await self._cluster.merge(kind, gone_from_draft, manager=objects.WORKLOAD_MODES_MANAGER)
        switch = WorkloadSwitch(service_accounts=gone, mode=None)
        await self.set_workload_modes(namespace, switch, SwitchTerms(is_forced=is_forced))
        return await self._cluster.get(kind, namespace, value["metadata"]["name"])

    async def _conclude(self, kind: Kind, value: Object, kept: Object) -> Applied:
        """Wait a while for the CA, and say what became of a written object."""
        seen = await self._writer.wait_for_acceptance(kind, kept)
        version = (seen.get("status") or {}).get("version")
        return Applied(
            kind=value["kind"],
            namespace=value["metadata"]["namespace"],
            name=value["metadata"]["name"],
            version=version if objects.is_accepted(seen) else None,
            is_confirmed=objects.is_accepted(seen),
            is_draft=objects.is_draft(value),
            note=objects.describe_strangers(kept, value),
        )

    async def list_workloads(self, namespace: str) -> frozenset[str] | None:
        """Return a namespace's service accounts, as far as this user may list them."""
        return await list_service_accounts(self._cluster, namespace)

    async def look_around(self) -> Surroundings:
        """Return what exists beside policies, as far as this user may list it."""
        try:
            programs: Sequence[ProgramView] | None = await self.list_programs("")
        except TouchmarkError:
            programs = None
        return await look_around_cluster(self._cluster, programs)

    async def assess_candidate(
        self, namespace: str, candidate: PolicyCandidateRequest, *, since_s: float, workload: str = ""
    ) -> Readiness:
        """Return what ``explicit`` would refuse with other rules."""
        return await (await self._reach_admin()).assess_candidate(
            namespace, candidate, since_s=since_s, workload=workload
        )

    async def delete_policy(self, namespace: str, *, is_draft: bool = False) -> None:
        """Delete a namespace's MeshPolicy, or that of its draft."""
        await self._cluster.delete(MESH_POLICIES, namespace, DRAFT_NAME if is_draft else POLICY_NAME)

    # ---- drafts ------------------------------------------------------------------------------------------------------

    async def get_draft(self, namespace: str) -> DraftView:
        """Return a namespace's draft: what its object says, or else what the CA keeps."""
        return await (await self._reach_admin()).get_draft(namespace)

    async def look_at_draft(self, namespace: str) -> SeenDraft:
        """Return a namespace's draft, and which objects the CA judged it by."""
        return await draft_object.look(self._cluster, await self._reach_admin(), namespace)

    async def put_draft(self, document: MeshPolicyDocument, *, is_first: bool = False) -> NamespaceState:
        """Write a policy as its namespace's draft, at the CA."""
        return await (await self._reach_admin()).put_draft(document.namespace, make_draft(document, is_first=is_first))

    async def drop_draft(self, namespace: str, *, number: int | None = None) -> None:
        """Drop a namespace's draft."""
        await (await self._reach_admin()).drop_draft(namespace, number=number)

    async def promote_draft(self, seen: SeenDraft, *, is_forced: bool = False) -> Applied:
        """Write the draft as the namespace's MeshPolicy, and end it once the CA has put that in force."""
        document = draft_object.make_document(seen.view)
        async with draft_object.hold_name(self._cluster, seen) as policy:
            (applied,) = await self.apply([document], is_forced=is_forced, seen=policy)
        note = draft_object.UNTAKEN
        if applied.is_confirmed:
            note = await draft_object.end(self._cluster, await self._reach_admin(), seen)
        return replace(applied, note="; ".join(each for each in (applied.note, note) if each))

    async def name_user(self) -> str:
        """Return who the API server takes this user for (authentication.k8s.io/v1 SelfSubjectReview)."""
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        answer = await self._cluster.create(SELF_REVIEWS, review)
        return str(((answer.get("status") or {}).get("userInfo") or {}).get("username") or "")

    # ---- how ---------------------------------------------------------------------------------------------------------

    async def _reach_admin(self) -> AdminClient:
        if self._client is None:
            forward = forward_admin(self._cluster, self._system_namespace)
            self._client = await self._stack.enter_async_context(forward)
        return self._client

    async def _write_policy(self, policy: Object, expected: int | None, seen: SeenObject | None) -> Object:
        """Write a MeshPolicy over the one that the CA has put in force as this version of its namespace; None: any.

        What the CA says of it in between doesn't matter, what others write does, workloads' modes too. A policy that
        doesn't exist yet and is made by somebody else at the very same moment isn't noticed (a draft's: ``hold_name``).

        Raises:
            ConflictError: it is another one, or one that the CA hasn't seen.
        """
        metadata = policy["metadata"]
        namespace = metadata["namespace"]
        for _ in range(MAX_ATTEMPTS):
            current = await self._cluster.find(MESH_POLICIES, namespace, metadata["name"])
            if seen is not None:
                draft_object.check_unchanged(current, seen, namespace)
            if expected is not None:
                state = await self.get_mode(namespace) if current is None else objects.read_mode(namespace, current)
                if state.version != expected or not state.is_observed:
                    found = f"at version {state.version}" if state.is_observed else "changed, and the CA hasn't seen it"
                    raise ConflictError(
                        f"namespace {namespace} is {found}, no longer at version {expected}",
                        hint=f"`touchmark mode {namespace} history -k` says who changed what; look again, then repeat",
                    )
            step = objects.keep_workload_modes(policy, current)
            if current is None or (expected is None and seen is None and step is policy):
                return await self._writer.write(MESH_POLICIES, policy, manager=FIELD_MANAGER)
            try:
                return await self._writer.write_pinned(MESH_POLICIES, step, current, manager=FIELD_MANAGER)
            except ChangedError:
                continue
        raise ChangedError(f"the MeshPolicy of {namespace} keeps changing", hint="try again")


def _draw_mark() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
