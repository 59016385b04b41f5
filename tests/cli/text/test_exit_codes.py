"""The table of exit codes is whole."""

from __future__ import annotations

from cli.text.exit_codes import EXIT_CODES, ExitCode, format_exit_codes
from shared.model import errors


def test_every_code_has_a_meaning_and_is_in_the_help() -> None:
    assert set(EXIT_CODES) == set(ExitCode)
    assert all(f"{code.value} {EXIT_CODES[code]}" in format_exit_codes() for code in ExitCode)


def test_every_error_s_exit_code_is_in_the_table() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert {kind.exit_code for kind in kinds if issubclass(kind, errors.TouchmarkError)} <= set(ExitCode)
