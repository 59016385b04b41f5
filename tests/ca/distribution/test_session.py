"""A session's own bounds: subscriptions, watched addresses, and an outbox that ends the stream."""

from __future__ import annotations

import pytest

from ca.distribution import session as session_module
from ca.distribution.outbox import Outbox
from ca.distribution.session import Session
from shared.model.errors import RefusedError
from shared.model.identity.identity import Workload
from shared.model.wire.messages import DecisionsStored, decode_from_ca

WEB = Workload(namespace="shop", service_account="web")


def make_session(*, outbox: Outbox | None = None) -> Session:
    return Session(instance="a", workload=WEB, opened=0.0, outbox=Outbox() if outbox is None else outbox)


async def test_a_full_outbox_ends_the_stream_and_the_first_reason_stays() -> None:
    session = make_session(outbox=Outbox(max_messages=1))
    session.send(DecisionsStored(batch=1))
    assert not session.ended.done()
    session.send(DecisionsStored(batch=2))
    session.end("shutdown")
    assert session.ended.result() == "slow"
    assert decode_from_ca(session.outbox.take()) == DecisionsStored(batch=1)


async def test_subscriptions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "MAX_NAMESPACES", 2)
    session = make_session()
    for name in ("shop", "bank", "shop"):
        session.add_namespace(name)
    with pytest.raises(RefusedError):
        session.add_namespace("zoo")


async def test_only_a_newer_version_is_queued() -> None:
    session = make_session()
    session.add_namespace("shop")
    assert [session.is_newer("shop", version) for version in (0, 0, 2, 1, 3)] == [True, False, True, False, True]
    session.add_namespace("shop")
    assert not session.is_newer("shop", 3)


async def test_past_the_bound_a_session_watches_every_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "MAX_ADDRESSES", 2)
    session = make_session()
    assert session.add_address("198.18.0.1") == session.add_address("198.18.0.2") == frozenset()
    assert session.add_address("198.18.0.3") == {"198.18.0.1", "198.18.0.2", "198.18.0.3"}
    assert (session.watches_all, session.addresses) == (True, set())
