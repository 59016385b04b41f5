"""The audit log's tables hold the line as it was hashed (``ca.store.audit.tables``)."""

from __future__ import annotations

from ca.store.audit.tables import audit_lines, audit_marks


def test_a_line_is_kept_as_text_beside_its_digest_and_both_ends_of_the_chain_are_marked() -> None:
    assert {column.name for column in audit_lines.columns} == {"sequence", "time", "digest", "line"}
    assert {column.name for column in audit_marks.columns} == {"name", "sequence", "digest"}
