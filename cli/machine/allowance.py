"""What an approval allows, in words: what people must know before they say yes. Pure.

Belongs here: the words. Doesn't: finding out what a file is (``executable.py``).
"""

from __future__ import annotations

import re
from typing import Final

from cli.machine.executable import find_weakness, name_executable
from shared.model.identity.program import NO_MAIN, Program

# How people call what an interpreter runs.
_LANGUAGES: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"python|pypy"), "Python"),
    (re.compile(r"perl"), "Perl"),
    (re.compile(r"ruby"), "Ruby"),
    (re.compile(r"node|nodejs|deno|bun"), "JavaScript"),
    (re.compile(r"php"), "PHP"),
    (re.compile(r"lua"), "Lua"),
    (re.compile(r"java(?![a-z])"), "Java"),
)
_SHELL: Final = re.compile(r"(ba|da|a|z|k|mk|fi|tc|c|pw|rba|ya)?sh[0-9.]*")
# ``-m``, ``-c``, standard input, a script that can't be found: all of these are told apart by nothing.
ANY_CODE: Final = (
    "main:none allows everything that this interpreter is told to run without a script file of its own: every `-m`"
    " module, every `-c` text, standard input"
)


def name_language(path: str) -> str:
    """Return what an interpreter runs, by its file's name: ``Python``, ``shell``; empty: not known."""
    name = name_executable(path).lower()
    if _SHELL.fullmatch(name):
        return "shell"
    return next((language for pattern, language in _LANGUAGES if pattern.match(name)), "")


def describe_allowance(program: Program, path: str) -> str:
    """Say what approving a program allows beyond itself; empty: nothing that is known of.

    Arguments:
        path: of the executable, in its process's own words; empty: not known.
    """
    language = name_language(path)
    if program.main == NO_MAIN:
        what = f"any {language} program" if language else "any program of this interpreter"
        return f"{what} that is given by -m, -c or standard input"
    if program.main:
        return "the script that its process names, which is only its claim"
    if not find_weakness(path):
        return ""
    return f"any {language} program" if language else "any program that it is told to run"
