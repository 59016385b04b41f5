"""A survey waits for a bounded time, names the silent, and asks no stream too often."""

from __future__ import annotations

import asyncio

from ca.distribution.live_connections import MAX_OPEN_REPORTS, Survey
from ca.distribution.session import Session
from shared.model.wire.messages import ConnectionsQuery, ConnectionsReport, decode_from_ca
from tests.ca.api.admin.test_observation import CONNECTION
from tests.ca.distribution.test_hub import make_hub, make_session


async def test_nobody_to_ask_is_answered_at_once() -> None:
    result = await Survey(make_hub()).ask_connections(limit=5, timeout_s=60)
    assert (result.connections, result.silent, result.truncated) == ((), (), False)


async def take(session: Session) -> bytes:
    while not len(session.outbox):
        await asyncio.sleep(0)
    return session.outbox.take()


async def test_answers_are_gathered_up_to_the_limit() -> None:
    sessions = [make_session(name) for name in ("a", "b")]
    asked = asyncio.create_task(Survey(make_hub(*sessions)).ask_connections(limit=3, timeout_s=60))
    for session in sessions:
        query = decode_from_ca(await take(session))
        assert isinstance(query, ConnectionsQuery)
        Survey.take_report(session, ConnectionsReport(request=query.request, connections=(CONNECTION,) * 2))
    result = await asked
    assert [session.instance for session, _ in result.connections] == ["a", "a", "b"]
    assert (result.silent, result.truncated) == ((), True)


async def test_who_does_not_answer_in_time_is_named_and_forgotten() -> None:
    session = make_session("a")
    survey = Survey(make_hub(session))
    result = await survey.ask_connections(limit=3, timeout_s=0.02)
    assert result.silent == ("a",)
    assert session.reports == {}
    Survey.take_report(session, ConnectionsReport(request=1, connections=(CONNECTION,)))


async def test_a_stream_has_a_bounded_number_of_open_questions() -> None:
    session = make_session("a")
    survey = Survey(make_hub(session))
    asked = [asyncio.create_task(survey.ask_connections(limit=1, timeout_s=60)) for _ in range(MAX_OPEN_REPORTS + 1)]
    done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    assert len(done) == 1
    assert len(session.reports) == len(session.outbox) == MAX_OPEN_REPORTS
    for _ in range(MAX_OPEN_REPORTS):
        query = decode_from_ca(await take(session))
        assert isinstance(query, ConnectionsQuery)
        Survey.take_report(session, ConnectionsReport(request=query.request, connections=()))
    silent = [result.silent for result in await asyncio.gather(*asked)]
    assert sorted(silent) == [()] * MAX_OPEN_REPORTS + [("a",)]


async def test_an_answer_that_the_ca_hasnt_read_isnt_silence() -> None:
    session = make_session("a")
    survey = Survey(make_hub(session))
    assert not await survey.is_answering(session, timeout_s=0.02)
    session.is_read = False
    assert await survey.is_answering(session, timeout_s=0.02)
    session.end("replaced")
    assert not await survey.is_answering(session, timeout_s=60)


async def test_an_operator_that_gives_up_leaves_nothing_behind() -> None:
    session = make_session("a")
    asked = asyncio.create_task(Survey(make_hub(session)).ask_connections(limit=1, timeout_s=60))
    await take(session)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    assert session.reports == {}
