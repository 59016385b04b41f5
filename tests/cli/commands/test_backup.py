"""``touchmark ca backup-key``, ``backup``, ``restore``, ``rewrap`` (``cli.commands.backup``)."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from cli.machine import component
from cli.main import run
from cli.text.exit_codes import ExitCode
from shared.model.wire.admin import ErrorAnswer
from shared.model.wire.backup import (
    BackupHeader,
    frame_chunk,
    frame_opening,
    parse_recipient,
    parse_secret,
)
from tests.cli.fake_ca import FakeCA

HEADER = BackupHeader(recipient=bytes(32), passphrase=None, trust_domain="a.test", taken=1.0, ca_version="1")
WHOLE = frame_opening(msgspec.json.encode(HEADER), b"key") + frame_chunk(bytes(16), is_last=True)


def make_key(directory: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert run(["ca", "backup-key", str(directory / "key")]) == ExitCode.SUCCESS
    return capsys.readouterr().out.strip()


def test_the_secret_half_is_in_the_file_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipient = make_key(tmp_path, capsys)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    secret = parse_secret((tmp_path / "key").read_text())
    assert parse_recipient(recipient) == secret.public_key()
    assert run(["ca", "backup-key", str(tmp_path / "key")]) == ExitCode.BAD_INPUT  # Never over another.
    assert run(["ca", "backup-key", str(tmp_path / "other"), "--json"]) == ExitCode.SUCCESS
    assert msgspec.json.decode(capsys.readouterr().out)["file"] == str(tmp_path / "other")


def test_a_backup_is_a_new_file_of_its_owner(ca: FakeCA, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers["POST /v1/backup"] = WHOLE
    recipient, file = make_key(tmp_path, capsys), tmp_path / "backup"
    command = ["ca", "backup", str(file), "--recipient", recipient, "--json"]
    assert run([*command, "--without-decisions"]) == ExitCode.SUCCESS
    assert msgspec.json.decode(capsys.readouterr().out)["bytes"] == len(WHOLE)
    assert file.read_bytes() == WHOLE and file.stat().st_mode & 0o777 == 0o600
    [asked] = ca.asked("POST /v1/backup")
    assert (asked["recipient"], asked["decisions"]) == (recipient, False)
    assert run(command) == ExitCode.BAD_INPUT


@pytest.mark.parametrize("answer", [WHOLE[:-1], b"", ErrorAnswer(code="conflict", message="a backup is being made")])
def test_what_is_not_whole_gets_no_name(
    ca: FakeCA, tmp_path: Path, capsys: pytest.CaptureFixture[str], answer: object
) -> None:
    ca.answers["POST /v1/backup"] = answer
    recipient, folder = make_key(tmp_path, capsys), tmp_path / "folder"
    folder.mkdir()
    assert run(["ca", "backup", str(folder / "backup"), "--recipient", recipient]) != ExitCode.SUCCESS
    assert list(folder.iterdir()) == []


def test_of_a_passphrase_the_ca_gets_the_public_key(
    ca: FakeCA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.model.wire.backup.SCRYPT_N", 2)
    ca.answers["POST /v1/backup"] = WHOLE
    (tmp_path / "passphrase").write_text("correct horse\n")
    command = ["ca", "backup", str(tmp_path / "backup"), "--passphrase-file", str(tmp_path / "passphrase")]
    assert run(command) == ExitCode.SUCCESS
    [asked] = ca.asked("POST /v1/backup")
    assert "correct horse" not in msgspec.json.encode(asked).decode()
    assert asked["passphrase"]["salt"]
    parse_recipient(asked["recipient"])


@pytest.mark.parametrize("options", [[], ["--recipient", "x", "--passphrase-file", "/nowhere"], ["--recipient", "x"]])
def test_a_backup_needs_exactly_one_key(ca: FakeCA, tmp_path: Path, options: list[str]) -> None:
    assert run(["ca", "backup", str(tmp_path / "backup"), *options]) == ExitCode.BAD_INPUT
    assert ca.asked("POST /v1/backup") == []


def test_restore_and_rewrap_become_the_ca(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[list[str]] = []
    monkeypatch.setattr(component, "become_component", lambda name, arguments: became.append([name, *arguments]))
    assert run(["ca", "restore", "backup", "--key-file", "k", "--data-dir", str(tmp_path), "--replace"]) == 0
    assert run(["ca", "rewrap", "--kek-file", "a", "--new-kek-file", "b"]) == 0
    assert became == [
        ["ca", "restore", "backup", "--key-file", "k", "--data-dir", str(tmp_path), "--replace"],
        ["ca", "rewrap", "--kek-file", "a", "--new-kek-file", "b"],
    ]
