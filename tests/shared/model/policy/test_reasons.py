"""Reasons: each has a cause and a fix, and everything else that a reason needs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shared.model.policy.reasons import EXPLANATIONS, REMEDIES, Reason, Remedy, express_in_first_codes

ROOT = Path(__file__).parents[4]
# Release 0.1 knows these, and no others: never add to them.
FIRST_CODES = frozenset({
    "allow_rule", "same_group", "deny_rule", "no_rule", "program_not_approved", "listener_not_approved",
    "peer_unidentified", "egress_not_allowed", "mtls_unavailable", "no_owner", "process_vanished", "process_traced",
    "executable_unreadable", "executable_too_large", "executable_changed", "socket_shared", "no_listener",
    "listeners_differ", "ca_unavailable", "peer_untrusted", "peer_expired", "peer_distrusted", "peer_workload_mismatch",
    "destination_not_served", "direct_connection", "destination_unreachable", "application_unreachable",
    "protocol_error", "handshake_failed", "deadline_exceeded", "overloaded",
})  # fmt: skip


def test_each_reason_is_explained_and_nothing_else() -> None:
    assert set(EXPLANATIONS) == set(Reason)


def test_codes_are_stable_words() -> None:
    assert all(
        re.fullmatch(r"[a-z]+(_[a-z]+)*", reason.value) and reason.value == reason.name.lower() for reason in Reason
    )


def test_causes_and_fixes_are_sentences() -> None:
    for reason, explanation in EXPLANATIONS.items():
        for text in (explanation.cause, explanation.fix):
            assert text[0].isupper() and text.rstrip("`").endswith("."), (reason, text)


@pytest.mark.parametrize("reason", Reason, ids=str)
def test_a_reason_is_complete(reason: Reason) -> None:
    """What to touch when a reason is added; each line that fails says where."""
    missing = []
    if reason not in EXPLANATIONS:
        missing.append("its cause and fix: EXPLANATIONS in shared/model/policy/reasons.py")
    if f"### `{reason}`" not in (ROOT / "docs/reference/reasons.md").read_text(encoding="utf-8"):
        missing.append("its entry on docs/reference/reasons.md: `make docs` writes it")
    if (remedy := REMEDIES.get(reason)) is None:
        missing.append("who can change it: _BY_REMEDY in shared/model/policy/reasons.py")
    if remedy in (Remedy.PRINTED, Remedy.CHOSEN) and not _is_marked("fixes", reason):
        missing.append("an end-to-end case below tests/e2e that runs the command, marked `fixes(Reason.…)`")
    if express_in_first_codes(reason).value not in FIRST_CODES:
        missing.append("what older peers are told instead: _FIRST_CODES in shared/model/policy/reasons.py")
    if not _is_named(reason, "ca/**/*.py", "sidecar/**/*.py", "shared/**/*.py"):
        missing.append("the place that produces it, below ca, sidecar or shared")
    if not _is_marked("proves", reason):
        missing.append("an end-to-end case below tests/e2e that is marked `proves(Reason.…)`")
    assert not missing, f"{reason} lacks " + "; ".join(missing)


def _is_marked(mark: str, reason: Reason) -> bool:
    return bool(re.search(rf"\b{mark}\([^)]*\bReason\.{reason.name}\b", _read("tests/e2e/test_*.py")))


def _is_named(reason: Reason, *patterns: str) -> bool:
    name = re.compile(rf"\bReason\.{reason.name}\b")
    return any(
        name.search(path.read_text(encoding="utf-8"))
        for pattern in patterns
        for path in ROOT.glob(pattern)
        if path.name != "reasons.py"
    )


def _read(pattern: str) -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob(pattern))
