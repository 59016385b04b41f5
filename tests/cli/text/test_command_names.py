"""Who types another tool's word for a command, or one in the wrong place, is told the right one."""

from __future__ import annotations

from cli.main import list_commands
from cli.text.command_names import OTHER_WORDS, find_meant

COMMANDS = ("explain", "program", "program approve", "program list", "trust list", "policy get", "policy delete")


def test_another_word_names_its_command() -> None:
    assert find_meant("why", COMMANDS) == ("explain",)
    assert find_meant("program add", COMMANDS) == ("program approve",)


def test_a_command_that_is_looked_for_in_the_wrong_place_is_found() -> None:
    assert find_meant("approve", COMMANDS) == ("program approve",)
    assert find_meant("list", COMMANDS) == ("program list", "trust list")
    assert find_meant("program delete", COMMANDS) == ("policy delete",)


def test_nonsense_means_nothing() -> None:
    assert find_meant("nonsense", COMMANDS) == ()


def test_each_word_stands_for_a_command_that_exists_and_is_none_itself() -> None:
    known = list_commands()
    assert set(OTHER_WORDS.values()) <= set(known)
    assert not OTHER_WORDS.keys() & set(known)
