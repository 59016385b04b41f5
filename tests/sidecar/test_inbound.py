"""The inbound story against peers that misbehave: every certificate, frame and handshake that must be refused."""

from __future__ import annotations

import asyncio
import datetime
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from shared.model.policy.decision import Answer, Ending, Transport
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Action, Mode, Peer, Requirement, Rule
from shared.model.wire.messages import DirectoryEntry
from sidecar.capture.captured import Captured
from sidecar.credential.credential import Credential
from sidecar.inbound import carry_plaintext
from sidecar.parts import Limits
from sidecar.rooms import make_rooms
from sidecar.tls.contexts import make_context
from sidecar.tls.handshake_gate import HandshakeGate
from sidecar.tls.role import Role
from sidecar.tunnel.frames import HEADER, FrameType, Opening, encode_frame, encode_opening
from tests.free_ports import free_port
from tests.sidecar.little_ca import make_authority, until
from tests.sidecar.pair import (
    CLIENT,
    CLIENT_PROGRAM,
    SERVER,
    SERVER_PROGRAM,
    Mint,
    Pair,
    approve,
    identify,
    running_pair,
)
from tests.sidecar.partner import add_unparsable
from tests.sidecar.test_outbound import echo

CONNECTION_ID = "0123456789abcdef"


class RawPeer:
    """A client of the tunnel that writes whatever bytes it likes; blocking, in a worker thread."""

    def __init__(self, pair: Pair, credential: Credential | None, *, context: SSL.Context | None = None) -> None:
        self._pair = pair
        self._context = context or make_context(credential or _missing(), pair.mint.bundle, Role.INITIATOR)
        self.tls: SSL.Connection | None = None

    async def shake(self, *, port: int = 0) -> None:
        await asyncio.to_thread(self._shake, port or self._pair.application[1])

    def _shake(self, port: int) -> None:
        plain = socket.create_connection(self._pair.tunnel, timeout=60)
        plain.setblocking(True)
        self.tls = SSL.Connection(self._context, plain)
        self.plain = plain
        self.tls.set_tlsext_host_name(b"p%d" % port)
        self.tls.set_connect_state()
        self.tls.do_handshake()

    async def send(self, data: bytes) -> None:
        assert self.tls is not None
        await asyncio.to_thread(self.tls.sendall, data)

    async def receive(self) -> tuple[int, int, bytes]:
        """One frame: type, epoch, payload. An SSL error when the tunnel ended."""
        return await asyncio.to_thread(self._receive)

    def _receive(self) -> tuple[int, int, bytes]:
        kind, epoch, length = HEADER.unpack(self._exactly(HEADER.size))
        return kind, epoch, self._exactly(length)

    def _exactly(self, count: int) -> bytes:
        assert self.tls is not None
        data = b""
        while len(data) < count:
            data += self.tls.recv(count - len(data))
        return data

    def close(self) -> None:
        if self.tls is not None:
            self.plain.close()


def _missing() -> Credential:
    raise AssertionError("a peer without credential needs a context")


@asynccontextmanager
async def raw_peer(pair: Pair, credential: Credential | None = None) -> AsyncIterator[RawPeer]:
    peer = RawPeer(pair, credential or pair.mint.issue(identify(CLIENT, CLIENT_PROGRAM)))
    try:
        await peer.shake()
        yield peer
    finally:
        peer.close()


def opening(pair: Pair, **changes: object) -> bytes:
    base = Opening(connection=CONNECTION_ID, destination=pair.application, source=("198.18.0.9", 40000))
    return encode_opening(msgspec.structs.replace(base, **changes))


async def expect_end(peer: RawPeer) -> None:
    """The tunnel ends; nothing but RESET or CLOSING comes before."""
    with pytest.raises(SSL.Error):
        while True:
            assert (await peer.receive())[0] in (FrameType.RESET, FrameType.CLOSING, FrameType.ACCEPT)


async def expect_refused_handshake(pair: Pair, peer: RawPeer, *reasons: Reason) -> None:
    """The server's side ends the connection and records why."""
    try:
        with pytest.raises((SSL.Error, OSError)):
            await peer.shake()
            await peer.send(encode_frame(FrameType.OPEN, 1, opening(pair)))
            await peer.receive()
    finally:
        peer.close()
    await until(lambda: pair.server.records)
    assert pair.server.records[0].answer is Answer.DENY
    assert pair.server.records[0].reason in reasons


async def test_a_well_behaved_raw_peer_is_served() -> None:
    async with running_pair(echo) as pair, raw_peer(pair) as peer:
        await peer.send(encode_frame(FrameType.OPEN, 1, opening(pair)))
        assert await peer.receive() == (FrameType.ACCEPT, 1, b"")
        await peer.send(encode_frame(FrameType.DATA, 1, b"hi"))
        assert await peer.receive() == (FrameType.DATA, 1, b"hi")
        await peer.send(encode_frame(FrameType.END, 1))
        assert await peer.receive() == (FrameType.END, 1, b"")
        await until(lambda: pair.server.records)
        assert pair.server.records[0].connection == CONNECTION_ID
        assert pair.server.records[0].ending is Ending.FINISHED


def list_another_workload(pair: Pair) -> None:
    """The directory lists another workload than the client's at the client's address."""
    pair.server.directory.entries["127.0.0.1"] = DirectoryEntry(
        address="127.0.0.1", namespace="bank", service_account="teller", tunnel_port=1
    )


async def test_a_certificate_from_another_workloads_address_is_recorded() -> None:
    async with running_pair(echo) as pair, raw_peer(pair) as peer:
        list_another_workload(pair)
        await peer.send(encode_frame(FrameType.OPEN, 1, opening(pair)) + encode_frame(FrameType.END, 1))
        assert await peer.receive() == (FrameType.ACCEPT, 1, b"")
        await until(lambda: pair.server.records)
        record = pair.server.records[0]
        assert (record.answer, record.source.workload, record.source.listed) == (
            Answer.ALLOW,
            "shop/web",
            "bank/teller",
        )
        assert record.detail.startswith("the directory lists bank/teller at 127.0.0.1. ")
        assert pair.server.directory.asked_ahead == ["127.0.0.1"], "who is there is asked without waiting"


@pytest.mark.parametrize("mode", [*Mode])
async def test_a_certificate_from_another_workloads_address_is_refused_where_that_is_required(mode: Mode) -> None:
    async with running_pair(echo) as pair, raw_peer(pair) as peer:
        approved = ((SERVER, SERVER_PROGRAM), (CLIENT, CLIENT_PROGRAM))
        pair.set_state(approve(*approved, mode=mode, requires=(Requirement.MATCHING_ADDRESS,)))
        await peer.send(encode_frame(FrameType.OPEN, 1, opening(pair)) + encode_frame(FrameType.END, 1))
        assert (await peer.receive())[0] == FrameType.ACCEPT, "nobody is listed there"
        while (await peer.receive())[0] != FrameType.END:
            pass
        list_another_workload(pair)
        await peer.send(encode_frame(FrameType.OPEN, 2, opening(pair)))
        assert await peer.receive() == (FrameType.REFUSE, 2, Reason.PEER_WORKLOAD_MISMATCH.value.encode())
        await peer.send(encode_frame(FrameType.END, 2))
        await until(lambda: len(pair.server.records) == 2)
        assert pair.server.records[1].source.listed == "bank/teller"


async def test_a_members_chain_that_cant_be_read_whole_is_refused() -> None:
    async with running_pair(echo) as pair:
        credential = pair.mint.issue(identify(CLIENT, CLIENT_PROGRAM))
        context = make_context(credential, pair.mint.bundle, Role.INITIATOR)
        add_unparsable(context, x509.load_der_x509_certificate(credential.chain[0]))
        await expect_refused_handshake(pair, RawPeer(pair, None, context=context), Reason.PEER_UNTRUSTED)


@pytest.mark.parametrize("kind", ["address", "port", "sidecar"])
async def test_an_open_to_elsewhere_is_refused(kind: str) -> None:
    async with running_pair(echo) as pair, raw_peer(pair) as peer:
        elsewhere = {
            "address": ("127.0.0.9", pair.application[1]),
            "port": ("127.0.0.1", pair.application[1] ^ 1),
            "sidecar": pair.tunnel,
        }[kind]
        await peer.send(encode_frame(FrameType.OPEN, 1, opening(pair, destination=elsewhere)))
        assert await peer.receive() == (FrameType.REFUSE, 1, Reason.DESTINATION_NOT_SERVED.value.encode())
        await peer.send(encode_frame(FrameType.END, 1))
        await until(lambda: pair.server.records)
        assert pair.server.records[0].reason is Reason.DESTINATION_NOT_SERVED


async def test_a_tunnel_whose_server_name_is_the_sidecars_own_port_serves_nothing() -> None:
    async with running_pair(echo) as pair:
        peer = RawPeer(pair, pair.mint.issue(identify(CLIENT, CLIENT_PROGRAM)))
        await peer.shake(port=pair.tunnel[1])
        await peer.send(encode_frame(FrameType.OPEN, 1, opening(pair, destination=pair.tunnel)))
        assert (await peer.receive())[2] == Reason.DESTINATION_NOT_SERVED.value.encode()
        peer.close()
        await until(lambda: pair.server.records)


async def test_data_behind_a_refusal_is_discarded_and_the_tunnel_goes_on() -> None:
    async with running_pair(echo) as pair, raw_peer(pair) as peer:
        await peer.send(encode_frame(FrameType.OPEN, 1, opening(pair, destination=("127.0.0.1", 9))))
        for _ in range(4):
            await peer.send(encode_frame(FrameType.DATA, 1, b"secret" * 1000))
        assert (await peer.receive())[0] == FrameType.REFUSE
        await peer.send(encode_frame(FrameType.END, 1))
        await peer.send(encode_frame(FrameType.OPEN, 2, opening(pair)))
        assert await peer.receive() == (FrameType.ACCEPT, 2, b"")
        await peer.send(encode_frame(FrameType.DATA, 2, b"x"))
        assert await peer.receive() == (FrameType.DATA, 2, b"x")


async def test_64_kib_may_come_before_accept_and_arrive() -> None:
    async with running_pair(echo) as pair, raw_peer(pair) as peer:
        frames = encode_frame(FrameType.OPEN, 1, opening(pair))
        frames += encode_frame(FrameType.DATA, 1, b"e" * 16_000) * 4
        await peer.send(frames + encode_frame(FrameType.END, 1))
        received = b""
        while (frame := await peer.receive())[0] != FrameType.END:
            received += frame[2]
        assert received == b"e" * 64_000


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(encode_frame(FrameType.DATA, 2, b"x"), id="another epoch"),
        pytest.param(encode_frame(FrameType.OPEN, 3, b"x"), id="a skipped epoch"),
        pytest.param(encode_frame(FrameType.ACCEPT, 1), id="the responder's frame"),
        pytest.param(encode_frame(FrameType.CLOSING, 1), id="CLOSING from an initiator"),
        pytest.param(HEADER.pack(99, 1, 0), id="an unknown type"),
        pytest.param(HEADER.pack(FrameType.DATA, 1, 16_381) + b"x" * 16_381, id="oversized"),
        pytest.param(HEADER.pack(FrameType.DATA, 1, 0), id="empty data"),
        pytest.param(encode_frame(FrameType.END, 1) + encode_frame(FrameType.DATA, 1, b"x"), id="data after END"),
    ],
)
async def test_a_broken_frame_ends_the_tunnel_in_a_turn(bad: bytes) -> None:
    release = asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.close()

    async with running_pair(hold) as pair, raw_peer(pair) as peer:
        await peer.send(encode_frame(FrameType.OPEN, 1, opening(pair)))
        assert (await peer.receive())[0] == FrameType.ACCEPT
        await peer.send(bad)
        await expect_end(peer)
        await until(lambda: pair.server.records)
        release.set()
        assert pair.server.records[0].ending is Ending.PEER_LOST


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(encode_frame(FrameType.DATA, 0, b"x"), id="data without a turn"),
        pytest.param(encode_frame(FrameType.OPEN, 1, b"\0" * 9), id="a truncated OPEN"),
        pytest.param(HEADER.pack(FrameType.OPEN, 1, 500) + b"x" * 500, id="an oversized OPEN"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="no frames at all"),
    ],
)
async def test_a_broken_beginning_ends_the_tunnel(bad: bytes) -> None:
    async with running_pair(echo) as pair, raw_peer(pair) as peer:
        await peer.send(bad)
        await expect_end(peer)
        assert len(pair.server.sidecar.connections) == 0


async def test_a_frame_cut_by_the_connections_end_is_a_lost_peer() -> None:
    async with running_pair(echo) as pair:
        async with raw_peer(pair) as peer:
            await peer.send(encode_frame(FrameType.OPEN, 1, opening(pair)))
            assert (await peer.receive())[0] == FrameType.ACCEPT
            await peer.send(HEADER.pack(FrameType.DATA, 1, 100) + b"only a part")
        await until(lambda: pair.server.records)
        assert pair.server.records[0].ending is Ending.PEER_LOST
        assert pair.server.records[0].bytes_received == 0


async def test_tls_1_2_is_refused() -> None:
    async with running_pair(echo) as pair:
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
        await expect_refused_handshake(pair, RawPeer(pair, None, context=context), Reason.HANDSHAKE_FAILED)


@pytest.mark.parametrize("protocols", [[b"h2"], None])
async def test_another_alpn_or_none_is_refused(protocols: list[bytes] | None) -> None:
    async with running_pair(echo) as pair:
        credential = pair.mint.issue(identify(CLIENT, CLIENT_PROGRAM))
        if protocols is None:
            context = SSL.Context(SSL.TLS_METHOD)
            leaf, issuer = (x509.load_der_x509_certificate(der) for der in credential.chain)
            context.use_certificate(leaf)
            context.add_extra_chain_cert(issuer)
            context.use_privatekey(credential.key)
        else:
            context = make_context(credential, pair.mint.bundle, Role.INITIATOR)
            context.set_alpn_protos(protocols)
        await expect_refused_handshake(pair, RawPeer(pair, None, context=context), Reason.HANDSHAKE_FAILED)


async def test_no_client_certificate_is_refused() -> None:
    async with running_pair(echo) as pair:
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_alpn_protos([b"touchmark/1"])
        await expect_refused_handshake(pair, RawPeer(pair, None, context=context), Reason.HANDSHAKE_FAILED)


async def test_an_expired_certificate_is_refused() -> None:
    async with running_pair(echo) as pair:
        credential = pair.mint.issue(identify(CLIENT, CLIENT_PROGRAM), life_s=-10)
        await expect_refused_handshake(pair, RawPeer(pair, credential), Reason.PEER_EXPIRED)


async def test_a_foreign_certificate_is_refused() -> None:
    async with running_pair(echo) as pair:
        credential = Mint().issue(identify(CLIENT, CLIENT_PROGRAM))
        await expect_refused_handshake(pair, RawPeer(pair, credential), Reason.PEER_UNTRUSTED)


async def test_a_self_signed_certificate_is_refused() -> None:
    async with running_pair(echo) as pair:
        good = pair.mint.issue(identify(CLIENT, CLIENT_PROGRAM))
        now = datetime.datetime.now(tz=datetime.UTC)
        name = x509.Name([])
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "self")]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(good.identity))]), critical=True
            )
            .sign(key, hashes.SHA256())
        )
        credential = replace(good, chain=(leaf.public_bytes(Encoding.DER),), key=key, generation=10**9)
        await expect_refused_handshake(pair, RawPeer(pair, credential), Reason.PEER_UNTRUSTED)


async def test_a_certificate_of_an_issuer_that_left_the_bundle_is_refused() -> None:
    async with running_pair(echo) as pair:
        stranger = Mint(root=pair.mint.root)
        credential = stranger.issue(identify(CLIENT, CLIENT_PROGRAM))
        await expect_refused_handshake(pair, RawPeer(pair, credential), Reason.PEER_UNTRUSTED)


async def test_a_reused_tunnel_is_checked_against_the_bundle_of_now() -> None:
    async with running_pair(echo) as pair, raw_peer(pair) as peer:
        other = make_authority("next", pair.mint.root)
        bundle = pair.mint.bundle
        pair.server.trust.install(
            type(bundle)(trust_domain=bundle.trust_domain, sequence=2, roots=bundle.roots, issuers=(other.der,))
        )
        await peer.send(encode_frame(FrameType.OPEN, 1, opening(pair)))
        assert await peer.receive() == (FrameType.REFUSE, 1, Reason.PEER_UNTRUSTED.value.encode())


async def test_a_silent_peer_is_closed() -> None:
    async with running_pair(echo, limits=Limits(client_hello_s=0.2)) as pair:
        reader, writer = await asyncio.open_connection(*pair.tunnel)
        assert await reader.read() == b""
        writer.close()
        await until(lambda: pair.server.records)
        assert [r.reason for r in pair.server.records] == [Reason.DEADLINE_EXCEEDED]


async def test_a_plain_peer_is_closed() -> None:
    async with running_pair(echo) as pair:
        reader, writer = await asyncio.open_connection(*pair.tunnel)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            if await reader.read() == b"":
                raise ConnectionResetError
        writer.close()
        await until(lambda: pair.server.records)
        assert [r.reason for r in pair.server.records] == [Reason.HANDSHAKE_FAILED]


async def test_a_handshake_that_stops_half_way_is_closed() -> None:
    async with running_pair(echo, limits=Limits(client_hello_s=60, handshake_s=8)) as pair:
        context = make_context(pair.mint.issue(identify(CLIENT, CLIENT_PROGRAM)), pair.mint.bundle, Role.INITIATOR)
        half = SSL.Connection(context, None)
        half.set_tlsext_host_name(b"p%d" % pair.application[1])
        half.set_connect_state()
        with pytest.raises(SSL.WantReadError):
            half.do_handshake()
        reader, writer = await asyncio.open_connection(*pair.tunnel)
        hello = half.bio_read(65536)
        writer.write(hello[:700])  # In two pieces: the peek waits for the second one.
        await asyncio.sleep(0.05)
        writer.write(hello[700:])
        assert len(await reader.read()) > 100
        writer.close()
        await until(lambda: pair.server.records)
        assert pair.server.records[0].reason is Reason.DEADLINE_EXCEEDED


async def test_both_sides_decide_the_server_refuses_what_the_client_lets_through() -> None:
    async with running_pair(echo) as pair, raw_peer(pair) as peer:
        pair.set_state(approve((SERVER, SERVER_PROGRAM), mode=Mode.EXPLICIT))
        await peer.send(encode_frame(FrameType.OPEN, 1, opening(pair)))
        assert await peer.receive() == (FrameType.REFUSE, 1, Reason.PROGRAM_NOT_APPROVED.value.encode())
        await peer.send(encode_frame(FrameType.END, 1))


async def test_an_application_that_refuses_is_a_refusal_with_its_reason() -> None:
    async with running_pair(echo) as pair:
        free = free_port()
        peer = RawPeer(pair, pair.mint.issue(identify(CLIENT, CLIENT_PROGRAM)))
        await peer.shake(port=free)
        await peer.send(encode_frame(FrameType.OPEN, 1, opening(pair, destination=("127.0.0.1", free))))
        assert (await peer.receive())[2] == Reason.APPLICATION_UNREACHABLE.value.encode()
        peer.close()
        await until(lambda: pair.server.records)


async def test_a_plain_connection_from_outside_needs_a_rule_in_explicit_mode() -> None:
    async with running_pair(echo) as pair:

        async def ask() -> bytes:
            inside, outside = socket.socketpair()
            inside.setblocking(False)
            captured = Captured(
                connection=inside,
                source=("203.0.113.7", 1234),
                destination=pair.application,
                app_destination=pair.application,
            )
            pair.spawn(carry_plaintext(pair.server.sidecar, captured, pair.application))
            reader, writer = await asyncio.open_connection(sock=outside)
            try:
                writer.write(b"hi")
                writer.write_eof()
                return await reader.read()
            except OSError:
                return b""
            finally:
                writer.close()

        assert await ask() == b"hi"
        pair.set_state(approve((SERVER, SERVER_PROGRAM), mode=Mode.EXPLICIT))
        assert await ask() == b""
        outside_rule = Rule(
            name="outside", action=Action.ALLOW, peers=(Peer(unidentified=True, cidrs=("203.0.113.0/24",)),)
        )
        pair.set_state(approve((SERVER, SERVER_PROGRAM), mode=Mode.EXPLICIT, rules=(outside_rule,)))
        assert await ask() == b"hi"
        await until(lambda: len(pair.server.records) == 3)
        assert [(r.answer, r.would_deny, r.reason) for r in pair.server.records] == [
            (Answer.ALLOW, True, Reason.PEER_UNIDENTIFIED),
            (Answer.DENY, False, Reason.PEER_UNIDENTIFIED),
            (Answer.ALLOW, False, Reason.ALLOW_RULE),
        ]
        assert pair.server.records[0].transport is Transport.PLAINTEXT
        # Who is there, when the CA doesn't say: perhaps a member, whom the rule isn't meant for.
        pair.server.directory.unknown.add("203.0.113.7")
        assert await ask() == b""
        pair.set_state(approve((SERVER, SERVER_PROGRAM), rules=(outside_rule,)))
        assert await ask() == b"hi"
        await until(lambda: len(pair.server.records) == 5)
        assert [(r.answer, r.would_deny, r.reason) for r in pair.server.records[3:]] == [
            (Answer.DENY, False, Reason.CA_UNAVAILABLE),
            (Answer.ALLOW, True, Reason.CA_UNAVAILABLE),
        ]


async def test_an_idle_tunnel_is_ended_by_closing_and_the_client_dials_anew() -> None:
    async with running_pair(echo, limits=Limits(idle_tunnel_s=0.6)) as pair:
        async with raw_peer(pair) as peer:
            assert await peer.receive() == (FrameType.CLOSING, 0, b"")
        for turn in range(2):
            reader, writer = await pair.connect()
            writer.write(b"hi")
            writer.write_eof()
            assert await reader.read() == b"hi"
            writer.close()
            await until(lambda turn=turn: len(pair.client.records) > turn)  # type: ignore[misc]
            await until(lambda: len(pair.client.sidecar.connector) == 0)
        assert pair.tunnels_accepted >= 3  # One that a busy machine leaves idle before its first OPEN is ended as well.
        assert {record.ending for record in pair.client.records} == {Ending.FINISHED}


async def test_an_idle_tunnel_makes_room_for_a_new_one_and_a_busy_one_never_does() -> None:
    async with running_pair(echo) as pair:
        pair.server.sidecar.rooms = make_rooms(2)
        open_frame = encode_frame(FrameType.OPEN, 1, opening(pair))
        async with raw_peer(pair) as busy, raw_peer(pair) as idle:
            await busy.send(open_frame)
            assert (await busy.receive())[0] == FrameType.ACCEPT
            await until(lambda: len(pair.server.sidecar.rooms.peers) == 2)
            async with raw_peer(pair) as third:
                assert (await idle.receive())[0] == FrameType.CLOSING
                await third.send(open_frame)
                assert (await third.receive())[0] == FrameType.ACCEPT
                async with raw_peer(pair) as refused:
                    assert (await refused.receive())[0] == FrameType.CLOSING  # Nothing was processed.
                await until(lambda: any(record.reason is Reason.OVERLOADED for record in pair.server.records))
            await busy.send(encode_frame(FrameType.DATA, 1, b"still"))
            assert await busy.receive() == (FrameType.DATA, 1, b"still")
    assert len(pair.server.sidecar.rooms.peers) == 0


async def test_a_handshake_above_the_bound_is_refused_and_an_ended_one_leaves_its_place() -> None:
    async with running_pair(echo) as pair:
        pair.server.sidecar.handshakes = HandshakeGate(1)
        with socket.create_connection(pair.tunnel):
            await until(lambda: len(pair.server.sidecar.handshakes) == 1)
            with socket.create_connection(pair.tunnel):
                await until(lambda: [record.reason for record in pair.server.records] == [Reason.OVERLOADED])
        await until(lambda: len(pair.server.sidecar.handshakes) == 0)
        async with raw_peer(pair) as peer:
            await peer.send(encode_frame(FrameType.OPEN, 1, opening(pair)))
            assert (await peer.receive())[0] == FrameType.ACCEPT
