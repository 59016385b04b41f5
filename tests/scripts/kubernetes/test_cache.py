"""Where what is built is kept, and under which key."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.kubernetes import cache


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("TOUCHMARK_CACHE", raising=False)
    assert cache.directory() == tmp_path / "xdg" / "touchmark" / "kubernetes"
    monkeypatch.setenv("TOUCHMARK_CACHE", str(tmp_path / "own"))
    assert cache.directory() == tmp_path / "own" / "kubernetes"


def test_a_key_changes_with_content_name_mode_and_strings(tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "a.py").write_text("1")
    keys = [cache.digest([code])]
    (code / "__pycache__").mkdir()
    (code / "__pycache__" / "a.pyc").write_text("compiled")
    assert cache.digest([code]) == keys[0], "compiled code is no input"
    (code / "a.py").write_text("2")
    keys.append(cache.digest([code]))
    (code / "a.py").chmod(0o755)
    keys.append(cache.digest([code]))
    (code / "a.py").rename(code / "b.py")
    keys.append(cache.digest([code]))
    keys.append(cache.digest([code], "flag"))
    assert len(set(keys)) == len(keys)


def test_a_key_is_the_same_wherever_the_clone_lies(tmp_path: Path) -> None:
    for clone in ("one", "two"):
        (tmp_path / clone / "code").mkdir(parents=True)
        (tmp_path / clone / "code" / "a.py").write_text("1")
    assert cache.digest([tmp_path / "one" / "code"]) == cache.digest([tmp_path / "two" / "code"])
