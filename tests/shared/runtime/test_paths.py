"""Default paths: the system's directories for root, the user's own otherwise."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shared.runtime.paths import ADMIN_SOCKET_VARIABLE, default_admin_socket, default_data_dir, default_kek_file

VARIABLES = ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", ADMIN_SOCKET_VARIABLE)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    return tmp_path


def test_root_uses_the_systems_directories(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("XDG_DATA_HOME", "/elsewhere")
    assert default_data_dir() == Path("/var/lib/touchmark")
    assert default_kek_file() == Path("/etc/touchmark/kek")
    assert default_admin_socket() == Path("/run/touchmark/admin.sock")


def test_a_user_has_them_at_home(home: Path) -> None:
    assert default_data_dir() == home / ".local/share/touchmark"
    assert default_kek_file() == home / ".config/touchmark/kek"
    assert default_admin_socket() == home / ".local/state/touchmark/admin.sock"


def test_the_users_variables_are_followed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES[:3]:
        monkeypatch.setenv(variable, f"/x/{variable}")
    assert default_data_dir() == Path("/x/XDG_DATA_HOME/touchmark")
    assert default_kek_file() == Path("/x/XDG_CONFIG_HOME/touchmark/kek")
    assert default_admin_socket() == Path("/x/XDG_RUNTIME_DIR/touchmark/admin.sock")


def test_a_relative_directory_is_ignored(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Source: XDG Base Directory Specification 0.8, "Basics"."""
    for variable in VARIABLES[:4]:
        monkeypatch.setenv(variable, "relative")
    assert default_data_dir() == home / ".local/share/touchmark"
    assert default_kek_file() == home / ".config/touchmark/kek"
    assert default_admin_socket() == home / ".local/state/touchmark/admin.sock"


@pytest.mark.parametrize("user", [0, 1000])
def test_the_admin_socket_can_be_named(home: Path, monkeypatch: pytest.MonkeyPatch, user: int) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setenv(ADMIN_SOCKET_VARIABLE, "/x/admin.sock")
    assert default_admin_socket() == Path("/x/admin.sock")


def test_the_key_is_never_inside_the_data_directory(home: Path) -> None:
    assert not default_kek_file().is_relative_to(default_data_dir())
