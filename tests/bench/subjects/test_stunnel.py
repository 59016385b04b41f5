"""stunnel's configuration: both sides demand TLS 1.3 and the other's certificate."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.material import SERVER_NAME, write_material
from bench.subjects import stunnel

ROUTES = {("127.0.0.1", 1001): ("127.0.0.1", 1002), ("127.0.0.1", 1003): ("127.0.0.1", 1004)}


def test_both_sides_verify_each_other_over_tls_1_3(tmp_path: Path) -> None:
    material = write_material(tmp_path)
    client = stunnel.configuration(material, ROUTES, is_client=True)
    server = stunnel.configuration(material, ROUTES, is_client=False)
    for text in (client, server):
        assert text.count("verifyChain = yes") == text.count("sslVersion = TLSv1.3") == len(ROUTES)
        assert text.count(f"CAfile = {material.root}") == len(ROUTES)
    assert client.count(f"checkHost = {SERVER_NAME}") == len(ROUTES)
    assert f"key = {material.client_key}" in client
    assert f"key = {material.server_key}" in server


def test_where_it_is_missing_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    with pytest.raises(BenchError) as caught:
        stunnel.stunnel_binary()
    assert "make bench" in caught.value.hint
