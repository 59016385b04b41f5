"""One look at a process's loaded code: its mappings read, each mapped file measured, the ``execve`` compared again.

Belongs here: the steps of one look, in worker threads, and the cache of hashes. Doesn't: when a process is looked at
(``looks.py``), or what follows from what it has loaded (``sidecar/code_check.py``).
"""

from __future__ import annotations

import errno
import os
from collections import OrderedDict

import msgspec

from shared.model.identity.loaded_code import MAX_OBJECTS, LoadedCode, LoadedObject
from shared.model.policy.reasons import Reason
from sidecar.attest.executable import Measurement, hash_file
from sidecar.attest.facts import AttestationError, Execution
from sidecar.attest.process import FileKey
from sidecar.attest.process_text import ProcessTextError, parse_stat
from sidecar.loaded.mapped_files import MappedFile, open_mapped, parse_maps, read_maps, show_path, stat_mapped

_STAT_BYTES = 2_048
_GONE = frozenset((errno.ENOENT, errno.ESRCH))


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What one look has found.

    Attributes:
        code: the loaded code.
        keys: of the files that were measured, in the order of their mappings: while they are equal, so is the code.
    """

    code: LoadedCode
    keys: tuple[FileKey | None, ...]


class CodeMeasuring:
    """Measures loaded code. Its methods block; threads may share it.

    Arguments:
        max_bytes: a larger file isn't hashed, and counts as one that can't be measured.
        max_files: hashes that are kept; the oldest goes first.
        proc: where ``proc(5)`` is mounted.
    """

    def __init__(self, *, max_bytes: int, max_files: int = 8_192, proc: str = "/proc") -> None:
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._proc = proc
        self._known: OrderedDict[FileKey, str] = OrderedDict()

    def look(self, execution: Execution, before: Look | None) -> Look:
        """Look at a process that runs an attested ``execve``.

        Arguments:
            before: the last look at the same execution: what is unchanged is taken from it.

        Raises:
            AttestationError: it has ended (``process_vanished``), executes another program by now
                (``program_changed``), mayn't be inspected or has too many mappings (``executable_unreadable``).
        """
        try:
            directory = os.open(f"{self._proc}/{execution.pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise _explain(execution, error) from error
        try:
            _compare(directory, execution)
            found = self._look(directory, execution, before)
            _compare(directory, execution)
            return found
        except (OSError, ProcessTextError) as error:
            raise _explain(execution, error) from error
        finally:
            os.close(directory)

    def _look(self, directory: int, execution: Execution, before: Look | None) -> Look:
        text = read_maps(directory)
        if not text:  # Its memory is gone, or its first thread has ended.
            raise OSError(errno.ESRCH, "no mappings")
        mappings = parse_maps(text)
        keys: list[FileKey | None] = []
        objects: dict[tuple[str, str], LoadedObject] = {}
        omitted = 0
        for file in mappings.files:
            key, digest = self._measure(directory, file)
            if key is not None and key[:2] == (execution.device, execution.file):
                continue
            if len(objects) >= MAX_OBJECTS:
                omitted += 1
                continue
            keys.append(key)
            path = show_path(file.path)
            objects[digest, path if not digest else ""] = LoadedObject(path=path, digest=digest)
        in_order = tuple(sorted(objects.values(), key=_by_path))
        code = LoadedCode(objects=in_order, anonymous=mappings.anonymous, omitted=omitted)
        if before is not None and before.code == code:
            code = before.code
        return Look(code=code, keys=tuple(keys))

    def _measure(self, directory: int, file: MappedFile) -> tuple[FileKey | None, str]:
        """Return the key and digest of a mapped file; no digest where it can't be measured."""
        key = stat_mapped(directory, file)
        if key is not None and (known := self._get(key)) is not None:
            return key, known
        try:
            descriptor = open_mapped(directory, file)
        except OSError:
            return None, ""
        try:
            key = FileKey.of(os.fstat(descriptor))
            if (known := self._get(key)) is None:
                known = self._keep(key, hash_file(descriptor, key, self._max_bytes))
        except (AttestationError, OSError):
            known = ""
        finally:
            os.close(descriptor)
        return key, known

    def _get(self, key: FileKey) -> str | None:
        return self._known.get(key)

    def _keep(self, key: FileKey, found: Measurement) -> str:
        if found.is_lasting:
            self._known[key] = found.digest
            while len(self._known) > self._max_files:
                self._known.popitem(last=False)
        return found.digest


def _by_path(each: LoadedObject) -> tuple[str, str]:
    return each.path, each.digest


def _compare(directory: int, execution: Execution) -> None:
    """See that the process still runs the ``execve``.

    Raises:
        OSError: it has ended.
        ProcessTextError: it executes another program.
    """
    file = os.stat("exe", dir_fd=directory)
    descriptor = os.open("stat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        image = parse_stat(os.read(descriptor, _STAT_BYTES))
    finally:
        os.close(descriptor)
    if image.start_time != execution.start_time:
        raise OSError(errno.ESRCH, "another process has its number")
    current = (file.st_dev, file.st_ino, image.code, image.stack, image.arguments)
    if current != (execution.device, execution.file, execution.code, execution.stack, execution.arguments):
        raise ProcessTextError("another program")


def _explain(execution: Execution, error: Exception) -> AttestationError:
    pid = execution.pid
    if isinstance(error, ProcessTextError):
        return AttestationError(f"process {pid} executed another program", reason=Reason.PROGRAM_CHANGED)
    if isinstance(error, OSError) and error.errno in _GONE:
        return AttestationError(f"process {pid} has ended", reason=Reason.PROCESS_VANISHED)
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return AttestationError("no descriptors left", reason=Reason.OVERLOADED)
    return AttestationError(f"the code of process {pid} can't be looked at", reason=Reason.EXECUTABLE_UNREADABLE)
