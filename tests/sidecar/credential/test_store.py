"""The credential store: one request for many waiters, the kind that the current approval asks for, renewal."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
import pytest

from shared.model.identity.identity import Identity, IdentityKind, Workload
from shared.model.identity.loaded_code import CodeCheck, LoadedCode
from shared.model.identity.program import Program
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Approval, Mode, NamespaceState
from shared.model.trust.bundle import public_key_digest
from shared.model.wire.messages import ProgramEvidence
from shared.runtime.sinks import LineSink
from shared.runtime.tasks import Tasks
from sidecar.credential import store as module
from sidecar.credential.credential import (
    CredentialError,
    IssuanceRefusedError,
    KeyRequest,
    accept_chain,
    make_key_request,
)
from sidecar.credential.store import CredentialStore
from sidecar.events import Events
from sidecar.mesh.policies import Policies
from sidecar.mesh.trust import Trust
from tests.sidecar.little_ca import TRUST_DOMAIN, LittleCA, ask_into, make_authority, until

WEB = Workload(namespace="shop", service_account="web")
PROGRAM = Program(digest="a" * 64)
EVIDENCE = ProgramEvidence(path="/bin/true", pid=1, uid=0)


@dataclass(kw_only=True)
class Issuing:
    """An issuer without a stream: signs with the little CA's real authority, as slowly as it is told."""

    ca: LittleCA
    kind: IdentityKind = IdentityKind.OBSERVED
    refusal: str = ""
    wait_s: float = 0.01
    trust: Trust = field(init=False)
    shown: list[ProgramEvidence] = field(default_factory=list)
    moves: int = 0
    refusals: int = 0

    def __post_init__(self) -> None:
        self.trust = Trust(self.ca.bundle)

    async def request_certificate(
        self, csr: bytes, program: Program | None, evidence: ProgramEvidence, *, timeout_s: float
    ) -> tuple[bytes, ...]:
        self.shown.append(evidence)
        await asyncio.sleep(self.wait_s)
        if self.refusal:
            self.ca.issued += 1
            raise IssuanceRefusedError("no", reason=self.refusal)
        kind = self.kind if program else IdentityKind.SIDECAR
        return self.ca.issue(csr, Identity(trust_domain=TRUST_DOMAIN, workload=WEB, kind=kind, program=program))

    def move(self) -> None:
        self.moves += 1

    def prove_again(self) -> None:
        self.refusals += 1


@asynccontextmanager
async def a_store(life_s: float = 3600) -> AsyncIterator[tuple[CredentialStore, Issuing, Policies]]:
    issuing = Issuing(ca=LittleCA(life_s=life_s))
    trust = issuing.trust
    request = make_key_request()
    chain = await issuing.request_certificate(request.csr, None, EVIDENCE, timeout_s=30)
    own = accept_chain(request, chain, verifier=trust.verifier, generation=1, now=time.time())
    issuing.ca.issued = 0
    issuing.shown.clear()
    policies = Policies(NamespaceState(namespace="shop", version=1), workload=WEB, ask=ask_into([]), timeout_s=30)
    null = os.open("/dev/null", os.O_WRONLY)
    sink, failures = LineSink(null), list[str]()
    tasks = Tasks(lambda _, error: failures.append(repr(error)))
    store = CredentialStore(
        own, issuer=issuing, policies=policies, trust=trust, tasks=tasks, events=Events(sink), timeout_s=30
    )
    yield store, issuing, policies
    store.close()
    await tasks.close(timeout_s=30)
    sink.close(timeout_s=30)
    os.close(null)
    assert failures == []


def state(version: int, mode: Mode, *programs: Program) -> NamespaceState:
    approvals = tuple(Approval(service_account="web", program=program) for program in programs)
    return NamespaceState(namespace="shop", version=version, mode=mode, approvals=approvals)


async def test_many_waiters_cost_one_request() -> None:
    async with a_store() as (store, issuing, _):
        assert store.get(PROGRAM) is None
        got = await asyncio.gather(*(store.obtain(PROGRAM, EVIDENCE) for _ in range(50)))
        assert issuing.ca.issued == 1
        assert set(got) == {store.get(PROGRAM)}


async def test_a_renewal_shows_what_is_loaded_by_then() -> None:
    async with a_store() as (store, issuing, _):
        await store.obtain(PROGRAM, EVIDENCE)
        code = LoadedCode()
        store.note_code(PROGRAM, code)
        store.note_code(Program(digest="9" * 64), code)  # It has no credential.
        store.reissue(0)
        await until(lambda: len(issuing.shown) == 3)
        assert [each.code for each in issuing.shown[1:]].count(code) == 1


async def test_an_approval_that_names_code_is_asked_for_with_what_the_next_use_has_loaded() -> None:
    """What the observed program had loaded was never told: the CA would refuse, for the next second."""
    async with a_store() as (store, issuing, policies):
        await store.obtain(PROGRAM, EVIDENCE)
        enforced = Approval(service_account="web", program=PROGRAM, code=CodeCheck.ENFORCE)
        policies.install(NamespaceState(namespace="shop", version=2, approvals=(enforced,)), acknowledge=lambda _: None)
        await until(lambda: store.programs() == [])
        assert store.get(PROGRAM) is None
        issuing.kind = IdentityKind.PROGRAM
        shown = ProgramEvidence(path="/bin/true", code=LoadedCode())
        assert (await store.obtain(PROGRAM, shown)).identity.kind is IdentityKind.PROGRAM
        assert [each.code for each in issuing.shown] == [EVIDENCE.code, LoadedCode()]


async def test_the_first_waiters_cancellation_does_not_fail_the_others() -> None:
    async with a_store() as (store, _, _):
        first = asyncio.create_task(store.obtain(PROGRAM, EVIDENCE))
        await asyncio.sleep(0)
        second = asyncio.create_task(store.obtain(PROGRAM, EVIDENCE))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).identity.program == PROGRAM


async def test_the_least_recently_used_credential_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PROGRAMS", 2)
    first, second, third = (Program(digest=digit * 64) for digit in "123")
    async with a_store() as (store, _, _):
        for program in (first, second):
            await store.obtain(program, EVIDENCE)
        assert store.get(first) is not None
        await store.obtain(third, EVIDENCE)
        assert store.programs() == [first, third]


async def test_an_approval_replaces_the_observed_credential() -> None:
    async with a_store() as (store, issuing, policies):
        assert (await store.obtain(PROGRAM, EVIDENCE)).identity.kind is IdentityKind.OBSERVED
        issuing.kind = IdentityKind.PROGRAM
        policies.install(state(2, Mode.PERMISSIVE, PROGRAM), acknowledge=lambda _: None)
        assert store.get(PROGRAM) is None
        await until(lambda: store.get(PROGRAM))
        credential = store.get(PROGRAM)
        assert credential is not None
        assert credential.identity.kind is IdentityKind.PROGRAM


async def test_explicit_mode_neither_keeps_nor_asks_for_an_unapproved_programs_credential() -> None:
    async with a_store() as (store, issuing, policies):
        await store.obtain(PROGRAM, EVIDENCE)
        policies.install(state(2, Mode.EXPLICIT), acknowledge=lambda _: None)
        assert store.programs() == []
        with pytest.raises(CredentialError) as caught:
            await store.obtain(PROGRAM, EVIDENCE)
        assert (caught.value.reason, issuing.ca.issued) == (Reason.PROGRAM_NOT_APPROVED, 1)


async def test_a_refusal_is_remembered_for_a_moment_with_its_reason() -> None:
    async with a_store() as (store, issuing, _):
        issuing.refusal = "overloaded"
        for _ in range(5):
            with pytest.raises(CredentialError) as caught:
                await store.obtain(PROGRAM, EVIDENCE)
            assert caught.value.reason is Reason.OVERLOADED
        assert issuing.ca.issued == 1


async def test_a_used_credential_is_renewed_ahead_of_its_end_and_a_reissue_renews_all() -> None:
    async with a_store() as (store, _, _):
        first, own = await store.obtain(PROGRAM, EVIDENCE), store.own
        store.reissue(0.05)
        await until(lambda: store.get(PROGRAM) is not first and store.own is not own)
        renewed = store.get(PROGRAM)
        assert renewed is not None
        assert renewed.generation > first.generation


async def test_an_answer_that_a_reissue_overtook_is_renewed_too() -> None:
    """The old issuer may have signed it: it would be used until half its life had passed."""
    async with a_store() as (store, issuing, _):
        asking = asyncio.create_task(store.obtain(PROGRAM, EVIDENCE))
        await asyncio.sleep(0)
        store.reissue(0.0)
        first = await asking
        await until(lambda: store.get(PROGRAM) not in (None, first))
        assert issuing.ca.issued == 3, "the sidecar's own and the program's, twice"


async def test_programs_follow_the_sidecars_own_certificate_to_another_issuer() -> None:
    """Its Reissue may have been lost, and once the own certificate is renewed the CA has nothing to tell that by."""
    async with a_store() as (store, issuing, _):
        first, ca = await store.obtain(PROGRAM, EVIDENCE), issuing.ca
        old, ca.issuer, ca.sequence = ca.issuer, make_authority("next issuer", ca.root), ca.sequence + 1
        assert issuing.trust.install(msgspec.structs.replace(ca.bundle, issuers=(old.der, ca.issuer.der)))
        store._renew_own()
        await until(lambda: store.get(PROGRAM) not in (None, first))
        assert {store.own.issuer, (await store.obtain(PROGRAM, EVIDENCE)).issuer} == {"next issuer"}


async def test_a_distrusted_issuers_credentials_are_neither_used_nor_kept() -> None:
    async with a_store() as (store, issuing, _):
        await store.obtain(PROGRAM, EVIDENCE)
        own, old, ca = store.own, issuing.ca.issuer, issuing.ca
        ca.issuer, ca.sequence = make_authority("next issuer", ca.root), ca.sequence + 1
        distrusted = (public_key_digest(old.certificate),)
        assert issuing.trust.install(msgspec.structs.replace(ca.bundle, distrusted=distrusted))
        assert store.get(PROGRAM) is None
        await until(lambda: store.own is not own)
        assert {store.own.issuer, (await store.obtain(PROGRAM, EVIDENCE)).issuer} == {"next issuer"}


async def test_the_sidecars_own_distrusted_credential_isnt_shown_to_peers_while_the_ca_is_away() -> None:
    async with a_store() as (store, issuing, _):
        assert await store.obtain_own() is store.own
        old, ca = store.own, issuing.ca
        next_issuer, ca.issuer, ca.sequence = make_authority("next issuer", ca.root), ca.issuer, ca.sequence + 1
        distrusted = (public_key_digest(ca.issuer.certificate),)
        issuers = (ca.issuer.der, next_issuer.der)
        issuing.refusal = Reason.CA_UNAVAILABLE
        assert issuing.trust.install(msgspec.structs.replace(ca.bundle, issuers=issuers, distrusted=distrusted))
        with pytest.raises(CredentialError, match="distrusted") as caught:
            await store.obtain_own()
        assert caught.value.reason is Reason.CA_UNAVAILABLE
        assert store.own is old, "the CA may still be asked with it"
        issuing.refusal, ca.issuer = "", next_issuer
        assert (await store.obtain_own()).issuer == "next issuer"


async def test_credentials_are_renewed_at_half_their_life_and_an_unused_one_is_let_go() -> None:
    """The time for it is awaited nowhere: on a busy machine a certificate that is short enough for that may end."""
    async with a_store(life_s=600) as (store, issuing, _):
        own = store.own
        first = await store.obtain(PROGRAM, EVIDENCE)
        for renewal, credential in ((store._entries[PROGRAM].renewal, first), (store._own_renewal, own)):
            assert renewal is not None
            left_s, delay_s = credential.not_after - time.time(), renewal.when() - asyncio.get_running_loop().time()
            assert 0.35 * left_s < delay_s < 0.65 * left_s
        store._schedule(PROGRAM, store._entries[PROGRAM], 0)
        store._schedule_own(0)
        await until(lambda: store.get(PROGRAM) is not first)
        second = store.get(PROGRAM)
        assert second is not None
        assert second.generation > first.generation
        await until(lambda: issuing.moves)
        assert store.own is not own
        # It is renewed once more, having been used; nobody uses the third one.
        store._schedule(PROGRAM, store._entries[PROGRAM], 0)
        await until(lambda: store._entries[PROGRAM].credential is not second)
        store._schedule(PROGRAM, store._entries[PROGRAM], 0)
        await until(lambda: store.programs() == [])
        assert issuing.ca.issued == 4


async def test_a_failed_renewal_is_tried_again_before_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.credential.store._FIRST_RETRY_S", 0.1)
    async with a_store(life_s=60) as (store, issuing, _):
        own = store.own
        issuing.refusal = "ca_unavailable"
        store._schedule_own(0)
        await until(lambda: issuing.ca.issued)  # The renewal is refused.
        assert store.own is own
        issuing.refusal = ""
        await until(lambda: store.own is not own)
        assert time.time() < own.not_after


def test_a_backdated_or_truncated_certificate_causes_no_storm_of_renewals() -> None:
    """What is left counts: of a certificate backdated by more than half its life, half-life lies in the past."""

    async def count_renewals() -> int:
        async with a_store(life_s=28) as (_, issuing, _):  # The little CA backdates by 30 s.
            await asyncio.sleep(0.1)
            return issuing.ca.issued

    assert asyncio.run(count_renewals()) == 0


async def test_keys_are_never_shown() -> None:
    async with a_store() as (store, _, _):
        assert "key" not in repr(store.own)


def enrol(issuing: Issuing, account: str = "web") -> tuple[KeyRequest, tuple[bytes, ...]]:
    request = make_key_request()
    workload = Workload(namespace="shop", service_account=account)
    identity = Identity(trust_domain=TRUST_DOMAIN, workload=workload, kind=IdentityKind.SIDECAR)
    return request, issuing.ca.issue(request.csr, identity)


async def test_after_a_repeated_enrolment_every_program_gets_a_new_certificate_and_serves_on_meanwhile() -> None:
    async with a_store() as (store, issuing, _):
        first = await store.obtain(PROGRAM, EVIDENCE)
        own = store.check_own(*enrol(issuing), Trust(issuing.ca.bundle).verifier)
        assert store.own is not own
        store.begin_again(own)
        assert store.own is own
        assert store.get(PROGRAM) is first
        await until(lambda: store.get(PROGRAM) is not first)
        renewed = store.get(PROGRAM)
        assert renewed is not None
        assert renewed.generation > own.generation > first.generation


async def test_a_certificate_of_authorities_that_are_gone_is_forgotten_at_a_repeated_enrolment() -> None:
    async with a_store() as (store, issuing, _):
        await store.obtain(PROGRAM, EVIDENCE)
        issuing.ca.lose_everything()
        own = store.check_own(*enrol(issuing), Trust(issuing.ca.bundle).verifier)
        store._trust.begin_again(issuing.ca.bundle)
        store.begin_again(own)
        assert store.get(PROGRAM) is None
        assert (await store.obtain(PROGRAM, EVIDENCE)).issuer == "another issuer"


async def test_a_repeated_enrolment_as_somebody_else_or_by_strangers_changes_nothing() -> None:
    async with a_store() as (store, issuing, _):
        own = store.own
        with pytest.raises(CredentialError, match="somebody else"):
            store.check_own(*enrol(issuing, "db"), Trust(issuing.ca.bundle).verifier)
        with pytest.raises(CredentialError):
            store.check_own(*enrol(issuing), Trust(LittleCA().bundle).verifier)
        assert store.own is own


async def test_a_refused_renewal_of_the_sidecars_own_is_told() -> None:
    async with a_store() as (store, issuing, _):
        issuing.refusal = "ca_unavailable"
        store.reissue(0)
        await until(lambda: issuing.ca.issued == 1)
        await asyncio.sleep(0.05)
        assert issuing.refusals == 0
        issuing.refusal = "refused"
        store.reissue(0)
        await until(lambda: issuing.refusals)
