"""The way out to a foreign server: under the program's certificate, to whom a rule names, and to nobody else."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from shared.model.policy.decision import Answer, DecisionRecord, Ending, Transport
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Action, Direction, Mode, NamespaceState, Peer, Rule
from shared.model.wire.messages import DirectoryEntry, ServiceEntry, ServicePort
from sidecar.parts import Limits
from tests.free_ports import free_port
from tests.sidecar.little_ca import until
from tests.sidecar.pair import CLIENT, CLIENT_PROGRAM, SERVER, SERVER_PROGRAM, Pair, approve, identify, running_pair
from tests.sidecar.partner import BILLING, DOMAIN, Partner, Program, Svid, make_context
from tests.sidecar.test_outbound import echo

PARTNER = Partner()


def allow(spiffe_id: str = BILLING, mode: Mode = Mode.EXPLICIT) -> NamespaceState:
    rule = Rule(name="to-partner", action=Action.ALLOW, direction=Direction.EGRESS, peers=(Peer(spiffe_id=spiffe_id),))
    return approve((SERVER, SERVER_PROGRAM), (CLIENT, CLIENT_PROGRAM), mode=mode, rules=(rule,))


class Server:
    """A foreign server that takes one connection after another; each test plays its part."""

    def __init__(self, listener: socket.socket, context: SSL.Context) -> None:
        self._listener = listener
        self._context = context
        self.accepted = 0

    async def accept(self) -> Program:
        """Accept a connection and make the handshake."""
        connection, _ = await asyncio.to_thread(self._listener.accept)
        self.accepted += 1
        program = Program(connection, self._context, serves=True)
        try:
            await program.shake_hands()
        except SSL.Error:
            program.close()
            raise
        return program


@asynccontextmanager
async def running(
    svid: Svid | None = None, *, state: NamespaceState | None = None, limits: Limits | None = None
) -> AsyncIterator[tuple[Pair, Server]]:
    """A client whose sidecar speaks plain mTLS towards the port of a foreign server, outside the mesh."""
    async with running_pair(echo, limits=limits) as pair:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.settimeout(120)
        pair.destination = listener.getsockname()[:2]
        pair.client.directory.entries.clear()
        pair.set_state(state or allow())
        sidecar = pair.client.sidecar
        sidecar.mtls_destination_ports = frozenset({pair.destination[1]})
        sidecar.foreign.install([PARTNER.roots], own=pair.mint.bundle.trust_domain)
        try:
            yield pair, Server(listener, make_context(svid or PARTNER.issue(), pair.mint.bundle.roots))
        finally:
            listener.close()


async def wait_for_record(pair: Pair) -> DecisionRecord:
    await until(lambda: pair.client.records)
    return pair.client.records[0]


async def expect_reset(pair: Pair) -> DecisionRecord:
    """The program gets a reset and no byte, whatever it says."""
    reader, writer = await pair.connect()
    writer.write(b"hello")
    with pytest.raises(ConnectionResetError):
        await reader.readexactly(1)
    writer.close()
    record = await wait_for_record(pair)
    assert (record.answer, record.ending, record.bytes_sent) == (Answer.DENY, Ending.REFUSED, 0)
    return record


async def refuse_in_handshake(server: Server) -> None:
    """The server's view of a client that doesn't take it."""
    with pytest.raises(SSL.Error):
        program = await server.accept()
        try:
            await program.receive(1)
        finally:
            program.close()


# ---- who is reached -------------------------------------------------------------------------------------------------


async def test_a_program_reaches_a_foreign_server_under_its_own_certificate() -> None:
    async with running() as (pair, server):
        reader, writer = await pair.connect()
        writer.write(b"hello")
        program = await server.accept()
        assert program.identify_peer() == str(identify(CLIENT, CLIENT_PROGRAM))
        assert await program.receive(5) == b"hello"
        writer.write_eof()
        assert await program.receive_rest() == (b"", "end")
        await program.send(b"good bye")  # The half that is still open.
        await program.finish()
        assert await reader.read() == b"good bye"
        program.close()
        writer.close()
        record = await wait_for_record(pair)
    assert (record.answer, record.reason, record.rule) == (Answer.ALLOW, Reason.ALLOW_RULE, "shop/to-partner")
    assert (record.transport, record.ending) == (Transport.MTLS, Ending.FINISHED)
    assert record.source.identity == str(identify(CLIENT, CLIENT_PROGRAM))
    assert (record.destination.identity, record.destination.workload) == (BILLING, "")
    assert (record.bytes_sent, record.bytes_received) == (5, 8)


async def test_permissive_reaches_a_server_that_no_rule_names_and_marks_it() -> None:
    async with running(state=allow("spiffe://other.example/x", Mode.PERMISSIVE)) as (pair, server):
        reader, writer = await pair.connect()
        program = await server.accept()
        await program.send(b"220")
        assert await reader.readexactly(3) == b"220"
        program.close()
        writer.close()
        record = await wait_for_record(pair)
    assert (record.answer, record.would_deny, record.reason) == (Answer.ALLOW, True, Reason.FOREIGN_NOT_ALLOWED)


async def test_a_services_endpoint_outside_the_mesh_is_reached_by_the_port_that_the_program_dials() -> None:
    async with running() as (pair, server):
        assert pair.destination is not None
        backend = pair.destination
        pair.destination = ("198.18.9.9", 443)
        service = ServiceEntry(namespace="pay", name="billing", ports=(ServicePort(port=443, endpoints=(backend,)),))
        pair.client.directory.entries["198.18.9.9"] = DirectoryEntry(address="198.18.9.9", service=service)
        pair.client.sidecar.mtls_destination_ports = frozenset({443})
        reader, writer = await pair.connect()
        program = await server.accept()
        await program.send(b"x")
        assert await reader.readexactly(1) == b"x"
        program.close()
        writer.close()
        assert (await wait_for_record(pair)).detail.startswith("service pay/billing")


async def test_openssl_serves_the_program(tmp_path: Path) -> None:
    chain, key = PARTNER.issue().write(tmp_path)
    async with running() as (pair, _):
        roots = tmp_path / "roots.pem"
        roots.write_bytes(
            b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in pair.mint.bundle.roots)
        )
        port = free_port()
        command = [
            "openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-tls1_3", "-rev", "-Verify", "4",
            "-verify_return_error", "-cert", str(chain), "-cert_chain", str(chain), "-key", str(key),
            "-CAfile", str(roots),
        ]  # fmt: skip
        silent = asyncio.subprocess.DEVNULL
        server = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE, stdout=silent)
        try:
            await until(lambda: _is_listening(port))
            pair.destination = ("127.0.0.1", port)
            pair.client.sidecar.mtls_destination_ports = frozenset({port})
            reader, writer = await pair.connect()
            writer.write(b"hello\n")
            assert await reader.readexactly(6) == b"olleh\n"
            writer.close()
            assert (await wait_for_record(pair)).destination.identity == BILLING
        finally:
            server.kill()
            await server.communicate()


def _is_listening(port: int) -> bool:
    """Whether somebody listens, without connecting: a connection would be one of the server's."""
    entries = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(fields[1].endswith(f":{port:04X}") and fields[3] == "0A" for fields in entries)


# ---- who isn't ------------------------------------------------------------------------------------------------------


async def test_explicit_without_a_rule_for_any_foreign_peer_dials_nobody() -> None:
    state = msgspec.structs.replace(allow(), rules=())
    async with running(state=state) as (pair, server):
        record = await expect_reset(pair)
        assert server.accepted == 0
    assert record.reason is Reason.FOREIGN_NOT_ALLOWED
    assert record.transport is Transport.NONE


async def test_a_rule_for_addresses_lets_nobody_through_to_a_foreign_server() -> None:
    rule = Rule(
        name="by-address",
        action=Action.ALLOW,
        direction=Direction.EGRESS,
        peers=(Peer(unidentified=True, cidrs=("0.0.0.0/0",)),),
    )
    async with running(state=msgspec.structs.replace(allow(), rules=(rule,))) as (pair, server):
        assert (await expect_reset(pair)).reason is Reason.FOREIGN_NOT_ALLOWED
        assert server.accepted == 0


async def test_a_server_that_another_rule_names_gets_no_byte() -> None:
    async with running(PARTNER.issue(f"spiffe://{DOMAIN}/other")) as (pair, server):
        serving = asyncio.ensure_future(server.accept())
        record = await expect_reset(pair)
        program = await serving
        assert await program.receive_rest() == (b"", "broken")
        program.close()
    assert (record.reason, record.destination.identity) == (Reason.FOREIGN_NOT_ALLOWED, f"spiffe://{DOMAIN}/other")


async def test_a_server_of_an_unknown_domain_never_sees_our_certificate() -> None:
    other = Partner(domain="other.example")
    async with running(other.issue("spiffe://other.example/x"), state=allow(mode=Mode.PERMISSIVE)) as (pair, server):
        serving = asyncio.ensure_future(refuse_in_handshake(server))
        record = await expect_reset(pair)
        await serving
    assert record.reason is Reason.TRUST_DOMAIN_UNKNOWN
    assert "other.example" in record.detail


async def test_a_server_with_another_domains_identity_is_refused() -> None:
    other = Partner(domain="other.example")
    async with running(other.issue(BILLING), state=allow(mode=Mode.PERMISSIVE)) as (pair, server):
        pair.client.sidecar.foreign.install([PARTNER.roots, other.roots], own=pair.mint.bundle.trust_domain)
        serving = asyncio.ensure_future(server.accept())
        assert (await expect_reset(pair)).reason is Reason.PEER_UNTRUSTED
        (await serving).close()


async def test_an_ended_certificate_is_refused() -> None:
    async with running(PARTNER.issue(life_s=-5), state=allow(mode=Mode.PERMISSIVE)) as (pair, server):
        serving = asyncio.ensure_future(refuse_in_handshake(server))
        assert (await expect_reset(pair)).reason is Reason.PEER_EXPIRED
        await serving


async def test_a_member_at_an_address_that_the_directory_doesnt_list_is_refused() -> None:
    async with running_pair(echo) as pair:
        credential = pair.mint.issue(identify(SERVER, SERVER_PROGRAM))
        chain = tuple(x509.load_der_x509_certificate(der) for der in credential.chain)
        listener = socket.create_server(("127.0.0.1", 0))
        listener.settimeout(120)
        pair.destination = listener.getsockname()[:2]
        pair.client.directory.entries.clear()
        pair.client.sidecar.mtls_destination_ports = frozenset({pair.destination[1]})
        context = make_context(Svid(key=credential.key, chain=chain), pair.mint.bundle.roots)
        serving = asyncio.ensure_future(Server(listener, context).accept())
        assert (await expect_reset(pair)).reason is Reason.PEER_WORKLOAD_MISMATCH
        (await serving).close()
        listener.close()


async def test_a_destination_that_the_directory_lists_is_reached_by_its_tunnel() -> None:
    async with running_pair(echo) as pair:
        pair.client.sidecar.mtls_destination_ports = frozenset({pair.application[1]})
        reader, writer = await pair.connect()
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        writer.close()
        assert (await wait_for_record(pair)).transport is Transport.TUNNEL


async def test_a_server_that_speaks_no_tls_or_not_at_all_is_refused() -> None:
    async with running(limits=Limits(handshake_s=0.3)) as (pair, server):
        del server
        assert (await expect_reset(pair)).reason is Reason.DEADLINE_EXCEEDED  # The kernel alone has accepted.
    async with running_pair(echo) as pair:
        pair.client.directory.entries.clear()
        pair.set_state(allow())
        pair.client.sidecar.mtls_destination_ports = frozenset({pair.application[1]})
        pair.client.sidecar.foreign.install([PARTNER.roots], own=pair.mint.bundle.trust_domain)
        assert (await expect_reset(pair)).reason is Reason.HANDSHAKE_FAILED  # It echoes our ClientHello.


async def test_nobody_at_the_destination_is_said_so() -> None:
    async with running() as (pair, _):
        pair.destination = ("127.0.0.1", 1)
        pair.client.sidecar.mtls_destination_ports = frozenset({1})
        assert (await expect_reset(pair)).reason is Reason.DESTINATION_UNREACHABLE


async def test_explicit_gives_an_unapproved_program_no_certificate_to_show() -> None:
    async with running() as (pair, server):
        pair.client.attestor.program = SERVER_PROGRAM
        assert (await expect_reset(pair)).reason is Reason.PROGRAM_NOT_APPROVED
        assert server.accepted == 0


# ---- what changes while it lives ------------------------------------------------------------------------------------


async def test_a_live_connection_ends_when_its_rule_or_its_domain_goes() -> None:
    for what in ("rule", "domain"):
        async with running() as (pair, server):
            sidecar = pair.client.sidecar
            sidecar.foreign.on_change(sidecar.connections.check_peers_again)
            reader, writer = await pair.connect()
            program = await server.accept()
            await program.send(b"x")
            assert await reader.readexactly(1) == b"x"
            if what == "rule":
                pair.set_state(allow("spiffe://other.example/x"))
                sidecar.connections.decide_again()
            else:
                sidecar.foreign.install([], own=pair.mint.bundle.trust_domain)
            with pytest.raises(ConnectionResetError):
                await reader.readexactly(1)
            assert await program.receive_rest() == (b"", "broken")
            program.close()
            writer.close()
            record = await wait_for_record(pair)
        reason = Reason.FOREIGN_NOT_ALLOWED if what == "rule" else Reason.TRUST_DOMAIN_UNKNOWN
        assert (record.ending, record.reason) == (Ending.POLICY_CHANGED, reason)
