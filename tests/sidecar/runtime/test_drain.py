"""The end of a sidecar: live connections finish within a deadline; its stream and tunnels are closed properly."""

from __future__ import annotations

import asyncio
import signal

import pytest

from tests.free_ports import free_port
from tests.sidecar.little_ca import LittleCA, until
from tests.sidecar.runtime.whole_sidecar import an_echo, echo_back, run_client, sidecar


async def test_at_sigterm_live_connections_finish_and_new_ones_are_refused() -> None:
    async with LittleCA().serving() as ca, an_echo(ca) as echo:
        reader, writer = await echo.connect()
        writer.write(b"before ")
        assert await reader.readexactly(7) == b"before "
        echo.running.process.terminate()
        await until(lambda: any(event["event"] == "sidecar_draining" for event in echo.running.events))
        with pytest.raises(ConnectionRefusedError):
            await echo.connect()
        assert echo.running.process.returncode is None
        writer.write(b"after")
        writer.write_eof()
        assert await reader.read() == b"after"
        writer.close()
        assert await echo.running.stop() == 0
    assert [record["ending"] for record in echo.running.records if record["phase"] == "end"] == ["finished"]
    assert echo.running.events[-1]["event"] == "sidecar_stopped"


async def test_a_peer_that_restarts_loses_nobody() -> None:
    """Its idle tunnel says CLOSING, so that the next connection doesn't meet a broken one."""
    listen, tunnel, plain = free_port(), free_port("127.0.0.2"), free_port("127.0.0.2")
    async with LittleCA().serving() as ca:
        server = await asyncio.start_server(echo_back, "127.0.0.1", 0)
        inbound = f"127.0.0.2:{plain}=127.0.0.1:{server.sockets[0].getsockname()[1]}"
        arguments = ("--tunnel-address", "127.0.0.2", "--tunnel-port", str(tunnel), "--inbound", inbound)
        async with (
            server,
            sidecar(ca.make_token("shop/web"), "--outbound", f"127.0.0.1:{listen}=127.0.0.2:{plain}") as web,
        ):
            await web.wait_ready()
            for turn in range(3):
                async with sidecar(ca.make_token("shop/db"), *arguments, "--instance", f"db{turn}") as db:
                    await db.wait_ready()
                    assert await run_client(listen, f"turn {turn}") == f"turn {turn}"
                    await until(lambda: db.records)
                    assert await db.stop() == 0
            assert await web.stop() == 0
    assert [record["transport"] for record in web.records] == ["tunnel"] * 3
    assert {record["ending"] for record in web.records} == {"finished"}


@pytest.mark.parametrize(("arguments", "signals"), [(("--drain-seconds", "1"), 1), (("--drain-seconds", "3600"), 2)])
async def test_the_draining_ends_at_its_deadline_or_with_a_second_signal(
    arguments: tuple[str, ...], signals: int
) -> None:
    async with LittleCA().serving() as ca, an_echo(ca, *arguments) as echo:
        reader, writer = await echo.connect()
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        for _ in range(signals):
            echo.running.process.send_signal(signal.SIGTERM)
            await until(lambda: any(event["event"] == "sidecar_draining" for event in echo.running.events))
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(240):
                await reader.read()
        writer.close()
        assert await echo.running.process.wait() == 0
        await echo.running.stop()
    assert [record["ending"] for record in echo.running.records if record["phase"] == "end"] == ["shutdown"]


async def test_the_stream_is_closed_properly_at_the_end() -> None:
    async with LittleCA().serving() as ca, an_echo(ca) as echo:
        stream = ca.streams[0]
        assert await echo.running.stop() == 0
        await until(lambda: not ca.streams)
        assert stream.close_code == 1001  # Going away
    assert not any(event["event"] == "ca_stream_lost" for event in echo.running.events)
