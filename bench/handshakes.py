"""What a tunnel's full handshake costs, one that rests on it, and what cryptography alone does. Does I/O.

Run ``python -m bench.handshakes``.

Both ends run in this process, with the contexts and verifiers that a sidecar keeps: what is counted is the processor
time of all its threads, kernel included. ``tls`` is the full handshake by OpenSSL alone, in memory. They take turns.
Below are parts of it, the least of all rounds: what other load adds to a processor's time is left out that way; then
what OpenSSL keeps of a connection, below which a tunnel's memory can't be.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import math
import os
import socket
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import uvloop
from OpenSSL import SSL

from shared.model.trust.certificate import BundleVerifier
from sidecar.credential.credential import Credential
from sidecar.tls.client_hello import ClientHello, parse_client_hello
from sidecar.tls.contexts import Contexts
from sidecar.tls.handshake import peek_client_hello
from sidecar.tls.handshake_workers import compute
from sidecar.tls.kept_secrets import Secrets
from sidecar.tls.presented import read_presented
from sidecar.tls.resumption import resuming
from sidecar.tls.role import Role
from sidecar.tunnel.handshake import Keys, establish_tunnel
from tests.sidecar.pair import CLIENT, CLIENT_PROGRAM, SERVER, SERVER_PROGRAM, Mint, identify
from tests.sidecar.pump.test_plain_pump import tcp_pair

_FLIGHT_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """What both ends keep between handshakes."""

    mint: Mint
    credentials: dict[Role, Credential]
    contexts: Contexts
    verifier: BundleVerifier

    def keys_of(self, role: Role) -> Keys:
        """Return what one end makes its next handshake with."""
        credential = self.credentials[role]
        context = self.contexts.get(credential, self.mint.bundle, role)
        return Keys(context=context, credential=credential, verifier=self.verifier)


def make_ends() -> Ends:
    """Issue a certificate for each end."""
    mint = Mint()
    return Ends(
        mint=mint,
        credentials={
            Role.INITIATOR: mint.issue(identify(CLIENT, CLIENT_PROGRAM)),
            Role.RESPONDER: mint.issue(identify(SERVER, SERVER_PROGRAM)),
        },
        contexts=Contexts(),
        verifier=BundleVerifier(mint.bundle),
    )


async def shake_hands(ends: Ends, secrets: dict[Role, Secrets] | None = None) -> None:
    """Make one tunnel over TCP, by a full handshake or, where there are secrets, by what they allow; and close it."""
    near, far = tcp_pair()

    async def establish(role: Role) -> None:
        loop, connection = asyncio.get_running_loop(), near if role is Role.INITIATOR else far

        async def renew() -> Keys:
            return ends.keys_of(role)

        tunnel = await establish_tunnel(
            loop=loop,
            connection=connection,
            keys=ends.keys_of(role),
            renew=renew,
            role=role,
            timeout_s=20,
            port=5432,
            secrets=None if secrets is None else secrets[role],
            named=b""
            if role is Role.INITIATOR
            else (await peek_client_hello(loop, connection, timeout_s=20)).secret_name,
        )
        tunnel.close()

    await asyncio.gather(*(establish(role) for role in Role))


def shake_hands_in_memory(ends: Ends) -> SSL.Connection:
    """Make one handshake by OpenSSL alone; return the client's end, which hasn't read the server's offers yet."""
    client, server = (SSL.Connection(ends.keys_of(role).context) for role in (Role.INITIATOR, Role.RESPONDER))
    client.set_connect_state()
    server.set_accept_state()
    exchange(client, server)
    return client


def exchange(first: SSL.Connection, second: SSL.Connection) -> None:
    """Carry a handshake's messages between two ends in memory, beginning with the first one's."""
    for end, other in ((first, second), (second, first)) * 2:
        with suppress(SSL.WantReadError):
            end.do_handshake()
        with suppress(SSL.WantReadError):
            other.bio_write(end.bio_read(_FLIGHT_BYTES))


def rest_on_earlier(ends: Ends, secrets: dict[Role, Secrets]) -> tuple[SSL.Connection, SSL.Connection]:
    """Make one handshake by OpenSSL alone that rests on a secret, and derive the next ones; return both ends."""
    client, server = (SSL.Connection(ends.keys_of(role).context) for role in (Role.INITIATOR, Role.RESPONDER))
    with ExitStack() as stack:
        near = stack.enter_context(resuming(client, secrets[Role.INITIATOR], "bench", Role.INITIATOR))
        client.set_connect_state()
        with suppress(SSL.WantReadError):
            client.do_handshake()
        hello = client.bio_read(_FLIGHT_BYTES)
        server.bio_write(hello)
        found = parse_client_hello(hello)
        named = found.secret_name if isinstance(found, ClientHello) else b""
        far = stack.enter_context(resuming(server, secrets[Role.RESPONDER], "bench", Role.RESPONDER, named=named))
        server.set_accept_state()
        exchange(server, client)
        for role, attempt in ((Role.INITIATOR, near), (Role.RESPONDER, far)):
            attempt.count()
            attempt.keep(ends.credentials[role].chain)
    return client, server


class _Allocated(ctypes.Structure):
    """``struct mallinfo2`` (mallinfo(3), glibc 2.33)."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


def _count_allocated() -> int:
    gc.collect()
    ask = ctypes.CDLL(None).mallinfo2
    ask.restype = _Allocated
    info = ask()
    return int(info.uordblks + info.hblkhd)


def measure_memory(ends: Ends, count: int) -> tuple[float, float]:
    """Return how many bytes OpenSSL and pyOpenSSL keep of one idle connection, both ends: before its handshake, after.

    The contexts, which all connections share, aren't counted.
    """
    shake_hands_in_memory(ends)
    before = _count_allocated()
    pairs = [_make_pair(ends) for _ in range(count)]
    made = _count_allocated()
    for client, server in pairs:
        for end in (client, server) * 2:
            with suppress(SSL.WantReadError):
                end.do_handshake()
        with suppress(SSL.WantReadError):
            client.recv(1)  # The sessions that the server offers.
    kept = _count_allocated()
    for pair in pairs:
        for end in pair:
            end.close()
    return (made - before) / count, (kept - before) / count


def measure_resting_memory(ends: Ends, count: int) -> float:
    """Return how many bytes are kept of one idle connection whose handshake rests on an earlier one, both ends."""
    secrets = {role: Secrets() for role in Role}
    rest_on_earlier(ends, secrets)  # There is none yet.
    pairs = [_rest_on_earlier_by_sockets(ends, secrets)]
    before = _count_allocated()
    pairs += [_rest_on_earlier_by_sockets(ends, secrets) for _ in range(count)]
    kept = _count_allocated()
    for pair in pairs:
        for end in pair:
            end.close()
    if {each.full for each in secrets.values()} != {1}:
        raise RuntimeError("not every handshake but the first rested on an earlier one")
    return (kept - before) / count


def _rest_on_earlier_by_sockets(
    ends: Ends, secrets: dict[Role, Secrets], note_step: Callable[[float], None] = lambda _: None
) -> tuple[SSL.Connection, SSL.Connection]:
    """Make one over sockets; ``note_step`` is told what each of the four steps took, the client's first one first."""
    client, server = _make_pair(ends)

    def advance(tls: SSL.Connection) -> None:
        began = time.thread_time()
        with suppress(SSL.WantReadError):
            tls.do_handshake()
        note_step((time.thread_time() - began) * 1e6)

    with ExitStack() as stack:
        near = stack.enter_context(resuming(client, secrets[Role.INITIATOR], "bench", Role.INITIATOR))
        advance(client)
        with socket.socket(fileno=os.dup(server.fileno())) as raw:
            found = parse_client_hello(raw.recv(_FLIGHT_BYTES, socket.MSG_PEEK))
        named = found.secret_name if isinstance(found, ClientHello) else b""
        far = stack.enter_context(resuming(server, secrets[Role.RESPONDER], "bench", Role.RESPONDER, named=named))
        for end in (server, client, server):
            advance(end)
        for role, attempt in ((Role.INITIATOR, near), (Role.RESPONDER, far)):
            attempt.count()
            attempt.keep(ends.credentials[role].chain)
    with suppress(SSL.WantReadError):
        client.recv(1)  # The sessions that the server offers.
    return client, server


def measure_steps(ends: Ends, count: int) -> list[float]:
    """Return what each of the four steps takes where a handshake rests on an earlier one, in µs: medians.

    That is as long as one holds up the loop that computes it: the client's first, the server's, and again.
    """
    secrets = {role: Secrets() for role in Role}
    rest_on_earlier(ends, secrets)  # There is none yet.
    noted: list[float] = []
    for _ in range(count):
        for end in _rest_on_earlier_by_sockets(ends, secrets, noted.append):
            end.close()
    return [statistics.median(noted[number::4]) for number in range(4)]


def _make_pair(ends: Ends) -> tuple[SSL.Connection, SSL.Connection]:
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    client = SSL.Connection(ends.keys_of(Role.INITIATOR).context, near)
    server = SSL.Connection(ends.keys_of(Role.RESPONDER).context, far)
    client.set_connect_state()
    server.set_accept_state()
    return client, server


def _read_offers(ends: Ends) -> None:
    """Make one handshake by OpenSSL alone, and read the two sessions that its server offers, which nothing resumes."""
    with suppress(SSL.WantReadError):
        shake_hands_in_memory(ends).recv(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """The processor time of one handshake of each kind, in µs."""

    tunnel: float
    resumed: float
    tls: float


async def _measure(ends: Ends, secrets: dict[Role, Secrets], count: int) -> Round:
    """Make ``count`` handshakes of each kind, one after another."""
    spent = dict.fromkeys(("tunnel", "resumed", "tls"), 0.0)
    for _ in range(count):
        began = time.process_time()
        await shake_hands(ends)
        full = time.process_time()
        await shake_hands(ends, secrets)
        resumed = time.process_time()
        shake_hands_in_memory(ends)
        spent["tls"] += time.process_time() - resumed
        spent["resumed"] += resumed - full
        spent["tunnel"] += full - began
    return Round(**{name: seconds / count * 1e6 for name, seconds in spent.items()})


async def _measure_parts(ends: Ends, *, rounds: int, count: int) -> dict[str, float]:
    """Return the least processor time of each part, in µs."""
    loop, client = asyncio.get_running_loop(), shake_hands_in_memory(ends)
    secrets = {role: Secrets() for role in Role}
    rest_on_earlier(ends, secrets)  # There is none yet.
    known: dict[str, Callable[[], object]] = {
        "tls": lambda: shake_hands_in_memory(ends),
        "tls, resting on an earlier one": lambda: rest_on_earlier(ends, secrets),
        "tls, offers of sessions read": lambda: _read_offers(ends),
        "a known chain read and verified": lambda: ends.verifier.verify_presented(
            read_presented(client), now=time.time()
        ),
    }
    least = dict.fromkeys((*known, "a step handed to its thread"), math.inf)
    for _ in range(rounds):
        for name, part in known.items():
            began = time.process_time()
            for _ in range(count):
                part()
            least[name] = min(least[name], (time.process_time() - began) / count * 1e6)
        began = time.process_time()
        for _ in range(count):
            await compute(loop, Role.INITIATOR, lambda: None)
        *_, last = least
        least[last] = min(least[last], (time.process_time() - began) / count * 1e6)
    if {each.full for each in secrets.values()} != {1}:
        raise RuntimeError("not every handshake but the first rested on an earlier one")
    return least


def main(arguments: Sequence[str]) -> int:
    """Print the medians and the range of the rounds."""
    parser = argparse.ArgumentParser(prog="python -m bench.handshakes", description=__doc__.partition(":")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--count", type=int, default=300, help="handshakes of each kind in a round")
    options = parser.parse_args(arguments)
    ends = make_ends()

    secrets = {role: Secrets() for role in Role}

    async def measure() -> tuple[list[Round], dict[str, float]]:
        await _measure(ends, secrets, 20)
        rounds = [await _measure(ends, secrets, options.count) for _ in range(options.rounds)]
        return rounds, await _measure_parts(ends, rounds=options.rounds, count=options.count // 5 + 1)

    rounds, parts = uvloop.run(measure())
    for name in ("tunnel", "resumed", "tls"):
        values = [getattr(each, name) for each in rounds]
        print(f"{name:7} {statistics.median(values):8.0f} us CPU, both ends ({min(values):.0f} to {max(values):.0f})")
    if {each.full for each in secrets.values()} != {1}:
        raise RuntimeError("not every handshake but the first was resumed")
    for name, least in parts.items():
        print(f"{least:8.1f} us CPU at least: {name}")
    steps = measure_steps(ends, options.count)
    print("steps that rest on an earlier one: " + ", ".join(f"{each:.0f}" for each in steps) + " us CPU, medians")
    made, kept = measure_memory(ends, options.count)
    resting = measure_resting_memory(ends, options.count)
    print(
        f"{made / 1024:8.1f} KiB of OpenSSL's, both ends, before the handshake; {kept / 1024:.1f} after a whole one, "
        f"{resting / 1024:.1f} after one that rests on it"
    )
    for name, ratios in (
        ("tunnel / tls", [each.tunnel / each.tls for each in rounds]),
        ("resumed / tunnel", [each.resumed / each.tunnel for each in rounds]),
    ):
        print(f"{name}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
