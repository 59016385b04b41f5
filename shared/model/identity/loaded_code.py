"""Code that a process has mapped executable besides its program: shared libraries, plugins, what ``LD_PRELOAD`` names.

Belongs here: these values, and what of them an approval doesn't cover. Doesn't: how mappings are read and measured
(``sidecar/loaded``), or where approvals come from (``rules.py``). Pure.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from enum import StrEnum

import msgspec

from shared.model.errors import IdentityError

MAX_OBJECTS = 512
MAX_PATH_CHARACTERS = 256
_HEX = re.compile(r"[0-9a-f]{64}")
_MAX_NAMED = 3


class LoadedObject(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One file that is mapped executable, or may be.

    Attributes:
        path: for people, with other characters than printable ASCII escaped; what counts is the digest.
        digest: SHA-256 of the file's content, 64 lower-case hexadecimal digits; empty where it couldn't be measured.

    Raises:
        IdentityError: no such digest, or no such path.
    """

    path: str
    digest: str = ""

    def __post_init__(self) -> None:
        if self.digest and not _HEX.fullmatch(self.digest):
            raise IdentityError(f"not a SHA-256 digest in lower-case hexadecimal: {self.digest[:80]!r}")
        if len(self.path) > MAX_PATH_CHARACTERS or not self.path.isascii() or not self.path.isprintable():
            raise IdentityError(f"a loaded object's path has at most {MAX_PATH_CHARACTERS} printable ASCII characters")


class LoadedCode(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one process has mapped executable, without its executable and the kernel's own pages.

    Attributes:
        objects: files, by path; each content once.
        anonymous: memory without a file (or of a ``memfd``), or a file's that is writable as well, is executable.
        omitted: mapped files that aren't among ``objects``, because there are too many.

    Raises:
        IdentityError: more objects than ``MAX_OBJECTS``.
    """

    objects: tuple[LoadedObject, ...] = ()
    anonymous: bool = False
    omitted: int = 0

    def __post_init__(self) -> None:
        if len(self.objects) > MAX_OBJECTS or self.omitted < 0:
            raise IdentityError(f"loaded code has at most {MAX_OBJECTS} objects")


class CodeCheck(StrEnum):
    """What follows when a program has loaded code that isn't approved."""

    ENFORCE = "enforce"  # It isn't used as the program's: neither certificate nor connections.
    REPORT = "report"  # The record says so.


class ApprovedCode(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What an approval says of code that its programs load.

    Attributes:
        objects: what they, and the workload's other approved programs, may load.
        check: what follows from other code; None: ``enforce`` if there are objects, and nothing without any.
        jit: they make code at run time: anonymous executable memory is expected.

    Raises:
        IdentityError: an object without a digest, or more objects than ``MAX_OBJECTS``.
    """

    objects: tuple[LoadedObject, ...] = ()
    check: CodeCheck | None = None
    jit: bool = False

    def __post_init__(self) -> None:
        if len(self.objects) > MAX_OBJECTS:
            raise IdentityError(f"an approval names at most {MAX_OBJECTS} loaded objects")
        if not all(each.digest for each in self.objects):
            raise IdentityError("an approved object needs its digest")

    @property
    def effective_check(self) -> CodeCheck | None:
        """What follows from code that isn't approved; None: it isn't looked at."""
        return self.check or (CodeCheck.ENFORCE if self.objects else None)


class ForeignCode(msgspec.Struct, frozen=True, kw_only=True):
    """What of a process's loaded code isn't approved.

    Attributes:
        objects: the files whose digest isn't approved, or isn't known.
        anonymous: there is anonymous executable memory, and the program isn't declared a JIT.
        omitted: mapped files that weren't looked at.
    """

    objects: tuple[LoadedObject, ...] = ()
    anonymous: bool = False
    omitted: int = 0

    def __str__(self) -> str:
        parts = [f"{each.path} ({_short(each)})" for each in self.objects[:_MAX_NAMED]]
        if self.anonymous:
            parts.append("anonymous executable memory")
        if (more := len(self.objects[_MAX_NAMED:]) + self.omitted) > 0:
            parts.append(f"{more} more")
        return f"loaded code that isn't approved: {', '.join(parts)}"


def find_foreign(code: LoadedCode, approved: Collection[str], *, is_jit: bool) -> ForeignCode | None:
    """Return what of the loaded code isn't approved; None when all of it is.

    What this does *not* verify: that the digests are what the process runs. A page that was changed after it was
    mapped, and code that has unmapped itself again, leave no trace in them.

    Arguments:
        approved: digests of the objects that may be loaded.
        is_jit: whether anonymous executable memory is expected.
    """
    objects = tuple(each for each in code.objects if not each.digest or each.digest not in approved)
    is_anonymous = code.anonymous and not is_jit
    if not objects and not is_anonymous and not code.omitted:
        return None
    return ForeignCode(objects=objects, anonymous=is_anonymous, omitted=code.omitted)


def _short(each: LoadedObject) -> str:
    return f"sha256:{each.digest}" if each.digest else "can't be measured"
