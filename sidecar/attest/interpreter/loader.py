"""Whether an ELF file is a dynamic loader, which runs any program that it is told to, under whatever name. Does I/O.

``ld.so PROGRAM`` executes the loader's file; the name of a copy says nothing. Source: elf(5), ld.so(8).
"""

from __future__ import annotations

import os
import struct

_ET_DYN = 3
_PT_DYNAMIC = 2
_PT_INTERP = 3
_DT_SONAME = 14
_MAX_HEADERS = 64
_MAX_DYNAMIC_BYTES = 16_384


def is_loader(descriptor: int) -> bool:
    """Tell whether a file is a shared object that runs by itself: it has a name as a library, and needs no loader.

    Programs have no such name; libraries that can be executed (glibc's libc.so.6) need a loader. Upstream musl's loader
    is its libc.so. A file that isn't ELF of this machine's byte order is none.
    """
    try:
        return _is_loader(descriptor)
    except (OSError, struct.error):
        return False


def _is_loader(descriptor: int) -> bool:
    head = os.pread(descriptor, 64, 0)
    if head[:4] != b"\x7fELF" or head[4:5] not in (b"\x01", b"\x02"):
        return False
    is_wide = head[4] == 2
    (kind,) = struct.unpack_from("=H", head, 16)
    (table,) = struct.unpack_from("=Q" if is_wide else "=I", head, 32 if is_wide else 28)
    size, count = struct.unpack_from("=HH", head, 54 if is_wide else 42)
    if kind != _ET_DYN or count > _MAX_HEADERS:
        return False
    headers = os.pread(descriptor, size * count, table)
    dynamic = (0, 0)
    for number in range(count):
        (part,) = struct.unpack_from("=I", headers, number * size)
        if part == _PT_INTERP:
            return False
        if part == _PT_DYNAMIC:
            offset, _, _, length = struct.unpack_from(
                "=4Q" if is_wide else "=4I", headers, number * size + (8 if is_wide else 4)
            )
            dynamic = (offset, min(length, _MAX_DYNAMIC_BYTES))
    tags = os.pread(descriptor, dynamic[1], dynamic[0]) if dynamic[1] else b""
    form = "=qQ" if is_wide else "=iI"
    whole = len(tags) - len(tags) % struct.calcsize(form)
    return any(tag == _DT_SONAME for tag, _ in struct.iter_unpack(form, tags[:whole]))
