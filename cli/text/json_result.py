"""What a verb prints with ``--json``: declared beside the verb, used to print, and read by the page of commands.

A declaration is an annotated constant of the verb's module: ``_STATUS: JsonResult[CAStatus] = JsonResult()``. The type
is in the annotation alone, because it is imported only where it is needed; mypy checks what is printed against it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from cli.text.output import print_json

T = TypeVar("T")
Verb = TypeVar("Verb", bound=Callable[..., object])
_ATTRIBUTE = "json_results"


class JsonResult(Generic[T]):
    """One value that a verb may print.

    Arguments:
        when: the options with which it is printed, such as ``--follow``; empty: without any.
        note: what the type doesn't say.
    """

    def __init__(self, *, when: str = "", note: str = "") -> None:
        self.when = when
        self.note = note

    def print(self, value: T) -> None:
        """Print the value as one line of JSON."""
        print_json(value)


def prints(*results: JsonResult[Any]) -> Callable[[Verb], Verb]:
    """Declare what a verb prints with ``--json``."""

    def declare(verb: Verb) -> Verb:
        setattr(verb, _ATTRIBUTE, results)
        return verb

    return declare


def list_results(verb: object) -> tuple[JsonResult[Any], ...]:
    """Return what a verb prints with ``--json``; nothing for one without the option."""
    results: tuple[JsonResult[Any], ...] = getattr(verb, _ATTRIBUTE, ())
    return results
