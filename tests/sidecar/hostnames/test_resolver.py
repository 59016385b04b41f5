"""A name's addresses from a real nameserver on loopback."""

from __future__ import annotations

from sidecar.hostnames.resolver import VERSIONS, Resolved, Resolver
from tests.free_ports import free_port
from tests.sidecar.hostnames.little_dns import LittleDns, running_dns

NAME = "api.example.com"
# A busy machine may take its time.
PATIENT_S = 30.0


def make_resolver(*servers: tuple[str, int], try_s: float = PATIENT_S) -> Resolver:
    return Resolver(nameservers=servers, try_s=try_s, deadline_s=PATIENT_S)


async def test_both_kinds_of_addresses_are_asked_for() -> None:
    async with running_dns(LittleDns(addresses={NAME: ["192.0.2.7", "2001:db8::7"]})) as dns:
        for version, address in ((4, "192.0.2.7"), (6, "2001:db8::7")):
            found = await make_resolver(dns.endpoint).resolve(NAME, version)
            assert found == Resolved(version=version, addresses=(address,), ttl_s=60)
        assert sorted(dns.asked) == [(NAME, 1), (NAME, 28)]


async def test_an_answer_that_doesnt_fit_is_asked_for_by_tcp() -> None:
    addresses = [f"192.0.2.{number}" for number in range(1, 60)]
    async with running_dns(LittleDns(addresses={NAME: addresses}, truncates=True)) as dns:
        found = await make_resolver(dns.endpoint).resolve(NAME, 4)
        assert list(found.addresses) == addresses
        assert dns.streams == 1


async def test_the_next_nameserver_is_asked_where_one_fails() -> None:
    nobody = ("127.0.0.1", free_port())
    async with (
        running_dns(LittleDns(code=2)) as broken,
        running_dns(LittleDns(addresses={NAME: ["192.0.2.7"]})) as dns,
    ):
        found = await make_resolver(nobody, broken.endpoint, dns.endpoint).resolve(NAME, 4)
        assert (found.addresses, found.failure) == (("192.0.2.7",), "")
        assert broken.asked


async def test_a_name_that_doesnt_exist_is_an_answer() -> None:
    async with running_dns(LittleDns()) as dns:
        found = await make_resolver(dns.endpoint).resolve(NAME, 4)
        assert found == Resolved(version=4)


async def test_why_there_is_no_answer_is_said() -> None:
    async with running_dns(LittleDns(code=2)) as dns:
        for version in VERSIONS:
            found = await make_resolver(dns.endpoint).resolve(NAME, version)
            assert found.failure == f"127.0.0.1:{dns.endpoint[1]}: it answers SERVFAIL"
    assert (await make_resolver().resolve(NAME, 4)).failure == "no nameserver is known"


async def test_a_silent_nameserver_is_given_up() -> None:
    async with running_dns(LittleDns(is_silent=True)) as dns:
        found = await make_resolver(dns.endpoint, try_s=0.01).resolve(NAME, 4)
        assert found.failure == f"127.0.0.1:{dns.endpoint[1]}: no answer in time"
        hurried = Resolver(nameservers=(dns.endpoint,), try_s=PATIENT_S, deadline_s=0.01)
        assert (await hurried.resolve(NAME, 6)).failure == "no answer in time"
