"""Lines of the audit log are chained by their digests (``shared.model.wire.admin_audit``)."""

from __future__ import annotations

import pytest

from shared.model.errors import InputError
from shared.model.wire.admin_audit import (
    START,
    AuditActor,
    AuditEntry,
    AuditMark,
    check_line,
    digest_line,
    encode_entry,
    parse_mark,
    read_entry,
)


def make_line(sequence: int, previous: str) -> str:
    actor = AuditActor(kind="socket", uid=0, pid=1)
    return encode_entry(
        AuditEntry(sequence=sequence, previous=previous, time=1.5, act="mode.set", subject="shop", actor=actor)
    )


def test_a_line_follows_only_the_one_whose_digest_it_holds() -> None:
    first = make_line(1, START.digest)
    mark, fault = check_line(first, after=START)
    assert fault is None and mark == AuditMark(sequence=1, digest=digest_line(first))
    assert check_line(make_line(2, mark.digest), after=mark)[1] is None
    for wrong in (make_line(3, mark.digest), make_line(2, START.digest), "{", '"\\ud800"', ""):
        assert check_line(wrong, after=mark)[1] is not None


def test_a_line_is_read_as_it_was_written_and_what_is_unknown_stays_out() -> None:
    line = make_line(1, START.digest)
    assert encode_entry(read_entry(line)) == line
    assert "gid" not in line and "origin" not in line


def test_a_mark_is_written_and_read() -> None:
    mark = AuditMark(sequence=12, digest="0f" * 32)
    assert parse_mark(str(mark)) == mark


@pytest.mark.parametrize(
    "text", ["", "1", "1:", "x:" + "0" * 64, "1:" + "G" * 64, "-1:" + "0" * 64, "1" * 30 + ":" + "0" * 64]
)
def test_what_is_no_mark_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_mark(text)
