"""The audit log's lines, how they are chained, and how a chain is checked; ``admin.py`` has the rest. Pure.

Belongs here: what the CA writes and what ``touchmark audit verify`` reads, also from an exported file without a CA.
Doesn't: storing lines (``ca/store/audit``).

A line is the JSON of an ``AuditEntry``, in one line and with its fields in their order. It holds the SHA-256 of the
line before it (as stored, UTF-8, without a line feed), and its number is one higher. So whatever is removed, changed or
reordered shows. The chain is not signed: who may write the CA's database can write a whole chain anew, which shows only
against a *head* (a line's number and SHA-256) that was kept elsewhere.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgspec

from shared.model.errors import InputError

FIRST_PREVIOUS: Final = "0" * 64
MAX_AUDIT_LINE_BYTES: Final = 16_384
MAX_AUDIT_PAGE: Final = 1_000


class AuditActor(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who did something, as far as the CA knows.

    Attributes:
        kind: ``socket`` (a process on the admin socket, by its peer credentials), ``user`` (a user of the cluster on
            the admin port, by its token or client certificate), ``object`` (an object of the cluster), ``process``
            (what worked on the store while no CA did), ``ca`` (the CA by itself). Earlier CAs wrote ``port`` for
            whoever reached the admin port.
        name: the user's name for ``socket``, ``user`` and ``process``; for ``object`` the field managers that wrote its
            spec, newest first, which name programs, not users: the API server's audit log has those; empty where
            nothing is known.
        origin: where from: the client's address for ``user`` and ``port``; the object and its generation for
            ``object``; the verb for ``process``.
        uid, gid, pid: for ``process``, and for ``socket`` as the kernel said when the connection was made (unix(7),
            SO_PEERCRED).
    """

    kind: str
    name: str = ""
    origin: str = ""
    uid: int | None = None
    gid: int | None = None
    pid: int | None = None


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One administrative act.

    Attributes:
        previous: SHA-256 of the line before, hexadecimal; of the first line ever ``FIRST_PREVIOUS``.
        time: seconds since the epoch, by the database's clock.
        act: what was done, such as ``mode.set``.
        subject: to what: a namespace, ``namespace/name``, an authority's or a token's ID.
        before, after: the state of the subject; null where there is none. One that is too long is
            ``{"bytes": …, "sha256": …}`` of its JSON.
    """

    sequence: int
    previous: str
    time: float
    act: str
    subject: str
    actor: AuditActor
    before: Any = None
    after: Any = None


class AuditMark(msgspec.Struct, frozen=True, kw_only=True):
    """A place in the chain: a line's number and the SHA-256 of the line."""

    sequence: int
    digest: str

    def __str__(self) -> str:
        return f"{self.sequence}:{self.digest}"


START: Final = AuditMark(sequence=0, digest=FIRST_PREVIOUS)


class AuditPage(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the log: whole lines, oldest first.

    Attributes:
        anchor: the last line that was pruned; ``START``: none was.
        head: the last line of the log.
        is_last: no later lines match.
    """

    lines: tuple[str, ...]
    anchor: AuditMark
    head: AuditMark
    is_last: bool


class ChainFault(msgspec.Struct, frozen=True, kw_only=True):
    """Where a chain breaks: at which line, and how."""

    sequence: int
    problem: str


def parse_mark(text: str) -> AuditMark:
    """Read ``SEQUENCE:SHA256``.

    Raises:
        InputError: it isn't such a mark.
    """
    number, _, digest = text.partition(":")
    is_digest = len(digest) == 64 and not set(digest) - set("0123456789abcdef")
    if not number.isdecimal() or not number.isascii() or len(number) > 18 or not is_digest:
        raise InputError(
            f"not a place in the audit log: {text[:100]!r}", hint="write NUMBER:SHA256, as `verify` prints"
        )
    return AuditMark(sequence=int(number), digest=digest)


def digest_line(line: str) -> str:
    """Return a line's SHA-256, hexadecimal."""
    return hashlib.sha256(line.encode()).hexdigest()


def encode_entry(entry: AuditEntry) -> str:
    """Write an entry as its line."""
    return msgspec.json.encode(entry).decode()


def read_entry(line: str) -> AuditEntry:
    """Read a line.

    Raises:
        InputError: it isn't an entry.
    """
    try:
        return msgspec.json.decode(line, type=AuditEntry)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise InputError(f"not a line of the audit log: {line[:80]!r}") from error


def check_line(line: str, *, after: AuditMark) -> tuple[AuditMark, ChainFault | None]:
    """Check that a line follows the one at ``after``; return its own mark, and what is wrong with it.

    What this does *not* check: that the line is true, or that the last line is the log's last.
    """
    expected = after.sequence + 1
    try:
        entry = read_entry(line)
    except InputError:
        return AuditMark(sequence=expected, digest=digest_line(line)), ChainFault(
            sequence=expected, problem="it can't be read"
        )
    mark = AuditMark(sequence=entry.sequence, digest=digest_line(line))
    if entry.sequence != expected:
        problem = f"line {expected} is missing, or the lines were reordered"
        return mark, ChainFault(sequence=entry.sequence, problem=problem)
    if entry.previous != after.digest:
        problem = f"line {after.sequence} isn't the one that it follows: one of the two was changed"
        return mark, ChainFault(sequence=entry.sequence, problem=problem)
    return mark, None
