"""Whole sidecars: started as a user starts them, joined to a CA, carrying a connection between two programs."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE

from sidecar.native.engine import load
from tests.free_ports import free_port
from tests.sidecar.little_ca import LittleCA, until
from tests.sidecar.runtime.whole_sidecar import SERVER, run_client, sidecar


async def test_two_sidecars_carry_a_connection_through_a_tunnel_and_record_it_on_both_sides() -> None:
    listen, application, tunnel, plain = free_port(), free_port(), free_port("127.0.0.2"), free_port("127.0.0.2")
    async with LittleCA().serving() as ca:
        server = await asyncio.create_subprocess_exec(sys.executable, "-c", SERVER, str(application), stdout=PIPE)
        try:
            assert server.stdout is not None
            await server.stdout.readline()
            async with (
                sidecar(
                    ca.make_token("shop/db"), "--tunnel-address", "127.0.0.2", "--tunnel-port", str(tunnel),
                    "--inbound", f"127.0.0.2:{plain}=127.0.0.1:{application}", "--instance", "db", "--engine", "python",
                ) as db,
                sidecar(
                    ca.make_token("shop/web"), "--outbound", f"127.0.0.1:{listen}=127.0.0.2:{plain}",
                    "--instance", "web", variables={"TOUCHMARK_TRACE": "frames"},
                ) as web,
            ):  # fmt: skip
                await db.wait_ready()
                await web.wait_ready()
                await until(lambda: ca.issued >= 3)  # Two sidecars and, ahead of its first peer, the server.
                assert await run_client(listen, "hello") == "echo hello"
                await until(lambda: db.records and web.records)
                assert await web.stop() == 0
                assert await db.stop() == 0
                outbound, inbound = web.records[-1], db.records[-1]
        finally:
            server.kill()
            await server.wait()
    engines = [event["engine"] for each in (db, web) for event in each.events if event["event"] == "sidecar_ready"]
    assert engines == ["python", "python" if load() is None else "native"]
    assert outbound["transport"] == inbound["transport"] == "tunnel"
    assert outbound["connection"] == inbound["connection"]
    assert (outbound["answer"], outbound["would_deny"], outbound["reason"]) == ("allow", True, "program_not_approved")
    assert inbound["source"]["workload"] == "shop/web"
    assert inbound["ending"] == "finished"
    assert (outbound["bytes_sent"], outbound["bytes_received"]) == (5, 10)
    frames = [event for event in web.events if event["event"] == "tunnel_frame"]
    assert {event["tunnel"] for event in frames} == {outbound["tunnel"]}
    assert [event["frame"] for event in frames if event["direction"] == "sent"] == ["OPEN", "DATA", "END"]
    assert sum(event["length"] for event in frames if event["frame"] == "DATA") == 15
    assert not [event for event in db.events if event["event"] == "tunnel_frame"]  # It wasn't told to.


async def test_a_trace_that_isnt_known_ends_the_sidecar_before_it_joins() -> None:
    async with sidecar("", variables={"TOUCHMARK_TRACE": "bytes"}) as running:
        assert await asyncio.wait_for(running.process.wait(), 240) == 2
        await running.stop()
    [line, hint] = [event["text"] for event in running.events]
    assert line == "error: TOUCHMARK_TRACE can't be 'bytes' [bad_input]\n"
    assert hint == "hint: the only value is 'frames'\n"


async def test_a_sidecar_that_cannot_join_yet_says_so_and_ends_at_sigterm() -> None:
    # A port of the kernel's own range would be given to the next one who asks, be it the sidecar itself.
    ca = LittleCA(port=free_port())
    async with ca.serving():
        token = ca.make_token("shop/web")
    async with sidecar(token, "--outbound", f"127.0.0.1:{free_port()}=127.0.0.2:9") as running:
        await until(lambda: any(event["event"] == "ca_unreachable" for event in running.events))
        assert await running.stop() == 0
