"""The names of egress rules, kept resolved by a real nameserver on loopback."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from shared.model.policy.evaluate import NamespacePolicy, compile_namespace
from shared.model.policy.host_name import MAX_HOSTS
from shared.model.policy.rules import Action, Direction, NamespaceState, Peer, PortRange, Rule
from shared.runtime.tasks import Tasks
from sidecar.hostnames import host_names
from sidecar.hostnames.host_names import HostNames
from sidecar.hostnames.resolver import Resolved, Resolver
from tests.sidecar.hostnames.little_dns import LittleDns, running_dns
from tests.sidecar.little_ca import until

API, SHOP = "api.example.com", "shop.example.net"
V4, V6 = "192.0.2.7", "2001:db8::7"
PATIENT_S = 30.0


@dataclass
class Rules:
    """What the CA says."""

    own: NamespacePolicy = field(default_factory=lambda: compile_namespace(NamespaceState(namespace="shop")))

    def set(self, *rules: Rule) -> None:
        self.own = compile_namespace(NamespaceState(namespace="shop", rules=rules))


def allow(*hosts: str, port: int = 443, workloads: tuple[str, ...] = (), name: str = "out") -> Rule:
    """A rule that allows connections to hosts."""
    ports = (PortRange(first=port, last=port),) if port else ()
    peer = Peer(unidentified=True, hosts=hosts)
    return Rule(
        name=name, action=Action.ALLOW, direction=Direction.EGRESS, workloads=workloads, peers=(peer,), ports=ports
    )


@dataclass
class World:
    rules: Rules
    dns: LittleDns
    hosts: HostNames


@asynccontextmanager
async def running(*rules: Rule, dns: LittleDns | None = None, runs: bool = False) -> AsyncIterator[World]:
    """Host names by these rules, and a nameserver; ``runs``: names are kept resolved."""
    said = Rules()
    said.set(*rules)
    failures: list[BaseException] = []
    tasks = Tasks(lambda _, error: failures.append(error))
    async with running_dns(dns or LittleDns(addresses={API: ["192.0.2.7"], SHOP: ["192.0.2.8"]})) as served:
        resolver = Resolver(nameservers=(served.endpoint,), try_s=PATIENT_S, deadline_s=PATIENT_S)
        hosts = HostNames(said, service_account="web", resolve=resolver.resolve, tasks=tasks)
        if runs:
            tasks.spawn(hosts.run(), name="host names")
        try:
            yield World(said, served, hosts)
        finally:
            await tasks.close(timeout_s=PATIENT_S)
    assert not failures


async def test_names_are_those_of_egress_rules_for_the_workload() -> None:
    everywhere = Peer(unidentified=True, cidrs=("0.0.0.0/0",))
    others = allow("other.example", workloads=("db",), name="others")
    plain = Rule(name="plain", action=Action.ALLOW, direction=Direction.EGRESS, peers=(everywhere,))
    mine = allow(SHOP, port=80, workloads=("web",), name="mine")
    async with running(allow(API), others, plain, mine, allow("any.example", port=0, name="any")) as world:
        assert world.hosts.list_names() == {API, SHOP, "any.example"}
        assert world.hosts.list_candidates(443) == ("any.example", API)
        assert world.hosts.list_candidates(80) == ("any.example", SHOP)
        assert world.hosts.list_candidates(81) == ("any.example",)
        world.rules.set(allow(SHOP))
        assert (world.hosts.list_candidates(443), world.hosts.list_candidates(80)) == ((SHOP,), ())


async def test_no_more_names_are_asked_for_than_a_namespace_may_have() -> None:
    many = [allow(f"h{number}.example", name=f"r{number}") for number in range(MAX_HOSTS + 10)]
    async with running(*many) as world:
        assert len(world.hosts.list_names()) == len(world.hosts.list_candidates(443)) == MAX_HOSTS


async def test_an_address_is_found_once_its_name_was_looked_up_and_not_before() -> None:
    async with running(allow(API, SHOP)) as world:
        assert world.hosts.find("192.0.2.7") == ()
        await world.hosts.look_up([API], V4, timeout_s=PATIENT_S)
        assert world.hosts.find("192.0.2.7") == (API,)
        assert world.hosts.find("192.0.2.8") == ()
        assert {name for name, _ in world.dns.asked} == {API}


async def test_who_asks_at_the_same_time_shares_one_look_up_and_who_asks_soon_after_waits_for_none() -> None:
    async with running(allow(API)) as world:
        await asyncio.gather(*(world.hosts.look_up([API], V4, timeout_s=PATIENT_S) for _ in range(50)))
        assert world.dns.asked == [(API, 1)]


async def test_a_name_is_asked_for_again_after_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_names, "AGAIN_S", 0.0)
    async with running(allow(API)) as world:
        await world.hosts.look_up([API], V4, timeout_s=PATIENT_S)
        world.dns.addresses[API] = ["192.0.2.9"]
        await world.hosts.look_up([API], V4, timeout_s=PATIENT_S)
        # The earlier answer still counts: programs may have it.
        assert world.hosts.find("192.0.2.9") == world.hosts.find("192.0.2.7") == (API,)


async def test_failures_are_described_by_name_for_the_kind_of_address() -> None:
    async with running(allow(API), dns=LittleDns(code=5)) as world:
        await world.hosts.look_up([API], V4, timeout_s=PATIENT_S)
        where = f"127.0.0.1:{world.dns.endpoint[1]}"
        assert world.hosts.describe_failures([API], "192.0.2.7") == f"{API} ({where}: it answers REFUSED)"
        assert world.hosts.describe_failures([API], "2001:db8::7") == f"{API} (no answer in time)", (
            "it wasn't asked for"
        )
        await world.hosts.look_up([API], V6, timeout_s=PATIENT_S)
        assert world.hosts.describe_failures([API], "2001:db8::7") == f"{API} ({where}: it answers REFUSED)"
        assert world.hosts.describe_failures([f"h{n}.example" for n in range(5)], "192.0.2.7").endswith(" and 2 more")
    async with running(allow("gone.example")) as world:
        await world.hosts.look_up(["gone.example"], V4, timeout_s=PATIENT_S)
        assert world.hosts.describe_failures(["gone.example"], "192.0.2.7") == "", "it doesn't exist: that is known"


async def test_a_nameserver_that_is_silent_is_waited_for_no_longer_than_said() -> None:
    async with running(allow(API), dns=LittleDns(is_silent=True)) as world:
        assert await world.hosts.look_up([API], V4, timeout_s=0.01) == {API}
        assert world.hosts.describe_failures([API], "192.0.2.7") == f"{API} (no answer in time)"


async def test_connections_have_few_of_many_names_asked_for_afresh_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs choose how many connections there are: that mustn't be how many questions there are."""
    monkeypatch.setattr(host_names, "AGAIN_S", 0.0)
    names = [f"h{number}.example" for number in range(64)]
    dns = LittleDns(addresses={name: ["192.0.2.7"] for name in names})
    async with running(allow(*names), dns=dns) as world:
        await world.hosts.look_up(names, V4, timeout_s=PATIENT_S)
        monkeypatch.setattr(host_names, "FRESH_PER_S", 0.0)
        rounds = []
        for _ in range(3):
            dns.asked.clear()
            for _ in range(100):
                await world.hosts.look_up(names, V4, timeout_s=PATIENT_S)
            rounds.append({name for name, _ in dns.asked})
            world.hosts._fresh = float(host_names.MAX_FRESH)  # As after a while.
        assert [len(each) for each in rounds] == [host_names.MAX_FRESH] * 3
        assert len(set.union(*rounds)) == 3 * host_names.MAX_FRESH, "no name twice before the others"


async def test_room_for_fresh_look_ups_comes_back_with_time() -> None:
    async with running(allow(API)) as world:
        take = world.hosts._take_room
        assert (take(100, 1000.0), take(1, 1000.0)) == (host_names.MAX_FRESH, 0)
        assert take(100, 1001.0) == host_names.FRESH_PER_S
        assert take(100, 5000.0) == host_names.MAX_FRESH


async def test_a_name_without_addresses_isnt_asked_for_afresh_by_connections_before_the_least_ttl(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(host_names, "AGAIN_S", 0.0)
    async with running(allow("gone.example")) as world:
        for address in (V4, V6):
            await world.hosts.look_up(["gone.example"], address, timeout_s=PATIENT_S)
        assert world.hosts.ask_afresh(["gone.example"], V4) == {}
        monkeypatch.setattr(host_names, "MIN_REFRESH_S", 0.0)
        assert set(world.hosts.ask_afresh(["gone.example"], V4)) == {"gone.example"}


async def test_a_name_that_failed_is_neither_waited_for_nor_asked_for_by_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(host_names, "AGAIN_S", 0.0)
    async with running(allow(API), dns=LittleDns(code=2)) as world:
        await world.hosts.look_up([API], V4, timeout_s=PATIENT_S)
        asked = len(world.dns.asked)
        world.dns.is_silent = True
        again = world.hosts._ask(API, 4)  # As ``run`` does.
        assert await world.hosts.look_up([API], V4, timeout_s=PATIENT_S) == frozenset()
        assert not again.done()
        await until(lambda: len(world.dns.asked) == asked + 1)


async def test_the_kind_that_is_answered_counts_whatever_becomes_of_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some nameservers leave AAAA unanswered: each connection by IPv4 waited for that, and was refused."""
    monkeypatch.setattr(host_names, "AGAIN_S", 0.0)
    async with running(allow(API), dns=LittleDns(addresses={API: [V4]}, silent_kinds=(28,)), runs=True) as world:
        await until(lambda: (API, 28) in world.dns.asked)
        assert await world.hosts.look_up([API], V4, timeout_s=PATIENT_S) == frozenset()
        assert world.hosts.find(V4) == (API,)
        assert world.hosts.describe_failures([API], V4) == ""
        assert world.hosts.describe_failures([API], V6) == f"{API} (no answer in time)"
        world.dns.addresses[API] = ["192.0.2.9"]  # The first question for IPv6 is still under way.
        assert await world.hosts.look_up([API], V4, timeout_s=PATIENT_S) == frozenset()
        assert world.hosts.find("192.0.2.9") == (API,)
        known = world.hosts._known[API]
        known.take(Resolved(version=6, failure="no answer in time"), 0.0)  # As when it is given up.
        world.dns.addresses[API] = ["192.0.2.10"]
        await world.hosts.look_up([API], V4, timeout_s=PATIENT_S)
        assert world.hosts.find("192.0.2.10") == (API,)
        assert await world.hosts.look_up([API], V6, timeout_s=PATIENT_S) == frozenset(), "that one isn't waited for"


async def test_names_are_resolved_from_the_start_and_when_rules_change() -> None:
    async with running(allow(API), runs=True) as world:
        await until(lambda: world.hosts.find("192.0.2.7") == (API,))
        world.rules.set(allow(SHOP))
        world.hosts.wake()
        await until(lambda: world.hosts.find("192.0.2.8") == (SHOP,))
        assert world.hosts.find("192.0.2.7") == (), "its rule has gone"


async def test_answers_are_renewed_and_failures_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MIN_REFRESH_S", "MAX_REFRESH_S", "RETRY_S"):
        monkeypatch.setattr(host_names, name, 0.02)
    dns = LittleDns(code=2)
    async with running(allow(API), dns=dns, runs=True) as world:
        await until(lambda: len(dns.asked) >= 8)
        dns.code, dns.addresses[API] = 0, ["192.0.2.7"]
        await until(lambda: world.hosts.find("192.0.2.7"))
        dns.addresses[API] = ["192.0.2.9"]
        await until(lambda: world.hosts.find("192.0.2.9"))


async def test_rules_that_were_replaced_arent_kept() -> None:
    async with running(allow(API)) as world:
        world.hosts.list_names()
        before = weakref.ref(world.rules.own)
        world.rules.set(allow(SHOP))
        world.hosts.wake()
        gc.collect()
        assert before() is None
