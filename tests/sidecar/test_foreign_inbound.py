"""Ports that are declared mTLS: foreign programs with real TLS of their own, and everybody who must not get in."""

from __future__ import annotations

import asyncio
import socket
import struct
import subprocess
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
from shared.model.policy.rules import Action, Mode, Peer, Rule
from shared.model.wire.messages import DirectoryEntry
from sidecar.parts import Limits
from sidecar.rooms import make_rooms
from sidecar.sockets.address import Endpoint
from tests.sidecar.little_ca import until
from tests.sidecar.pair import (
    CLIENT,
    CLIENT_PROGRAM,
    SERVER,
    SERVER_PROGRAM,
    Application,
    Pair,
    approve,
    identify,
    running_pair,
)
from tests.sidecar.partner import (
    BILLING,
    DOMAIN,
    Partner,
    Program,
    Svid,
    add_unparsable,
    make_context,
    serving_foreigners,
)
from tests.sidecar.test_outbound import count_unacknowledged, echo

PARTNER = Partner()


def allow(spiffe_id: str = BILLING, mode: Mode = Mode.EXPLICIT, *rules: Rule) -> object:
    rule = Rule(name="partner", action=Action.ALLOW, peers=(Peer(spiffe_id=spiffe_id),))
    return approve((SERVER, SERVER_PROGRAM), (CLIENT, CLIENT_PROGRAM), mode=mode, rules=(*rules, rule))


@asynccontextmanager
async def running(
    application: Application = echo, *, state: object = None, limits: Limits | None = None
) -> AsyncIterator[tuple[Pair, Endpoint]]:
    """A server whose port is mTLS, under a rule for the partner's billing; the partner's roots are known."""
    async with running_pair(application, limits=limits) as pair, serving_foreigners(pair) as endpoint:
        pair.set_state(state or allow())  # type: ignore[arg-type]  # A state, by both ways.
        pair.server.sidecar.foreign.install([PARTNER.roots], own=pair.mint.bundle.trust_domain)
        yield pair, endpoint


def context_of(pair: Pair, svid: Svid | None, **changes: object) -> SSL.Context:
    return make_context(svid, pair.mint.bundle.roots, **changes)  # type: ignore[arg-type]


async def wait_for_record(pair: Pair) -> DecisionRecord:
    await until(lambda: pair.server.records)
    return pair.server.records[0]


async def expect_refused(pair: Pair, endpoint: Endpoint, context: SSL.Context, reason: Reason) -> DecisionRecord:
    """Whatever the client does, it gets no byte, the application sees nothing, and the record says why."""
    try:
        program = await Program.dial(endpoint, context)
        try:
            await program.send(b"hello")
            assert await program.receive_rest() == (b"", "broken")
        finally:
            program.close()
    except (SSL.Error, OSError):
        pass
    record = await wait_for_record(pair)
    assert (record.answer, record.reason, record.transport) == (Answer.DENY, reason, Transport.MTLS)
    assert (record.bytes_sent, record.bytes_received, record.ending) == (0, 0, Ending.REFUSED)
    return record


# ---- who gets in ----------------------------------------------------------------------------------------------------


async def test_a_foreign_program_is_served_under_a_rule_that_names_its_spiffe_id() -> None:
    async with running() as (pair, endpoint):
        program = await Program.dial(endpoint, context_of(pair, PARTNER.issue()))
        assert program.identify_peer() == str(identify(SERVER, SERVER_PROGRAM))
        await program.send(b"hello")
        assert await program.receive(5) == b"hello"
        await program.finish()
        assert await program.receive_rest() == (b"", "end")
        program.close()
        record = await wait_for_record(pair)
    assert (record.answer, record.reason, record.rule) == (Answer.ALLOW, Reason.ALLOW_RULE, "shop/partner")
    assert (record.transport, record.ending) == (Transport.MTLS, Ending.FINISHED)
    assert (record.source.identity, record.source.workload, record.source.why) == (BILLING, "", "")
    assert record.destination.identity == str(identify(SERVER, SERVER_PROGRAM))
    assert record.process.path == "/usr/bin/it"
    assert (record.bytes_sent, record.bytes_received, record.issuer) == (5, 5, "partner issuer")


async def test_a_prefix_lets_the_whole_domain_in() -> None:
    async with running(state=allow(f"spiffe://{DOMAIN}/*")) as (pair, endpoint):
        program = await Program.dial(endpoint, context_of(pair, PARTNER.issue(f"spiffe://{DOMAIN}/a/b")))
        await program.send(b"x")
        assert await program.receive(1) == b"x"
        program.close()


async def test_explicit_refuses_a_foreign_program_that_no_rule_names() -> None:
    async with running() as (pair, endpoint):
        svid = PARTNER.issue(f"spiffe://{DOMAIN}/billing2")
        record = await expect_refused(pair, endpoint, context_of(pair, svid), Reason.FOREIGN_NOT_ALLOWED)
    assert record.source.identity == f"spiffe://{DOMAIN}/billing2"


async def test_permissive_lets_it_flow_and_marks_it() -> None:
    async with running(state=allow("spiffe://other.example/x", Mode.PERMISSIVE)) as (pair, endpoint):
        program = await Program.dial(endpoint, context_of(pair, PARTNER.issue()))
        await program.send(b"x")
        assert await program.receive(1) == b"x"
        program.close()
        record = await wait_for_record(pair)
    assert (record.answer, record.would_deny, record.reason) == (Answer.ALLOW, True, Reason.FOREIGN_NOT_ALLOWED)


async def test_a_member_of_our_own_mesh_is_who_it_is_this_way_too() -> None:
    async with running() as (pair, endpoint):
        credential = pair.mint.issue(identify(CLIENT, CLIENT_PROGRAM))
        chain = tuple(x509.load_der_x509_certificate(der) for der in credential.chain)
        program = await Program.dial(endpoint, context_of(pair, Svid(key=credential.key, chain=chain)))
        await program.send(b"x")
        assert await program.receive(1) == b"x"
        program.close()
        record = await wait_for_record(pair)
    assert (record.reason, record.source.workload) == (Reason.SAME_GROUP, "shop/web")
    assert record.transport is Transport.MTLS


@pytest.mark.parametrize(("offered", "chosen"), [((b"h2",), b"h2"), ((b"h2", b"http/1.1"), b""), ((), b"")])
async def test_one_offered_protocol_is_confirmed_and_of_several_none_is_chosen(
    offered: tuple[bytes, ...], chosen: bytes
) -> None:
    async with running() as (pair, endpoint):
        program = await Program.dial(endpoint, context_of(pair, PARTNER.issue(), alpn=offered))
        assert program.tls.get_alpn_proto_negotiated() == chosen
        program.close()


async def test_openssl_reaches_the_program(tmp_path: Path) -> None:
    chain, key = PARTNER.issue().write(tmp_path)
    async with running() as (pair, endpoint):
        roots = tmp_path / "roots.pem"
        roots.write_text(
            "".join(
                x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode()
                for der in pair.mint.bundle.roots
            )
        )
        done = await asyncio.to_thread(
            subprocess.run,
            [
                "openssl", "s_client", "-connect", f"{endpoint[0]}:{endpoint[1]}", "-tls1_3", "-quiet", "-no_ign_eof",
                "-cert", str(chain), "-cert_chain", str(chain), "-key", str(key), "-CAfile", str(roots),
                "-verify_return_error",
            ],
            input=b"hello\n",
            capture_output=True,
            timeout=60,
        )  # fmt: skip
        record = await wait_for_record(pair)
    assert record.source.identity == BILLING, done.stderr
    assert record.answer is Answer.ALLOW


async def _read_until(stream: asyncio.StreamReader, wanted: bytes) -> None:
    async with asyncio.timeout(120):
        while wanted.strip() not in await stream.readline():
            assert not stream.at_eof()


async def test_a_peer_may_renew_its_keys_in_the_middle(tmp_path: Path) -> None:
    """RFC 8446, section 4.6.3: the answer to its KeyUpdate goes out between our records."""
    chain, key = PARTNER.issue().write(tmp_path)
    async with running() as (pair, endpoint):
        command = [
            "openssl", "s_client", "-connect", f"{endpoint[0]}:{endpoint[1]}", "-tls1_3",
            "-cert", str(chain), "-cert_chain", str(chain), "-key", str(key),
        ]  # fmt: skip
        pipe = asyncio.subprocess.PIPE
        client = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
        assert client.stdin is not None
        assert client.stdout is not None
        assert client.stderr is not None
        try:
            # A line that begins with K renews both keys (s_client(1), connected commands).
            for text in (b"before the renewal\n", b"K\n", b"after the renewal\n", b"K\n", b"at last\n"):
                client.stdin.write(text)
                await client.stdin.drain()
                is_command = text == b"K\n"
                await _read_until(client.stderr if is_command else client.stdout, b"KEYUPDATE" if is_command else text)
        finally:
            client.kill()
            await client.communicate()
        record = await wait_for_record(pair)
    assert record.bytes_sent == len("before the renewal\nafter the renewal\nat last\n")


async def test_a_peer_that_asks_for_short_records_gets_every_byte(tmp_path: Path) -> None:
    """RFC 6066, section 4: OpenSSL then writes 512 bytes a call, and says so."""
    chain, key = PARTNER.issue().write(tmp_path)
    payload = b"0123456789abcde\n" * 10_000
    async with running() as (_, endpoint):
        command = [
            "openssl", "s_client", "-connect", f"{endpoint[0]}:{endpoint[1]}", "-tls1_3", "-quiet",
            "-maxfraglen", "512", "-cert", str(chain), "-cert_chain", str(chain), "-key", str(key),
        ]  # fmt: skip
        pipe = asyncio.subprocess.PIPE
        client = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
        assert client.stdin is not None
        assert client.stdout is not None
        try:
            client.stdin.write(payload)
            async with asyncio.timeout(120):
                assert await client.stdout.readexactly(len(payload)) == payload
        finally:
            client.kill()
            await client.communicate()


# ---- who doesn't ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [Mode.EXPLICIT, Mode.PERMISSIVE])
async def test_plaintext_is_refused_in_both_modes(mode: Mode) -> None:
    async with running(state=allow(mode=mode)) as (pair, endpoint):
        reader, writer = await asyncio.open_connection(*endpoint)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        writer.close()
        record = await wait_for_record(pair)
    assert (record.answer, record.reason, record.mode) == (Answer.DENY, Reason.MTLS_REQUIRED, mode)
    assert record.source.why == Reason.PEER_UNIDENTIFIED


async def test_a_client_without_a_certificate_is_refused() -> None:
    async with running(state=allow(mode=Mode.PERMISSIVE)) as (pair, endpoint):
        await expect_refused(pair, endpoint, context_of(pair, None), Reason.MTLS_REQUIRED)


async def test_a_client_that_knows_no_tls_1_3_is_refused() -> None:
    async with running() as (pair, endpoint):
        old = context_of(pair, PARTNER.issue(), version=SSL.TLS1_2_VERSION)
        await expect_refused(pair, endpoint, old, Reason.MTLS_REQUIRED)


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02"])
async def test_a_silent_client_is_ended_by_a_deadline(sent: bytes) -> None:
    async with running(limits=Limits(client_hello_s=0.05)) as (pair, endpoint):
        reader, writer = await asyncio.open_connection(*endpoint)
        writer.write(sent)
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        writer.close()
        assert (await wait_for_record(pair)).reason is Reason.DEADLINE_EXCEEDED


async def test_a_client_that_falls_silent_inside_its_handshake_is_ended_by_a_deadline() -> None:
    async with running(limits=Limits(handshake_s=0.2)) as (pair, endpoint):
        tls = SSL.Connection(context_of(pair, PARTNER.issue()))  # In memory: its first flight only.
        tls.set_connect_state()
        with pytest.raises(SSL.WantReadError):
            tls.do_handshake()
        reader, writer = await asyncio.open_connection(*endpoint)
        writer.write(tls.bio_read(65536))
        await until(lambda: pair.server.records)
        writer.close()
        assert pair.server.records[0].reason is Reason.DEADLINE_EXCEEDED
        del reader


async def test_a_trust_domain_whose_roots_nobody_knows_is_refused_by_name() -> None:
    other = Partner(domain="other.example")
    async with running(state=allow("spiffe://other.example/*", Mode.PERMISSIVE)) as (pair, endpoint):
        svid = other.issue("spiffe://other.example/x")
        record = await expect_refused(pair, endpoint, context_of(pair, svid), Reason.TRUST_DOMAIN_UNKNOWN)
    assert "other.example" in record.detail


@pytest.mark.parametrize("with_issuer", [True, False])
async def test_no_domains_root_vouches_for_another_domain(with_issuer: bool) -> None:
    """Two known domains; the second one's CA signs an identity of the first, or of our own."""
    other = Partner(domain="other.example")
    async with running(state=allow(mode=Mode.PERMISSIVE)) as (pair, endpoint):
        own = pair.mint.bundle.trust_domain
        pair.server.sidecar.foreign.install([PARTNER.roots, other.roots], own=own)
        for uri in (BILLING, str(identify(CLIENT, CLIENT_PROGRAM))):
            svid = other.issue(uri, with_issuer=with_issuer)
            await expect_refused(pair, endpoint, context_of(pair, svid), Reason.PEER_UNTRUSTED)
            pair.server.records.clear()


async def test_our_own_root_vouches_for_no_foreign_domain() -> None:
    async with running(state=allow(mode=Mode.PERMISSIVE)) as (pair, endpoint):
        ours = Partner(root=pair.mint.root)
        ours.issuer = pair.mint.issuer
        await expect_refused(pair, endpoint, context_of(pair, ours.issue(BILLING)), Reason.PEER_UNTRUSTED)


async def test_an_ended_certificate_is_refused() -> None:
    async with running(state=allow(mode=Mode.PERMISSIVE)) as (pair, endpoint):
        svid = PARTNER.issue(life_s=-5)
        await expect_refused(pair, endpoint, context_of(pair, svid), Reason.PEER_EXPIRED)


async def test_a_certificate_that_is_no_svid_is_refused() -> None:
    async with running(state=allow(mode=Mode.PERMISSIVE)) as (pair, endpoint):
        svid = PARTNER.issue("https://partner.example/billing")
        await expect_refused(pair, endpoint, context_of(pair, svid), Reason.PEER_UNTRUSTED)


async def test_a_chain_that_cant_be_read_whole_is_refused() -> None:
    async with running(state=allow(mode=Mode.PERMISSIVE)) as (pair, endpoint):
        svid = PARTNER.issue()
        context = context_of(pair, svid)
        add_unparsable(context, svid.chain[0])
        record = await expect_refused(pair, endpoint, context, Reason.PEER_UNTRUSTED)
    assert "can't be read" in record.detail


async def test_a_member_that_shows_a_foreign_certificate_is_still_denied_by_its_listed_workload() -> None:
    deny = Rule(name="not-the-bank", action=Action.DENY, peers=(Peer(namespace="bank"),))
    async with running(state=allow(BILLING, Mode.EXPLICIT, deny)) as (pair, endpoint):
        pair.set_state(approve(namespace="bank"))
        pair.server.directory.entries["127.0.0.1"] = DirectoryEntry(
            address="127.0.0.1", namespace="bank", service_account="teller", tunnel_port=1
        )
        record = await expect_refused(pair, endpoint, context_of(pair, PARTNER.issue()), Reason.DENY_RULE)
    assert (record.rule, record.source.listed) == ("shop/not-the-bank", "bank/teller")


async def test_a_listener_that_changes_during_the_handshake_is_not_served() -> None:
    async with running() as (pair, endpoint):

        def change(*_: object) -> bool:
            pair.server.attestor.program = CLIENT_PROGRAM
            return True

        context = context_of(pair, PARTNER.issue())
        context.set_verify(SSL.VERIFY_PEER, change)
        await expect_refused(pair, endpoint, context, Reason.PROCESS_VANISHED)


async def test_an_application_that_doesnt_listen_is_said_so() -> None:
    async with running() as (pair, endpoint):
        pair.application = ("127.0.0.1", 1)
        record = await expect_refused(pair, endpoint, context_of(pair, PARTNER.issue()), Reason.APPLICATION_UNREACHABLE)
    assert "127.0.0.1:1" in record.detail


async def test_a_full_sidecar_refuses() -> None:
    async with running() as (pair, endpoint):
        pair.server.sidecar.rooms = make_rooms(0)
        await expect_refused(pair, endpoint, context_of(pair, PARTNER.issue()), Reason.OVERLOADED)


# ---- what changes while it lives ------------------------------------------------------------------------------------


@asynccontextmanager
async def live(pair: Pair, endpoint: Endpoint) -> AsyncIterator[Program]:
    program = await Program.dial(endpoint, context_of(pair, PARTNER.issue()))
    await program.send(b"x")
    assert await program.receive(1) == b"x"
    try:
        yield program
    finally:
        program.close()


async def test_a_live_connection_ends_when_its_rule_goes() -> None:
    async with running() as (pair, endpoint), live(pair, endpoint) as program:
        pair.set_state(allow("spiffe://other.example/x"))  # type: ignore[arg-type]
        pair.server.sidecar.connections.decide_again()
        assert await program.receive_rest() == (b"", "broken")
        record = await wait_for_record(pair)
    assert (record.ending, record.reason) == (Ending.POLICY_CHANGED, Reason.FOREIGN_NOT_ALLOWED)


async def test_a_live_connection_ends_when_its_domains_roots_go_and_stays_when_others_do() -> None:
    other = Partner(domain="other.example")
    async with running() as (pair, endpoint), live(pair, endpoint) as program:
        foreign, own = pair.server.sidecar.foreign, pair.mint.bundle.trust_domain
        foreign.on_change(pair.server.sidecar.connections.check_peers_again)
        foreign.install([PARTNER.roots, other.roots], own=own)
        more = msgspec.structs.replace(PARTNER.roots, roots=(*PARTNER.roots.roots, other.root.der))
        foreign.install([more], own=own)
        await program.send(b"y")
        assert await program.receive(1) == b"y"
        foreign.install([msgspec.structs.replace(PARTNER.roots, roots=(other.root.der,))], own=own)
        assert await program.receive_rest() == (b"", "broken")
        record = await wait_for_record(pair)
    assert (record.ending, record.reason) == (Ending.POLICY_CHANGED, Reason.PEER_UNTRUSTED)


async def test_a_live_connection_ends_when_its_domain_is_forgotten() -> None:
    async with running() as (pair, endpoint), live(pair, endpoint) as program:
        pair.server.sidecar.foreign.on_change(pair.server.sidecar.connections.check_peers_again)
        pair.server.sidecar.foreign.install([], own=pair.mint.bundle.trust_domain)
        assert await program.receive_rest() == (b"", "broken")
        assert (await wait_for_record(pair)).reason is Reason.TRUST_DOMAIN_UNKNOWN


async def test_a_live_connection_is_described_by_its_spiffe_id() -> None:
    async with running() as (pair, endpoint), live(pair, endpoint):
        described, _ = pair.server.sidecar.connections.describe(10)  # It has answered, so it is there.
        assert [(each.source_workload, each.transport) for each in described] == [(BILLING, "mtls")]


# ---- streams --------------------------------------------------------------------------------------------------------


async def test_a_server_that_speaks_first_waits_for_nobody() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 welcome\r\n")
        await reader.read()
        writer.close()

    async with running(greet) as (pair, endpoint):
        program = await Program.dial(endpoint, context_of(pair, PARTNER.issue()))
        assert await program.receive(13) == b"220 welcome\r\n"
        program.close()


async def test_the_servers_half_close_arrives_and_the_client_still_speaks() -> None:
    heard = asyncio.get_running_loop().create_future()

    async def end_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"bye")
        writer.write_eof()
        heard.set_result(await reader.read())
        writer.close()

    async with running(end_first) as (pair, endpoint):
        program = await Program.dial(endpoint, context_of(pair, PARTNER.issue()))
        assert await program.receive_rest() == (b"bye", "end")
        await program.send(b"last words")
        await program.finish()
        assert await heard == b"last words"
        program.close()
        assert (await wait_for_record(pair)).ending is Ending.FINISHED


async def test_bulk_flows_both_ways_with_back_pressure_and_the_answer_comes_after_the_end() -> None:
    size, received = 8 * 1024 * 1024, asyncio.Event()

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await received.wait()  # Until then the client is slowed down by full buffers.
        data = await reader.read(-1)
        writer.write(data)
        await writer.drain()
        writer.close()

    async with running(count) as (pair, endpoint):
        program = await Program.dial(endpoint, context_of(pair, PARTNER.issue()))
        payload = b"0123456789abcdef" * (size // 16)
        sending = asyncio.ensure_future(program.send(payload))
        connections = pair.server.sidecar.connections  # Registered once the client's certificate has held.
        await until(lambda: any(each.bytes_sent > 100_000 for each in connections.describe(1)[0]))
        received.set()
        await sending
        await program.finish()
        data, ending = await program.receive_rest()
        assert (data == payload, ending) == (True, "end")
        program.close()
        record = await wait_for_record(pair)
    assert (record.bytes_sent, record.bytes_received, record.ending) == (size, size, Ending.FINISHED)


async def test_a_client_that_is_cut_off_never_looks_like_a_clean_end() -> None:
    ended = asyncio.get_running_loop().create_future()

    async def watch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readexactly(5)
            ended.set_result(await reader.read())
        except ConnectionError as error:
            ended.set_exception(error)
        writer.close()

    async with running(watch) as (pair, endpoint):
        program = await Program.dial(endpoint, context_of(pair, PARTNER.issue()))
        await program.send(b"hello")
        program.plain.shutdown(socket.SHUT_WR)  # TCP ends without close_notify.
        with pytest.raises(ConnectionResetError):
            await ended
        program.close()
        record = await wait_for_record(pair)
    assert (record.ending, record.answer) == (Ending.PEER_LOST, Answer.ALLOW)
    assert "eof" in record.detail.lower()


@pytest.mark.parametrize("size", [3, 4 * 1024 * 1024])
async def test_a_reset_after_a_finished_answer_loses_none_of_it(size: int) -> None:
    async def answer_and_break(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        connection = writer.get_extra_info("socket")
        writer.write(b"y" * size)
        await writer.drain()
        await until(lambda: not writer.transport.get_write_buffer_size())
        await until(lambda: count_unacknowledged(connection) == 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async with running(answer_and_break) as (pair, endpoint):
        program = await Program.dial(endpoint, context_of(pair, PARTNER.issue()))
        await program.send(b"x")
        data, ending = await program.receive_rest()
        assert (len(data), ending) == (size, "broken")
        program.close()
        assert (await wait_for_record(pair)).ending is Ending.RESET_BY_DESTINATION


async def test_the_sidecars_end_resets_live_connections() -> None:
    async with running() as (pair, endpoint), live(pair, endpoint) as program:
        pair.server.sidecar.connections.close_all()
        assert await program.receive_rest() == (b"", "broken")
        assert (await wait_for_record(pair)).ending is Ending.SHUTDOWN
