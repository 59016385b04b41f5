"""Performs one probe against the application, as the kubelet would from outside, within the probe's own time.

Belongs here: its deadline, the mere connect. Doesn't: HTTP and gRPC themselves. A probe asks the pod alone:
its author could otherwise have the sidecar fetch what policy doesn't let the pod reach. The sidecar's own
connections aren't captured, so that the application answers it as it would answer anybody in the pod.
"""

from __future__ import annotations

import asyncio

from shared.model.kubernetes.contract import ProbeTarget
from sidecar.probing.http_probe import probe_http
from sidecar.probing.outcome import Outcome, fail
from sidecar.sockets.dial import DialError, dial


async def perform(target: ProbeTarget, address: str, *, mark: int = 0) -> Outcome:
    """Ask the application; whatever goes wrong is an outcome.

    Arguments:
        address: the pod's main one, which the kubelet asks.
    """
    try:
        async with asyncio.timeout(target.timeout_s):
            if target.handler == "http":
                return await probe_http(target, address, mark=mark)
            if target.handler == "grpc":
                from sidecar.probing.grpc_probe import probe_grpc  # HTTP/2 costs memory: only where it is asked for.

                return await probe_grpc(target, address, mark=mark)
            return await _connect(target, address, mark=mark)
    except TimeoutError:
        return fail(f"no answer within {target.timeout_s} s", status=504)
    except DialError as error:
        return fail(str(error))


async def _connect(target: ProbeTarget, address: str, *, mark: int) -> Outcome:
    loop = asyncio.get_running_loop()
    connection = await dial(loop, (address, target.port), mark=mark, timeout_s=target.timeout_s)
    connection.close()
    return Outcome(status=200, body=b"connected\n")
