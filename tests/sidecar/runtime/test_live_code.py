"""What live connections' programs load later: it ends their connections, or is told once."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from shared.model.identity.loaded_code import CodeCheck, LoadedCode
from shared.model.identity.program import Program
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Mode
from sidecar.attest.facts import Attestation, AttestationError, Execution
from sidecar.events import Events
from sidecar.runtime import live_code
from sidecar.runtime.live_code import watch_code
from tests.sidecar.approved_code import ATTESTATION, ONLY_LIBC, WITH_EVIL, FakeLooks, make_sidecar, make_state
from tests.sidecar.little_ca import until

VANISHED = AttestationError("gone", reason=Reason.PROCESS_VANISHED)
UNREADABLE = AttestationError("no", reason=Reason.EXECUTABLE_UNREADABLE)


class Scene:
    """One live connection of one program."""

    def __init__(self) -> None:
        self.id, self.detail = "c", ""
        self.unproven: frozenset[str] = frozenset()
        self.revoked: list[Reason] = []
        self.refused_in_explicit: list[Reason] = []
        self.shown: list[LoadedCode] = []
        self.told: list[object] = []
        self.rounds = 0

    def list_attestations(self) -> list[Attestation]:
        self.rounds += 1
        return [ATTESTATION]

    def list_of(self, execution: Execution) -> list[Scene]:
        return [self]

    def revoke(self, reason: Reason, detail: str) -> None:
        self.revoked.append(reason)

    def note_unproven(self, reason: Reason, detail: str) -> None:
        self.refused_in_explicit.append(reason)

    def note_code(self, program: Program, code: LoadedCode) -> None:
        self.shown.append(code)

    def emit(self, event: str, **fields: object) -> None:
        self.told.append(fields["reason"])


async def watch(
    monkeypatch: pytest.MonkeyPatch, found: LoadedCode | AttestationError, check: CodeCheck | None, mode: Mode
) -> tuple[Scene, FakeLooks]:
    monkeypatch.setattr(live_code, "_PERIOD_S", 0.0)
    scene, looks = Scene(), FakeLooks(found)
    sidecar = make_sidecar(looks, make_state(check, mode), connections=scene, credentials=scene)
    events = cast("Events", SimpleNamespace(emit=scene.emit))
    task = asyncio.create_task(watch_code(sidecar, events))
    await until(lambda: scene.rounds > 3)
    assert not task.done()
    task.cancel()
    await asyncio.wait({task})
    return scene, looks


@pytest.mark.parametrize(
    ("found", "check", "mode", "revoked", "told"),
    [
        (WITH_EVIL, CodeCheck.ENFORCE, Mode.EXPLICIT, Reason.CODE_NOT_APPROVED, []),
        (UNREADABLE, CodeCheck.ENFORCE, Mode.EXPLICIT, Reason.EXECUTABLE_UNREADABLE, []),
        (WITH_EVIL, CodeCheck.ENFORCE, Mode.PERMISSIVE, None, [Reason.CODE_NOT_APPROVED]),
        (WITH_EVIL, CodeCheck.REPORT, Mode.EXPLICIT, None, [Reason.CODE_NOT_APPROVED]),
        (UNREADABLE, CodeCheck.REPORT, Mode.EXPLICIT, None, []),
        (VANISHED, CodeCheck.ENFORCE, Mode.EXPLICIT, None, []),
        (WITH_EVIL, None, Mode.EXPLICIT, None, []),
        (ONLY_LIBC, CodeCheck.ENFORCE, Mode.EXPLICIT, None, []),
    ],
)
async def test_other_code_closes_in_explicit_mode_and_is_else_told_once(
    monkeypatch: pytest.MonkeyPatch, found: Any, check: Any, mode: Mode, revoked: Reason | None, told: list[Reason]
) -> None:
    scene, looks = await watch(monkeypatch, found, check, mode)
    assert set(scene.revoked) == ({revoked} if revoked else set())
    assert scene.told == told
    is_let_go = mode is Mode.PERMISSIVE and check is CodeCheck.ENFORCE
    assert set(scene.refused_in_explicit) == ({Reason.CODE_NOT_APPROVED} if is_let_go else set())
    assert bool(looks.looks) is (check is not None)


async def test_approved_code_is_what_a_renewal_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    scene, _ = await watch(monkeypatch, ONLY_LIBC, CodeCheck.ENFORCE, Mode.EXPLICIT)
    assert scene.shown
    assert scene.shown[0] is ONLY_LIBC
