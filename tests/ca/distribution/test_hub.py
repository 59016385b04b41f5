"""Pushes reach those whom a change concerns, and nobody twice."""

from __future__ import annotations

import pytest

from ca.distribution import hub as hub_module
from ca.distribution import session as session_module
from ca.distribution.directory import Directory
from ca.distribution.hub import REPLACED, Hub
from ca.distribution.session import Session
from ca.kubernetes.view import NoCluster
from ca.metrics import Metrics
from shared.model.identity.identity import Workload
from shared.model.policy.modes import make_modes
from shared.model.policy.rules import Mode, NamespaceState
from shared.model.trust.bundle import TrustBundle
from shared.model.wire.messages import BundleChanged, DirectoryEntry, FromCA, NamespaceChanged, Reissue, decode_from_ca
from tests.ca.distribution.test_directory import make_sidecar


def make_session(instance: str) -> Session:
    return Session(instance=instance, workload=Workload(namespace="shop", service_account="web"), opened=0.0)


def make_hub(*sessions: Session) -> Hub:
    hub = Hub(directory=Directory(find_vouched=NoCluster().find_entry), metrics=Metrics())
    for session in sessions:
        hub.open(session)
    return hub


async def received(session: Session) -> list[FromCA]:
    return [decode_from_ca(session.outbox.take()) for _ in range(len(session.outbox))]


async def test_a_state_reaches_its_subscribers_alone_and_the_newest_stays() -> None:
    one, two = make_session("one"), make_session("two")
    hub = make_hub(one, two)
    hub.subscribe(one, "shop")
    hub.publish_namespace(NamespaceState(namespace="shop", version=2))
    hub.publish_namespace(NamespaceState(namespace="shop", version=1))
    hub.send_state(one, NamespaceState(namespace="shop", version=2))
    assert await received(one) == [NamespaceChanged(state=NamespaceState(namespace="shop", version=2))]
    assert await received(two) == []
    assert hub.subscribers("shop") == {one}


async def test_a_push_is_told_in_each_sessions_own_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a protocol doesn't have isn't sent on its streams."""
    old, new = make_session("old"), make_session("new")
    old.protocol = 1
    hub = make_hub(old, new)
    monkeypatch.setattr(hub_module, "express_in", lambda protocol, message, **_: message if protocol == 2 else None)
    hub.publish_reissue()
    assert await received(new) == [Reissue(spread_s=1.0)]
    assert await received(old) == []


async def test_a_sidecar_of_protocol_1_is_told_the_mode_of_its_own_workload_as_its_namespaces() -> None:
    """It knows no workload's own mode."""
    names = ("web", "db", "job")
    sessions = [make_session(name) for name in (*names, "new")]
    for session, name in zip(sessions, (*names, "web"), strict=True):
        session.workload = Workload(namespace="shop", service_account=name)
        session.protocol = 2 if session.instance == "new" else 1
    abroad = make_session("abroad")
    abroad.workload, abroad.protocol = Workload(namespace="bank", service_account="web"), 1
    hub = make_hub(*sessions, abroad)
    for session in (*sessions, abroad):
        hub.subscribe(session, "shop")
    modes = make_modes({"web": Mode.EXPLICIT, "db": Mode.PERMISSIVE})
    state = NamespaceState(namespace="shop", version=2, workload_modes=modes)
    hub.publish_namespace(state)
    told = {session.instance: await received(session) for session in (*sessions, abroad)}
    assert told["new"] == [NamespaceChanged(state=state)]
    expected = {"web": Mode.EXPLICIT, "db": Mode.PERMISSIVE, "job": Mode.PERMISSIVE, "abroad": Mode.EXPLICIT}
    for name, mode in expected.items():
        assert told[name] == [NamespaceChanged(state=NamespaceState(namespace="shop", version=2, mode=mode))], name


async def test_sidecars_of_protocol_1_cost_two_messages_whatever_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """A namespace's rules are some MB: they aren't written anew for each of its workloads."""
    sessions = [make_session(f"s{number}") for number in range(20)]
    for number, session in enumerate(sessions):
        session.workload = Workload(namespace="shop", service_account=f"w{number}")
        session.protocol = 1
    hub = make_hub(*sessions)
    for session in sessions:
        hub.subscribe(session, "shop")
    written: list[FromCA] = []

    def encode(message: FromCA) -> bytes:
        written.append(message)
        return b"{}"

    monkeypatch.setattr(hub_module, "encode_message", encode)
    modes = make_modes({"w3": Mode.EXPLICIT, "w4": Mode.EXPLICIT, "w5": Mode.PERMISSIVE})
    hub.publish_namespace(NamespaceState(namespace="shop", version=2, workload_modes=modes))
    assert len(written) == 2
    assert [len(session.outbox) for session in sessions] == [1] * 20


async def test_bundle_and_reissue_reach_everybody() -> None:
    sessions = [make_session(name) for name in ("one", "two")]
    hub = make_hub(*sessions)
    bundle = TrustBundle(trust_domain="touchmark.local", sequence=4, roots=(b"r",), issuers=(b"i",))
    hub.publish_bundle(bundle)
    hub.publish_reissue()
    for session in sessions:
        assert await received(session) == [BundleChanged(bundle=bundle), Reissue(spread_s=1.0)]


async def test_a_watcher_hears_now_and_whenever_its_address_changes() -> None:
    one, two = make_session("one"), make_session("two")
    hub = make_hub(one, two)
    hub.watch(one, "198.18.0.2")
    assert await received(one) == [DirectoryEntry(address="198.18.0.2")]
    hub.publish_addresses(hub.directory.register(make_sidecar("s", "198.18.0.2", "198.18.0.3")))
    (entry,) = await received(one)
    assert isinstance(entry, DirectoryEntry)
    assert (entry.address, entry.service_account) == ("198.18.0.2", "web")
    assert await received(two) == []


async def test_who_watches_too_many_addresses_hears_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "MAX_ADDRESSES", 1)
    session = make_session("one")
    hub = make_hub(session)
    for address in ("198.18.0.1", "198.18.0.2", "198.18.0.3"):
        hub.watch(session, address)
    assert len(await received(session)) == 3
    hub.publish_addresses(hub.directory.register(make_sidecar("s", "198.18.0.1", "198.18.0.77")))
    assert {entry.address for entry in await received(session) if isinstance(entry, DirectoryEntry)} == {
        "198.18.0.1",
        "198.18.0.77",
    }


async def test_a_closed_session_hears_nothing_more() -> None:
    session = make_session("one")
    hub = make_hub(session)
    hub.subscribe(session, "shop")
    hub.watch(session, "198.18.0.2")
    await received(session)
    assert hub.close(session)
    assert not hub.close(session)
    hub.publish_namespace(NamespaceState(namespace="shop", version=1))
    hub.publish_addresses(hub.directory.register(make_sidecar("s", "198.18.0.2")))
    assert await received(session) == []
    assert len(hub) == 0
    assert hub.get("one") is None


async def test_a_second_stream_of_an_instance_ends_the_first() -> None:
    first, second = make_session("one"), make_session("one")
    hub = make_hub(first, second)
    assert first.ended.result() == REPLACED
    assert hub.get("one") is second
    assert not hub.close(first)  # The late end of the first doesn't take the second away.
    assert list(hub) == [second]


async def test_all_streams_are_ended_with_one_reason() -> None:
    sessions = [make_session(name) for name in ("one", "two")]
    make_hub(*sessions).end_all("shutdown")
    assert [session.ended.result() for session in sessions] == ["shutdown", "shutdown"]
