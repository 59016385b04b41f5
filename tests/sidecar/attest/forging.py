"""A program that makes ``/proc/<pid>/exe`` name any file it likes (``prctl(2)``, PR_SET_MM_MAP). For x86-64.

The kernel lets it only after the old file isn't mapped any more, so the last steps are machine code in memory of its
own: a list of system calls.
"""

from __future__ import annotations

import os
import platform

import pytest

needs_forging = pytest.mark.skipif(platform.machine() != "x86_64", reason="machine code for x86-64")

# Arguments: address and port to connect to (or neither), file to claim, how. The process connects, says ready, forges
# on the next line of its input, and then sleeps with its socket.
FORGE = """
import ctypes, mmap, os, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
host, _, port = sys.argv[1].rpartition(':')
target, how = sys.argv[2], sys.argv[3]
if port:
    c = socket.create_connection((host, int(port)))
print('ready', flush=True)
sys.stdin.readline()
NEWUSER, VM = 0x10000000, 0x100
if how in ('own namespace', 'mapped') and libc.unshare(NEWUSER):
    raise OSError(ctypes.get_errno(), 'unshare')
file = os.open(target, os.O_RDONLY)
own = os.stat('/proc/self/exe')
spans, target_x = [], None
for line in open('/proc/self/maps'):
    area, rights, offset, device, inode = line.split()[:5]
    if int(inode) == own.st_ino:
        start, end = (int(part, 16) for part in area.split('-'))
        spans.append((start, end - start))
fields = open('/proc/self/stat').read().rsplit(')', 1)[1].split()
code, end_code, stack = int(fields[23]), int(fields[24]), int(fields[25])
if how in ('mapped', 'mapped from outside'):
    mapped = libc.mmap
    mapped.restype = ctypes.c_void_p
    mapped.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    code = mapped(None, 4096, 5, 2, file, 0)
    end_code = code + 4096
arguments, environment = (int(fields[45]), int(fields[46])), (int(fields[47]), int(fields[48]))
data = int(fields[42]), int(fields[43]), int(fields[44])
memory = mmap.mmap(-1, 8192, prot=7)
where = ctypes.addressof(ctypes.c_char.from_buffer(memory))
memory[4096:4096 + 104] = struct.pack('<12QII', code, end_code, data[0], data[1], data[2], data[2], stack,
                                      *arguments, *environment, 0, 0, file)
REGISTERS = (b'\\x48\\xb8', b'\\x48\\xbf', b'\\x48\\xbe', b'\\x48\\xba', b'\\x49\\xba', b'\\x49\\xb8')
def call(*numbers):
    return b''.join(r + struct.pack('<Q', n) for r, n in zip(REGISTERS, numbers)) + b'\\x0f\\x05'
forge = call(157, 35, 14, where + 4096, 104, 0)
memory[4096 + 128] = ord('1')
said = call(1, 1, where + 4096 + 128, 2)
memory[4096 + 129] = ord('\\n')
sleep = call(34) + b'\\xeb' + struct.pack('b', -14)
program = b''.join(call(11, *span) for span in spans)
if how.endswith('from outside'):
    # A child that shares this memory, in a user namespace of its own, forges; this process never left its namespace.
    # It is waited for: as long as it lives, it has this process's connection, too, and would be the one looked at.
    child = forge + call(60, 0)
    program += call(56, NEWUSER | VM | 17, 0, 0, 0, 0) + b'\\x85\\xc0\\x0f\\x85' + struct.pack('<i', len(child)) + child
    program += call(61, 2 ** 64 - 1, 0, 0, 0) + said
else:
    program += forge + said
memory[:len(program + sleep)] = program + sleep
ctypes.CFUNCTYPE(None)(where)()
"""


def executable_of(pid: int) -> str:
    """Read which file a process claims to execute."""
    return os.readlink(f"/proc/{pid}/exe")
