"""Admin endpoints about a namespace's draft policy: write, look, drop, put in force. I/O through the store.

In a cluster a draft is either what the MeshPolicy ``draft`` says, which then is the only one who changes it, or, where
there is no such object, in the CA's own store, as everywhere else. Putting a draft in force is writing the object
``default`` there, which the command does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec
from aiohttp import web

from ca.api.admin.answers import answer, read_body, read_number
from ca.distribution.installs import count_acknowledgements, group_by_namespace
from ca.observation.draft_outcome import is_outdated, view_draft
from ca.observation.explicit_guard import require_unblocked
from ca.store.drafts.drafts import no_draft
from ca.store.records import SidecarRecord
from ca.store.store import Store
from shared.model.errors import ConflictError
from shared.model.identity.identity import check_namespace
from shared.model.policy.documents import check_group_label
from shared.model.policy.rules import NamespaceState, PolicyDraft
from shared.model.wire import admin

MAX_WAITING: Final = 20
# Older ones aren't sent drafts (``shared/model/wire/messages.py``).
_FIRST_RELEASE: Final = (0, 2)
# A version also rises when a pod's labels are vouched for: the policy is judged again then.
_MAX_ATTEMPTS: Final = 3
_MAX_NUMBER: Final = 2**53


class DraftsAdmin:
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
            web.get("/v1/namespaces/{ns}/draft", self.draft),
            web.put("/v1/namespaces/{ns}/draft", self.put),
            web.delete("/v1/namespaces/{ns}/draft", self.drop),
            web.post("/v1/namespaces/{ns}/draft/promote", self.promote),
        ]

    async def draft(self, request: web.Request) -> web.Response:
        """Answer the draft, how connections would have gone by it, and how many sidecars evaluate it."""
        namespace = check_namespace(request.match_info["ns"])
        view = await view_draft(self._store, namespace)
        state = await self._store.namespaces.get_state(namespace)
        live = await self._store.sidecars.list_live(now=self._clock())
        users = group_by_namespace(live).get(namespace, [])
        lacking = set(count_acknowledgements(namespace, state.version, users).waiting)
        is_sent = (
            state.draft is not None and state.draft.number == view.draft.number
        )  # Not so if it was replaced since.
        lacking |= {each.instance for each in users if not (is_sent and is_told_drafts(each))}
        return answer(
            msgspec.structs.replace(
                view,
                sidecars=len(users),
                evaluating=len(users) - len(lacking),
                waiting=tuple(sorted(lacking)[:MAX_WAITING]),
            )
        )

    async def put(self, request: web.Request) -> web.Response:
        """Write a draft, in the place of an earlier one. Nothing is enforced by it."""
        wanted = await read_body(request, admin.DraftRequest)
        draft = PolicyDraft(
            number=0,
            mode=wanted.mode,
            group_label=check_group_label(wanted.group_label),
            rules=wanted.rules,
            requires=wanted.requires,
            workload_modes=wanted.workload_modes,
        )
        namespace = check_namespace(request.match_info["ns"])
        # Outside a cluster nobody else would ever change the draft that an object left, such as in a restored store.
        state = await self._store.drafts.put(
            namespace, draft, spares_objects=self._are_policies_objects, is_first=wanted.is_first
        )
        return answer(state)

    async def drop(self, request: web.Request) -> web.Response:
        """Drop a draft, or only the one of this ``number``."""
        namespace, number = check_namespace(request.match_info["ns"]), None
        if "number" in request.query:
            number = int(read_number(request, "number", default=0, low=0, high=_MAX_NUMBER))
        spares_objects = self._are_policies_objects
        return answer(await self._store.drafts.drop(namespace, number=number, spares_objects=spares_objects))

    async def promote(self, request: web.Request) -> web.Response:
        """Put a draft in force, by the same checks as any policy, and over none that is newer than the draft."""
        wanted = await read_body(request, admin.PromoteRequest)
        namespace = check_namespace(request.match_info["ns"])
        if self._are_policies_objects:
            raise ConflictError(
                "in a cluster, policies are what its MeshPolicy objects say",
                hint=f"`touchmark policy draft {namespace} --promote -k` writes it",
            )
        known = await self._store.drafts.get(namespace)
        if known is None:
            raise no_draft(namespace)
        draft = known.draft
        put = partial(
            self._store.namespaces.put_policy,
            namespace,
            rules=draft.rules,
            group_label=draft.group_label,
            mode=draft.mode,
            requires=draft.requires,
            workload_modes=draft.workload_modes,
            is_forced=wanted.force,
            draft=draft.number if wanted.number is None else wanted.number,
        )
        if wanted.force:
            return answer(_view(await put()))
        candidate = admin.PolicyCandidateRequest(
            rules=draft.rules, group_label=draft.group_label, requires=draft.requires
        )
        for attempt in range(_MAX_ATTEMPTS):
            version = (await self._store.namespaces.get_state(namespace)).version
            if not wanted.takes_back and await is_outdated(self._store, namespace, known):
                raise ConflictError(
                    f"the policy in force in {namespace} has changed since the draft was written: it would take that"
                    " back",
                    hint=f"`touchmark policy draft {namespace}` shows it; write the draft again",
                )
            looked_at = await require_unblocked(
                self._store,
                namespace,
                now=self._clock(),
                mode=draft.mode,
                workload_modes=draft.workload_modes,
                candidate=candidate,
            )
            version = min(version, looked_at)
            try:
                return answer(_view(await put(expected_version=version)))
            except ConflictError:
                state = await self._store.namespaces.get_state(namespace)
                if state.version == version or attempt == _MAX_ATTEMPTS - 1:
                    raise
        raise AssertionError("an attempt answers or raises")


def is_told_drafts(sidecar: SidecarRecord) -> bool:
    """Tell whether a sidecar is of a release that evaluates drafts; one whose release can't be read isn't."""
    try:
        major, minor = (int(part) for part in sidecar.version.split(".")[:2])
    except ValueError:
        return False
    return (major, minor) >= _FIRST_RELEASE


def _view(state: NamespaceState) -> admin.PolicyView:
    return admin.PolicyView(
        namespace=state.namespace,
        version=state.version,
        mode=state.mode,
        group_label=state.group_label,
        rules=state.rules,
        requires=state.requires,
    )
