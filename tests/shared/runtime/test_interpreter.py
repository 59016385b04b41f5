"""The interpreter is set up so that neither a thread nor the garbage collector holds the event loop up for long.

Members of enumerations, which the hot paths look up all the time, are found as any class's attributes are.
"""

from __future__ import annotations

import subprocess
import sys

_LOOK = """
import gc, sys, threading, time
from shared.runtime.interpreter import settle_collector, share_lock
kept = [[] for _ in range(50_000)]
settle_collector()
print(gc.get_freeze_count() > 50_000)
share_lock()
print(sys.getswitchinterval() <= 0.001)
collected = []
gc.callbacks.append(lambda phase, info: phase == "stop" and collected.append(info["generation"]))
more = [[] for _ in range(30_000)]
print(collected.count(0) >= 5 and 1 in collected and 2 not in collected)
"""


def test_the_lock_goes_round_quickly_and_collections_are_small() -> None:
    found = subprocess.run([sys.executable, "-c", _LOOK], capture_output=True, text=True, check=True, timeout=180)
    assert found.stdout.split() == ["True"] * 3


_LOOK_UP = """
from enum import Enum, EnumType, StrEnum
from shared.runtime.interpreter import quicken_enumerations
from sidecar.pump.states import Flow
class Named(StrEnum):
    title = "a"
    name = "b"
    other = title
quicken_enumerations()
quicken_enumerations()
print("__getattr__" not in vars(EnumType))
print(Flow.OPEN is Flow["OPEN"] is getattr(Flow, "OPEN"))
print([Named.title.value, Named["name"].value, Named.other.value, Named("b").name] == ["a", "b", "a", "name"])
print(not hasattr(Flow, "NOWHERE") and not hasattr(Flow, "__nothing__"))
print(Enum("Made", ["ONE", "TWO"]).TWO.value == 2)
try:
    Flow.OPEN = 1
except AttributeError:
    print(True)
"""


def test_members_of_enumerations_are_the_same_when_they_are_looked_up_quickly() -> None:
    found = subprocess.run([sys.executable, "-c", _LOOK_UP], capture_output=True, text=True, check=True, timeout=180)
    assert found.stdout.split() == ["True"] * 6


_LARGE_BLOCKS = """
import ctypes
from shared.runtime.interpreter import keep_large_blocks_apart
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", *"abcde")]
library = ctypes.CDLL(None)
library.mallinfo2.restype = Info
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]
print(keep_large_blocks_apart())
library.free(library.malloc(256 * 1024))  # By default glibc takes such blocks from the heap from here on.
before = library.mallinfo2().hblks
library.malloc(256 * 1024)
print(library.mallinfo2().hblks - before)
"""


def test_a_large_block_has_pages_of_its_own_also_after_one_was_freed() -> None:
    found = subprocess.run([sys.executable, "-c", _LARGE_BLOCKS], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["True", "1"]


_FREE_PAGES = """
import ctypes
from pathlib import Path
from shared.runtime.interpreter import give_back_free_pages
library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]
def count():
    return int(Path("/proc/self/statm").read_text().split()[1])
blocks = [library.malloc(64 * 1024) for _ in range(1024)]
for block in blocks:
    ctypes.memset(block, 1, 64 * 1024)
library.malloc(64 * 1024)  # It lies behind them.
for block in blocks:
    library.free(block)
before = count()
print(give_back_free_pages())
print(before - count() > 8_000)
"""


def test_pages_that_are_free_in_the_middle_of_the_heap_go_back() -> None:
    found = subprocess.run([sys.executable, "-c", _FREE_PAGES], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["True", "True"]
