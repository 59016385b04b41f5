"""One look at a process's loaded code: its mappings read, each mapped file measured, the ``execve`` compared again.

Belongs here: the steps of one look, in worker threads, and the cache of hashes. Doesn't: when a process is looked at
(``looks.py``), or what follows from what it has loaded (``sidecar/code_check.py``).
"""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from functools import lru_cache

import msgspec

from shared.model.identity.loaded_code import MAX_OBJECTS, LoadedCode, LoadedObject
from shared.model.policy.reasons import Reason
from sidecar.attest.executable import Measurement, hash_file
from sidecar.attest.facts import AttestationError, Execution
from sidecar.attest.memory import Memory
from sidecar.attest.process import FileKey
from sidecar.loaded.mapped_files import MappedFile, MappedFiles, parse_maps, read_maps, show_path

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
    """

    def __init__(self, *, max_bytes: int, max_files: int = 8_192) -> None:
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._known: OrderedDict[FileKey, str] = OrderedDict()

    def look(self, execution: Execution, before: Look | None) -> Look:
        """Look at a process that runs an attested ``execve``.

        Arguments:
            before: the last look at the same execution: what is unchanged is taken from it.

        Raises:
            AttestationError: it has ended (``process_vanished``), executes another program by now
                (``program_changed``), mayn't be inspected or has too many mappings (``executable_unreadable``).
        """
        memory = _find_memory(execution)
        try:
            found = self._look(memory.directory, execution, before)
        except OSError as error:
            raise _explain(execution, error) from error
        _find_memory(execution)
        return found

    def _look(self, directory: int, execution: Execution, before: Look | None) -> Look:
        text = read_maps(directory)
        if not text:  # Its memory is gone, or its first thread has ended.
            raise OSError(errno.ESRCH, "no mappings")
        mappings = parse_maps(text)
        keys: list[FileKey | None] = []
        objects: dict[tuple[str, str], LoadedObject] = {}
        omitted = 0
        with MappedFiles(directory) as opened:
            for file in mappings.files:
                key, digest = self._measure(opened, file)
                if key is not None and key[:2] == (execution.device, execution.file):
                    continue
                if len(objects) >= MAX_OBJECTS:
                    omitted += 1
                    continue
                keys.append(key)
                each = _make_object(file.path, digest)
                objects[digest, each.path if not digest else ""] = each
        in_order = tuple(sorted(objects.values(), key=_by_path))
        code = LoadedCode(objects=in_order, anonymous=mappings.anonymous, omitted=omitted)
        if before is not None and before.code == code:
            code = before.code
        return Look(code=code, keys=tuple(keys))

    def _measure(self, opened: MappedFiles, file: MappedFile) -> tuple[FileKey | None, str]:
        """Return the key and digest of a mapped file; no digest where it can't be measured."""
        key = opened.read_key(file)
        if key is not None and (known := self._get(key)) is not None:
            return key, known
        try:
            descriptor, key = opened.open(file)
        except OSError:
            return None, ""
        try:
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


@lru_cache(maxsize=8_192)
def _make_object(path: bytes, digest: str) -> LoadedObject:
    return LoadedObject(path=show_path(path), digest=digest)


def _by_path(each: LoadedObject) -> tuple[str, str]:
    return each.path, each.digest


def _find_memory(execution: Execution) -> Memory:
    """Return the memory of the ``execve``, if the process still runs it.

    Raises:
        AttestationError: it doesn't (``program_changed``), has ended, or mayn't be inspected.
    """
    try:
        if execution.memory is not None and execution.is_current():
            return execution.memory
    except OSError as error:
        raise _explain(execution, error) from error
    message = f"process {execution.pid} executed another program"
    raise AttestationError(message, reason=Reason.PROGRAM_CHANGED)


def _explain(execution: Execution, error: OSError) -> AttestationError:
    pid = execution.pid
    if error.errno in _GONE:
        return AttestationError(f"process {pid} has ended", reason=Reason.PROCESS_VANISHED)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return AttestationError("no descriptors left", reason=Reason.OVERLOADED)
    return AttestationError(f"the code of process {pid} can't be looked at", reason=Reason.EXECUTABLE_UNREADABLE)
