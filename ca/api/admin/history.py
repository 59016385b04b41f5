"""Admin endpoints about a namespace's past: its generations, undo, and the mode on trial. I/O through the store."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from ca.api.admin.answers import answer, check_query, read_body, read_number
from ca.observation.explicit_guard import check_window, require_unblocked
from ca.observation.judging import judge
from ca.observation.namespace_changes import view_content, view_generations
from ca.store.store import Store
from shared.model.errors import ConflictError, InputError
from shared.model.identity.identity import check_namespace
from shared.model.policy.rules import Mode
from shared.model.wire import admin


class HistoryAdmin:
    """The handlers.

    Arguments:
        are_policies_objects: whether the objects of a cluster say what modes, policies and programs are.
    """

    def __init__(self, *, store: Store, clock: Callable[[], float], are_policies_objects: bool) -> None:
        self._store = store
        self._clock = clock
        self._are_policies_objects = are_policies_objects

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.get("/v1/namespaces/{ns}/history", self.history),
            web.get("/v1/namespaces/{ns}/history/{generation}", self.generation),
            web.post("/v1/namespaces/{ns}/undo", self.undo),
            web.post("/v1/namespaces/{ns}/mode/confirm", self.confirm),
        ]

    async def history(self, request: web.Request) -> web.Response:
        """Answer a namespace's generations, newest first, and whether its mode is on trial."""
        check_query(request, "limit")
        namespace = check_namespace(request.match_info["ns"])
        default, most = admin.DEFAULT_GENERATIONS_LISTED, admin.MAX_GENERATIONS_LISTED
        limit = int(read_number(request, "limit", default=default, low=1, high=most))
        trial = await self._store.history.get_trial(namespace)
        # One more: what the last one changed is told by the one before it.
        generations = await self._store.history.list_generations(namespace, limit=limit + 1)
        views = await judge(lambda _: tuple(view_generations(generations)))
        return answer(
            admin.History(
                namespace=namespace,
                generations=views[:limit],
                trial=None
                if trial is None
                else admin.ModeTrial(
                    mode=trial.mode,
                    back_to=trial.back_to,
                    started=trial.started,
                    until=trial.until,
                    workload_modes=trial.workload_modes,
                ),
            )
        )

    async def generation(self, request: web.Request) -> web.Response:
        """Answer all that one generation says."""
        namespace = check_namespace(request.match_info["ns"])
        text = request.match_info["generation"]
        if not text.isascii() or not text.isdecimal() or len(text) > 18:
            raise InputError(f"not a generation: {text[:40]!r}", hint="a number, as the history lists them")
        found = await self._store.history.get_generation(namespace, int(text))
        return answer(await judge(lambda _: view_content(found)))

    async def undo(self, request: web.Request) -> web.Response:
        """Go back to an earlier generation."""
        self._check_source("written again from here with --kubernetes")
        wanted = await read_body(request, admin.UndoRequest)
        namespace = check_namespace(request.match_info["ns"])
        expected = wanted.expected
        if not wanted.force:
            expected = await self._check_undo(namespace, wanted)
        state = await self._store.history.undo(namespace, to=wanted.to, expected=expected, is_forced=wanted.force)
        return answer(state)

    async def _check_undo(self, namespace: str, wanted: admin.UndoRequest) -> int | None:
        """Return the newest generation, which is the one that the undo is judged from.

        Raises:
            BlockedError: it would make the namespace explicit, and refuse connections that were seen.
        """
        newest = await self._store.history.list_generations(namespace, limit=2)
        if not newest or (len(newest) < 2 and wanted.to is None):
            return wanted.expected  # The store says what is wrong.
        if wanted.to is None:
            found = newest[1]
        else:
            found = await self._store.history.get_generation(namespace, wanted.to)
        content = await judge(lambda _: view_content(found))
        if content.mode is Mode.EXPLICIT or content.workload_modes:
            await require_unblocked(
                self._store,
                namespace,
                now=self._clock(),
                mode=content.mode,
                workload_modes=content.workload_modes,
                since_s=check_window(wanted.since_s),
                candidate=admin.PolicyCandidateRequest.from_generation(content),
            )
        return newest[0].generation if wanted.expected is None else wanted.expected

    async def confirm(self, request: web.Request) -> web.Response:
        """Keep the mode that is on trial."""
        self._check_source("confirmed with --kubernetes")
        return answer(await self._store.history.confirm_mode(check_namespace(request.match_info["ns"])))

    def _check_source(self, how: str) -> None:
        if self._are_policies_objects:
            raise ConflictError(
                "in a cluster, modes, policies and programs are what its MeshPolicy and Program objects say",
                hint=f"they are {how}",
            )
