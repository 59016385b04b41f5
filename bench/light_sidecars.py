"""Sidecars' streams without anything behind them, many in one process: enrol once, come again with the certificate.

Belongs here: dialling, the first message, coming again after a failure as the sidecar does. Doesn't: what is measured
(``restarts.py``, ``streams.py``). Each has an address of its own in 127.0.0.0/8, as each pod has: the CA shares its
places out by address.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus
from websockets.typing import Subprotocol

from bench.errors import BenchError
from bench.subjects.touchmark import RunningCA
from cli.admin.client import AdminClient
from shared.model.trust.join_token import parse_join_token
from shared.model.wire.admin import JoinTokenRequest
from shared.model.wire.messages import (
    MAX_MESSAGE_BYTES,
    STREAM_PATH,
    Enrol,
    FromCA,
    FromSidecar,
    Refusal,
    Registration,
    Resume,
    Welcome,
    decode_from_ca,
    encode_message,
)
from shared.model.wire.protocol import list_subprotocols
from shared.runtime.memory import load_key
from sidecar.control.backoff import Backoff
from sidecar.control.ca_dial import fetch_pinned_root, make_context
from sidecar.credential.credential import make_key_request

# As the sidecar's own (``sidecar.control.opening``): to the upgraded stream, its wait in the CA's line included, and
# from there to the welcome.
DIAL_S: Final = 10.0
WELCOME_S: Final = 15.0
AT_ONCE: Final = 16  # Enrolments, which aren't what is measured.


class NotNowError(Exception):
    """An attempt failed; its text says why, in a word or two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LightSidecar:
    """One that has joined.

    Attributes:
        address: it dials from there.
        context: shows its certificate.
    """

    instance: str
    address: str
    context: ssl.SSLContext


async def enrol(ca: RunningCA, count: int) -> tuple[list[LightSidecar], list[ClientConnection]]:
    """Have so many join; return them, and their open streams.

    Raises:
        BenchError: the CA refused one.
    """
    turns = asyncio.Semaphore(AT_ONCE)
    async with AdminClient(ca.admin_socket) as admin:
        first = parse_join_token((await admin.create_join_token(JoinTokenRequest(workload="bench/client"))).token)
        root = await fetch_pinned_root(ca.listen, first.root_pin, mark=0, timeout_s=DIAL_S)
        anonymous = make_context([root], None)

        async def join(number: int) -> tuple[LightSidecar, ClientConnection]:
            async with turns:
                token = (await admin.create_join_token(JoinTokenRequest(workload="bench/client"))).token
                instance, address = f"bench-{number}", name_address(number)
                request = make_key_request()
                registration = _register(instance)
                message = Enrol(token=token, csr=request.csr, registration=registration)
                try:
                    stream, welcome = await _open(ca, anonymous, address, message)
                except NotNowError as error:
                    raise BenchError(f"{instance} couldn't join: {error}") from error
                context = make_context([root], None)
                load_key(context, welcome.chain[:1], request.key)  # As the sidecar does: the leaf alone.
                return LightSidecar(instance=instance, address=address, context=context), stream

        pairs = await asyncio.gather(*(join(number) for number in range(count)))
    return [sidecar for sidecar, _ in pairs], [stream for _, stream in pairs]


async def come_again(ca: RunningCA, sidecar: LightSidecar, failures: Counter[str]) -> ClientConnection:
    """Open a sidecar's stream anew, as often as it takes, after pauses as the sidecar makes them."""
    backoff = Backoff()
    message = Resume(registration=_register(sidecar.instance), installed_sequence=0)
    while True:
        try:
            stream, _ = await _open(ca, sidecar.context, sidecar.address, message)
        except NotNowError as error:
            failures[str(error)] += 1
            await asyncio.sleep(backoff.next())
        else:
            return stream


async def close(streams: Iterable[ClientConnection]) -> None:
    """Close streams, all at once."""
    await asyncio.gather(*(stream.close() for stream in streams))


def name_address(number: int) -> str:
    """Return the address of the sidecar of this number: 127.1.0.1, 127.1.0.2 and so on."""
    return f"127.{1 + number // 62_500}.{number // 250 % 250}.{1 + number % 250}"


async def _open(
    ca: RunningCA, context: ssl.SSLContext, address: str, message: FromSidecar
) -> tuple[ClientConnection, Welcome]:
    host, port = ca.listen
    try:
        async with asyncio.timeout(DIAL_S):
            stream = await connect(
                f"wss://{host}:{port}{STREAM_PATH}",
                subprotocols=[Subprotocol(name) for name in list_subprotocols()],
                local_addr=(address, 0),
                ssl=context,
                server_hostname=host,
                compression=None,
                max_size=MAX_MESSAGE_BYTES,
                open_timeout=None,
                ping_interval=None,  # The CA's own pings are answered.
                proxy=None,
                user_agent_header=None,
            )
        async with asyncio.timeout(WELCOME_S):
            await stream.send(encode_message(message), text=True)
            answer = _decode(await stream.recv())
    except InvalidStatus as error:
        raise NotNowError(f"HTTP {error.response.status_code}") from error
    except (OSError, TimeoutError, InvalidHandshake, InvalidMessage, ConnectionClosed, EOFError) as error:
        raise NotNowError(type(error).__name__) from error
    if isinstance(answer, Welcome):
        return stream, answer
    await stream.close()
    raise NotNowError(answer.code if isinstance(answer, Refusal) else type(answer).__name__)


def _register(instance: str) -> Registration:
    return Registration(instance=instance, version="bench", addresses=(), tunnel_port=15008, capture="listeners")


def _decode(data: str | bytes) -> FromCA:
    return decode_from_ca(data.encode() if isinstance(data, str) else data)
