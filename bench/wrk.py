"""wrk as load generator: its command, and its result as a value.

wrk prints for people; a ``done`` function in Lua (wrk's SCRIPTING document) makes it print one JSON line instead, with
the errors in it. Belongs here: that script, the command and the parser. Parsing is pure.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from bench.errors import BenchError

_SCRIPT: Final = """
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\\nbench {"requests":%d,"duration_us":%d,"errors":%d,"p50_us":%f,"p99_us":%f}\\n',
    summary.requests, summary.duration,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""
_MARK: Final = "bench "


class WrkReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one run of wrk came to; times in µs."""

    requests: int
    duration_us: int
    errors: int
    p50_us: float
    p99_us: float

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests * 1e6 / self.duration_us


def parse_report(output: str) -> WrkReport:
    """Return the report in wrk's output.

    Raises:
        BenchError: there is none, or some requests failed, or none was made: such a run measures nothing.
    """
    lines = [line.removeprefix(_MARK) for line in output.splitlines() if line.startswith(_MARK)]
    if len(lines) != 1:
        raise BenchError("wrk printed no report")
    try:
        report = msgspec.json.decode(lines[0].encode(), type=WrkReport)
    except msgspec.DecodeError as error:
        raise BenchError(f"wrk's report can't be read: {error}") from error
    if report.errors:
        raise BenchError(f"wrk: {report.errors} requests failed beside {report.requests} that were answered")
    if not report.requests or report.duration_us <= 0:
        raise BenchError("wrk: no request was answered")
    return report


def write_script(directory: Path) -> Path:
    """Write wrk's script into ``directory`` and return where it is."""
    path = directory / "wrk.lua"
    path.write_text(_SCRIPT)
    return path


def wrk_command(
    *, script: Path, address: str, port: int, connections: int, duration_s: int, keeps_alive: bool
) -> list[str]:
    """Return the command line: one thread, ``connections`` clients, for ``duration_s`` whole seconds."""
    close = [] if keeps_alive else ["-H", "Connection: close"]
    return [
        "wrk", "-t1", f"-c{connections}", f"-d{duration_s}s", "--timeout", "10s", "-s", str(script),
        *close, f"http://{address}:{port}/",
    ]  # fmt: skip
