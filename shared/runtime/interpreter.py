"""How the interpreter is set up for one event loop beside which threads work.

Belongs here: what is the same for the whole process, a sidecar's or the CA's. Doesn't: what the threads do, long work
on the loop itself (``sidecar/slices.py``).
"""

from __future__ import annotations

import ctypes
import gc
import sys
from contextlib import suppress
from enum import EnumType
from typing import Final

# Python's default is 5 ms: for so long a thread that computes in Python (a large policy's checks, a search for holders)
# keeps the interpreter's lock when the event loop comes back from a system call, each time.
LOCK_S: Final = 0.0005
# Python's default for the first is 700 objects, which live connections alone exceed: it would look for cycles all the
# time, in vain. A collection holds the event loop up for 0.3 to 1.2 µs an object: 1,000 young ones, or 2,000 together
# with the next generation, which is every second collection, are up to 2.4 ms, beside a slice of other work; of 100,000
# it was up to 30. The oldest are seldom looked at.
_GC_THRESHOLDS: Final = (1_000, 0, 900)
_M_MMAP_THRESHOLD: Final = -3  # malloc.h
_LARGE_BYTES: Final = 128 * 1024


def share_lock() -> None:
    """Let no thread keep the interpreter's lock for longer than half a millisecond while another one wants it.

    A call that doesn't give it up in C still does (sys.setswitchinterval). The CA doesn't call this: its threads wait
    for SQLite, and taking the lock from its loop more often only costs.
    """
    sys.setswitchinterval(LOCK_S)


def settle_collector() -> None:
    """Leave what lives from the start out of every collection, and collect less often."""
    spare_what_lives()
    gc.set_threshold(*_GC_THRESHOLDS)


def spare_what_lives() -> None:
    """Leave what lives from the start out of every collection. The CA does no more than this.

    Collected as seldom as a sidecar's, what thousands of closed streams leave in cycles would fill its memory.
    """
    gc.collect()
    gc.freeze()


def quicken_enumerations() -> None:
    """Let members of enumerations be looked up as any class's attributes are: in 20 ns instead of 250.

    Python 3.11 keeps members in their class, but its metaclass still has the ``__getattr__`` of releases that didn't,
    and a class whose metaclass has one is looked up the slow way, whether or not it is called. A small request takes
    27 such look-ups in both sidecars, a new connection 260. Python 3.12 has removed the method (gh-95083).
    """
    with suppress(AttributeError):
        delattr(EnumType, "__getattr__")


def keep_large_blocks_apart() -> bool:
    """Let each block of memory of 128 KiB or more have pages of its own, which the kernel gets back with it.

    glibc begins so, but stops once such a block is freed. Each TLS connection has 256 KiB to read into, of which a
    silent one ever touches a page or two: taken from the heap they are also pages that others have left there.

    Returns:
        whether this C library can be told so (mallopt(3)).
    """
    try:
        return bool(ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES))
    except (AttributeError, OSError):
        return False


def give_back_free_pages() -> bool:
    """Give the kernel the pages between living blocks back that hold nothing any more; a few milliseconds for 100 MB.

    glibc by itself gives back only what is free at its heap's end. Other threads that want memory wait meanwhile.

    Returns:
        whether this C library can be told so (malloc_trim(3)).
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        return False
    return True
