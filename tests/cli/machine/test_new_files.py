"""A new file is there whole or not at all (``cli.machine.new_files``), also when the command is killed anywhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cli.machine.new_files import writing_new_file
from shared.model.errors import InputError

KILLED = """
import os, signal, sys
from pathlib import Path
from cli.machine.new_files import writing_new_file

path = Path(sys.argv[1])
for step in range(100):
    path.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        left = [step]
        def wrap(function):
            def call(*arguments, **options):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*arguments, **options)
            return call
        for name in ("open", "fdopen", "fsync", "link", "unlink"):
            setattr(os, name, wrap(getattr(os, name)))
        with writing_new_file(path) as file:
            write = wrap(file.write)
            for _ in range(3):
                write(b"part")
                file.flush()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert not path.exists() or path.read_bytes() == b"part" * 3, step
    if status == 0:
        assert path.exists()
        print(step)
        break
    assert status == signal.SIGKILL, status
"""


def test_killed_at_any_step_it_leaves_nothing_or_all_under_the_name(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "file")], capture_output=True, text=True, timeout=180, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) >= 8


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), writing_new_file(tmp_path / "file") as file:
        file.write(b"x")
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []


def test_another_file_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="can't write"), writing_new_file(tmp_path / "file"):
        pass
    with pytest.raises(InputError), writing_new_file(tmp_path / "other") as file:
        file.write(b"x")
        (tmp_path / "other").write_text("came meanwhile")
    assert (tmp_path / "other").read_text() == "came meanwhile"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "other"]
