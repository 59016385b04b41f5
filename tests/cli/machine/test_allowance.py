"""What an approval allows, in words."""

from __future__ import annotations

import pytest

from cli.machine.allowance import ANY_CODE, describe_allowance, name_language
from shared.model.identity.program import Program

DIGEST = "ab" * 32


@pytest.mark.parametrize(
    ("main", "path", "words"),
    [
        ("none", "/usr/bin/python3.11", "any Python program that is given by -m, -c or standard input"),
        ("none", "", "any program of this interpreter that is given by -m, -c or standard input"),
        ("", "/usr/bin/python3", "any Python program"),
        ("", "/bin/busybox", "any program that it is told to run"),
        ("", "/bin/bash", "any shell program"),
        ("", "/bin/bash (deleted)", "any shell program"),
        ("", "/usr/bin/python3.11 (deleted)", "any Python program"),
        ("cd" * 32, "/usr/bin/node", "the script that its process names, which is only its claim"),
        ("", "/usr/sbin/nginx", ""),
        ("", "", ""),
    ],
)
def test_it_says_whose_programs(main: str, path: str, words: str) -> None:
    assert describe_allowance(Program(digest=DIGEST, main=main), path) == words


@pytest.mark.parametrize(
    ("path", "language"),
    [("/usr/bin/java", "Java"), ("/usr/bin/javascript-thing", ""), ("/usr/bin/perl5", "Perl"), ("/bin/dash", "shell")],
)
def test_a_language_is_known_by_the_files_name(path: str, language: str) -> None:
    assert name_language(path) == language
    assert "standard input" in ANY_CODE
