"""A component's settings as a table: each row names its option, its place in a YAML file and its variable.

Belongs here: the row, and reading options and environment by it. Doesn't: which settings there are
(``sidecar/settings/``, ``ca/settings/``), nor YAML, which only the sidecar reads. An option wins over the environment,
the environment over the file, the file over the default: each layer is a mapping by name, the next one's values win.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from shared.model.errors import InputError, naming


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting.

    Attributes:
        name: of the value; several rows may give the same one.
        help: for ``--help`` and the documentation.
        options: spellings of the option, the preferred one first; empty: no option.
        yaml: dotted path in the YAML file; empty: not in the file.
        environment: the variable; an empty one counts as unset. Empty: no variable.
        default: as shown to readers; the value is the configuration's.
        parse: makes the value from an option's or a variable's text.
        read: makes the value from a YAML node where ``parse`` on its scalar doesn't.
        choices: the only texts allowed.
        repeatable: each use of the option adds an entry; the value is a tuple.
        is_flag: the option takes no text and means true.
        bare: the text that the option means without one; empty: it needs one.
        takes_null: null in the file leaves the default.
    """

    name: str
    help: str
    options: tuple[str, ...] = ()
    yaml: str = ""
    environment: str = ""
    default: str = ""
    metavar: str | None = None
    parse: Callable[[str], Any] = str
    read: Callable[[Any], Any] | None = None
    choices: tuple[str, ...] | None = None
    repeatable: bool = False
    is_flag: bool = False
    bare: str = ""
    takes_null: bool = False

    @property
    def full_help(self) -> str:
        """The help with what else ``--help`` shows: that it can be repeated, and the default."""
        more = ["repeatable"] if self.repeatable else []
        more += [f"default: {self.default}"] if self.default else []
        return f"{self.help} ({'; '.join(more)})" if more else self.help


class _Formatter(argparse.HelpFormatter):
    """Asks for the terminal's width itself: ``argparse`` would import archives and compression for it, help or not."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_terminal_columns() - 2)


def _terminal_columns() -> int:
    """Return what ``shutil.get_terminal_size`` says: the variable, the terminal's own, or 80."""
    if (text := os.environ.get("COLUMNS", "")).isdecimal() and int(text):
        return int(text)
    try:
        return os.get_terminal_size(sys.__stdout__.fileno()).columns or 80  # type: ignore[union-attr]
    except (AttributeError, ValueError, OSError):
        return 80  # No standard output, a closed one, or no terminal.


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(message, hint=f"see `{self.prog} --help`")


def make_parser(settings: Sequence[Setting], *, prog: str, description: str, epilog: str = "") -> _Parser:
    """Make the parser of the settings' options; its errors are ``InputError``."""
    parser = _Parser(prog=prog, description=description, epilog=epilog, allow_abbrev=False, formatter_class=_Formatter)
    for setting in settings:
        if not setting.options:
            continue
        text = setting.full_help.replace("%", "%%")
        if setting.is_flag:
            parser.add_argument(*setting.options, dest=setting.name, action="store_true", help=text)
        else:
            parser.add_argument(
                *setting.options,
                dest=setting.name,
                action="append" if setting.repeatable else "store",
                choices=setting.choices,
                metavar=setting.metavar,
                help=text,
                nargs="?" if setting.bare else None,
                const=setting.bare or None,
            )
    return parser


def read_options(settings: Sequence[Setting], parser: _Parser, arguments: Sequence[str]) -> dict[str, Any]:
    """Return the values of the options that are given, by name.

    Raises:
        InputError: an option is unknown or its text is wrong.
        SystemExit: ``--help`` was answered.
    """
    given = vars(parser.parse_args(list(arguments)))
    values: dict[str, Any] = {}
    for setting in settings:
        text = given[setting.name] if setting.options else None
        if text is None or text is False:
            continue
        try:
            with naming(setting.options[0]):
                if setting.is_flag:
                    values[setting.name] = True
                elif setting.repeatable:
                    values[setting.name] = tuple(setting.parse(each) for each in text)
                else:
                    values[setting.name] = setting.parse(text)
        except ValueError:  # Of `int` and `float`.
            kind = getattr(setting.parse, "__name__", "")
            parser.error(f"argument {setting.options[0]}: invalid {kind} value: {text!r}")
    return values


def read_environment(settings: Sequence[Setting], environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of the variables that are set, by name.

    Raises:
        InputError: a variable's text is wrong.
    """
    values: dict[str, Any] = {}
    for setting in settings:
        if setting.environment and (text := environment.get(setting.environment)):
            with naming(setting.environment):
                values[setting.name] = setting.parse(text)
    return values
