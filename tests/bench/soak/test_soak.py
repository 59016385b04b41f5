"""The soak itself, shortened: it runs, every byte and record is accounted for, and its report says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.page import Page
from bench.soak.__main__ import main
from bench.soak.judgement import Kept
from bench.soak.report import write_report

ROOT = Path(__file__).parents[3]


def test_a_short_soak_holds_and_writes_its_report(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- soak: begin -->\nold\n<!-- soak: end -->\nafter\n")
    command = [sys.executable, "-m", "bench.soak", "--seconds", "20", "--programs", "10", "--report", str(page)]
    # Processes of other tests come and go faster than they can be looked at: explicit mode refuses while they do.
    apart = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child=KILL"] if os.geteuid() == 0 else []
    ran = subprocess.run(
        [*apart, *command, "--keep", str(tmp_path / "run")], cwd=ROOT, capture_output=True, timeout=600, check=False
    )
    assert ran.returncode == 0, (ran.stdout + ran.stderr).decode()[-4000:]
    text = page.read_text()
    assert "**held**" in text
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")


def test_a_report_names_what_is_wrong(tmp_path: Path) -> None:
    report = write_report(
        command="run", kept=Kept(connected=1, unknown=0, recorded=1, lost=0, events={}, reasons={}),
        sums=[("left", {"short": 3}, 1000)], failures=[], windows=[], samples=[], faults=["memory grew"],
    )  # fmt: skip
    assert "**did not hold**" in report
    assert "- memory grew" in report
    page = tmp_path / "page.md"
    page.write_text("<!-- soak: begin --><!-- soak: end -->")
    Page(path=page, name="soak").put(report)
    assert "3 short" in page.read_text()


@pytest.mark.parametrize("text", [None, "no marks"])
def test_a_page_that_takes_no_report_is_refused_before_the_run(
    tmp_path: Path, text: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    if text is not None:
        page.write_text(text)
    assert main(["--seconds", "3600", "--report", str(page)]) != 0
    assert str(page) in capsys.readouterr().err
