"""The gate: a bound, a rate, turns between addresses, and known ones first."""

from __future__ import annotations

import asyncio

import pytest

from shared.model.policy.reasons import Reason
from sidecar.tls import handshake_gate as module
from sidecar.tls.handshake import HandshakeError
from sidecar.tls.handshake_gate import HandshakeGate, IsMember


async def nobodys() -> bool:
    return False


async def members() -> bool:
    return True


async def begin(gate: HandshakeGate, address: str, begun: list[str], is_member: IsMember = nobodys) -> None:
    await gate.wait_turn(address, is_member=is_member, timeout_s=30)
    begun.append(address)


async def test_unfinished_handshakes_are_bounded_and_one_address_never_has_all() -> None:
    gate = HandshakeGate(8)
    places = [gate.enter("198.18.0.1") for _ in range(8)]
    with pytest.raises(HandshakeError) as caught:
        gate.enter("198.18.0.1")
    assert caught.value.reason is Reason.OVERLOADED
    assert not gate.has_place("198.18.0.1")
    with gate.enter("198.18.0.2"):
        assert len(gate) == 9
    places[0].leave()
    places[1].leave()
    gate.enter("198.18.0.1")
    assert (len(gate), gate.limit) == (7, 8)


async def test_a_flood_from_one_address_takes_turns_with_all_others() -> None:
    gate, begun = HandshakeGate(4096), list[str]()
    flood = [asyncio.create_task(begin(gate, "198.18.0.1", begun)) for _ in range(100)]
    await asyncio.sleep(0)
    await begin(gate, "198.18.0.2", begun)
    assert begun.count("198.18.0.1") < 30
    for task in flood:
        task.cancel()
    await asyncio.gather(*flood, return_exceptions=True)


async def test_an_address_of_which_a_handshake_held_doesnt_wait_for_unknown_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "UNKNOWN_PER_S", 0.001)
    gate, begun = HandshakeGate(4096), list[str]()
    flood = [asyncio.create_task(begin(gate, "198.18.0.1", begun)) for _ in range(50)]
    waiting = [asyncio.create_task(begin(gate, "198.18.0.2", begun)) for _ in range(50)]
    await asyncio.sleep(0)
    assert len(begun) < 50
    gate.note_known("198.18.0.2")
    await asyncio.gather(*waiting)
    await begin(gate, "198.18.0.2", begun)
    assert begun.count("198.18.0.2") == 51
    for task in flood:
        task.cancel()
    await asyncio.gather(*flood, return_exceptions=True)


async def test_a_members_address_doesnt_wait_for_strangers_and_is_asked_for_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A pod whose sidecar was restarted knows none of its peers."""
    monkeypatch.setattr(module, "UNKNOWN_PER_S", 0.001)
    gate, begun, asked = HandshakeGate(4096), list[str](), list[str]()

    async def is_member() -> bool:
        asked.append("198.18.0.2")
        return await members()

    flood = [asyncio.create_task(begin(gate, f"198.18.1.{number}", begun)) for number in range(50)]
    await asyncio.sleep(0)
    waiting = [asyncio.create_task(begin(gate, "198.18.0.2", begun, is_member)) for _ in range(50)]
    await asyncio.gather(*waiting)
    assert (begun.count("198.18.0.2"), len(asked)) == (50, 1)
    assert len(begun) < 100
    for task in flood:
        task.cancel()
    await asyncio.gather(*flood, return_exceptions=True)


async def test_a_turn_that_doesnt_come_in_time_is_refused_as_our_own_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UNKNOWN_PER_S", 0.001)
    gate = HandshakeGate(4096)
    with pytest.raises(HandshakeError) as caught:
        for _ in range(100):
            await gate.wait_turn("198.18.0.1", is_member=nobodys, timeout_s=0.01)
    assert caught.value.reason is Reason.OVERLOADED


async def test_known_addresses_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KNOWN", 2)
    gate = HandshakeGate(8)
    for last in (1, 2, 1, 3):
        gate.note_known(f"198.18.0.{last}")
    assert list(gate._known) == ["198.18.0.1", "198.18.0.3"]


async def test_who_left_a_flood_is_forgotten_while_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UNKNOWN_PER_S", 0.001)
    gate = HandshakeGate(4096)
    for _ in range(20):
        wave = [asyncio.create_task(gate.wait_turn("198.18.0.1", is_member=nobodys, timeout_s=30)) for _ in range(50)]
        await asyncio.sleep(0)
        for task in wave:
            task.cancel()
        await asyncio.gather(*wave, return_exceptions=True)
    assert sum(map(len, gate._slow._waiting.values())) <= 50


async def test_of_strangers_only_some_wait_and_a_flood_makes_no_other_stranger_leave(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "UNKNOWN_PER_S", 0.001)
    monkeypatch.setattr(module, "MAX_STRANGERS_WAITING", 10)
    gate, begun = HandshakeGate(4096), list[str]()
    other = asyncio.create_task(begin(gate, "198.18.0.2", begun))
    flood = [asyncio.create_task(begin(gate, "198.18.0.1", begun)) for _ in range(100)]
    done, waiting = await asyncio.wait(flood, timeout=30, return_when=asyncio.FIRST_EXCEPTION)
    while sum(map(len, gate._slow._waiting.values())) > 10:
        await asyncio.sleep(0)
    done, waiting = await asyncio.wait(flood, timeout=0)
    refused = [each.exception() for each in done if each.exception() is not None]
    assert all(isinstance(each, HandshakeError) and each.reason is Reason.OVERLOADED for each in refused)
    assert len(refused) + begun.count("198.18.0.1") + len(waiting) == 100
    assert len(waiting) <= 10
    assert other.done() is ("198.18.0.2" in begun), "it wasn't refused"
    for task in (*flood, other):
        task.cancel()
    await asyncio.gather(*flood, other, return_exceptions=True)
    assert not gate._slow._strangers or gate._slow._waiting


async def test_whoever_may_be_a_member_is_never_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the CA can't be asked, a member's burst looks like a flood."""
    monkeypatch.setattr(module, "UNKNOWN_PER_S", 0.001)
    monkeypatch.setattr(module, "MAX_STRANGERS_WAITING", 10)
    gate, begun = HandshakeGate(4096), list[str]()

    async def is_member() -> None:
        return None

    waiting = [asyncio.create_task(begin(gate, "198.18.0.1", begun, is_member)) for _ in range(100)]
    await asyncio.sleep(0)
    gate.note_known("198.18.0.1")
    await asyncio.gather(*waiting)
    assert len(begun) == 100
