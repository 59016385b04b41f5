"""HAProxy's configuration: both sides demand TLS 1.3 and the other's certificate."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.material import write_material
from bench.subjects import haproxy

ROUTES = {("127.0.0.1", 1001): ("127.0.0.1", 1002)}


def test_both_sides_verify_each_other_over_tls_1_3(tmp_path: Path) -> None:
    material = write_material(tmp_path)
    client = haproxy.client_configuration(material, tmp_path, ROUTES)
    server = haproxy.server_configuration(material, tmp_path, ROUTES)
    for text in (client, server):
        assert "ssl-min-ver TLSv1.3" in text
        assert f"ca-file {material.root}" in text
        assert "verify required" in text
    assert "bind 127.0.0.1:1001" in client
    assert "server backend 127.0.0.1:1002" in server


def test_where_it_is_missing_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    with pytest.raises(BenchError) as caught:
        haproxy.haproxy_binary()
    assert "make bench" in caught.value.hint
