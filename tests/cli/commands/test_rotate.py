"""Rotation: progress, laggards by name, the end."""

from __future__ import annotations

import msgspec
import pytest

from cli.commands.rotate import describe_rotation
from cli.main import run
from cli.text.exit_codes import ExitCode
from shared.model.trust.bundle import RotationKind
from shared.model.wire.admin import RotationStatus
from tests.cli.fake_ca import FakeCA

PREPARED = RotationStatus(
    step="prepared", issuer="A", next="B", sequence=4, waiting_for=("web-7 (shop/web)",), is_finished=False
)
ACTIVE = RotationStatus(step="active", issuer="B", previous="A", sequence=4, previous_alive=3, is_finished=False)


def test_it_ends_once_the_new_issuer_signs(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers["POST /v1/rotation"] = PREPARED
    ca.answers["GET /v1/rotation"] = [PREPARED, ACTIVE]
    assert run(["ca", "rotate", "issuer", "--json"]) == ExitCode.SUCCESS
    assert msgspec.json.decode(capsys.readouterr().out)["issuer"] == "B"
    assert ca.asked("POST /v1/rotation") == [{}]


def test_laggards_are_named_and_end_with_9(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers["POST /v1/rotation"] = PREPARED
    ca.answers["GET /v1/rotation"] = PREPARED
    assert run(["ca", "rotate", "issuer", "--timeout", "0.3"]) == ExitCode.DEADLINE
    assert "web-7 (shop/web)" in capsys.readouterr().err


def test_force_is_asked_for_explicitly(ca: FakeCA) -> None:
    ca.answers["POST /v1/rotation"] = ACTIVE
    assert run(["ca", "rotate", "issuer", "--force"]) == ExitCode.SUCCESS
    assert ca.asked("POST /v1/rotation") == [{"force": True}]


def test_authorities_are_written_by_their_common_names(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers["POST /v1/rotation"] = msgspec.structs.replace(PREPARED, next="CN=issuer B,O=Touchmark")
    ca.answers["GET /v1/rotation"] = msgspec.structs.replace(ACTIVE, issuer="issuer B", previous="CN=A,O=Touchmark")
    assert run(["ca", "rotate", "issuer"]) == ExitCode.SUCCESS
    printed = capsys.readouterr()
    assert "issuer B signs\nA stays trusted until" in printed.out
    assert "CN=" not in printed.out + printed.err


ROOT_PREPARED = msgspec.structs.replace(
    PREPARED,
    kind=RotationKind.ROOT,
    root="R1",
    next_root="R2",
    previous_root="R1",
    previous="A",
    unpublished=("ConfigMap shop/touchmark-trust",),
)
ROOT_READY = msgspec.structs.replace(ROOT_PREPARED, waiting_for=(), unpublished=(), ready_at=1_000_000_000.0)
ROOT_ACTIVE = msgspec.structs.replace(
    ROOT_PREPARED,
    step="active",
    issuer="B",
    next="",
    root="R2",
    next_root="",
    waiting_for=(),
    unpublished=(),
    previous_alive=3,
    open_tokens=("t1 (shop/db)",),
)


def test_a_root_is_rotated_with_its_progress(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers["POST /v1/rotation"] = ROOT_PREPARED
    ca.answers["GET /v1/rotation"] = [ROOT_PREPARED, ROOT_READY, ROOT_ACTIVE]
    assert run(["ca", "rotate", "root"]) == ExitCode.SUCCESS
    assert ca.asked("POST /v1/rotation") == [{"kind": "root"}]
    printed = capsys.readouterr()
    assert "new root prepared: R2\nnew issuer prepared: B; distributing trust bundle 4" in printed.err
    assert "waiting for 2: web-7 (shop/web), ConfigMap shop/touchmark-trust" in printed.err
    assert "installed everywhere; activation at 2001-09-09 01:46:40Z at the earliest" in printed.err
    assert "R1 and the issuers below it stay trusted until" in printed.out
    assert "(3 alive)" in printed.out and "(1 open)" in printed.out


def test_what_a_root_still_waits_for_is_named_and_ends_with_9(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers["POST /v1/rotation"] = ROOT_PREPARED
    ca.answers["GET /v1/rotation"] = [ROOT_PREPARED, ROOT_READY]
    assert run(["ca", "rotate", "root", "--timeout", "0.1"]) == ExitCode.DEADLINE
    assert "✗ ConfigMap shop/touchmark-trust" in capsys.readouterr().err
    ca.answers["GET /v1/rotation"] = ROOT_READY
    assert run(["ca", "rotate", "root", "--timeout", "0.3"]) == ExitCode.DEADLINE
    assert "✗ installed everywhere; activation at" in capsys.readouterr().err


def test_a_rotation_is_taken_back_by_its_own_verb(
    ca: FakeCA, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ca.answers["GET /v1/rotation"] = ROOT_PREPARED
    ca.answers["POST /v1/rotation/revert"] = msgspec.structs.replace(ROOT_PREPARED, step="reverted", is_finished=True)
    assert run(["ca", "rotate", "issuer", "--revert"]) == ExitCode.CONFLICT
    assert "touchmark ca rotate root --revert" in capsys.readouterr().err
    assert run(["ca", "rotate", "root", "--revert"]) == ExitCode.SUCCESS
    assert "reverted: A signs" in capsys.readouterr().out
    assert run(["ca", "rotate", "root", "--revert", "--force"]) == ExitCode.BAD_INPUT
    monkeypatch.delenv("TOUCHMARK_ADMIN_SOCKET")
    where = ["--admin-socket", str(ca.socket)]
    assert run(["ca", "rotate", "issuer", "--revert", *where]) == ExitCode.CONFLICT
    assert f"`touchmark ca rotate root --revert {' '.join(where)}`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (RotationStatus(step="none", issuer="A"), "none"),
        (PREPARED, "issuer prepared, waiting for 1: web-7 (shop/web)"),
        (ROOT_READY, "root prepared, installed everywhere; activation at 2001-09-09 01:46:40Z at the earliest"),
        (ACTIVE, "issuer active; its predecessor waits for 3 certificates"),
        (ROOT_ACTIVE, "root active; its predecessor waits for 3 certificates and join tokens t1 (shop/db)"),
        (
            msgspec.structs.replace(ROOT_ACTIVE, previous_alive=0, open_tokens=()),
            "root active; its predecessor waits for its minimum wait",
        ),
        (
            msgspec.structs.replace(PREPARED, waiting_for=tuple("abcdefg")),
            "issuer prepared, waiting for 7: a, b, c, d, e and 2 more",
        ),
    ],
)
def test_the_status_says_where_it_stands(status: RotationStatus, said: str) -> None:
    assert describe_rotation(status) == said
