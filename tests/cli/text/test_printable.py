"""What others chose is shown on a terminal, and does nothing there."""

from __future__ import annotations

import pytest

from cli.text.output import print_line, print_note, print_table
from cli.text.printable import escape, is_plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/usr/bin/späti 1", "/usr/bin/späti 1"),
        ("/tmp/a\nb", "/tmp/a\\nb"),
        ("\x1b[2Jx", "\\x1b[2Jx"),
        ("a\u202eb\u2028c", "a\\u202eb\\u2028c"),
        ("\x9b1m\x7f\r", "\\x9b1m\\x7f\\r"),
    ],
)
def test_what_isnt_printable_is_shown_as_its_escape(text: str, shown: str) -> None:
    assert escape(text) == shown


def test_only_plain_text_may_stand_beside_a_command() -> None:
    assert is_plain("/usr/bin/python3.11")
    for text in ("", "a b", "a;b", "$(a)", "a\n", "`a`", "a#b", "ä"):
        assert not is_plain(text)


def test_no_escape_sequence_reaches_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "x\x1b]0;owned\x07\x1b[1A"
    print_table(["A"], [[evil + "\nline"]], empty="none")
    print_line(f"two\nlines {evil}")
    print_note(evil)
    printed = capsys.readouterr()
    assert "\x1b]" not in printed.out + printed.err
    assert "\x07" not in printed.out + printed.err
    assert "\\nline" in printed.out, "a cell has one line"
    assert "two\nlines x\\x1b" in printed.out
