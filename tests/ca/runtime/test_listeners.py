"""The TCP listeners are bound first and closed last (``ca.runtime.listeners``)."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from ca.runtime.listeners import bind_listeners
from ca.settings.configuration import Configuration
from shared.model.errors import UnavailableError


def configure(directory: Path, **options: object) -> Configuration:
    paths = {"data_dir": directory / "data", "kek_file": directory / "kek", "admin_socket": directory / "admin.sock"}
    return Configuration(**paths, port=0, **options)  # type: ignore[arg-type]


def test_the_addresses_name_the_real_ports(tmp_path: Path) -> None:
    with bind_listeners(configure(tmp_path)) as listeners:
        assert listeners.listen == f"127.0.0.1:{listeners.sidecars.getsockname()[1]}"
        assert (listeners.admin, listeners.admin_listen) == (None, "")
    with bind_listeners(configure(tmp_path, admin_host="::1")) as listeners:
        assert listeners.admin is not None
        assert listeners.admin_listen == f"[::1]:{listeners.admin.getsockname()[1]}"


def test_a_port_in_use_closes_what_was_bound_before(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        configuration = configure(tmp_path, admin_host="127.0.0.1", admin_port=taken.getsockname()[1])
        with pytest.raises(UnavailableError, match="can't listen on"), bind_listeners(configuration):
            pass
