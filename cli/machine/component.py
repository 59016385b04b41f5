"""Replacing this process by a component, ``python -m ca`` or ``python -m sidecar``. Does I/O.

The command-line tool shares no code with the components, and signals reach the component itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import NoReturn

from shared.model.errors import MachineError


def become_component(name: str, arguments: Sequence[str]) -> NoReturn:
    """Replace this process by ``python -m NAME ARGUMENTS``.

    Raises:
        MachineError: the component isn't installed here.
    """
    if find_spec(name) is None or find_spec(f"{name}.__main__") is None:
        raise MachineError(
            f"the component {name!r} isn't installed here", hint="install the complete touchmark distribution"
        )
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *list_flags(), "-m", name, *arguments])


def list_flags() -> list[str]:
    """Return what keeps modules of the working directory from being the component's.

    With ``-m`` alone they come first, whoever wrote them, and a component often runs as root. They are right where this
    process, too, has its modules from there: in a source tree.
    """
    try:
        here = os.getcwd()
    except FileNotFoundError:  # It was deleted.
        here = ""
    return [] if {"", here} & set(sys.path) else ["-P"]
