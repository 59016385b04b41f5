"""A certificate that its authority's end cuts short is named in the log, and no other."""

from __future__ import annotations

import structlog.testing

from ca.authority.truncation import log_truncation


def test_only_a_leaf_that_is_cut_short_is_logged() -> None:
    with structlog.testing.capture_logs() as logs:
        log_truncation("a", now=1000.7, lifetime_s=600.0, end=1600)
        log_truncation("b", now=1000.7, lifetime_s=600.0, end=1599)
    assert [(entry["event"], entry["authority"], entry["given_s"]) for entry in logs] == [("leaf_truncated", "b", 598)]
