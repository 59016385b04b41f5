"""Handshakes that rest on an earlier one: when they may, how often, and that the checks of now stand for each."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from OpenSSL import SSL
from OpenSSL._util import lib

from shared.model.errors import VerificationError
from shared.model.policy.reasons import Reason
from shared.model.trust.bundle import TrustBundle, name_serial
from shared.model.trust.certificate import BundleVerifier, VerifiedPeer
from sidecar.credential.credential import Credential
from sidecar.tls import contexts as contexts_module
from sidecar.tls import groups, handshake_workers, kept_secrets, resumption
from sidecar.tls.client_hello import MAX_NAMING_BYTES, ClientHello
from sidecar.tls.contexts import ALPN_BEFORE, Contexts
from sidecar.tls.handshake import HandshakeError, peek_client_hello
from sidecar.tls.kept_secrets import MAX_AGE_S, MAX_OFFERS, Secret, Secrets
from sidecar.tls.resumption import PER_RESUMED, PER_WHOLE
from sidecar.tls.role import Role
from sidecar.tunnel import handshake as handshake_module
from sidecar.tunnel.handshake import Keys, establish_tunnel
from sidecar.tunnel.tunnel import Tunnel
from tests.sidecar.little_ca import until
from tests.sidecar.pair import CLIENT, CLIENT_PROGRAM, SERVER, SERVER_PROGRAM, Mint, identify
from tests.sidecar.pump.test_plain_pump import tcp_pair

FULL, RESUMED = (1, 0), (0, 1)


@dataclass(kw_only=True)
class End:
    """What one end keeps between handshakes."""

    role: Role
    credential: Credential
    bundle: TrustBundle
    verifier: BundleVerifier
    secrets: Secrets = field(default_factory=Secrets)
    contexts: Contexts = field(default_factory=Contexts)

    def take_bundle(self, bundle: TrustBundle) -> None:
        """Use another trust bundle from now on."""
        self.bundle, self.verifier = bundle, BundleVerifier(bundle)

    async def establish(self, connection: socket.socket, whom: Hashable, keeps: bool) -> Tunnel:
        """Make this end's handshake."""
        context = self.contexts.get(self.credential, self.bundle, self.role)
        keys = Keys(context=context, credential=self.credential, verifier=self.verifier)

        async def renew() -> Keys:
            return keys

        try:
            loop = asyncio.get_running_loop()
            is_responder = self.role is Role.RESPONDER
            hello = await peek_client_hello(loop, connection, timeout_s=120) if is_responder else ClientHello()
            return await establish_tunnel(
                loop=loop,
                connection=connection,
                keys=keys,
                renew=renew,
                role=self.role,
                timeout_s=120,
                port=5432,
                secrets=self.secrets if keeps else None,
                whom=None if is_responder else whom,
                named=hello.secret_name,
            )
        except BaseException:
            connection.close()  # The other end learns it.
            raise


class Ends:
    """Two sidecars that shake hands again and again."""

    def __init__(self) -> None:
        self.mint = mint = Mint()
        self.client, self.server = (
            End(role=role, credential=mint.issue(who), bundle=mint.bundle, verifier=BundleVerifier(mint.bundle))
            for role, who in (
                (Role.INITIATOR, identify(CLIENT, CLIENT_PROGRAM)),
                (Role.RESPONDER, identify(SERVER, SERVER_PROGRAM)),
            )
        )

    async def try_to_connect(
        self, whom: Hashable = "db", *, keeps: tuple[bool, bool] = (True, True)
    ) -> tuple[Tunnel | BaseException, Tunnel | BaseException]:
        """Make one handshake; return what became of it at the client and at the server, tunnels closed."""
        near, far = tcp_pair()
        outcomes = await asyncio.gather(
            self.client.establish(near, whom, keeps[0]),
            self.server.establish(far, whom, keeps[1]),
            return_exceptions=True,
        )
        for outcome, connection in zip(outcomes, (near, far), strict=True):
            if isinstance(outcome, Tunnel):
                outcome.close()
            connection.close()
        return outcomes

    async def connect(self, whom: Hashable = "db", *, keeps: tuple[bool, bool] = (True, True)) -> tuple[Tunnel, Tunnel]:
        """Make one handshake that holds."""
        first, second = await self.try_to_connect(whom, keeps=keeps)
        for outcome in (first, second):
            if isinstance(outcome, BaseException):
                raise outcome
        assert isinstance(first, Tunnel)
        assert isinstance(second, Tunnel)
        return first, second

    async def count(self, whom: Hashable = "db") -> tuple[int, int]:
        """Make one handshake that holds; return whether it was a whole one, and whether it rests on an earlier one."""
        secrets = self.client.secrets, self.server.secrets
        before = [(each.full, each.resumed) for each in secrets]
        await self.connect(whom)
        first, second = (
            (each.full - full, each.resumed - resumed) for each, (full, resumed) in zip(secrets, before, strict=True)
        )
        assert first == second
        return first


async def test_the_next_handshake_rests_on_the_first_and_proves_the_same() -> None:
    ends = Ends()
    whole = await ends.connect()
    assert (ends.client.secrets.full, ends.client.secrets.resumed) == FULL
    again = await ends.connect()
    assert (ends.client.secrets.resumed, ends.server.secrets.resumed) == (1, 1)
    for before, now in zip(whole, again, strict=True):
        assert now.peer == before.peer
        assert now.peer.serial == before.peer.serial
        assert now.credential is before.credential
    assert again[0].id == again[1].id != whole[0].id


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[SSL.Connection]:
    """Each handshake's TLS connection."""
    made: list[SSL.Connection] = []
    make = handshake_module._make_connection

    def note(context: SSL.Context, connection: socket.socket, role: Role, port: int) -> SSL.Connection:
        made.append(make(context, connection, role, port))
        return made[-1]

    monkeypatch.setattr(handshake_module, "_make_connection", note)
    return made


async def test_a_key_exchange_is_made_all_the_same_and_no_early_data_is_allowed(made: list[SSL.Connection]) -> None:
    ends = Ends()
    await ends.connect()
    assert await ends.count() == RESUMED
    assert [tls.get_group_name() for tls in made] == ["X25519MLKEM768"] * 2 + ["x25519"] * 2
    for tls in made:
        assert lib.SSL_SESSION_get_max_early_data(lib.SSL_get_session(tls._ssl)) == 0
    assert [tls.get_peer_certificate() is None for tls in made] == [False, False, True, True]


class Repeating(Secrets):
    """What offers its first secret again and again."""

    repeated: Secret | None = None

    def take(self, binding: Hashable) -> Secret | None:
        """Give out the same one each time."""
        self.repeated = self.repeated or super().take(binding)
        return self.repeated


async def test_a_secret_is_used_once() -> None:
    """A client that offers one again, as whoever has read it off the wire might, makes a whole handshake."""
    ends = Ends()
    ends.client.secrets = Repeating()
    assert [await ends.count() for _ in range(4)] == [FULL, RESUMED, FULL, FULL]


async def test_of_handshakes_at_the_same_time_one_rests_on_a_secret(made: list[SSL.Connection]) -> None:
    ends = Ends()
    ends.client.secrets = Repeating()
    await ends.connect()
    await asyncio.gather(*(ends.connect() for _ in range(4)))
    for end in (ends.client, ends.server):
        assert (end.secrets.full, end.secrets.resumed) == (4, 1)
    assert sorted(str(tls.get_group_name()) for tls in made) == ["X25519MLKEM768"] * 8 + ["x25519"] * 2


async def test_a_secret_that_the_peer_hasnt_costs_a_whole_handshake_by_the_hybrid_exchange(
    made: list[SSL.Connection],
) -> None:
    """The client's only key share is X25519's: the server asks for the other one."""
    ends = Ends()
    await ends.connect()
    restart(ends.server, ends.mint)
    client, server = await ends.connect()
    assert (ends.client.secrets.full, ends.server.secrets.full) == (2, 1)
    assert [tls.get_group_name() for tls in made] == ["X25519MLKEM768"] * 4
    assert [end.peer.identity.workload for end in (client, server)] == [SERVER, CLIENT]


@pytest.mark.parametrize("at", ["client", "server"])
async def test_x25519_alone_is_refused_where_the_handshake_rests_on_no_secret_after_all(
    at: str, monkeypatch: pytest.MonkeyPatch, made: list[SSL.Connection]
) -> None:
    """Though the other end's chain was verified: this is what either end makes of a peer that tries it."""
    ends, index = Ends(), at == "server"
    await ends.connect()
    monkeypatch.setattr(resumption.Attempt, "find", lambda _attempt, _name: None)

    def check_here(tls: SSL.Connection, *, rests_on_secret: bool) -> None:
        if tls is made[2 + index]:  # The other one doesn't refuse it, or close the connection first.
            groups.check_group(tls, rests_on_secret=rests_on_secret)

    monkeypatch.setattr(handshake_module, "check_group", check_here)
    refused, tls = (await ends.try_to_connect())[index], made[2 + index]
    assert (tls.get_group_name(), tls.get_peer_certificate() is None) == ("x25519", False)
    assert isinstance(refused, HandshakeError)
    assert refused.reason == Reason.HANDSHAKE_FAILED
    assert "key exchange" in refused.message
    secrets = getattr(ends, at).secrets
    assert (secrets.full, secrets.resumed, len(secrets)) == (1, 0, PER_WHOLE - 1)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> dict[Role, list[bool]]:
    """Of each step that is computed: whether it may be on the event loop."""
    steps: dict[Role, list[bool]] = {role: [] for role in Role}
    compute = handshake_workers.compute

    async def note(
        loop: asyncio.AbstractEventLoop,
        role: Role,
        work: Callable[[], object],
        *,
        is_first: bool,
        is_short: bool,
    ) -> object:
        steps[role].append(is_short)
        return await compute(loop, role, work, is_first=is_first, is_short=is_short)

    monkeypatch.setattr("sidecar.tls.handshake.compute", note)
    return steps


async def test_only_steps_of_a_handshake_that_rests_on_a_secret_run_on_the_loop(steps: dict[Role, list[bool]]) -> None:
    ends = Ends()
    await ends.connect()
    assert {is_short for each in steps.values() for is_short in each} == {False}
    for each in steps.values():
        each.clear()
    assert await ends.count() == RESUMED
    assert {is_short for each in steps.values() for is_short in each} == {True}
    assert [len(each) >= 2 for each in steps.values()] == [True, True]


async def test_a_client_whose_secret_is_unknown_verifies_the_peers_chain_in_its_thread(
    steps: dict[Role, list[bool]],
) -> None:
    ends = Ends()
    await ends.connect()
    restart(ends.server, ends.mint)
    for each in steps.values():
        each.clear()
    await ends.connect()
    assert steps[Role.INITIATOR].pop(0)
    assert steps[Role.INITIATOR]
    assert not any(steps[Role.INITIATOR] + steps[Role.RESPONDER])


async def test_a_client_verifies_in_its_thread_also_the_chain_of_a_server_that_lies(
    steps: dict[Role, list[bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes X25519's key share without a secret: its certificates, however many, come without being asked for."""
    ends = Ends()
    await ends.connect()
    monkeypatch.setattr(resumption.Attempt, "find", lambda _attempt, _name: None)
    steps[Role.INITIATOR].clear()
    assert isinstance((await ends.try_to_connect())[0], HandshakeError)
    assert steps[Role.INITIATOR].pop(0)
    assert steps[Role.INITIATOR]
    assert not any(steps[Role.INITIATOR])


@pytest.mark.parametrize(("sent", "is_short"), [(316, True), (MAX_NAMING_BYTES, True), (MAX_NAMING_BYTES + 1, False)])
async def test_a_hello_with_more_behind_it_is_read_in_the_servers_thread(sent: int, is_short: bool) -> None:
    """A client knows which HelloRetryRequest it will get, and may send its second ClientHello at once."""
    ends = Ends()
    await ends.connect()
    server = ends.server
    tls = SSL.Connection(server.contexts.get(server.credential, server.bundle, Role.RESPONDER), None)
    (binding, _), name = next(iter(server.secrets._stocks)), next(iter(server.secrets._places))
    near, far = socket.socketpair()
    with near, far, resumption.resuming(tls, server.secrets, binding, Role.RESPONDER, named=name) as attempt:
        near.sendall(bytes(sent))
        assert attempt.is_next_step_short(far) is is_short


async def test_a_clients_second_hello_is_read_in_the_servers_thread(
    steps: dict[Role, list[bool]], monkeypatch: pytest.MonkeyPatch, made: list[SSL.Connection]
) -> None:
    """It may be any, of any size, whatever secret the first one had."""
    ends = Ends()
    await ends.connect()
    allow_classic = groups.allow_classic

    def allow_another(tls: Any) -> None:
        allow_classic(tls)
        if tls is made[2]:  # The client's: of a key share that the server has to refuse.
            assert lib.SSL_set1_curves_list(tls._ssl, b"P-256:X25519") == 1

    monkeypatch.setattr(resumption, "allow_classic", allow_another)
    steps[Role.RESPONDER].clear()
    assert await ends.count() == RESUMED
    assert steps[Role.RESPONDER][:2] == [True, False]


@pytest.mark.parametrize("at", ["client", "server"])
async def test_a_stranger_that_offers_x25519_alone_is_refused(at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that a CA of ours has signed."""
    ends = Ends()
    with monkeypatch.context() as patch:
        patch.setattr(groups, "HYBRID", "X25519")
        stranger = getattr(ends, at)
        stranger.contexts.get(stranger.credential, stranger.bundle, stranger.role)
    for outcome in await ends.try_to_connect():
        assert isinstance(outcome, HandshakeError)
        assert outcome.reason == Reason.HANDSHAKE_FAILED
    assert (ends.client.secrets.full, ends.server.secrets.full) == (0, 0)


@pytest.mark.parametrize("at", ["client", "server"])
async def test_release_0_1_agrees_on_the_hybrid_exchange(
    at: str, monkeypatch: pytest.MonkeyPatch, made: list[SSL.Connection]
) -> None:
    """It leaves the choice to OpenSSL, whose default groups begin with it."""
    ends = Ends()
    with monkeypatch.context() as patch:
        patch.setattr(contexts_module, "require_hybrid", lambda _context: None)
        patch.setattr(contexts_module, "allow_resumption", lambda _context, _role: None)
        before = getattr(ends, at)
        before.contexts.get(before.credential, before.bundle, before.role)
    for _ in range(2):
        await ends.connect(keeps=(at == "server", at == "client"))
    assert {tls.get_group_name() for tls in made} == {"X25519MLKEM768"}


async def test_a_whole_handshake_leaves_enough_for_a_burst_and_others_replace_what_they_use() -> None:
    ends = Ends()
    await ends.connect()
    assert (len(ends.client.secrets), len(ends.server.secrets)) == (PER_WHOLE, PER_WHOLE)
    await asyncio.gather(*(ends.connect() for _ in range(PER_WHOLE)))
    for end in (ends.client, ends.server):
        assert (end.secrets.full, end.secrets.resumed) == (1, PER_WHOLE)
    assert len(ends.client.secrets) == MAX_OFFERS
    assert len(ends.server.secrets) == PER_WHOLE * PER_RESUMED


@pytest.fixture
def long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """No wait for a secret ends by itself, nor before the server's thread has told what it has derived."""
    monkeypatch.setattr(kept_secrets, "_ANOTHER_S", 120.0)
    monkeypatch.setattr(kept_secrets, "_ENDING_S", 120.0)
    wait = Secrets.wait_until_kept

    async def wait_until_kept(secrets: Secrets, name: bytes) -> None:
        if name:
            await until(lambda: name in secrets._expected or name in secrets._places)
        await wait(secrets, name)

    monkeypatch.setattr(Secrets, "wait_until_kept", wait_until_kept)


@pytest.mark.usefixtures("long_waits")
async def test_of_a_bursts_first_handshakes_one_is_a_whole_one() -> None:
    """The others wait for the secrets that it leaves."""
    ends = Ends()
    await asyncio.gather(*(ends.connect() for _ in range(40)))
    for end in (ends.client, ends.server):
        assert (end.secrets.full, end.secrets.resumed) == (1, 39)


async def test_when_a_bursts_first_handshake_fails_the_others_are_tried_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kept_secrets, "_ANOTHER_S", 120.0)
    ends = Ends()
    ends.client.verifier = BundleVerifier(Mint().bundle)  # Each peer is refused.
    async with asyncio.timeout(60):
        outcomes = await asyncio.gather(*(ends.try_to_connect() for _ in range(4)))
    assert all(isinstance(client, VerificationError) for client, _ in outcomes)


@pytest.mark.usefixtures("long_waits")
async def test_a_secret_whose_handshake_the_server_hasnt_ended_yet_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The client's last flight and its next ClientHello come by two connections, in any order."""
    ends, may_end, waits = Ends(), asyncio.Event(), asyncio.Event()
    shake, wait, chains = handshake_module._shake_hands, Secrets.wait_until_kept, list[tuple[bytes, ...]]()

    async def shake_hands(*arguments: Any, **keywords: Any) -> VerifiedPeer:
        is_first = not waits.is_set() and arguments[3] is Role.RESPONDER
        if is_first:
            arguments[5].keep = chains.append
        peer = await shake(*arguments, **keywords)
        if is_first:
            await may_end.wait()
            resumption.Attempt.keep(arguments[5], chains.pop())
        return peer

    async def wait_until_kept(secrets: Secrets, name: bytes) -> None:
        if name:
            await until(lambda: name in secrets._expected)
            waits.set()
            asyncio.get_running_loop().call_soon(may_end.set)
        await wait(secrets, name)

    monkeypatch.setattr(handshake_module, "_shake_hands", shake_hands)
    monkeypatch.setattr(Secrets, "wait_until_kept", wait_until_kept)
    first = asyncio.create_task(ends.connect())
    async with asyncio.timeout(120):
        await until(lambda: len(ends.client.secrets))
        await ends.connect()
        await first
    assert (ends.server.secrets.full, ends.server.secrets.resumed) == (1, 1)
    assert not ends.server.secrets._expected


def renew(end: End, mint: Mint) -> None:
    end.credential = mint.issue(end.credential.identity)


def advance(end: End, _: Mint) -> None:
    end.take_bundle(msgspec.structs.replace(end.bundle, sequence=end.bundle.sequence + 1))


def restart(end: End, _: Mint) -> None:
    end.secrets = Secrets()


@pytest.mark.parametrize("of", ["client", "server"])
@pytest.mark.parametrize("change", [renew, advance, restart])
async def test_another_credential_bundle_or_process_makes_a_whole_handshake(
    change: Callable[[End, Mint], None], of: str
) -> None:
    ends, now = Ends(), [1000.0]
    ends.client.secrets, ends.server.secrets = (Secrets(read_clock=lambda: now[0]) for _ in range(2))
    await ends.connect()
    change(getattr(ends, of), ends.mint)
    now[0] += 5.0
    assert await ends.count() == FULL
    assert await ends.count() == RESUMED


async def test_a_secret_is_offered_to_no_other_peer() -> None:
    ends = Ends()
    await ends.connect("db")
    assert await ends.count("cache") == FULL
    assert await ends.count("db") == RESUMED


async def test_of_a_peer_that_has_lost_one_secret_the_others_are_dropped() -> None:
    ends, now = Ends(), [1000.0]
    ends.client.secrets = Secrets(read_clock=lambda: now[0])
    for _ in range(3):
        await ends.connect()
    lost = set(ends.client.secrets._places)
    restart(ends.server, ends.mint)
    now[0] += 5.0
    assert await ends.count() == FULL
    assert not lost & set(ends.client.secrets._places)
    assert len(ends.client.secrets) == PER_WHOLE
    assert await ends.count() == RESUMED


@pytest.mark.parametrize("at", ["client", "server"])
async def test_a_peer_that_is_distrusted_now_is_refused(at: str) -> None:
    """The bundle's check follows this handshake as any other, whatever the secret is bound to."""
    ends = Ends()
    await ends.connect()
    end = ends.client if at == "client" else ends.server
    serial = name_serial((await ends.connect())[at == "server"].peer.serial)
    # With the same sequence number, which a CA never gives twice: the secret would be found.
    end.verifier = BundleVerifier(msgspec.structs.replace(end.bundle, distrusted=(serial,)))
    refused = (await ends.try_to_connect())[at == "server"]
    assert isinstance(refused, VerificationError)
    assert refused.reason == Reason.PEER_DISTRUSTED
    assert (end.secrets.full, end.secrets.resumed) == (1, 1)


async def test_a_peer_whose_certificate_has_ended_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = Ends()
    client, _ = await ends.connect()
    monkeypatch.setattr(handshake_module, "time", SimpleNamespace(time=lambda: client.peer.not_after + 1))
    for refused in await ends.try_to_connect():
        assert isinstance(refused, VerificationError)
        assert refused.reason == Reason.PEER_EXPIRED


async def test_a_secret_of_another_key_fails() -> None:
    """Whoever knows a name alone proves nothing."""
    ends = Ends()
    await ends.connect()
    for stock in ends.client.secrets._stocks.values():
        stock.update({name: (bytes(32), origin) for name, (_, origin) in stock.items()})
    for outcome in await ends.try_to_connect():
        assert isinstance(outcome, HandshakeError)
        assert outcome.reason == Reason.HANDSHAKE_FAILED


async def test_a_client_that_leaves_during_a_resumed_handshake_isnt_called_untrusted() -> None:
    """OpenSSL has a result of no verification then, which isn't "OK"."""
    ends = Ends()
    await ends.connect()
    near, far = tcp_pair()
    loop, client = asyncio.get_running_loop(), ends.client
    context = client.contexts.get(client.credential, client.bundle, Role.INITIATOR)
    keys = Keys(context=context, credential=client.credential, verifier=client.verifier)

    async def leave() -> None:
        tls = SSL.Connection(context, None)
        tls.set_connect_state()
        binding = handshake_module._bind(keys, "db")
        with resumption.resuming(tls, client.secrets, binding, Role.INITIATOR), pytest.raises(SSL.WantReadError):
            tls.do_handshake()
        await loop.sock_sendall(near, tls.bio_read(65536))
        async with asyncio.timeout(120):
            assert await loop.sock_recv(near, 1)
        near.close()

    _, refused = await asyncio.gather(leave(), ends.server.establish(far, None, True), return_exceptions=True)
    assert isinstance(refused, HandshakeError)
    assert refused.reason == Reason.HANDSHAKE_FAILED
    assert len(ends.server.secrets) == PER_WHOLE - 1  # One was taken: the handshake would have rested on it.


def name_secrets(hello: bytes, count: int) -> bytes:
    """Have a ClientHello, one record without a pre-shared key, name so many (RFC 8446, section 4.2.11)."""

    def vector(data: bytes) -> bytes:
        return len(data).to_bytes(2, "big") + data

    body = hello[9:]
    at = 34
    at += 1 + body[at]  # The session's ID.
    at += 2 + int.from_bytes(body[at : at + 2], "big")  # The cipher suites.
    at += 1 + body[at]  # The compression methods.
    names = b"".join(vector(b"%d" % number) + bytes(4) for number in range(count))
    keys = vector(names) + vector(bytes([32]) + bytes(32))
    body = body[:at] + vector(body[at + 2 :] + b"\x00\x29" + vector(keys))
    return b"\x16\x03\x01" + vector(b"\x01" + len(body).to_bytes(3, "big") + body)


@pytest.mark.parametrize(("count", "is_refused"), [(1, False), (8, False), (9, True), (1500, True)])
async def test_a_stranger_that_names_many_secrets_is_refused_before_they_are_looked_for(
    count: int, is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each costs a call into Python, and a ClientHello has room for two thousand."""
    ends, asked = Ends(), []
    monkeypatch.setattr(resumption.Attempt, "find", lambda _, name: asked.append(name))
    monkeypatch.setattr(resumption, "_NAME_BYTES", 1)
    contexts = [end.contexts.get(end.credential, end.bundle, end.role) for end in (ends.client, ends.server)]
    client, server = (SSL.Connection(context, None) for context in contexts)
    client.set_connect_state()
    server.set_accept_state()
    with pytest.raises(SSL.WantReadError):
        client.do_handshake()
    server.bio_write(name_secrets(client.bio_read(65536), count))
    with (
        resumption.resuming(server, Secrets(), "db", Role.RESPONDER),
        pytest.raises(SSL.Error) as caught,
    ):
        server.do_handshake()
    assert isinstance(caught.value, SSL.WantReadError) is not is_refused
    assert len(asked) == min(count, 8)


async def test_a_row_of_resumed_handshakes_is_no_longer_than_one_secret_may_be_old() -> None:
    ends, now = Ends(), [1000.0]
    ends.client.secrets, ends.server.secrets = (Secrets(read_clock=lambda: now[0]) for _ in range(2))
    assert await ends.count() == FULL
    for age_s, expected in ((MAX_AGE_S / 2, RESUMED), (MAX_AGE_S - 1, RESUMED), (MAX_AGE_S, FULL)):
        now[0] = 1000.0 + age_s
        assert await ends.count() == expected


async def test_a_client_ends_no_age_of_the_servers() -> None:
    """What is too old for one end alone isn't used."""
    ends, now = Ends(), [1000.0]
    ends.server.secrets = Secrets(read_clock=lambda: now[0])
    await ends.connect()
    now[0] += MAX_AGE_S
    assert await ends.count() == FULL


@pytest.mark.parametrize("keeps", [(False, True), (True, False)], ids=["client", "server"])
async def test_with_a_peer_that_keeps_no_secrets_each_handshake_is_a_whole_one(keeps: tuple[bool, bool]) -> None:
    ends = Ends()
    await ends.connect()
    await ends.connect(keeps=keeps)
    assert ends.client.secrets.resumed == ends.server.secrets.resumed == 0


async def test_a_server_whose_openssl_was_never_told_of_secrets_makes_a_whole_handshake(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So older releases do: they look for an OpenSSL session of this name."""
    ends = Ends()
    await ends.connect()
    monkeypatch.setattr(contexts_module, "allow_resumption", lambda _context, _role: None)
    ends.server.contexts = Contexts()
    await ends.connect(keeps=(True, False))
    assert (ends.client.secrets.full, ends.client.secrets.resumed) == (2, 0)


async def test_of_a_tunnel_of_an_older_protocol_no_secret_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contexts_module, "ALPN", ALPN_BEFORE)
    ends = Ends()
    await ends.connect()
    await ends.connect()
    assert [len(end.secrets) for end in (ends.client, ends.server)] == [0, 0]
    assert [(end.secrets.full, end.secrets.resumed) for end in (ends.client, ends.server)] == [(2, 0), (2, 0)]


async def test_without_the_bindings_each_handshake_is_a_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumption, "IS_AVAILABLE", False)
    ends = Ends()
    assert [await ends.count() for _ in range(2)] == [FULL, FULL]
    assert [len(end.secrets) for end in (ends.client, ends.server)] == [0, 0]


async def test_a_session_of_openssls_own_counts_for_nothing() -> None:
    """Fail closed: what OpenSSL calls resumed rests on a secret of ours, or is refused."""
    ends = Ends()
    first = SSL.Connection(ends.client.contexts.get(ends.client.credential, ends.client.bundle, Role.INITIATOR))
    with resumption.resuming(first, Secrets(), "db", Role.INITIATOR) as attempt:
        assert attempt.read_kept_chain() is None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(resumption, "_lib", SimpleNamespace(SSL_session_reused=lambda _: 1))
            with pytest.raises(HandshakeError):
                attempt.read_kept_chain()
