"""The bench of bursts counts what was answered and what wasn't. Here without sidecars between."""

from __future__ import annotations

from pathlib import Path

from bench.held import run_burst
from bench.processes import Processes, free_ports, own_python


def test_every_connection_of_a_burst_is_answered_or_counted_as_ended(tmp_path: Path) -> None:
    served, closed = free_ports(2)
    with Processes(directory=tmp_path) as backend:
        backend.start("backend", [own_python(), "-m", "bench.held_program", "serve", "127.0.0.1", str(served)])
        backend.wait_until_listening("127.0.0.1", served)
        reports = run_burst(("127.0.0.1", served), connections=25, processes=2)
    assert [len(each["seconds"]) for each in reports] == [13, 12]
    assert all(not each["ends"] for each in reports)
    (refused,) = run_burst(("127.0.0.1", closed), connections=3, processes=1)
    assert refused == {"seconds": [], "ends": {"ECONNREFUSED": 3}}
