"""What follows for a connection and for a certificate from what a program has loaded."""

from __future__ import annotations

import msgspec
import pytest

from shared.model.identity.loaded_code import CodeCheck, LoadedCode
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import NamespaceState
from sidecar.attest.facts import AttestationError
from sidecar.code_check import check_code, find_checked, find_foreign, look_and_describe, make_evidence
from tests.sidecar.approved_code import (
    ATTESTATION,
    ONLY_LIBC,
    WITH_EVIL,
    FakeLooks,
    make_sidecar,
    make_state,
)


@pytest.mark.parametrize("code", [WITH_EVIL, LoadedCode(anonymous=True), LoadedCode(omitted=1)])
async def test_other_code_refuses_where_the_approval_enforces(code: LoadedCode) -> None:
    looks = FakeLooks(code)
    with pytest.raises(AttestationError) as refused:
        await check_code(make_sidecar(looks, make_state(CodeCheck.ENFORCE)), ATTESTATION)
    assert refused.value.reason is Reason.CODE_NOT_APPROVED
    assert refused.value.process == ATTESTATION.process


async def test_approved_code_passes_and_a_fresh_look_serves_again() -> None:
    looks = FakeLooks(ONLY_LIBC)
    sidecar = make_sidecar(looks, make_state(CodeCheck.ENFORCE))
    assert await check_code(sidecar, ATTESTATION) == ""
    assert await check_code(sidecar, ATTESTATION) == ""
    assert looks.looks == 1


async def test_a_jit_may_have_anonymous_memory_but_no_other_files() -> None:
    looks = FakeLooks(LoadedCode(objects=ONLY_LIBC.objects, anonymous=True))
    assert await check_code(make_sidecar(looks, make_state(CodeCheck.ENFORCE, jit=True)), ATTESTATION) == ""
    with pytest.raises(AttestationError):
        await check_code(make_sidecar(FakeLooks(WITH_EVIL), make_state(CodeCheck.ENFORCE, jit=True)), ATTESTATION)


async def test_what_is_only_reported_is_said_in_the_record() -> None:
    said = await check_code(make_sidecar(FakeLooks(WITH_EVIL), make_state(CodeCheck.REPORT)), ATTESTATION)
    assert "/tmp/evil.so" in said
    failed = FakeLooks(AttestationError("process 7 has ended", reason=Reason.PROCESS_VANISHED))
    assert await check_code(make_sidecar(failed, make_state(CodeCheck.REPORT)), ATTESTATION) == "process 7 has ended"


async def test_what_cannot_be_looked_at_is_refused_for_that_reason() -> None:
    failed = FakeLooks(AttestationError("no", reason=Reason.EXECUTABLE_UNREADABLE))
    with pytest.raises(AttestationError) as refused:
        await check_code(make_sidecar(failed, make_state(CodeCheck.ENFORCE)), ATTESTATION)
    assert refused.value.reason is Reason.EXECUTABLE_UNREADABLE


@pytest.mark.parametrize("state", [make_state(None), NamespaceState(namespace="shop")])
async def test_without_a_list_nothing_is_waited_for(state: NamespaceState) -> None:
    looks = FakeLooks(WITH_EVIL)
    sidecar = make_sidecar(looks, state)
    assert find_checked(sidecar, ATTESTATION) is None
    assert await check_code(sidecar, ATTESTATION) == ""
    assert (looks.looks, looks.unhurried) == (0, 1)
    assert make_evidence(sidecar, ATTESTATION).code is msgspec.UNSET


async def test_the_ca_is_shown_what_it_compares() -> None:
    sidecar = make_sidecar(FakeLooks(ONLY_LIBC), make_state(CodeCheck.ENFORCE))
    evidence = await look_and_describe(sidecar, ATTESTATION)
    assert (evidence.path, evidence.pid, evidence.code) == ("/bin/web", 7, ONLY_LIBC)


async def test_a_changed_policy_is_asked_anew() -> None:
    looks = FakeLooks(WITH_EVIL)
    seen = await looks.look(ATTESTATION.execution)
    sidecar = make_sidecar(looks, make_state(CodeCheck.ENFORCE))
    approval = find_checked(sidecar, ATTESTATION)
    assert approval is not None
    first = find_foreign(sidecar.policies.own, approval, seen)
    assert first is not None
    assert find_foreign(sidecar.policies.own, approval, seen) is first
    again = make_sidecar(looks, make_state(CodeCheck.ENFORCE)).policies.own
    assert find_foreign(again, approval, seen) is not first
