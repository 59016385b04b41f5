"""The floor in Rust: it demands what the others demand, speaks the product's frames, and is built from its lock."""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.material import CLIENT_NAME, SERVER_NAME, write_material
from bench.subjects import rust_floor
from sidecar.tunnel.frames import HEADER, MAX_PAYLOAD_BYTES, FrameType

ROUTES = {("127.0.0.1", 1001): ("127.0.0.1", 1002)}


def constants(name: str) -> dict[str, str]:
    source = (rust_floor.SOURCE / "src" / name).read_text(encoding="utf-8")
    return dict(re.findall(r"^const (\w+): [&\w]+ = (.+);$", source, re.MULTILINE))


def test_each_side_has_its_own_certificate_and_the_root(tmp_path: Path) -> None:
    material = write_material(tmp_path)
    client = rust_floor.side_arguments("client", material, ROUTES, reuses=True)
    server = rust_floor.side_arguments("server", material, ROUTES, reuses=False)
    assert client == [
        "client", str(material.client_chain), str(material.client_key), str(material.root), "again",
        "127.0.0.1:1001=127.0.0.1:1002",
    ]  # fmt: skip
    assert server[:5] == [
        "server", str(material.server_chain), str(material.server_key), str(material.root), "once",
    ]  # fmt: skip


def test_it_checks_the_names_and_speaks_the_frames_of_the_others() -> None:
    tls, relay = constants("tls.rs"), constants("relay.rs")
    assert (tls["CLIENT_NAME"], tls["SERVER_NAME"]) == (f'"{CLIENT_NAME}"', f'"{SERVER_NAME}"')
    assert {name: int(relay[name]) for name in ("OPEN", "ACCEPT", "DATA", "END")} == {
        frame.name: int(frame) for frame in (FrameType.OPEN, FrameType.ACCEPT, FrameType.DATA, FrameType.END)
    }
    assert int(relay["HEADER"]) == HEADER.size
    assert int(relay["PAYLOAD"].replace("_", "")) == MAX_PAYLOAD_BYTES


def test_each_crate_is_locked_by_its_checksum() -> None:
    lock = tomllib.loads((rust_floor.SOURCE / "Cargo.lock").read_text(encoding="utf-8"))
    assert all("checksum" in package for package in lock["package"] if package["name"] != "rust-floor")


def test_where_cargo_is_missing_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    rust_floor.build.cache_clear()
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(BenchError) as caught:
        rust_floor.build()
    assert "cargo-web" in caught.value.hint
