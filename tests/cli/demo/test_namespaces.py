"""The stage with real namespaces: parties reach each other, a watch tells the legs apart, nothing stays behind."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cli.demo.namespaces import build_namespaces
from cli.demo.packets import PacketWatch
from cli.demo.processes import Processes
from cli.demo.server import write_server
from cli.demo.stage import BETWEEN
from tests.cli.demo.waiting import wait_until


@pytest.mark.needs_root
def test_parties_reach_each_other_and_plaintext_is_seen_on_the_wire_without_sidecars(tmp_path: Path) -> None:
    marker = "marker-of-this-test"
    with build_namespaces(is_user_namespace=False) as stage:
        names = [name for place in (stage.web, stage.client) for name in place.prefix if name.startswith("tm-")]
        processes = Processes(tmp_path, {})
        try:
            server = write_server(tmp_path, stage.server_listen)
            processes.start("server", [*stage.web.prefix, *server.command])
            command = [*stage.client.prefix, "curl", "-sS", "-H", f"X-Marker: {marker}", stage.client_url]
            wait_until(lambda: processes.run(command, timeout_s=5).code == 0)
            with PacketWatch(stage.taps, marker.encode()) as watch:
                outcome = processes.run(command, timeout_s=60)
            assert outcome.output.startswith(f"{server.greeting} {marker}")
            assert watch.legs[BETWEEN].hits > 0
        finally:
            processes.end()
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, check=True, text=True).stdout
    assert not any(name in left for name in names)
