"""While it serves: the CA may be away, up to the end of its certificate and beyond in a pod."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from shared.model.wire.messages import CertificateRequest, Reissue
from shared.runtime.sinks import LineSink
from sidecar.events import Events
from sidecar.runtime import serve as module
from tests.free_ports import free_port
from tests.sidecar.little_ca import LittleCA, until
from tests.sidecar.runtime.whole_sidecar import echo_back, pod_arguments, pod_variables, sidecar

_LIFE_S = 5.0  # Of the last certificates before the CA is away.


async def let_certificates_end_soon(ca: LittleCA) -> None:
    """Give a sidecar that serves, however long that took, certificates that end soon."""
    ca.life_s = _LIFE_S
    for _ in range(2):  # It asks for the second one of its own when it has taken the first.
        asked = _count_own(ca)
        await ca.tell(Reissue(spread_s=0))
        await until(lambda asked=asked: _count_own(ca) > asked)  # type: ignore[misc]


def _count_own(ca: LittleCA) -> int:
    asked = (message for message in ca.received if isinstance(message, CertificateRequest))
    return sum(message.program is None for message in asked)


async def test_a_sidecar_that_expired_while_the_ca_was_away_says_what_to_do_and_ends() -> None:
    ca = LittleCA()
    async with ca.serving():
        token = ca.make_token("shop/web")
        arguments = ("--outbound", f"127.0.0.1:{free_port()}=127.0.0.2:9")
        context = sidecar(token, *arguments)
        running = await context.__aenter__()
        try:
            await running.wait_ready()
            await let_certificates_end_soon(ca)
        except BaseException:
            await context.__aexit__(None, None, None)
            raise
    try:  # The CA is away now.
        async with asyncio.timeout(120):
            assert await running.process.wait() == 7
        await running.stop()
    finally:
        await context.__aexit__(None, None, None)
    (event,) = (event for event in running.events if event["event"] == "certificate_expired")
    assert "touchmark ca join-token shop/web" in event["hint"]
    assert any("hint: make a new token" in event.get("text", "") for event in running.events)


async def test_a_pods_sidecar_outlives_an_outage_longer_than_its_certificate_and_its_connections_go_on(
    tmp_path: Path,
) -> None:
    ca = LittleCA(pod_tokens={"a pod's token": "shop/db"})
    plain, tunnel = free_port("127.0.0.2"), free_port("127.0.0.2")
    server = await asyncio.start_server(echo_back, "127.0.0.1", 0)
    inbound = f"127.0.0.2:{plain}=127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, AsyncExitStack() as stack:
        async with ca.serving():
            arguments = (*pod_arguments(ca, tmp_path), "--tunnel-port", str(tunnel), "--inbound", inbound)
            running = await stack.enter_async_context(
                sidecar("", *arguments, variables=pod_variables("db", "127.0.0.2"))
            )
            await running.wait_ready()
            reader, writer = await asyncio.open_connection("127.0.0.2", plain)
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            await let_certificates_end_soon(ca)
        await asyncio.sleep(_LIFE_S + 1)
        (tmp_path / "token").write_text("its next token")
        ca.pod_tokens, ca.life_s = {"its next token": "shop/db"}, 3600
        async with ca.serving():
            await until(lambda: any(event["event"] == "joined_again" for event in running.events))
            writer.write(b"y")
            assert await reader.readexactly(1) == b"y"
            writer.close()
            assert await running.stop() == 0
    assert [record["ending"] for record in running.records if record["phase"] == "end"] == ["finished"]


async def test_a_fault_in_one_look_doesnt_end_the_next_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "_AFTER_FAULT_S", 0.01)
    looks = 0

    async def look() -> None:
        nonlocal looks
        looks += 1
        if looks < 3:
            raise OSError("no descriptors left")
        await asyncio.Event().wait()

    with (tmp_path / "events").open("wb") as file:
        sink = LineSink(file.fileno())
        events = Events(sink)
        task = asyncio.create_task(module.keep_looking(look, "holders", events))
        await until(lambda: looks == 3)
        assert events.counts == {"task_failed": 2}
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(sink.close, timeout_s=5)
