"""The machine's examination names what is there."""

from __future__ import annotations

from cli.machine import examine_machine, find_program


def test_each_finding_that_isn_t_well_has_a_hint() -> None:
    findings = examine_machine()
    assert {"Python", "kernel", "sock_diag", "nft"} <= {finding.subject for finding in findings}
    assert all(finding.hint for finding in findings if not finding.is_well)


def test_a_program_that_isn_t_there_is_none() -> None:
    assert find_program("no-such-program-here") is None
