"""``python -m ca`` as a process: it serves, says clearly what it can't use, and ends on SIGTERM."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
import uvloop

from ca import __main__ as ca_main
from ca.__main__ import _configure_logs

START_S = 240.0  # It needs seconds of processor time, and a busy machine may give it a tenth of a core.


async def start(tmp_path: Path, *options: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ca", "--data-dir", str(tmp_path / "data"), "--kek-file", str(tmp_path / "kek")),
        *("--admin-socket", str(tmp_path / "admin.sock"), *options),
        stderr=asyncio.subprocess.PIPE,
    )


async def fail(tmp_path: Path, *options: str) -> tuple[int | None, str]:
    process = await start(tmp_path, *options)
    _, errors = await asyncio.wait_for(process.communicate(), START_S)
    return process.returncode, errors.decode()


async def test_it_serves_on_an_owner_only_socket_and_ends_on_sigterm(tmp_path: Path) -> None:
    process = await start(tmp_path, "--listen", "127.0.0.1:0")
    assert process.stderr is not None
    # The audit log's events of its first authorities come before.
    while b"ca_started" not in (line := await asyncio.wait_for(process.stderr.readline(), START_S)):
        assert line, "it has ended"
    path = tmp_path / "admin.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
        for name in ("healthz", "readyz", "metrics", "v1/status", "v1/namespaces", "v1/decisions", "v1/connections"):
            async with session.get(f"http://ca/{name}") as response:
                assert response.status == 200, name
        async with session.get("http://ca/v1/decisions?nonsense=1") as response:
            assert response.status == 400
            assert (await response.json())["code"] == "bad_input"
    process.send_signal(signal.SIGTERM)
    await asyncio.wait_for(process.communicate(), START_S)
    assert process.returncode == 0
    assert not path.exists()


async def test_a_port_in_use_is_a_clear_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, errors = await fail(tmp_path, "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert code == 6
    assert errors.startswith("error[unavailable]: can't listen on 127.0.0.1:")


async def test_an_unusable_data_directory_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    code, errors = await fail(tmp_path, "--listen", "127.0.0.1:0")
    assert code == 2
    assert "the data directory can't be used" in errors
    assert "Traceback" not in errors


def test_in_a_cluster_what_takes_long_to_load_is_loaded_before_the_event_loop_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine the loop stood still for eight seconds at the start."""
    done: list[str] = []

    def run(main: Coroutine[Any, Any, None]) -> None:
        main.close()
        done.append("loop")

    monkeypatch.setattr(ca_main, "import_module", done.append)
    monkeypatch.setattr(ca_main, "_configure_logs", lambda _: None)
    monkeypatch.setattr(ca_main, "keep_large_blocks_apart", lambda: None)
    monkeypatch.setattr(uvloop, "run", run)
    monkeypatch.setattr(os, "umask", lambda _: 0)
    options = ["--data-dir", str(tmp_path), "--kubernetes", "--sidecar-image", "example.test/sidecar:1"]
    assert ca_main.main(options) == 0
    assert done == ["ca.runtime.cluster", "loop"]


def test_a_fault_is_logged_without_what_the_functions_held(capsys: pytest.CaptureFixture[str]) -> None:
    def fail_with(token: str) -> None:
        raise RuntimeError(f"{len(token)} characters")

    before = structlog.get_config()
    try:
        _configure_logs("info")
        try:
            fail_with("t0" + "ken")
        except RuntimeError:
            structlog.get_logger("test").exception("failed")
    finally:
        structlog.configure(**before)
    line = capsys.readouterr().err
    [fault] = json.loads(line)["exception"]
    assert fault["exc_value"] == "5 characters"
    assert [frame["name"] for frame in fault["frames"]][-1] == "fail_with"
    assert "t0ken" not in line
