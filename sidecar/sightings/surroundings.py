"""What stands around a process: its package, its container, its ancestors. Does I/O on ``/proc``, off the event loop.

Evidence for people: a process names its path itself, may have been started by anything, and can leave its control group
where it may write there.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from shared.model.wire.messages import MAX_PARENTS
from sidecar.attest.facts import ProcessFacts, show_path
from sidecar.attest.process_text import ProcessTextError, parse_parent, parse_stat
from sidecar.sightings.packages import find_package

_MAX_BYTES = 16_384
_DELETED = " (deleted)"
# ``…/cri-containerd-ID.scope``, ``…/pod…/ID``: cgroups(7); the runtimes' containers have IDs of 64 digits.
_CONTAINER = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What was seen around a process.

    Attributes:
        package: that its executable belongs to; empty: not known.
        container: the ID of its container; empty: not known, or in none.
        parents: paths of its ancestors' executables, the nearest first; ``[name]`` of one that mayn't be looked at.
    """

    package: str = ""
    container: str = ""
    parents: tuple[str, ...] = ()


def look_around(process: ProcessFacts, *, proc: str = "/proc") -> Surroundings:
    """Look at what stands around a process; what can't be read is left out."""
    try:
        directory = os.open(f"{proc}/{process.pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return Surroundings()
    try:
        # The number may be another process's by now; an open directory stays this one's.
        if parse_stat(_read(directory, "stat")).start_time != process.start_time:
            return Surroundings()
        return Surroundings(
            package=_find_package(directory, process.path),
            container=_find_container(directory),
            parents=_list_parents(directory, proc),
        )
    except (OSError, ProcessTextError):
        return Surroundings()
    finally:
        os.close(directory)


def _find_package(directory: int, path: str) -> str:
    if not path.startswith("/") or path.endswith(_DELETED):  # A deleted file's place may be another's by now.
        return ""
    try:
        root = os.open("root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return ""
    try:
        return find_package(root, path)
    finally:
        os.close(root)


def _find_container(directory: int) -> str:
    found = _CONTAINER.findall(_read(directory, "cgroup"))
    return found[-1].decode() if found else ""


def _list_parents(directory: int, proc: str) -> tuple[str, ...]:
    paths: list[str] = []
    parent = parse_parent(_read(directory, "status"))
    while parent and len(paths) < MAX_PARENTS:
        try:
            above = os.open(f"{proc}/{parent}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            break
        try:
            paths.append(_name_executable(above))
            parent = parse_parent(_read(above, "status"))
        except (OSError, ProcessTextError):  # It has ended, or is a kernel's thread.
            break
        finally:
            os.close(above)
    return tuple(paths)


def _name_executable(directory: int) -> str:
    """Return the path of what a process executes; of one that mayn't be looked at its name in brackets, as ``ps``."""
    try:
        return show_path(os.readlink("exe", dir_fd=directory))
    except PermissionError:
        return show_path(f"[{_read(directory, 'comm').decode(errors='replace').strip()}]")


def _read(directory: int, name: str) -> bytes:
    descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return os.read(descriptor, _MAX_BYTES)
    finally:
        os.close(descriptor)
