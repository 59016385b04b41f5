"""The machine's examination names what is there."""

from __future__ import annotations

from pathlib import Path

from cli.machine.machine import examine_machine, find_program, is_sidecar_user_mapped
from sidecar.native.engine import load


def test_each_finding_that_isn_t_well_has_a_hint() -> None:
    findings = examine_machine()
    assert {"Python", "kernel", "sock_diag", "nft"} <= {finding.subject for finding in findings}
    (engine,) = (finding for finding in findings if finding.subject == "sidecar's engine")
    assert engine.is_well is (load() is not None)
    assert all(finding.hint for finding in findings if not finding.is_well)


def test_a_program_that_isn_t_there_is_none() -> None:
    assert find_program("no-such-program-here") is None


def test_the_sidecar_s_user_exists_where_all_users_do(tmp_path: Path) -> None:
    everybody, alone = tmp_path / "everybody", tmp_path / "alone"
    everybody.write_text("         0          0 4294967295\n")
    alone.write_text("         0       1000          1\n")
    assert is_sidecar_user_mapped(everybody)
    assert not is_sidecar_user_mapped(alone)
