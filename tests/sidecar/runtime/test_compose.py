"""The parts know what the configuration says: the sidecar's own ports are no destinations."""

from __future__ import annotations

import asyncio

import pytest

from tests.sidecar.little_ca import LittleCA, until
from tests.sidecar.runtime.whole_sidecar import open_socket_in, run_client, sidecar, two_namespaces


@pytest.mark.needs_root
async def test_nothing_gets_in_by_the_redirects_own_ports() -> None:
    """15006 listens on every address: whoever dials it, or 14970 to 15001, directly is refused, in v4 and v6."""
    hits = [
        (side, address, port)
        for side, address in [
            ("outside", "198.18.0.2"), ("outside", "fd00:18::2"), ("inside", "198.18.0.2"), ("inside", "fd00:18::2"),
            ("inside", "127.0.0.1"), ("inside", "::1"),
        ]
        for port in (14970, 15001, 15006)
    ]  # fmt: skip
    with two_namespaces() as (left, right):
        here = LittleCA(host="198.18.0.1", port=15443, open_socket=lambda: open_socket_in(left))
        async with (
            here.serving() as ca,
            sidecar(
                ca.make_token("shop/db"), "--capture", "redirect", "--exclude-port", "15443",
                "--tunnel-address", "198.18.0.2", "--tunnel-address", "fd00:18::2", namespace=right,
            ) as running,
        ):  # fmt: skip
            await running.wait_ready()
            answers = await asyncio.gather(
                *(
                    run_client(port, "x", address=address, namespace=left if side == "outside" else right)
                    for side, address, port in hits
                )
            )
            assert answers == [""] * len(hits)
            # 15001 listens on loopback alone: inside, the other addresses have nobody there to record it.
            expected = len(hits) - 4
            await until(lambda: len(running.records) >= expected)
            assert await running.stop() == 0
    assert len(running.records) == expected
    assert {(record["answer"], record["reason"]) for record in running.records} == {("deny", "direct_connection")}
