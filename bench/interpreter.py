"""Which Python the figures were taken with: its version, and whether it was built with profiles. Pure but for one look.

The interpreter's build moves a new connection's cost by a fifth, so that figures without it can't be compared.
"""

from __future__ import annotations

import platform
import sysconfig
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Self

_CONFIGURED: Final = "--enable-optimizations"
_FLAG: Final = "-fprofile-use"
# Debian and Ubuntu build with profiles by a target of `make` and leave no word of it in what is installed. What tells
# their builds is an install scheme that they add.
_DEBIAN_SCHEME: Final = "deb_system"


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """A Python.

    Attributes:
        version: such as ``3.11.2``.
        has_profiles: whether it was compiled with profiles of itself at work (PGO), as far as its build tells.
    """

    version: str
    has_profiles: bool

    @classmethod
    def own(cls) -> Self:
        """Return the one that runs this, which runs the sidecars as well."""
        flags = " ".join(str(sysconfig.get_config_var(name) or "") for name in ("PY_CFLAGS", "PY_CFLAGS_NODIST"))
        return cls(
            version=platform.python_version(),
            has_profiles=is_profiled(
                configured=str(sysconfig.get_config_var("CONFIG_ARGS") or ""),
                flags=flags,
                schemes=sysconfig.get_scheme_names(),
            ),
        )

    def __str__(self) -> str:
        return f"Python {self.version}, built {'with' if self.has_profiles else 'without'} profiles"

    @property
    def warning(self) -> str:
        """What a reader of the figures should know; empty where there is nothing."""
        if self.has_profiles:
            return ""
        return (
            f"this Python {self.version} was built without profiles, which makes the sidecar dearer; what Debian and "
            "images of Python bring has them: PYTHON=/usr/bin/python3 VENV=.venv-debian make bench"
        )


def is_profiled(*, configured: str, flags: str, schemes: Collection[str]) -> bool:
    """Tell whether a Python was built with profiles.

    Arguments:
        configured: the arguments of its ``configure``.
        flags: the compiler's.
        schemes: the names of its install schemes.
    """
    return _CONFIGURED in configured or _FLAG in flags or _DEBIAN_SCHEME in schemes
