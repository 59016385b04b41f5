"""Keeps modules that a dependency imports, and that are never used here, out of the sidecar's memory.

Belongs here: that one trick. Doesn't: which modules (``sidecar/__main__.py``). Measured: 2.2 MiB of 47.6 are HTTP,
e-mail, CSV and ZIP, which ``websockets`` imports to find a proxy and its own version.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def left_out(*names: str) -> Iterator[None]:
    """Have ``import NAME`` bind an empty module inside the block; one that is loaded already stays as it is.

    Afterwards an import loads the real one. Code that was imported inside the block and uses such a module after all
    fails with AttributeError, so this is only for what is known not to be used.

    Arguments:
        names: full names, such as ``urllib.request``.
    """
    placeholders = {name: ModuleType(name, "Left out to save memory.") for name in names if name not in sys.modules}
    sys.modules.update(placeholders)
    try:
        yield
    finally:
        for name, placeholder in placeholders.items():
            if sys.modules.get(name) is placeholder:
                del sys.modules[name]
