"""Admin endpoints of approvals as a queue: what waits, what was refused, and refusing. I/O through the store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from aiohttp import web

from ca.api.admin.answers import answer, check_query, read_body
from ca.observation.programs_seen import ProgramsSeen
from ca.store.audit.acting import current_actor
from ca.store.store import Store
from shared.model.adoption.program_queue import ProgramRefusal, RefusalRequest
from shared.model.errors import ConflictError, InputError
from shared.model.identity.identity import Workload, check_namespace

_MAX_NAME_CHARACTERS: Final = 253


class QueueAdmin:
    """The handlers."""

    def __init__(self, *, store: Store, programs: ProgramsSeen, clock: Callable[[], float]) -> None:
        self._store = store
        self._programs = programs
        self._clock = clock

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.get("/v1/programs/queue", self.queue),
            web.post("/v1/namespaces/{ns}/refusals", self.refuse),
        ]

    async def queue(self, request: web.Request) -> web.Response:
        """Answer what waits and what was refused."""
        check_query(request, "namespace")
        namespace = request.query.get("namespace", "")
        return answer(await self._programs.list_queue(check_namespace(namespace) if namespace else ""))

    async def refuse(self, request: web.Request) -> web.Response:
        """Refuse programs of a workload, or take refusals back; answer the namespace's queue."""
        wanted = await read_body(request, RefusalRequest)
        namespace = check_namespace(request.match_info["ns"])
        workload = Workload(namespace=namespace, service_account=wanted.service_account)
        if not wanted.programs:
            raise InputError("name at least one program")
        if wanted.takes_back:
            await self._store.refusals.take_back(workload, wanted.programs)
        else:
            await self._refuse(workload, wanted)
        return answer(await self._programs.list_queue(namespace))

    async def _refuse(self, workload: Workload, wanted: RefusalRequest) -> None:
        records = await self._store.namespaces.list_programs(workload.namespace)
        approved = {
            program: each.name
            for each in records
            if each.service_account == workload.service_account
            for program in each.programs
        }
        for program in wanted.programs:
            if program in approved:
                raise ConflictError(
                    f"{program} is approved for {workload}, by the Program {approved[program]}",
                    hint=f"take the approval away first: touchmark program remove {workload} {program}",
                )
        await self._programs.flush()
        paths = {each.key: each.path for each in await self._store.sightings.list_all(workload.namespace)}
        key = workload.namespace, workload.service_account
        await self._store.refusals.add(
            [
                ProgramRefusal(
                    namespace=workload.namespace,
                    service_account=workload.service_account,
                    program=program,
                    refused_by=_name_refuser(wanted.refused_by),
                    refused=self._clock(),
                    path=paths.get((*key, program), ""),
                )
                for program in dict.fromkeys(wanted.programs)
            ]
        )


def _name_refuser(claimed: str) -> str:
    """Return who refuses: a user of the cluster as the API server says; on the socket root says for whom it acts."""
    actor = current_actor()
    name = actor.name if actor.kind == "user" else claimed or actor.name or f"uid {actor.uid}"
    return "".join(each for each in name if each.isprintable())[:_MAX_NAME_CHARACTERS]
