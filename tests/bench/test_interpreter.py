"""Whether a Python was built with profiles."""

from __future__ import annotations

import pytest

from bench.interpreter import Interpreter, is_profiled

_BY_DEFAULT = ("nt", "posix_home", "posix_prefix", "posix_user", "venv")


@pytest.mark.parametrize(
    ("configured", "flags", "schemes", "expected"),
    [
        ("'--enable-shared' '--enable-optimizations' '--with-lto'", "-O3", _BY_DEFAULT, True),
        ("", "-O2 -fprofile-use -fprofile-correction", _BY_DEFAULT, True),
        ("'--enable-shared' '--prefix=/usr'", "-g -O2", ("deb_system", *_BY_DEFAULT), True),
        ("'--enable-shared' '--prefix=/opt/python'", "-O3", _BY_DEFAULT, False),
        ("", "", _BY_DEFAULT, False),
    ],
)
def test_profiles_are_told_by_how_it_was_built(
    configured: str, flags: str, schemes: tuple[str, ...], expected: bool
) -> None:
    assert is_profiled(configured=configured, flags=flags, schemes=schemes) is expected


def test_a_build_without_profiles_is_warned_of() -> None:
    plain = Interpreter(version="3.12.1", has_profiles=False)
    assert str(plain) == "Python 3.12.1, built without profiles"
    assert "without profiles" in plain.warning
    assert "PYTHON=" in plain.warning
    profiled = Interpreter(version="3.12.1", has_profiles=True)
    assert str(profiled) == "Python 3.12.1, built with profiles"
    assert not profiled.warning


def test_this_python_is_described() -> None:
    assert str(Interpreter.own()).startswith("Python 3.")
