"""Admin endpoints about namespaces: mode, readiness, acknowledgements, programs, policies. I/O through the store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final

from aiohttp import web

from ca.api.admin.answers import answer, check_query, read_body, read_number
from ca.distribution.installs import count_acknowledgements, group_by_namespace
from ca.observation.explicit_guard import check_window, require_unblocked
from ca.observation.explicit_readiness import assess
from ca.observation.policy_difference import find_difference
from ca.observation.programs_seen import ProgramsSeen
from ca.store.namespace_history import MAX_TRIAL_S, MIN_TRIAL_S
from ca.store.records import ProgramRecord
from ca.store.store import Store
from shared.model.adoption.approval_name import choose_name
from shared.model.errors import ConflictError, InputError, UnavailableError
from shared.model.identity.identity import check_namespace, check_service_account, parse_workload
from shared.model.policy.documents import check_group_label
from shared.model.policy.modes import change_modes
from shared.model.policy.rules import Mode, NamespaceState
from shared.model.wire import admin

# A version also rises when a pod's labels are vouched for: the switch is judged again then.
_MAX_ATTEMPTS: Final = 3


class NamespacesAdmin:
    """The handlers. Pushes to sidecars follow by themselves: the store announces each change.

    Arguments:
        check_clock: raises ``UnavailableError`` where nothing may end by this CA's clock.
        are_policies_objects: whether the objects of a cluster say what modes, policies and programs are.
    """

    def __init__(
        self,
        *,
        store: Store,
        programs: ProgramsSeen,
        clock: Callable[[], float],
        check_clock: Callable[[], None],
        are_policies_objects: bool,
    ) -> None:
        self._store = store
        self._programs = programs
        self._clock = clock
        self._check_clock = check_clock
        self._are_policies_objects = are_policies_objects

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.get("/v1/namespaces", self.namespaces),
            web.get("/v1/namespaces/{ns}", self.namespace),
            web.get("/v1/namespaces/{ns}/readiness", self.readiness),
            web.post("/v1/namespaces/{ns}/readiness", self.candidate_readiness),
            web.put("/v1/namespaces/{ns}/mode", self.set_mode),
            web.get("/v1/namespaces/{ns}/acknowledgements", self.acknowledgements),
            web.get("/v1/programs", self.programs),
            web.post("/v1/programs", self.put_program),
            web.delete("/v1/programs/{ns}/{name}", self.delete_program),
            web.get("/v1/policies", self.policies),
            web.put("/v1/policies", self.put_policy),
            web.post("/v1/policies/difference", self.difference),
            web.delete("/v1/policies/{ns}", self.delete_policy),
        ]

    async def namespaces(self, _request: web.Request) -> web.Response:
        """Answer all namespaces' states."""
        return answer(admin.NamespaceList(namespaces=tuple(await self._store.namespaces.list_states())))

    async def namespace(self, request: web.Request) -> web.Response:
        """Answer one namespace's state; version 0 when nothing was ever said about it."""
        return answer(await self._store.namespaces.get_state(check_namespace(request.match_info["ns"])))

    async def readiness(self, request: web.Request) -> web.Response:
        """Answer what explicit mode would refuse of what was seen, by the current rules, and how much that was."""
        return await self._assess(request, None)

    async def candidate_readiness(self, request: web.Request) -> web.Response:
        """Answer the same with other rules and approvals, which aren't put in force."""
        return await self._assess(request, await read_body(request, admin.PolicyCandidateRequest))

    async def _assess(self, request: web.Request, candidate: admin.PolicyCandidateRequest | None) -> web.Response:
        check_query(request, "since_s", "workload")
        namespace = check_namespace(request.match_info["ns"])
        since_s = _read_since(request)
        workload = request.query.get("workload", "")
        now = self._clock()
        with suppress(UnavailableError):  # Reading goes on while nothing can be written.
            await self._programs.flush()  # What a sidecar told of a connection before its record counts with that.
        return answer(
            await assess(
                self._store,
                namespace,
                since=now - since_s,
                now=now,
                workload=str(parse_workload(workload)) if workload else "",
                candidate=candidate,
            )
        )

    async def set_mode(self, request: web.Request) -> web.Response:
        """Switch the mode of the namespace or of workloads, for good or for a while."""
        self._check_source()
        wanted = await read_body(request, admin.ModeRequest)
        namespace = check_namespace(request.match_info["ns"])
        if wanted.for_s is not None and not MIN_TRIAL_S <= wanted.for_s <= MAX_TRIAL_S:
            raise InputError(f"a mode goes back after {MIN_TRIAL_S:.0f} s to {MAX_TRIAL_S / 86_400:.0f} days")
        if wanted.for_s is not None:
            self._check_clock()  # It would go back at once, or days late.
        for name in wanted.workloads:
            check_service_account(name)
        since_s = check_window(wanted.since_s)
        if wanted.mode is None and not wanted.workloads:
            raise InputError("a namespace has a mode of its own: only workloads inherit one", hint="name `workloads`")

        async def switch(version: int | None) -> NamespaceState:
            expected = version if wanted.expected_version is None else wanted.expected_version
            return await self._write_mode(namespace, wanted, expected)

        async def judge() -> int:
            state = await self._store.namespaces.get_state(namespace)
            modes = change_modes(state.workload_modes, wanted.workloads, wanted.mode) if wanted.workloads else None
            return await require_unblocked(
                self._store,
                namespace,
                now=self._clock(),
                mode=None if wanted.workloads else wanted.mode,
                workload_modes=modes,
                since_s=since_s,
            )

        is_judged = wanted.mode is not Mode.PERMISSIVE and not wanted.force
        return answer(await self._switch(namespace, switch, judge if is_judged else None))

    async def _write_mode(self, namespace: str, wanted: admin.ModeRequest, expected: int | None) -> NamespaceState:
        states, history, forced = self._store.namespaces, self._store.history, wanted.force
        if wanted.workloads:
            names, mode = wanted.workloads, wanted.mode
            if wanted.for_s is None:
                return await states.set_workload_modes(
                    namespace, names, mode, expected_version=expected, is_forced=forced
                )
            return await history.try_workload_modes(
                namespace, names, mode, for_s=wanted.for_s, now=self._clock(), expected_version=expected,
                is_forced=forced,
            )  # fmt: skip
        if wanted.mode is None:
            raise InputError("a namespace has a mode of its own")
        if wanted.for_s is None:
            return await states.set_mode(namespace, wanted.mode, expected_version=expected, is_forced=forced)
        return await history.try_mode(
            namespace, wanted.mode, for_s=wanted.for_s, now=self._clock(), expected_version=expected, is_forced=forced
        )

    async def _switch(
        self,
        namespace: str,
        switch: Callable[[int | None], Awaitable[NamespaceState]],
        judge: Callable[[], Awaitable[int]] | None,
    ) -> NamespaceState:
        """Make a switch; one that is judged only from the version that was judged.

        Arguments:
            switch: makes it, from this version or (None) from whichever it is.
            judge: returns the version that it judged; None: nothing is to be judged.

        Raises:
            BlockedError: it would refuse connections that were seen.
        """
        if judge is None:
            return await switch(None)
        for _ in range(_MAX_ATTEMPTS - 1):
            version = await judge()
            try:
                return await switch(version)
            except ConflictError:
                if (await self._store.namespaces.get_state(namespace)).version == version:
                    raise  # Another version was asked for, or there is nothing to switch.
        return await switch(await judge())

    async def acknowledgements(self, request: web.Request) -> web.Response:
        """Answer which sidecars have installed the present version."""
        namespace = check_namespace(request.match_info["ns"])
        state = await self._store.namespaces.get_state(namespace)
        live = await self._store.sidecars.list_live(now=self._clock())
        users = group_by_namespace(live).get(namespace, [])
        return answer(count_acknowledgements(namespace, state.version, users))

    async def programs(self, request: web.Request) -> web.Response:
        """Answer the ``Program`` objects."""
        records = await self._store.namespaces.list_programs(_read_namespace(request))
        return answer(admin.ProgramList(programs=tuple(_view_program(record) for record in records)))

    async def put_program(self, request: web.Request) -> web.Response:
        """Approve programs."""
        self._check_source()
        wanted = await read_body(request, admin.ProgramRequest)
        if not wanted.programs:
            raise InputError("a Program names at least one digest")
        record = ProgramRecord(
            namespace=wanted.namespace,
            name=wanted.name or await self._choose_name(wanted),
            service_account=wanted.service_account,
            programs=wanted.programs,
            weak=wanted.weak,
            approved_by=wanted.approved_by,
            approved=self._clock(),
            code=wanted.code,
        )
        state = await self._store.namespaces.put_program(record)
        return answer(_view_program(record, version=state.version))

    async def _choose_name(self, wanted: admin.ProgramRequest) -> str:
        records = await self._store.namespaces.list_programs(wanted.namespace)
        kept = {record.name: (record.service_account, record.programs) for record in records}
        return choose_name(wanted.service_account, wanted.programs, kept)

    async def delete_program(self, request: web.Request) -> web.Response:
        """Take an approval back."""
        self._check_source()
        namespace = check_namespace(request.match_info["ns"])
        return answer(await self._store.namespaces.delete_program(namespace, request.match_info["name"]))

    async def policies(self, request: web.Request) -> web.Response:
        """Answer the policies."""
        wanted = _read_namespace(request)
        states = await self._store.namespaces.list_states()
        return answer(
            admin.PolicyList(policies=tuple(_view_policy(state) for state in states if wanted in ("", state.namespace)))
        )

    async def put_policy(self, request: web.Request) -> web.Response:
        """Replace a policy."""
        self._check_source()
        wanted = await read_body(request, admin.PolicyRequest)
        namespace = check_namespace(wanted.namespace)
        check_group_label(wanted.group_label)

        async def put(version: int | None) -> NamespaceState:
            expected = version if wanted.expected_version is None else wanted.expected_version
            return await self._store.namespaces.put_policy(
                namespace,
                rules=wanted.rules,
                group_label=wanted.group_label,
                mode=wanted.mode,
                requires=wanted.requires,
                expected_version=expected,
                is_forced=wanted.force,
                workload_modes=wanted.workload_modes,
            )

        candidate = admin.PolicyCandidateRequest(
            rules=wanted.rules, group_label=wanted.group_label, requires=wanted.requires
        )
        judge = partial(
            require_unblocked, self._store, namespace, now=self._clock(), mode=wanted.mode,
            workload_modes=wanted.workload_modes, candidate=candidate,
        )  # fmt: skip
        is_judged = not wanted.force and (wanted.mode is Mode.EXPLICIT or wanted.workload_modes is not None)
        return answer(_view_policy(await self._switch(namespace, put, judge if is_judged else None)))

    async def difference(self, request: web.Request) -> web.Response:
        """Answer what these policies and programs would change for what was seen; they aren't put in force."""
        check_query(request, "since_s")
        proposed = await read_body(request, admin.PolicyDifferenceRequest)
        return answer(await find_difference(self._store, proposed, since=self._clock() - _read_since(request)))

    async def delete_policy(self, request: web.Request) -> web.Response:
        """Remove rules and group; the mode stays."""
        self._check_source()
        return answer(await self._store.namespaces.delete_policy(check_namespace(request.match_info["ns"])))

    def _check_source(self) -> None:
        """Refuse what the objects in the cluster would take back at once."""
        if self._are_policies_objects:
            raise ConflictError(
                "in a cluster, modes, policies and programs are what its MeshPolicy and Program objects say",
                hint="use `kubectl`, or the same command with --kubernetes",
            )


def _read_since(request: web.Request) -> float:
    default = admin.DEFAULT_READINESS_SINCE_S
    return read_number(request, "since_s", default=default, low=0, high=366 * default)


def _read_namespace(request: web.Request) -> str:
    check_query(request, "namespace")
    namespace = request.query.get("namespace", "")
    return check_namespace(namespace) if namespace else ""


def _view_program(record: ProgramRecord, *, version: int = 0) -> admin.ProgramView:
    return admin.ProgramView(
        namespace=record.namespace,
        name=record.name,
        service_account=record.service_account,
        programs=record.programs,
        weak=record.weak,
        approved_by=record.approved_by,
        approved=record.approved,
        version=version,
        code=record.code,
    )


def _view_policy(state: NamespaceState) -> admin.PolicyView:
    return admin.PolicyView(
        namespace=state.namespace,
        version=state.version,
        mode=state.mode,
        group_label=state.group_label,
        rules=state.rules,
        requires=state.requires,
        workload_modes=state.workload_modes,
    )
