"""The CA's admin API through a port-forward: a Unix socket here whose connections end at a CA pod's loopback. Does I/O.

A socket in a directory of this user alone, not a port on loopback, which any user of this machine could use. Each
connection is a WebSocket of its own to ``pods/portforward``. Each request carries the user's own credentials of the
kubeconfig: the CA asks the API server who that is, and whether it may (``ca/api/access``). So they are shown to
whatever runs behind the CA's label in its namespace, which the API server's authorisation keeps to its administrators.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cli.admin.client import AdminClient
from cli.admin.credentials import Credentials
from cli.cluster.ca_pod import find_ready_pods
from cli.cluster.channels import MAX_MESSAGE_BYTES, PROTOCOL, ForwardedPort
from cli.cluster.connection import PODS, Cluster
from cli.cluster.faults import Action, ForbiddenError, NoCAPodError, UnauthorizedError
from cli.cluster.kubeconfig import Access
from shared.model.errors import ProtocolError, TouchmarkError, UnavailableError
from shared.model.kubernetes.contract import ADMIN_PORT
from shared.runtime.tasks import Tasks

if TYPE_CHECKING:
    import aiohttp

CHUNK_BYTES: Final = 32 * 1024
MAX_CONNECTIONS: Final = 16
MAX_PODS_TRIED: Final = 3
SEND_DEADLINE_S: Final = 30.0
CLOSE_DEADLINE_S: Final = 5.0


@asynccontextmanager
async def forward_admin(
    cluster: Cluster, namespace: str, *, timeout_s: float | None = None
) -> AsyncIterator[AdminClient]:
    """Reach the admin API of a ready CA pod.

    Arguments:
        timeout_s: deadline of one call; None: the client's own.

    Raises:
        NoCAPodError: no CA pod is ready, or none can be reached.
        ForbiddenError: this user may not forward ports there.
    """
    pod, first = await _open_any(cluster, namespace)
    async with _forward(cluster, namespace, pod, first, timeout_s=timeout_s) as client:
        yield client


@asynccontextmanager
async def forward_admin_of(
    cluster: Cluster, namespace: str, pod: str, *, timeout_s: float | None = None
) -> AsyncIterator[AdminClient]:
    """Reach the admin API of this CA pod: for what only the replica itself knows. Raises as ``forward_admin``."""
    first = await open_forward(cluster, namespace, pod)
    async with _forward(cluster, namespace, pod, first, timeout_s=timeout_s) as client:
        yield client


@asynccontextmanager
async def _forward(
    cluster: Cluster,
    namespace: str,
    pod: str,
    first: aiohttp.ClientWebSocketResponse,
    *,
    timeout_s: float | None,
) -> AsyncIterator[AdminClient]:
    with tempfile.TemporaryDirectory(prefix="touchmark-") as directory:
        forward = _Forward(cluster, namespace, pod, first)
        path = Path(directory) / "admin.sock"
        server = await asyncio.start_unix_server(forward.accept, str(path), limit=CHUNK_BYTES)
        options = {} if timeout_s is None else {"timeout_s": timeout_s}
        try:
            async with AdminClient(
                path, explain=forward.explain, credentials=_read_credentials(cluster.access), **options
            ) as client:
                yield client
        finally:
            server.close()
            await forward.close()


def _read_credentials(access: Access) -> Credentials:
    return Credentials(authorization=access.authorization, certificate=access.certificate, key=access.key)


async def _open_any(cluster: Cluster, namespace: str) -> tuple[str, aiohttp.ClientWebSocketResponse]:
    """Open a forward to the first pod that takes one: a pod counts as ready for a while after its node has gone."""
    fault: TouchmarkError | None = None
    for pod in (await find_ready_pods(cluster, namespace))[:MAX_PODS_TRIED]:
        try:
            return pod, await open_forward(cluster, namespace, pod)
        except (ForbiddenError, UnauthorizedError):
            raise
        except TouchmarkError as error:
            fault = error
    raise NoCAPodError(
        f"no CA pod in namespace {namespace} can be reached: {fault.message if fault else 'none is ready'}",
        hint=f"kubectl -n {namespace} port-forward deploy/touchmark-ca {ADMIN_PORT} shows more",
    ) from fault


async def open_forward(
    cluster: Cluster, namespace: str, pod: str, port: int = ADMIN_PORT
) -> aiohttp.ClientWebSocketResponse:
    """Open one connection to a pod's port.

    Raises:
        ForbiddenError: this user may not. Kubernetes asks for ``get`` (the WebSocket is a GET), from 1.35 on for
            ``create`` as well.
        TouchmarkError: the API server's or the kubelet's own error.
    """
    action = Action(verb="create", also="get", group="", resource="pods/portforward", namespace=namespace, name=pod)
    return await cluster.open_websocket(
        PODS.path(namespace, pod, "portforward"),
        {"ports": str(port)},
        protocol=PROTOCOL,
        action=action,
        max_message_bytes=MAX_MESSAGE_BYTES,
    )


class _Forward:
    """The connections of one forward, and the last thing that went wrong with one."""

    def __init__(self, cluster: Cluster, namespace: str, pod: str, first: aiohttp.ClientWebSocketResponse) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._pod = pod
        self._spare: aiohttp.ClientWebSocketResponse | None = first
        self._fault: TouchmarkError | None = None
        self._tasks = Tasks(self._note_failure)

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one more local connection."""
        if len(self._tasks) >= MAX_CONNECTIONS:
            writer.close()
            return
        self._tasks.spawn(self._carry(reader, writer), name="forwarded connection")

    def explain(self, error: Exception) -> UnavailableError:
        """Say why a call failed: what the cluster said, else the client's own error."""
        fault = self._fault
        if fault is not None:
            return NoCAPodError(f"CA pod {self._pod}: {fault.message}", hint=fault.hint)
        return NoCAPodError(
            f"the CA in pod {self._pod} ended the connection: {error}",
            hint=f"kubectl -n {self._namespace} logs {self._pod}",
        )

    async def close(self) -> None:
        """End every connection."""
        await self._tasks.close(timeout_s=CLOSE_DEADLINE_S)
        if self._spare is not None:
            await _close(self._spare)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        websocket, self._spare = self._spare, None
        try:
            if websocket is None or websocket.closed:
                websocket = await open_forward(self._cluster, self._namespace, self._pod)
            await _pump(reader, writer, websocket)
        except TouchmarkError as error:
            self._fault = error
        except (OSError, TimeoutError) as error:
            self._fault = UnavailableError(f"the forwarded connection broke: {error}")
        finally:
            writer.close()
            if websocket is not None:
                await _close(websocket)

    def _note_failure(self, name: str, error: BaseException) -> None:
        self._fault = UnavailableError(f"{name}: {error}")


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, websocket: aiohttp.ClientWebSocketResponse
) -> None:
    """Carry bytes both ways until either end is through."""
    down = asyncio.ensure_future(_pump_down(websocket, writer))
    up = asyncio.ensure_future(_pump_up(reader, websocket))
    try:
        await asyncio.wait((down, up), return_when=asyncio.FIRST_COMPLETED)
        for side in (down, up):
            if side.done():
                side.result()
    finally:
        for side in (down, up):
            side.cancel()
        await asyncio.gather(down, up, return_exceptions=True)


async def _pump_up(reader: asyncio.StreamReader, websocket: aiohttp.ClientWebSocketResponse) -> None:
    while data := await reader.read(CHUNK_BYTES):
        async with asyncio.timeout(SEND_DEADLINE_S):
            await websocket.send_bytes(ForwardedPort.send(data))


async def _pump_down(websocket: aiohttp.ClientWebSocketResponse, writer: asyncio.StreamWriter) -> None:
    import aiohttp

    port = ForwardedPort(ADMIN_PORT)
    while True:
        # No deadline here: the client has its own for each call, and `--follow` waits for what may never come.
        message = await websocket.receive()
        if message.type is aiohttp.WSMsgType.BINARY:
            if data := port.receive(message.data):
                writer.write(data)
                async with asyncio.timeout(SEND_DEADLINE_S):
                    await writer.drain()
        elif message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED):
            return
        elif message.type is aiohttp.WSMsgType.ERROR:
            raise UnavailableError(f"the forwarded connection broke: {websocket.exception()}")
        else:
            raise ProtocolError(f"unexpected message on a forwarded port: {message.type.name}")


async def _close(websocket: aiohttp.ClientWebSocketResponse) -> None:
    with suppress(TimeoutError, OSError):
        async with asyncio.timeout(CLOSE_DEADLINE_S):
            await websocket.close()
