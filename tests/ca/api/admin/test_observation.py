"""Decisions, followers, the ledger and live connections, asked over the real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import msgspec
import pytest

from ca.api.admin import observation
from ca.observation import decisions as decisions_module
from ca.runtime.compose import RunningCA
from shared.model.errors import UnavailableError
from shared.model.identity.identity import Workload
from shared.model.policy.decision import Answer, PartyRecord
from shared.model.policy.reasons import Reason
from shared.model.wire import admin as api
from shared.model.wire.messages import (
    CertificateIssued,
    CertificateRequest,
    ConnectionsQuery,
    ConnectionsReport,
    LiveConnection,
    ProgramEvidence,
)
from tests.ca.running import CURL, WEB, Admin, FakeSidecar, ShiftedClock, eventually, make_csr, make_decision

CONNECTION = LiveConnection(
    connection="c1",
    tunnel="t1",
    direction="egress",
    source="198.18.0.3:41000",
    destination="198.18.0.2:5432",
    source_workload="shop/web",
    destination_workload="shop/db",
    source_program=f"sha256:{WEB.digest}",
    destination_program=f"sha256:{CURL.digest}",
    transport="tunnel",
    would_deny=False,
    reason="same_group",
    since=1_790_000_000.0,
    bytes_sent=1,
    bytes_received=2,
)
RECORDS = (
    make_decision("denied", time=1000.0),
    make_decision("marked", time=2000.0, answer=Answer.ALLOW, would_deny=True, reason=Reason.NO_RULE),
    make_decision(
        "fine",
        time=3000.0,
        namespace="bank",
        answer=Answer.ALLOW,
        reason=Reason.SAME_GROUP,
        source=PartyRecord(workload="bank/teller", program="sha256:" + "cc" * 32),
    ),
)


FILTERS: list[tuple[dict[str, str], list[str]]] = [
    ({}, ["fine", "marked", "denied"]),
    ({"namespace": "bank"}, ["fine"]),
    ({"workload": "shop/web"}, ["marked", "denied"]),
    ({"workload": "shop/db"}, ["fine", "marked", "denied"]),
    ({"program": "sha256:aaaa"}, ["marked", "denied"]),
    ({"program": "sha256:" + "cc" * 32}, ["fine"]),
    ({"reason": "no_rule"}, ["marked"]),
    ({"denied": "true"}, ["denied"]),
    ({"denied": "false"}, ["fine", "marked"]),
    ({"would_deny": "true"}, ["marked"]),
    ({"would_deny": "false"}, ["fine", "denied"]),
    ({"since": "2000"}, ["fine", "marked"]),
    ({"until": "2000"}, ["denied"]),
    ({"since": "1500", "until": "2500"}, ["marked"]),
    ({"limit": "1"}, ["fine"]),
    ({"namespace": "shop", "denied": "true", "reason": "no_rule"}, []),
]


async def test_each_filter_selects_newest_first(services: RunningCA, admin: Admin) -> None:
    await services.store.decisions.insert(RECORDS)
    for query, found in FILTERS:
        answer = await admin.get("/v1/decisions", api.DecisionList, **query)
        assert [one.record.connection for one in answer.decisions] == found, query
        assert all(one.record in RECORDS for one in answer.decisions)


IMPOSSIBLE_FILTERS: list[dict[str, str]] = [
    {"reason": "whim"},
    {"denied": "perhaps"},
    {"namespace": "No_Name"},
    {"workload": "shop"},
    {"limit": "0"},
    {"limit": "10001"},
    {"since": "yesterday"},
    {"until": "inf"},
    {"colour": "red"},
]


async def test_a_filter_that_cannot_be_is_refused(admin: Admin) -> None:
    for query in IMPOSSIBLE_FILTERS:
        for path in ("/v1/decisions", "/v1/decisions/follow"):
            assert (await admin.fail("GET", path, 400, query=query)).code in {"bad_input", "bad_identity"}


async def follow(admin: Admin, **query: str) -> AsyncIterator[str]:
    async with admin.session.get("/v1/decisions/follow", params=query) as response:
        assert response.status == 200
        assert response.content_type == "application/x-ndjson"
        yield "begun"
        async for line in response.content:
            if line.strip():
                yield msgspec.json.decode(line, type=api.DecisionView).record.connection


async def test_a_follower_gets_what_comes_from_now_on_in_order(services: RunningCA, admin: Admin) -> None:
    await services.store.decisions.insert(RECORDS)
    lines = follow(admin, denied="true")
    assert await anext(lines) == "begun"
    for number in range(3):
        records = [make_decision(f"n{number}"), make_decision("fine", answer=Answer.ALLOW, reason=Reason.ALLOW_RULE)]
        workload = Workload(namespace="shop", service_account="web")
        await services.decisions.take_in(records, instance="a", workload=workload, lost=0)
        assert await anext(lines) == f"n{number}"
    await lines.aclose()  # type: ignore[attr-defined]


async def test_with_since_a_follower_begins_in_the_past(services: RunningCA, admin: Admin) -> None:
    await services.store.decisions.insert(RECORDS)
    lines = follow(admin, since="1500")
    assert [await anext(lines) for _ in range(3)] == ["begun", "marked", "fine"]
    await lines.aclose()  # type: ignore[attr-defined]


async def test_followers_are_bounded_and_one_that_leaves_frees_its_place(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observation, "MAX_FOLLOWERS", 1)
    first = follow(admin)
    assert await anext(first) == "begun"
    assert (await admin.fail("GET", "/v1/decisions/follow", 429)).code == "too_many_requests"
    monkeypatch.setattr(observation, "MAX_FOLLOWERS_OF_ONE", 1)
    refused = await admin.fail("GET", "/v1/decisions/follow", 429)
    assert "of one caller" in refused.message
    await first.aclose()  # type: ignore[attr-defined]

    async def is_free() -> bool:
        async with admin.session.get("/v1/decisions/follow") as response:
            return response.status == 200

    await eventually(is_free)


async def test_a_silent_log_sends_empty_lines_so_that_a_reader_sees_it_live(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decisions_module, "FOLLOW_IDLE_S", 0.05)
    async with admin.session.get("/v1/decisions/follow") as response:
        assert await response.content.readline() == b"\n"


async def test_a_store_that_fails_breaks_a_follower_off_instead_of_ending_it(
    services: RunningCA, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decisions_module, "FOLLOW_IDLE_S", 0.05)
    async with admin.session.get("/v1/decisions/follow") as response:
        assert await response.content.readline() == b"\n"

        async def fail(_wanted: object) -> None:
            raise UnavailableError("the disk is gone")

        monkeypatch.setattr(services.store.decisions, "look", fail)
        with pytest.raises(aiohttp.ClientPayloadError):
            while await response.content.readline():
                pass
    for path in ("/v1/decisions", "/v1/decisions/follow"):
        refused = await admin.fail("GET", path, 503)
        assert (refused.code, refused.message) == ("unavailable", "the disk is gone")


async def test_a_follower_that_does_not_read_is_dropped(
    services: RunningCA, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observation, "SEND_DEADLINE_S", 3.0)
    monkeypatch.setattr(observation, "MAX_FOLLOWERS", 1)
    big = [make_decision(f"c{n}", detail="x" * 8000) for n in range(400)]
    await services.store.decisions.insert(big)
    path = str(services.configuration.admin_socket)
    reader, writer = await asyncio.open_unix_connection(path, limit=1024)
    writer.write(b"GET /v1/decisions/follow?since=1 HTTP/1.1\r\nHost: ca\r\n\r\n")
    await writer.drain()
    assert b" 200 " in await reader.readline()

    async def has_gone() -> bool:
        async with admin.session.get("/v1/decisions/follow") as response:
            return response.status == 200

    assert not await has_gone()
    await eventually(has_gone)
    writer.transport.abort()


async def test_the_ledger_shows_what_was_issued_and_what_is_alive(
    services: RunningCA, admin: Admin, clock: ShiftedClock
) -> None:
    async with FakeSidecar(services) as sidecar:
        await sidecar.enrol("a")
        _, csr = make_csr()
        evidence = ProgramEvidence(path="/usr/bin/web", pid=7, uid=1000)
        await sidecar.send(CertificateRequest(request=1, csr=csr, program=WEB, evidence=evidence))
        await sidecar.expect(CertificateIssued)
        async with FakeSidecar(services) as other:
            await other.enrol("b", workload="bank/teller")
            listed = await admin.get("/v1/identities", api.IdentityList)
            assert [one.kind for one in listed.identities] == ["sidecar", "observed", "sidecar"]
            seen = listed.identities[1]
            assert (seen.path, seen.pid, seen.uid, seen.instance) == ("/usr/bin/web", 7, 1000, "a")
            assert seen.program == f"sha256:{WEB.digest}"
            assert seen.alive
            few = await admin.get("/v1/identities", api.IdentityList, limit="1")
            assert (len(few.identities), few.truncated) == (1, True)
            for query, kinds in (
                ({"serial": seen.serial[:10]}, ["observed"]),
                ({"digest": WEB.digest}, ["observed"]),
                ({"sidecar": "b"}, ["sidecar"]),
                ({"authority": services.authorities.active.authority_id}, ["sidecar", "observed", "sidecar"]),
                ({"authority": "another"}, []),
                ({"since": str(services.clock() + 60)}, []),
                ({"until": str(services.clock() + 60), "sidecar": "a"}, ["observed", "sidecar"]),
            ):
                found = (await admin.get("/v1/identities", api.IdentityList, **query)).identities
                assert [one.kind for one in found] == kinds, query
            (bank,) = (await admin.get("/v1/identities", api.IdentityList, workload="bank/teller")).identities
            assert bank.workload == "bank/teller"
    clock.shift_s = services.issuance.leaf_lifetime_s + 100
    assert (await admin.get("/v1/identities", api.IdentityList, alive="true")).identities == ()
    assert not any(one.alive for one in (await admin.get("/v1/identities", api.IdentityList)).identities)
    for wrong in ({"alive": "si"}, {"serial": "xyz"}, {"digest": "ab"}, {"since": "yesterday"}, {"serial": "a" * 41}):
        assert (await admin.fail("GET", "/v1/identities", 400, query=wrong)).code == "bad_input"
    assert (await admin.fail("GET", "/v1/identities", 400, query={"workload": "bank"})).code == "bad_identity"


async def test_connections_are_gathered_from_all_and_the_silent_are_named(services: RunningCA, admin: Admin) -> None:
    async with FakeSidecar(services) as talker, FakeSidecar(services) as silent:
        await talker.enrol("talker")
        await silent.enrol("silent", workload="shop/db")
        asked = asyncio.create_task(admin.get("/v1/connections", api.ConnectionList, timeout_s="3", limit="5"))
        query = await talker.expect(ConnectionsQuery)
        assert query.limit == 5
        # An answer to what nobody asked is passed over.
        await talker.send(ConnectionsReport(request=query.request + 9, connections=()))
        await talker.send(ConnectionsReport(request=query.request, connections=(CONNECTION,), truncated=True))
        answer = await asked
        assert answer.connections == (api.ConnectionView(sidecar="talker", workload="shop/web", connection=CONNECTION),)
        assert (answer.silent, answer.truncated) == (("silent",), True)
        # The late answer of a silent one harms nobody.
        late = await silent.expect(ConnectionsQuery)
        await silent.send(ConnectionsReport(request=late.request, connections=(CONNECTION,)))
        asked = asyncio.create_task(admin.get("/v1/connections", api.ConnectionList, limit="1"))
        for sidecar in (talker, silent):
            query = await sidecar.expect(ConnectionsQuery)
            await sidecar.send(ConnectionsReport(request=query.request, connections=(CONNECTION,)))
        answer = await asked
        assert (len(answer.connections), answer.silent, answer.truncated) == (1, (), True)
    assert (await admin.fail("GET", "/v1/connections", 400, query={"timeout_s": "31"})).code == "bad_input"


async def test_a_sidecar_that_leaves_during_a_survey_is_not_waited_for(services: RunningCA, admin: Admin) -> None:
    async with FakeSidecar(services) as sidecar:
        await sidecar.enrol("a")
        asked = asyncio.create_task(admin.get("/v1/connections", api.ConnectionList, timeout_s="30"))
        await sidecar.expect(ConnectionsQuery)
    answer = await asyncio.wait_for(asked, 28)
    assert (answer.connections, answer.silent) == ((), ("a",))
