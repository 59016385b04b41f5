"""The sidecar's own directory is for one sidecar and one user, and its file is whole."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from shared.model.errors import InputError, MachineError, UnavailableError
from sidecar.credential.state_directory import FILE, MAX_BYTES, StateDirectory


def test_it_is_made_for_this_user_alone_and_keeps_the_last_content(tmp_path: Path) -> None:
    path = tmp_path / "new" / "state"
    directory = StateDirectory(path)
    assert directory.read() is None
    for content in (b"one", b"two"):
        directory.write(content)
        assert directory.read() == content
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE((path / FILE).stat().st_mode) == 0o600
    assert [each.name for each in path.iterdir()] == [FILE]
    directory.close()
    again = StateDirectory(path)
    assert again.read() == b"two"
    again.close()


def test_two_sidecars_dont_share_it(tmp_path: Path) -> None:
    directory = StateDirectory(tmp_path / "state")
    with pytest.raises(MachineError, match="another sidecar"):
        StateDirectory(tmp_path / "state")
    directory.close()
    StateDirectory(tmp_path / "state").close()


def test_what_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.mkdir(mode=0o755)
    path.chmod(0o755)
    with pytest.raises(InputError, match="for others"):
        StateDirectory(path)
    path.chmod(0o700)
    directory = StateDirectory(path)
    directory.write(b"secret")
    (path / FILE).chmod(0o640)
    with pytest.raises(InputError, match="for others"):
        directory.read()
    (path / FILE).unlink()
    (path / FILE).symlink_to("/dev/zero")
    with pytest.raises(MachineError):
        directory.read()
    (path / FILE).unlink()
    (path / FILE).touch(mode=0o600)
    os.truncate(path / FILE, MAX_BYTES + 1)
    with pytest.raises(InputError, match="larger"):
        directory.read()
    directory.close()


def test_a_link_or_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "file").touch()
    for name in ("link", "file"):
        with pytest.raises(MachineError):
            StateDirectory(tmp_path / name)


def test_a_write_that_fails_leaves_the_former_file(tmp_path: Path) -> None:
    directory = StateDirectory(tmp_path / "state")
    directory.write(b"one")
    (tmp_path / "state" / "renewal.json.new").mkdir()  # In the way.
    with pytest.raises(UnavailableError, match="can't write"):
        directory.write(b"two")
    assert directory.read() == b"one"
    directory.close()


def test_whether_it_can_be_written_is_known_without_a_change(tmp_path: Path) -> None:
    directory = StateDirectory(tmp_path / "state")
    directory.write(b"one")
    directory.check_writable(MAX_BYTES)
    assert directory.read() == b"one"
    assert [each.name for each in (tmp_path / "state").iterdir()] == [FILE]
    (tmp_path / "state" / "renewal.json.new").mkdir()  # In the way.
    with pytest.raises(UnavailableError, match="can't write"):
        directory.check_writable(1)
    directory.close()


@pytest.mark.needs_root
def test_it_is_given_to_the_user_that_the_sidecar_becomes(tmp_path: Path) -> None:
    directory = StateDirectory(tmp_path / "state")
    directory.write(b"one")
    directory.close()
    directory = StateDirectory(tmp_path / "state", owner=1337)
    assert {(tmp_path / "state").stat().st_uid, (tmp_path / "state" / FILE).stat().st_uid} == {1337}
    assert directory.read() == b"one"
    directory.close()


@pytest.mark.needs_root
def test_a_file_of_roots_that_was_linked_there_isnt_given_away(tmp_path: Path) -> None:
    StateDirectory(tmp_path / "state", owner=1337).close()
    secret = tmp_path / "secret"
    secret.touch(mode=0o600)
    for link in (os.link, os.symlink):
        link(secret, tmp_path / "state" / FILE)
        with pytest.raises((InputError, MachineError)):
            StateDirectory(tmp_path / "state", owner=1337)
        (tmp_path / "state" / FILE).unlink()
    assert secret.stat().st_uid == 0
    StateDirectory(tmp_path / "state", owner=1337).close()
