"""The outbound story with host names: what a rule's name lets out of the mesh, by a real nameserver."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import msgspec

from shared.model.policy.decision import MAX_HOSTS_RECORDED, Answer, DecisionRecord, Transport
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Action, Direction, Mode, Peer, PortRange, Rule
from shared.runtime.tasks import Tasks
from sidecar.hostnames.host_names import HostNames
from sidecar.hostnames.resolver import Resolver
from tests.sidecar.hostnames.little_dns import LittleDns, running_dns
from tests.sidecar.little_ca import until
from tests.sidecar.pair import CLIENT, CLIENT_PROGRAM, SERVER, SERVER_PROGRAM, Pair, approve, running_pair

API, OTHER = "api.example.com", "other.example.net"
OUTSIDE = "127.0.0.2"
PATIENT_S = 30.0


async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"hello")
    writer.close()


@dataclass
class World:
    pair: Pair
    dns: LittleDns
    port: int

    def set_rules(self, *rules: Rule, mode: Mode = Mode.EXPLICIT) -> None:
        approved = ((CLIENT, CLIENT_PROGRAM), (SERVER, SERVER_PROGRAM))
        self.pair.set_state(approve(*approved, mode=mode, rules=rules))

    def allow(self, *hosts: str, port: int = 0) -> Rule:
        ports = (PortRange(first=port or self.port, last=port or self.port),)
        peers = (Peer(unidentified=True, hosts=hosts),)
        return Rule(name="out", action=Action.ALLOW, direction=Direction.EGRESS, peers=peers, ports=ports)

    async def dial(self) -> tuple[bytes, DecisionRecord]:
        """Dial the server outside the mesh; return what it said, and the client's sidecar's record."""
        before = len(self.pair.client.records)
        reader, writer = await self.pair.connect()
        try:
            said = await reader.read()
        except ConnectionResetError:
            said = b"<reset>"
        writer.close()
        await until(lambda: len(self.pair.client.records) > before)
        return said, self.pair.client.records[-1]


@asynccontextmanager
async def running(dns: LittleDns) -> AsyncIterator[World]:
    """A pair whose client dials a server outside the mesh, at ``OUTSIDE``."""
    faults: list[BaseException] = []
    tasks = Tasks(lambda _, error: faults.append(error))
    server = await asyncio.start_server(greet, OUTSIDE, 0)
    async with running_dns(dns), running_pair(greet) as pair:
        pair.destination = server.sockets[0].getsockname()[:2]
        sidecar = pair.client.sidecar
        resolver = Resolver(nameservers=(dns.endpoint,), try_s=PATIENT_S, deadline_s=PATIENT_S)
        sidecar.hosts = HostNames(
            cast("Any", pair.client.policies),
            service_account=CLIENT.service_account,
            resolve=resolver.resolve,
            tasks=tasks,
        )
        sidecar.limits = replace(sidecar.limits, host_s=PATIENT_S)
        try:
            yield World(pair, dns, pair.destination[1])
        finally:
            await tasks.close(timeout_s=PATIENT_S)
            server.close()
    assert not faults


async def test_the_first_connection_to_a_host_of_a_rule_waits_for_its_look_up_and_passes() -> None:
    async with running(LittleDns(addresses={API: [OUTSIDE]})) as world:
        world.set_rules(world.allow(OTHER, API))
        said, record = await world.dial()
        assert said == b"hello"
        assert (record.answer, record.reason, record.rule) == (Answer.ALLOW, Reason.ALLOW_RULE, "shop/out")
        assert (record.destination.hosts, record.transport) == ((API,), Transport.PLAINTEXT)
        asked = len(world.dns.asked)
        assert (await world.dial())[0] == b"hello"
        assert len(world.dns.asked) == asked, "its address is known by now"


async def test_an_address_that_no_name_has_is_refused_as_without_the_rule() -> None:
    async with running(LittleDns(addresses={API: ["192.0.2.7"]})) as world:
        world.set_rules(world.allow(API))
        said, record = await world.dial()
        assert said == b"<reset>"
        assert (record.answer, record.reason) == (Answer.DENY, Reason.EGRESS_NOT_ALLOWED)
        assert record.destination.hosts is msgspec.UNSET
        world.set_rules(world.allow(API), mode=Mode.PERMISSIVE)
        said, record = await world.dial()
        assert (said, record.would_deny, record.reason) == (b"hello", True, Reason.EGRESS_NOT_ALLOWED)


async def test_a_rule_for_another_port_neither_matches_nor_has_its_name_asked_for() -> None:
    async with running(LittleDns(addresses={API: [OUTSIDE]})) as world:
        world.set_rules(world.allow(API, port=1))
        said, record = await world.dial()
        assert (said, record.reason, world.dns.asked) == (b"<reset>", Reason.EGRESS_NOT_ALLOWED, [])


async def test_where_the_name_cant_be_resolved_the_refusal_says_so() -> None:
    async with running(LittleDns(code=2)) as world:
        world.set_rules(world.allow(API))
        said, record = await world.dial()
        assert said == b"<reset>"
        assert (record.answer, record.reason, record.destination.why) == (
            Answer.DENY,
            Reason.HOST_NOT_RESOLVED,
            Reason.HOST_NOT_RESOLVED,
        )
        assert record.detail == (f"couldn't resolve {API} (127.0.0.1:{world.dns.endpoint[1]}: it answers SERVFAIL)")
        world.set_rules(world.allow(API), mode=Mode.PERMISSIVE)
        said, record = await world.dial()
        assert (said, record.would_deny, record.reason) == (b"hello", True, Reason.HOST_NOT_RESOLVED)


async def test_permissive_mode_waits_for_no_look_up() -> None:
    async with running(LittleDns(is_silent=True)) as world, asyncio.timeout(PATIENT_S):
        world.pair.client.sidecar.limits = replace(world.pair.client.sidecar.limits, host_s=10 * PATIENT_S)
        world.set_rules(world.allow(API), mode=Mode.PERMISSIVE)
        said, record = await world.dial()
        assert (said, record.would_deny, record.reason) == (b"hello", True, Reason.HOST_NOT_RESOLVED)
        assert record.detail == f"couldn't resolve {API} (no answer in time)"
        await until(lambda: world.dns.asked)  # It is asked for all the same.


async def test_explicit_mode_waits_for_a_silent_nameserver_once() -> None:
    async with running(LittleDns(is_silent=True)) as world, asyncio.timeout(PATIENT_S):
        sidecar = world.pair.client.sidecar
        assert sidecar.hosts is not None
        sidecar.hosts._resolve = Resolver(nameservers=(world.dns.endpoint,), try_s=PATIENT_S, deadline_s=0.5).resolve
        sidecar.limits = replace(sidecar.limits, host_s=10 * PATIENT_S)
        world.set_rules(world.allow(API))
        for _ in range(3):
            said, record = await world.dial()
            assert (said, record.reason) == (b"<reset>", Reason.HOST_NOT_RESOLVED)
        assert world.dns.asked == [(API, 1)], "by the first of them"


async def test_a_name_that_doesnt_exist_isnt_blamed() -> None:
    async with running(LittleDns()) as world:
        world.set_rules(world.allow(API))
        assert (await world.dial())[1].reason is Reason.EGRESS_NOT_ALLOWED


async def test_other_rules_that_match_need_no_look_up() -> None:
    async with running(LittleDns(is_silent=True)) as world:
        by_address = Peer(unidentified=True, cidrs=(f"{OUTSIDE}/32",))
        world.set_rules(
            world.allow(API),
            Rule(name="plain", action=Action.ALLOW, direction=Direction.EGRESS, peers=(by_address,)),
        )
        said, record = await world.dial()
        assert (said, record.rule, world.dns.asked) == (b"hello", "shop/plain", [])


async def test_of_many_names_at_one_address_the_record_has_those_of_the_ports_rules() -> None:
    """Behind a CDN hundreds of names share an address: a replay has to find the one that was allowed."""
    others = [f"a{number}.example" for number in range(MAX_HOSTS_RECORDED + 4)]
    async with running(LittleDns(addresses={name: [OUTSIDE] for name in (*others, API)})) as world:
        elsewhere = msgspec.structs.replace(world.allow(*others, port=1), name="elsewhere")
        world.set_rules(world.allow(API), elsewhere)
        assert world.pair.client.sidecar.hosts is not None
        await world.pair.client.sidecar.hosts.look_up(others, OUTSIDE, timeout_s=PATIENT_S)
        said, record = await world.dial()
        assert (said, record.rule) == (b"hello", "shop/out")
        assert record.destination.hosts == (API, *sorted(others)[: MAX_HOSTS_RECORDED - 1])


async def test_a_deny_rule_outweighs_a_name() -> None:
    async with running(LittleDns(addresses={API: [OUTSIDE]})) as world:
        by_address = Peer(unidentified=True, cidrs=(f"{OUTSIDE}/32",))
        world.set_rules(
            world.allow(API),
            Rule(name="no", action=Action.DENY, direction=Direction.EGRESS, peers=(by_address,)),
        )
        assert (await world.dial())[1].reason is Reason.DENY_RULE


async def test_a_program_that_isnt_approved_gains_nothing_by_a_name_and_the_record_has_it_all_the_same() -> None:
    async with running(LittleDns(addresses={API: [OUTSIDE]})) as world:
        world.pair.set_state(approve((SERVER, SERVER_PROGRAM), mode=Mode.EXPLICIT, rules=(world.allow(API),)))
        said, record = await world.dial()
        assert (said, record.reason) == (b"<reset>", Reason.PROGRAM_NOT_APPROVED)
        assert record.destination.hosts == (API,), "so that `ready` can tell what an approval alone would do"


async def test_a_member_is_never_reached_by_a_name() -> None:
    """Who answers for a name must not open a way to a workload of the mesh."""
    async with running(LittleDns(addresses={API: ["127.0.0.1"]})) as world:
        world.pair.destination = None
        world.port = world.pair.application[1]
        world.pair.set_state(approve((CLIENT, CLIENT_PROGRAM), mode=Mode.EXPLICIT, rules=(world.allow(API),)))
        said, record = await world.dial()
        assert (said, record.reason) == (b"<reset>", Reason.LISTENER_NOT_APPROVED)
