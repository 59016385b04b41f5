"""Which engine moves bytes and looks at processes: what is compiled, or the Python beside it.

Belongs here: loading the loop, giving it OpenSSL's functions, the process's choice. Doesn't: compiling it
(``build.py``), calling it (``sidecar/tunnel/tunnel.py``, ``sidecar/pump/``, ``sidecar/attest/``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.bindings._rust import _openssl

from shared.model.errors import InputError

if TYPE_CHECKING:
    from sidecar.native._loop import Loop, Mover, Proof

# In the order of Loop's arguments; all four are in cryptography's bindings, which pyOpenSSL uses, too.
_FUNCTIONS: Final = ("SSL_read", "SSL_write", "SSL_get_error", "ERR_clear_error")


class Engine(Enum):
    """What moves bytes."""

    NATIVE = "native"
    PYTHON = "python"


class Wanted(Enum):
    """What the settings ask for."""

    AUTO = "auto"
    NATIVE = "native"
    PYTHON = "python"


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The compiled looks at processes and sockets; ``_loop.pyi`` describes them."""

    scan: Callable[[int, int], tuple[int, int, bytes, bytes]]
    find: Callable[[int, bytes, int], tuple[int, int, bytes]]
    look: Callable[
        [int, int, bytes, int | None, int, int], tuple[int, int, int, int, tuple[int, int, int, int, int]] | None
    ]
    lookup: Callable[[int, bytes, int], tuple[int, int, bytes, int, bytes, int, int, int, int, int] | None]


@cache
def load() -> Loop | None:
    """Return the compiled loop, bound to the OpenSSL that pyOpenSSL uses; None where it isn't there or is old."""
    try:
        from sidecar.native._loop import SOURCE_DIGEST, Loop
    except ImportError:
        return None
    if not _is_current(SOURCE_DIGEST):
        return None
    ffi, lib = _openssl.ffi, _openssl.lib
    read, write, get_error, clear = (int(ffi.cast("uintptr_t", ffi.addressof(lib, name))) for name in _FUNCTIONS)
    return Loop(read, write, get_error, clear)


def start_mover(loop: Loop) -> Mover:
    """Start a thread that calls the same functions as this loop.

    Raises:
        OSError: there is no room for a thread, or no descriptor is left.
    """
    from sidecar.native._loop import Mover

    ffi, lib = _openssl.ffi, _openssl.lib
    return Mover(*loop.functions(), int(ffi.cast("uintptr_t", ffi.addressof(lib, "ERR_get_error"))))


def make_proof(memory: object, *, maps: int, directory: int, device: int, inode: int, max_age_s: float) -> Proof:
    """Return what a mover's thread looks at before it moves bytes; ``_loop.pyi`` describes it."""
    from sidecar.native._loop import Proof

    return Proof(memory, maps, directory, device, inode, int(max_age_s * 1e9))


@cache
def _load_look() -> Look | None:
    if load() is None:
        return None
    from sidecar.native import _loop

    return Look(scan=_loop.scan, find=_loop.find, look=_loop.look, lookup=_loop.lookup)


def _is_current(digest: str) -> bool:
    """Tell whether the loop was built from the source beside it; an image and a wheel have only what was built."""
    try:
        from sidecar.native import build
    except ImportError:
        return True
    return not build.SOURCE.is_file() or digest == build.digest()


_chosen = Wanted.AUTO
_workers = 1


def choose(wanted: Wanted) -> Wanted:
    """Have this process's connections from now on moved by this engine; return the choice before.

    Raises:
        InputError: the native one is asked for and isn't there.
    """
    global _chosen
    if wanted is Wanted.NATIVE and load() is None:
        raise InputError(
            "the native engine isn't built here", hint="`make setup` builds it with a C compiler and Python's headers"
        )
    before, _chosen = _chosen, wanted
    return before


def current_loop() -> Loop | None:
    """Return the loop for a new connection; None: Python moves its bytes."""
    return None if _chosen is Wanted.PYTHON else load()


def current_look() -> Look | None:
    """Return the compiled looks; None: Python makes them."""
    return None if _chosen is Wanted.PYTHON or load() is None else _load_look()


def choose_workers(count: int) -> int:
    """Have event loops that begin to lend from now on start so many threads at most; return the choice before."""
    global _workers
    before, _workers = _workers, count
    return before


def current_workers() -> int:
    """Return how many threads may move the bytes of established turns; 0: Python moves them."""
    return 0 if current_loop() is None else _workers


def current_engine() -> Engine:
    """Return which engine new connections use."""
    return Engine.PYTHON if current_loop() is None else Engine.NATIVE
