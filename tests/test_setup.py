"""Set-up: an old Python is refused clearly, the locks name no index, and nothing is left out silently."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
LOCKS = sorted(ROOT.glob("requirements*.lock"))


def run(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {"PATH": os.environ["PATH"], "HOME": str(cwd)}
    return subprocess.run(
        command, cwd=cwd, env=kept | environment, capture_output=True, text=True, timeout=180, check=False
    )


def test_an_old_python_is_refused_with_its_version(tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.2"\nexit 1\n')
    old.chmod(0o755)
    done = run(str(ROOT / "scripts/setup.sh"), cwd=tmp_path, PYTHON=str(old), VENV=str(tmp_path / "venv"))
    assert done.returncode == 1
    assert "is Python 3.9.2; Touchmark needs Python 3.11 or newer" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_a_python_that_isnt_there_is_named(tmp_path: Path) -> None:
    done = run(str(ROOT / "scripts/setup.sh"), cwd=tmp_path, PYTHON="python9.9", VENV=str(tmp_path / "venv"))
    assert done.returncode == 1
    assert "PYTHON=python9.9 isn't there" in done.stderr


def test_the_scripts_are_valid_shell(tmp_path: Path) -> None:
    for script in (*ROOT.glob("scripts/*.sh"), ROOT / ".ci/run"):
        assert os.access(script, os.X_OK), script
        assert run("bash", "-n", str(script), cwd=tmp_path).stderr == ""


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_pins_and_hashes_everything_and_names_no_index(lock: Path) -> None:
    text = lock.read_text(encoding="utf-8")
    assert not re.search(r"://|--index|--find-links|file:|@ ", text)
    entries = re.split(r"\n(?=[a-z0-9])", re.sub(r"(?m)^\s*#.*\n?", "", text).strip())
    assert len(entries) > 5
    for entry in entries:
        assert re.match(r"[a-z0-9._-]+==[^ ]+", entry), entry[:80]
        assert "--hash=sha256:" in entry, entry[:80]


def test_the_locks_agree() -> None:
    def pins(lock: Path) -> dict[str, str]:
        return dict(re.findall(r"(?m)^([a-z0-9._-]+)==([^ ]+)", lock.read_text(encoding="utf-8")))

    parts = ("-sidecar", "", "-dev", "-bench")
    sidecar, runtime, dev, bench = (pins(ROOT / f"requirements{part}.lock") for part in parts)
    assert sidecar.items() <= runtime.items() <= dev.items() <= bench.items()
    docs = pins(ROOT / "requirements-docs.lock")
    assert all(dev[name] == docs[name] for name in dev.keys() & docs.keys()), "both go into one .venv"


@pytest.fixture
def suite_with_a_skip(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "tests/conftest.py", tmp_path / "conftest.py")
    (tmp_path / "test_it.py").write_text(
        "import pytest\n\ndef test_good():\n    pass\n\n"
        "@pytest.mark.skip(reason='needs a moon')\ndef test_left_out():\n    pass\n"
    )
    return tmp_path


@pytest.mark.parametrize(("ci", "code"), [("true", 1), ("", 0)])
def test_a_skip_is_named_and_fails_the_run_in_ci_only(suite_with_a_skip: Path, ci: str, code: int) -> None:
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(suite_with_a_skip))
    done = run(*command, cwd=suite_with_a_skip, CI=ci)
    assert done.returncode == code, done.stdout + done.stderr
    assert "test_it.py::test_left_out: needs a moon" in done.stdout


def test_a_run_without_skips_passes_in_ci(suite_with_a_skip: Path) -> None:
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "good", str(suite_with_a_skip))
    assert run(*command, cwd=suite_with_a_skip, CI="true").returncode == 0


def test_the_hooks_before_a_commit_are_local_and_run_the_tools_of_the_venv() -> None:
    [repository] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert repository["repo"] == "local", "nothing is fetched"
    for hook in repository["hooks"]:
        assert (ROOT / hook["entry"].split()[0]).name in {"ruff", "mypy", "lint-imports"}
        assert hook["entry"].startswith(".venv/bin/")
