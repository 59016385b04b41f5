"""What the page may change: approve or refuse a program, switch a mode, end a draft; as the shown commands do. I/O.

Belongs here: the queue with what may be done about it, and doing it. Doesn't: who may ask (``guard.py``), or whether
the user may change anything: the CA and the API server check that; what they would refuse isn't offered.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Final

import msgspec

from cli.backends.base import PolicyBackend, SwitchTerms
from cli.backends.program_choice import describe_weakness, digest_code, list_loaded, make_requests, note_loaded
from cli.backends.rights import Rights
from cli.ui.answers import Query, check_query, read_since_s
from cli.ui.rules import list_missing, plan_policy, read_policy, write_command
from cli.ui.shapes import ActKind, ActRequest, Command, Done, ShownQueue, ShownRefusal, ShownRules, ShownWaiting
from shared.model.adoption.fixes import add_rule
from shared.model.adoption.program_queue import ProgramRefusal, QueuedProgram, RefusalRequest
from shared.model.errors import ConflictError, InputError
from shared.model.identity.identity import check_namespace, parse_workload
from shared.model.identity.program import parse_program
from shared.model.policy.rules import Mode
from shared.model.wire.admin import DEFAULT_READINESS_SINCE_S, DraftView, Readiness

MAX_BODY_BYTES: Final = 16_384
MAX_SHOWN: Final = 200


class Actions:
    """The handlers.

    Arguments:
        open_backend: opens what keeps policies and programs; each act opens it anew.
        find_rights: says what the user may change in a namespace.
        require_safe: raises where a switch to explicit mode would be refused or has to be confirmed; its second
            argument says that the user has confirmed that too little was seen.
        check_draft: raises where a draft may not be put in force, as ``policy draft --promote`` does.
        options: what shown commands need to reach the same CA.
        in_cluster: policies are a cluster's objects.
    """

    def __init__(
        self,
        open_backend: Callable[[], AbstractAsyncContextManager[PolicyBackend]],
        find_rights: Callable[[str], Awaitable[Rights]],
        require_safe: Callable[[Readiness, bool], None],
        check_draft: Callable[[PolicyBackend, DraftView], Awaitable[None]],
        *,
        options: str,
        in_cluster: bool,
    ) -> None:
        self._open_backend = open_backend
        self._find_rights = find_rights
        self._require_safe = require_safe
        self._check_draft = check_draft
        self._options = f" {options}" if options else ""
        self._in_cluster = in_cluster

    def questions(self) -> Mapping[str, Callable[[Query], Awaitable[object]]]:
        """Return the handler of each path that only reads."""
        return {"/api/queue": self.queue, "/api/rights": self.rights, "/api/rules": self.rules}

    async def rights(self, query: Query) -> Rights:
        """Answer what the user may change in a namespace."""
        check_query(query, "namespace")
        return await self._find_rights(check_namespace(query.get("namespace", "")))

    async def queue(self, query: Query) -> ShownQueue:
        """Answer a namespace's queue, with the command of each act."""
        check_query(query, "namespace")
        namespace = check_namespace(query.get("namespace", ""))
        async with self._open_backend() as backend:
            found = await backend.get_queue(namespace)
        return ShownQueue(
            waiting=tuple(self._show_waiting(each) for each in found.waiting[:MAX_SHOWN]),
            refused=tuple(self._show_refused(each) for each in found.refused[:MAX_SHOWN]),
            total=len(found.waiting),
        )

    async def rules(self, query: Query) -> ShownRules:
        """Answer the rules that the namespace's policy lacks, each with the command that writes it."""
        check_query(query, "namespace", "since")
        namespace, since_s = check_namespace(query.get("namespace", "")), read_since_s(query)
        async with self._open_backend() as backend:
            readiness = await backend.get_readiness(namespace, since_s=since_s)
            try:
                policy, version = await read_policy(backend, namespace, in_cluster=self._in_cluster)
            except ConflictError:
                return ShownRules(rules={})
        return ShownRules(
            rules={
                digest: write_command(add_rule(policy, rule), version=version, options=self._options)
                for digest, rule in list_missing(readiness).items()
            }
        )

    async def act(self, body: bytes) -> Done:
        """Do what a confirmed request says.

        Raises:
            InputError: it can't be read.
            ConflictError: the program doesn't wait any more, or has loaded other code than was shown.
            TouchmarkError: as the backend.
        """
        try:
            request = msgspec.json.decode(body, type=ActRequest)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InputError(f"the request can't be read: {error}") from error
        namespace = check_namespace(request.namespace)
        async with self._open_backend() as backend:
            if request.act is ActKind.MODE:
                return await self._switch(backend, namespace, request)
            if request.act in (ActKind.PROMOTE, ActKind.DROP):
                return await self._end_draft(backend, namespace, request)
            if request.act is ActKind.RULE:
                readiness = await backend.get_readiness(namespace, since_s=read_since_s({"since": request.since}))
                policy, version = await plan_policy(backend, readiness, request.rule, in_cluster=self._in_cluster)
                await backend.apply([policy], expected_version=version)
                return Done(text=f"{policy.rules[-1].name} is written into {namespace}")
            return await self._answer_program(backend, namespace, request)

    async def _switch(self, backend: PolicyBackend, namespace: str, request: ActRequest) -> Done:
        if request.mode is None:
            raise InputError("no mode is named")
        terms = SwitchTerms()
        if request.mode is Mode.EXPLICIT:
            readiness = await backend.get_readiness(namespace, since_s=DEFAULT_READINESS_SINCE_S)
            self._require_safe(readiness, request.accepts)
            terms = SwitchTerms(expected_version=readiness.version)
        await backend.set_mode(namespace, request.mode, terms)
        return Done(text=f"{namespace} is set to {request.mode}")

    async def _end_draft(self, backend: PolicyBackend, namespace: str, request: ActRequest) -> Done:
        """Put the draft in force that was shown, or drop it."""
        if request.draft < 1:
            raise InputError("no draft is named")
        if request.act is ActKind.DROP:
            await backend.drop_draft(namespace, number=request.draft)
            return Done(text=f"the draft of {namespace} is dropped")
        seen = await backend.look_at_draft(namespace)
        view = seen.view
        if view.draft.number != request.draft:
            raise ConflictError(f"{namespace} has another draft by now", hint="look again")
        if view.is_outdated and not request.accepts:
            raise ConflictError(
                f"the policy in force in {namespace} has changed since the draft was written: it would take that back",
                hint="write the draft again, or look again and confirm that",
            )
        await self._check_draft(backend, view)
        applied = await backend.promote_draft(seen)
        note = f"; {applied.note}" if applied.note else ""
        return Done(
            text=f"the draft of {namespace} is in force{note}"
            if applied.is_confirmed
            else f"the draft of {namespace} is written, but the CA hasn't put it in force yet"
        )

    async def _answer_program(self, backend: PolicyBackend, namespace: str, request: ActRequest) -> Done:
        workload, program = parse_workload(request.workload), parse_program(request.program)
        if workload.namespace != namespace:
            raise InputError(f"{workload} isn't of {namespace}")
        if request.act is ActKind.APPROVE:
            queue = await backend.get_queue(namespace)
            key = (namespace, workload.service_account, program)
            entry = next((each for each in queue.waiting if each.seen.key == key), None)
            if entry is None:
                raise ConflictError(f"{program} doesn't wait for {workload} any more", hint="look again")
            if digest_code(entry) != request.code_digest:
                raise ConflictError(
                    f"{program} has loaded other code than was shown, which would be approved too", hint="look again"
                )
            if (weakness := describe_weakness(entry)) and not request.accepts:
                raise InputError(f"a weak approval has to be confirmed: it allows {weakness}")
            for each in make_requests([entry], approved_by=await backend.name_user()):
                await backend.approve_programs(each)
            return Done(text=f"approved for {workload}")
        takes_back = request.act is ActKind.TAKE_BACK
        await backend.refuse_programs(
            namespace,
            RefusalRequest(
                service_account=workload.service_account,
                programs=(program,),
                refused_by=await backend.name_user(),
                takes_back=takes_back,
            ),
        )
        return Done(text=f"{'may be proposed again' if takes_back else 'refused'} for {workload}")

    def _show_waiting(self, entry: QueuedProgram) -> ShownWaiting:
        seen, weakness = entry.seen, describe_weakness(entry)
        what = f"{seen.workload} {seen.program}"
        weak = " --weak" if weakness else ""
        return ShownWaiting(
            workload=seen.workload,
            program=str(seen.program),
            path=seen.path,
            package=seen.package,
            images=tuple(each.image for each in seen.images),
            new_since=entry.new_since,
            parents=seen.parents,
            pods=seen.pods,
            loaded=tuple(list_loaded(entry)),
            loaded_note=note_loaded(entry),
            code_digest=digest_code(entry),
            first=seen.first,
            last=seen.last,
            weakness=weakness,
            approve=Command(line=f"touchmark program approve {what} --from-queue{weak}{self._options}"),
            refuse=Command(line=f"touchmark program refuse {what}{self._options}"),
        )

    def _show_refused(self, refusal: ProgramRefusal) -> ShownRefusal:
        line = f"touchmark program refuse {refusal.workload} {refusal.program} --take-back{self._options}"
        return ShownRefusal(
            workload=refusal.workload,
            program=str(refusal.program),
            path=refusal.path,
            refused_by=refusal.refused_by,
            refused=refusal.refused,
            take_back=Command(line=line),
        )
