"""The audit log on the terminal: listed, checked against its chain, written to a file and pruned."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from cli.main import run
from cli.text.exit_codes import ExitCode
from shared.model.wire.admin import AuditPage, ErrorAnswer
from shared.model.wire.admin_audit import (
    START,
    AuditActor,
    AuditEntry,
    AuditMark,
    digest_line,
    encode_entry,
)
from tests.cli.fake_ca import FakeCA

ADA = AuditActor(kind="socket", name="ada", uid=1000, gid=1000, pid=7)


def make_chain(
    count: int, *, after: AuditMark = START, actor: AuditActor = ADA, mode: str = "explicit"
) -> tuple[str, ...]:
    lines = []
    for _ in range(count):
        entry = AuditEntry(
            sequence=after.sequence + 1,
            previous=after.digest,
            time=1.79e9,
            act="mode.set",
            subject="shop\x1b[2J",
            actor=actor,
            before={"mode": "permissive", "rules": []},
            after={"mode": mode, "rules": []},
        )
        lines.append(encode_entry(entry))
        after = AuditMark(sequence=entry.sequence, digest=digest_line(lines[-1]))
    return tuple(lines)


LINES = make_chain(4)
HEAD = AuditMark(sequence=4, digest=digest_line(LINES[-1]))


def make_page(lines: tuple[str, ...] = LINES, *, is_last: bool = True) -> AuditPage:
    return AuditPage(lines=lines, anchor=START, head=HEAD, is_last=is_last)


def test_acts_are_listed_with_who_and_only_what_changed(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers["GET /v1/audit"] = make_page()
    assert run(["audit", "list", "--limit", "4"]) == ExitCode.SUCCESS
    shown = capsys.readouterr().out
    assert "ada (uid 1000, pid 7)" in shown and '{"mode":"explicit"}' in shown and "rules" not in shown
    assert "\x1b[2J" not in shown
    assert ca.requests[0][1] == {"newest": "true", "limit": "4"}
    assert run(["audit", "list", "--since", "1h", "--json"]) == ExitCode.SUCCESS
    assert [entry["sequence"] for entry in json.loads(capsys.readouterr().out)] == [1, 2, 3, 4]
    assert "since" in ca.requests[1][1]


def test_a_long_state_is_cut_off_in_the_table_and_whole_in_json(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers["GET /v1/audit"] = make_page(make_chain(1, mode="m" * 5000))
    assert run(["audit", "list"]) == ExitCode.SUCCESS
    shown = capsys.readouterr().out
    assert "…" in shown and max(map(len, shown.splitlines())) < 600
    assert run(["audit", "list", "--json"]) == ExitCode.SUCCESS
    assert "m" * 5000 in capsys.readouterr().out


@pytest.mark.parametrize(
    ("actor", "shown"),
    [
        (AuditActor(kind="port", origin="127.0.0.1 port 9"), "unknown, by the admin port from 127.0.0.1 port 9"),
        (AuditActor(kind="object", origin="Program a/b, generation 2", name="kubectl"), "generation 2, by kubectl"),
        (
            AuditActor(kind="process", name="root", origin="ca restore", uid=0, gid=0, pid=7),
            "root (uid 0, pid 7), by ca restore without a CA",
        ),
        (AuditActor(kind="ca"), "the CA"),
        (AuditActor(kind="later"), "later"),
    ],
    ids=str,
)
def test_each_kind_of_actor_is_named(
    ca: FakeCA, capsys: pytest.CaptureFixture[str], actor: AuditActor, shown: str
) -> None:
    ca.answers["GET /v1/audit"] = make_page(make_chain(1, actor=actor))
    assert run(["audit", "list"]) == ExitCode.SUCCESS
    assert shown in capsys.readouterr().out


def test_a_whole_chain_is_checked_over_all_pages(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers["GET /v1/audit"] = [make_page(LINES[:2], is_last=False), make_page(LINES[2:])]
    assert run(["audit", "verify"]) == ExitCode.SUCCESS
    assert f"✓ 4 lines, after {START}, to {HEAD}" in capsys.readouterr().out
    assert [query.get("after") for _, query, _ in ca.requests] == [None, "2"]


@pytest.mark.parametrize(
    "lines",
    [
        LINES[:-1],
        LINES[1:],
        (),
        (LINES[0], *LINES[2:]),
        (LINES[1], LINES[0], *LINES[2:]),
        (LINES[0], LINES[1].replace("ada", "bob"), *LINES[2:]),
        (*LINES[:-1], LINES[-1].replace("ada", "bob")),
        ("x", *LINES[1:]),
    ],
    ids=["last removed", "first removed", "all removed", "removed", "reordered", "changed", "last changed", "no line"],
)
def test_what_was_removed_changed_or_reordered_shows_with_exit_code_3(
    ca: FakeCA, capsys: pytest.CaptureFixture[str], tmp_path: Path, lines: tuple[str, ...]
) -> None:
    ca.answers["GET /v1/audit"] = make_page(lines)
    assert run(["audit", "verify", "--json"]) == ExitCode.CHECK_FAILED
    found = json.loads(capsys.readouterr().out)
    assert not found["is_whole"] and found["faults"]
    # Nor is such a log pruned.
    assert run(["audit", "export", str(tmp_path / "log"), "--prune", "--yes"]) == ExitCode.CHECK_FAILED
    assert ca.asked("DELETE /v1/audit") == []


def test_a_whole_other_chain_shows_against_a_head_that_was_noted(ca: FakeCA) -> None:
    other = make_chain(4, actor=AuditActor(kind="ca"))
    head = AuditMark(sequence=4, digest=digest_line(other[-1]))
    ca.answers["GET /v1/audit"] = AuditPage(lines=other, anchor=START, head=head, is_last=True)
    assert run(["audit", "verify"]) == ExitCode.SUCCESS
    assert run(["audit", "verify", "--head", str(HEAD)]) == ExitCode.CHECK_FAILED
    assert run(["audit", "verify", "--head", str(head)]) == ExitCode.SUCCESS
    assert run(["audit", "verify", "--head", "4"]) == ExitCode.BAD_INPUT


def test_an_exported_file_is_checked_without_a_ca_and_never_overwritten(
    ca: FakeCA, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ca.answers["GET /v1/audit"] = make_page()
    file = tmp_path / "audit.jsonl"
    assert run(["audit", "export", str(file)]) == ExitCode.SUCCESS
    assert file.read_text() == "".join(f"{line}\n" for line in LINES)
    assert file.stat().st_mode & 0o777 == 0o600
    assert run(["audit", "export", str(file)]) == ExitCode.BAD_INPUT
    asked = len(ca.requests)
    assert run(["audit", "verify", str(file), "--head", str(HEAD)]) == ExitCode.SUCCESS
    assert len(ca.requests) == asked
    file.write_text("".join(f"{line}\n" for line in (LINES[0], *LINES[2:])))
    assert run(["audit", "verify", str(file)]) == ExitCode.CHECK_FAILED
    assert run(["audit", "verify", str(tmp_path / "none")]) == ExitCode.BAD_INPUT
    file.write_bytes(b"\xff\n")
    assert run(["audit", "verify", str(file)]) == ExitCode.BAD_INPUT
    file.write_text("x\n")
    assert run(["audit", "verify", str(file)]) == ExitCode.CHECK_FAILED


def test_pruning_names_the_last_exported_line_and_wants_a_confirmation(
    ca: FakeCA, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ca.answers["GET /v1/audit"] = make_page()
    ca.answers["DELETE /v1/audit"] = make_page(())
    assert run(["audit", "export", str(tmp_path / "a"), "--prune"]) == ExitCode.REFUSED
    assert not (tmp_path / "a").exists()
    assert run(["audit", "export", str(tmp_path / "a"), "--prune", "--yes", "--json"]) == ExitCode.SUCCESS
    assert json.loads(capsys.readouterr().out)["is_pruned"] is True
    assert ca.requests[-1][1] == {"through": str(HEAD)}
    # The next export goes on behind it.
    later = make_chain(2, after=HEAD)
    head = AuditMark(sequence=6, digest=digest_line(later[-1]))
    ca.answers["GET /v1/audit"] = AuditPage(lines=later, anchor=HEAD, head=head, is_last=True)
    assert run(["audit", "export", str(tmp_path / "b")]) == ExitCode.SUCCESS
    assert run(["audit", "verify", str(tmp_path / "b"), "--head", str(HEAD)]) == ExitCode.SUCCESS
    ca.answers["DELETE /v1/audit"] = ErrorAnswer(code="conflict", message="another line")
    assert run(["audit", "export", str(tmp_path / "c"), "--prune", "--yes"]) == ExitCode.CONFLICT
    assert msgspec.json.decode((tmp_path / "c").read_text().splitlines()[0])["sequence"] == 5
