"""The demo's server is a real program that greets."""

from __future__ import annotations

from pathlib import Path

from cli.demo.processes import Processes
from cli.demo.server import write_server
from tests.cli.demo.waiting import wait_until


def test_it_greets_and_repeats_the_marker(tmp_path: Path) -> None:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = write_server(tmp_path, f"127.0.0.1:{port}")
    processes = Processes(tmp_path, {})
    processes.start("server", server.command)
    try:
        curl = ["curl", "-sS", "--noproxy", "*", "-H", "X-Marker: here", f"http://127.0.0.1:{port}/"]
        wait_until(lambda: processes.run(curl, timeout_s=5).output == f"{server.greeting} here\n")
    finally:
        processes.end()
