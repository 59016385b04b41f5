"""The demo's server is a real program that greets, whichever it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.demo import server as serving
from cli.demo.processes import Processes
from cli.demo.server import write_server
from shared.model.errors import MachineError
from tests.cli.demo.waiting import wait_until
from tests.free_ports import free_port


@pytest.mark.parametrize("choice", ["auto", "python"])
def test_it_greets_and_repeats_the_marker(tmp_path: Path, choice: str) -> None:
    port = free_port()
    server = write_server(tmp_path, f"127.0.0.1:{port}", choice=choice)
    processes = Processes(tmp_path, {})
    processes.start("server", server.command)
    try:
        curl = ["curl", "-sS", "--noproxy", "*", "-H", "X-Marker: here", f"http://127.0.0.1:{port}/"]
        wait_until(lambda: processes.run(curl, timeout_s=5).output == f"{server.greeting} here\n")
    finally:
        processes.end()


def test_without_nginx_it_is_a_script_that_alone_is_approved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "find_program", lambda name: None)
    server = write_server(tmp_path, "127.0.0.1:8080")
    assert server.approval[1:] == ("--weak", "--main", str(tmp_path / "server.py"))
    assert server.command[0] == server.approval[0]
    with pytest.raises(MachineError, match="nginx isn't installed"):
        write_server(tmp_path, "127.0.0.1:8080", choice="nginx")
