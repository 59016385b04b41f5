"""Other trust domains: their roots are read here, before the CA hears of them."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from cli.main import run
from cli.text.exit_codes import ExitCode
from shared.model.wire.admin import ForeignDomainList, ForeignDomainRequest, ForeignDomainView, ForeignRootView
from tests.cli.fake_ca import FakeCA
from tests.sidecar.partner import Partner

PARTNER = Partner()
ROOT = ForeignRootView(subject="CN=partner root", fingerprint="ab" * 32, not_after=1_800_000_000.0)
KNOWN = ForeignDomainList(
    own="touchmark.local",
    own_roots=(PARTNER.root.der,),
    domains=(ForeignDomainView(trust_domain="partner.example", roots=(ROOT,), changed=1.0),),
)
NOBODY = msgspec.structs.replace(KNOWN, domains=())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "roots.pem"
    path.write_bytes(PARTNER.roots_pem)
    return path


def test_a_domain_is_made_known_by_its_roots(ca: FakeCA, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers["PUT /v1/foreign-domains/partner.example"] = KNOWN
    assert run(["trust", "add", "partner.example", str(file)]) == ExitCode.SUCCESS
    (request,) = ca.requests
    assert msgspec.convert(request[2], ForeignDomainRequest).roots == PARTNER.roots.roots
    printed = capsys.readouterr().out
    assert "partner.example is added with 1 root" in printed
    assert "CN=partner root" in printed


def test_domains_are_listed(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers["GET /v1/foreign-domains"] = [KNOWN, KNOWN, NOBODY]
    assert run(["trust", "list"]) == ExitCode.SUCCESS
    assert "2027-01-15" in capsys.readouterr().out
    assert run(["trust", "list", "--json"]) == ExitCode.SUCCESS
    assert json.loads(capsys.readouterr().out)["domains"][0]["roots"][0]["fingerprint"] == "ab" * 32
    assert run(["trust", "list"]) == ExitCode.SUCCESS
    assert "no trust domain besides our own, touchmark.local" in capsys.readouterr().out


def test_our_own_roots_are_exported_for_partners(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers["GET /v1/foreign-domains"] = KNOWN
    assert run(["trust", "export"]) == ExitCode.SUCCESS
    assert capsys.readouterr().out.encode() == PARTNER.roots_pem


def test_a_domain_is_forgotten(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers["DELETE /v1/foreign-domains/partner.example"] = NOBODY
    assert run(["trust", "remove", "partner.example"]) == ExitCode.SUCCESS
    assert "is removed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("domain", "text", "message"),
    [
        ("partner.example", b"nothing", "no readable PEM certificates"),
        ("Partner", PARTNER.roots_pem, "trust domain name"),
        ("partner.example", None, "can't read"),
    ],
)
def test_what_cant_be_roots_never_reaches_the_ca(
    ca: FakeCA, tmp_path: Path, capsys: pytest.CaptureFixture[str], domain: str, text: bytes | None, message: str
) -> None:
    path = tmp_path / "roots.pem"
    if text is not None:
        path.write_bytes(text)
    assert run(["trust", "add", domain, str(path)]) == ExitCode.BAD_INPUT
    assert message in capsys.readouterr().err
    assert not ca.requests
