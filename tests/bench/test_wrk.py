"""wrk's report: what counts as one."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.wrk import parse_report, write_script, wrk_command

_OUTPUT = """Running 2s test @ http://127.0.0.1:1/
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
Requests/sec:  21880.11

bench {{"requests":{requests},"duration_us":2000000,"errors":{errors},"p50_us":1360.000000,"p99_us":4340.500000}}
"""


def test_the_report_is_read_from_the_output() -> None:
    report = parse_report(_OUTPUT.format(requests=44_000, errors=0))
    assert report.rate == 22_000
    assert (report.p50_us, report.p99_us) == (1360, 4340.5)


def test_failed_requests_make_no_figure() -> None:
    with pytest.raises(BenchError, match="3 requests failed"):
        parse_report(_OUTPUT.format(requests=44_000, errors=3))


def test_no_requests_make_no_figure() -> None:
    with pytest.raises(BenchError, match="no request"):
        parse_report(_OUTPUT.format(requests=0, errors=0))


@pytest.mark.parametrize("output", ["", "unable to connect", _OUTPUT.format(requests=1, errors=0) * 2])
def test_without_exactly_one_report_there_is_none(output: str) -> None:
    with pytest.raises(BenchError, match="no report"):
        parse_report(output)


def test_a_broken_report_is_an_error() -> None:
    with pytest.raises(BenchError, match="can't be read"):
        parse_report('bench {"requests":1}\n')


def test_new_connections_are_asked_for_by_header(tmp_path: Path) -> None:
    script = write_script(tmp_path)
    assert "done" in script.read_text()
    command = wrk_command(script=script, address="127.0.0.1", port=80, connections=32, duration_s=2, keeps_alive=False)
    assert command[-3:] == ["-H", "Connection: close", "http://127.0.0.1:80/"]
    kept = wrk_command(script=script, address="127.0.0.1", port=80, connections=32, duration_s=2, keeps_alive=True)
    assert "Connection: close" not in kept
    assert "-t1" in kept
