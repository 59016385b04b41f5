"""Rounds with real load, over a subject that is no proxy at all, and with a subject that fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import bench.run
from bench.errors import BenchError
from bench.figures import Metric, summarise
from bench.processes import Processes, own_python
from bench.run import run_rounds
from bench.subjects.subject import Backends, RunningSubject
from bench.works import Scale, Task, Work, run_work


@contextmanager
def run_nothing_between(directory: Path, backends: Backends) -> Iterator[RunningSubject]:
    """No proxy: the client meets the backends."""
    with Processes(directory=directory) as processes:
        pid = processes.start("idler", [own_python(), "-c", "import time; time.sleep(600)"])
        yield RunningSubject(http=backends.http, sink=backends.sink, pids=(pid,), check=processes.check)


@contextmanager
def run_broken(directory: Path, backends: Backends) -> Iterator[RunningSubject]:
    """Nothing listens where it says."""
    with Processes(directory=directory) as processes:
        pid = processes.start("broken", [own_python(), "-c", "raise SystemExit('out of order')"])
        yield RunningSubject(http=("127.0.0.1", 1), sink=("127.0.0.1", 1), pids=(pid,), check=processes.check)


@pytest.mark.usefixtures("web_server_without_nginx")
def test_a_subject_that_fails_has_no_figures_and_the_others_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.run, "SUBJECTS", {"direct": run_nothing_between, "broken": run_broken})
    said: list[str] = []
    outcome = run_rounds(
        ["direct", "broken"],
        [Work.BULK, Work.BULK_STREAMS, Work.FIRST_BYTE, Work.MEMORY_IDLE],
        rounds=2,
        scale=Scale(bulk_mib=8),
        say=said.append,
    )
    assert list(outcome.failures) == ["broken"]
    assert outcome.failures["broken"].startswith("start: ")
    assert any("✗ broken" in line for line in said)
    assert said.count("  bulk: direct") == 2, "who waits doesn't see how far it is"
    assert [line.startswith("  took ") for line in said].count(True) == 1
    figures = summarise(outcome.samples)
    assert {figure.subject for figure in figures} == {"direct"}
    assert {(figure.work, figure.metric) for figure in figures} == {
        ("memory_idle", Metric.RSS),
        ("bulk", Metric.RATE),
        ("bulk", Metric.CPU),
        ("bulk", Metric.RSS),
        ("bulk_8_streams", Metric.RATE),
        ("bulk_8_streams", Metric.CPU),
        ("bulk_8_streams", Metric.RSS),
        ("first_byte", Metric.LATENCY_P50),
        ("first_byte", Metric.LATENCY_P99),
        ("first_byte", Metric.CPU),
    }
    assert len(outcome.samples) == 2 * len(figures)


def test_a_process_that_ends_says_why(tmp_path: Path) -> None:
    with Processes(directory=tmp_path) as processes:
        processes.start("broken", [own_python(), "-c", "raise SystemExit('out of order')"])
        with pytest.raises(BenchError, match="broken ended with status 1: out of order"):
            processes.wait_until_listening("127.0.0.1", 1)


def test_a_subject_that_ends_under_a_load_says_why(tmp_path: Path) -> None:
    """The load finds only that it has ended, and a load generator not even that."""
    checks = iter((None, BenchError("proxy ended with status -11: out of order")))

    def check() -> None:
        if (error := next(checks)) is not None:
            raise error

    nobody = 2**22 + 1  # Above the highest PID that the kernel gives.
    subject = RunningSubject(http=("127.0.0.1", 1), sink=("127.0.0.1", 1), pids=(nobody,), check=check)
    task = Task(work=Work.BULK, name="proxy", subject=subject, scale=Scale(bulk_mib=1), directory=tmp_path)
    with pytest.raises(BenchError, match="status -11: out of order"):
        run_work(task)


@pytest.mark.usefixtures("web_server_without_nginx")
def test_where_every_subject_has_failed_no_round_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.run, "SUBJECTS", {"broken": run_broken})
    said: list[str] = []
    run_rounds(["broken"], [Work.BULK], rounds=9, scale=Scale(bulk_mib=1), say=said.append)
    assert [line for line in said if line.startswith("round")] == ["round 1 of 9"]


_WEB_SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
    def log_message(self, *arguments):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def web_server_without_nginx(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests need no nginx: only the comparison does."""

    def start(processes: Processes, directory: Path, listen: tuple[str, int]) -> int:
        pid = processes.start("web-server", [own_python(), "-c", _WEB_SERVER, str(listen[1])])
        processes.wait_until_listening(*listen)
        return pid

    monkeypatch.setattr(bench.run, "start_web_server", start)


def test_each_subject_that_uses_tunnels_again_has_another_start_without() -> None:
    differing = {name for name, start in bench.run.NO_REUSE.items() if start is not bench.run.SUBJECTS[name]}
    assert differing == {"touchmark", "touchmark-python", "rust-floor", "ztunnel"}
