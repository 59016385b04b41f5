"""Performs one probe against the application, as the kubelet would from outside, within the probe's own time.

Belongs here: whom a probe may ask, its deadline, the mere connect. Doesn't: HTTP and gRPC themselves. The sidecar's own
connections aren't captured, so that the application answers it as it would answer anybody in the pod.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from shared.model.kubernetes import ProbeTarget
from sidecar.dial import DialError, dial
from sidecar.probing.http_probe import probe_http
from sidecar.probing.outcome import Outcome, fail

_LOOPBACK = {"localhost": "127.0.0.1", "127.0.0.1": "127.0.0.1", "::1": "::1"}


async def perform(target: ProbeTarget, addresses: Sequence[str], *, mark: int = 0) -> Outcome:
    """Ask the application; whatever goes wrong is an outcome.

    Arguments:
        addresses: the pod's own, its main one first.
    """
    address = find_address(target.host, addresses)
    if address is None:
        # Else whoever writes a pod's probes could have its sidecar fetch what policy doesn't let the pod reach.
        return fail(f"the probe's host {target.host[:80]!r} isn't this pod")
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


def find_address(host: str, addresses: Sequence[str]) -> str | None:
    """Return where to connect for a probe's host; None when that is somewhere else than in this pod."""
    if not host:
        return addresses[0] if addresses else "127.0.0.1"
    return host if host in addresses else _LOOPBACK.get(host)


async def _connect(target: ProbeTarget, address: str, *, mark: int) -> Outcome:
    loop = asyncio.get_running_loop()
    connection = await dial(loop, (address, target.port), mark=mark, timeout_s=target.timeout_s)
    connection.close()
    return Outcome(status=200, body=b"connected\n")
