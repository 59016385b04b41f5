"""Approvals as a queue (``ca.api.admin.queue``), from the stream to readiness, over real sockets."""

from __future__ import annotations

import json

from ca.runtime.compose import RunningCA
from shared.model.adoption.program_queue import ProgramQueue, RefusalRequest
from shared.model.identity.program import Program
from shared.model.policy.decision import Answer
from shared.model.policy.rules import Direction, Mode
from shared.model.wire import admin as api
from shared.model.wire.admin_audit import AuditPage
from shared.model.wire.messages import Decisions, DecisionsStored, ProgramSeen
from tests.ca.running import CURL, WEB, Admin, FakeSidecar, make_decision

SHOP = "/v1/namespaces/shop"
SEEN = ProgramSeen(program=CURL, path="/usr/bin/curl", package="curl 7.88.1-10 (dpkg)", parents=("/bin/sh",))


async def refuse(admin: Admin, program: Program = CURL, *, takes_back: bool = False) -> ProgramQueue:
    request = RefusalRequest(service_account="web", programs=(program,), refused_by="alice", takes_back=takes_back)
    return await admin.ask("POST", f"{SHOP}/refusals", ProgramQueue, request)


async def test_a_program_is_seen_refused_taken_back_and_approved(services: RunningCA, admin: Admin) -> None:
    async with FakeSidecar(services) as client:
        await client.enrol("a")
        # The answer to what follows it shows that it was read.
        await client.send(SEEN, Decisions(batch=1, records=(), lost=0))
        await client.expect(DecisionsStored)
    (waiting,) = (await admin.get("/v1/programs/queue", ProgramQueue, namespace="shop")).waiting
    assert (waiting.seen.workload, waiting.seen.program) == ("shop/web", CURL)
    assert (waiting.seen.path, waiting.seen.package, waiting.seen.pods) == (SEEN.path, SEEN.package, ("a",))
    refused = await refuse(admin)
    assert refused.waiting == ()
    assert [(each.refused_by, each.path) for each in refused.refused] == [("alice", "/usr/bin/curl")]
    taken_back = await refuse(admin, takes_back=True)
    assert ([each.seen.program for each in taken_back.waiting], taken_back.refused) == ([CURL], ())
    await refuse(admin)
    approval = api.ProgramRequest(namespace="shop", service_account="web", programs=(CURL,))
    await admin.ask("POST", "/v1/programs", api.ProgramView, approval)
    assert await admin.get("/v1/programs/queue", ProgramQueue) == ProgramQueue(waiting=(), refused=())
    conflict = await admin.fail(
        "POST", f"{SHOP}/refusals", 409, RefusalRequest(service_account="web", programs=(CURL,))
    )
    assert "touchmark program remove shop/web" in conflict.hint
    assert (await admin.fail("POST", f"{SHOP}/refusals", 400, RefusalRequest(service_account="web", programs=()))).code
    lines = (await admin.get("/v1/audit", AuditPage)).lines
    acts = [json.loads(line)["act"] for line in lines]
    assert acts[-4:] == ["program.refuse", "program.refusal.delete", "program.refuse", "program.put"]


async def test_a_refused_program_stands_against_nothing_and_isnt_proposed(services: RunningCA, admin: Admin) -> None:
    marked = make_decision(
        "c", time=services.clock(), direction=Direction.EGRESS, mode=Mode.PERMISSIVE, answer=Answer.ALLOW,
        would_deny=True, sidecar="a",
    )  # fmt: skip
    async with FakeSidecar(services) as client:
        await client.enrol("a")
        await client.send(Decisions(batch=1, records=(marked,)))
        await client.expect(DecisionsStored)
        before = await admin.get(f"{SHOP}/readiness", api.Readiness)
        assert any(each.fix is not None and each.fix.program == str(WEB) for each in before.causes)
        await refuse(admin, WEB)
        after = await admin.get(f"{SHOP}/readiness", api.Readiness)
    assert not any(each.fix is not None and each.fix.program for each in after.causes)
    (cause,) = after.refused
    assert cause.fix is not None
    assert cause.fix.advice.startswith("alice has refused this program")
    assert after.verdict is not api.ReadinessVerdict.BLOCKED
