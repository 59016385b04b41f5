"""Asks and does everything that a store can be asked and can do, once, in a store that is filled (``bench.store``)."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable
from dataclasses import replace

import msgspec
import pytest
from cryptography import x509

from bench.edges import make_records
from bench.store.asked import list_questions
from ca.authority.authorities import Authorities
from ca.backup.export import export
from ca.issuance import Issuance
from ca.store.edges.edge import Report
from ca.store.records import DecisionFilter, LedgerFilter, ProgramRecord
from ca.store.replicas import check_unused
from ca.store.store import Store
from shared.model.adoption.program_queue import ProgramRefusal, Sighting
from shared.model.errors import TouchmarkError
from shared.model.identity.identity import Workload
from shared.model.identity.program import Program
from shared.model.policy.decision import Answer, DraftVerdict
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import MAX_PROGRAMS, Direction, Mode, PolicyDraft
from shared.model.wire.admin_audit import AuditMark
from tests.ca.founded import KEK, make_csr, make_rotation, registration
from tests.ca.store.test_foreign_domains import PARTNER

WEB = Workload(namespace="shop", service_account="web")
POD = Workload(namespace="ns3", service_account="w3")


async def take_tour(store: Store, *, now: float) -> None:
    """Ask and do everything; ``now``: when the store was filled."""
    await _manage_namespaces(store, now)
    authorities = await Authorities.open(store, KEK, now=now)
    issuance = Issuance(store, authorities)
    for ask in list_questions(now=now).values():
        await ask(store)
    await _observe(store, now)
    await _join(store, issuance, now)
    await _keep_house(store, now)
    await _rotate(store, authorities, now)
    async for _ in export(store, taken=now):
        pass


async def _manage_namespaces(store: Store, now: float) -> None:
    namespaces, history, drafts = store.namespaces, store.history, store.drafts
    await namespaces.set_mode("shop", Mode.EXPLICIT, expected_version=None)
    await _fails(namespaces.set_mode("shop", Mode.PERMISSIVE, expected_version=77))
    await namespaces.set_workload_modes("shop", ["web"], Mode.PERMISSIVE)
    await history.try_workload_modes("shop", ["db"], Mode.PERMISSIVE, for_s=60, now=now)
    await namespaces.set_workload_modes("shop", ["web"], None)
    await history.undo("shop")
    await history.try_mode("shop", Mode.PERMISSIVE, for_s=60, now=now)
    await history.get_trial("shop")
    await history.confirm_mode("shop")
    await history.try_mode("shop", Mode.EXPLICIT, for_s=60, now=now)
    await history.end_due_trials(now=now + 61)
    (newest, *_) = await history.list_generations("shop", limit=1)
    await history.get_generation("shop", newest.generation)
    await namespaces.put_policy("shop", rules=())
    await namespaces.delete_policy("shop")
    program = Program(digest="ab" * 32)
    record = ProgramRecord(
        namespace="shop", name="web", service_account="web", programs=(program,), approved_by="x", approved=now
    )
    refusal = ProgramRefusal(namespace="shop", service_account="web", program=program, refused_by="x", refused=now)
    await store.refusals.add([refusal])
    await store.refusals.take_back(WEB, [program])
    await store.refusals.list_all()
    await namespaces.put_program(record)
    await namespaces.get_program("shop", "web")
    await namespaces.list_programs()
    await namespaces.list_programs("shop")
    await history.undo("shop")
    await namespaces.put_program(record)
    # More than a namespace holds; the second one is refused by what is known since the first.
    many = tuple(Program(digest=f"{number:064x}") for number in range(MAX_PROGRAMS + 1))
    for _ in range(2):
        await _fails(namespaces.put_program(replace(record, name="many", programs=many)))
    await namespaces.delete_program("shop", "web")
    await namespaces.list_group_labels()
    await namespaces.list_pod_workloads()
    await namespaces.list_versions()
    await namespaces.set_labels(WEB, {"a": "b"})
    await namespaces.get_state("ns7")
    await namespaces.list_states()
    await drafts.put("shop", PolicyDraft(number=0, mode=Mode.EXPLICIT), spares_objects=True)
    await drafts.get("shop")
    await drafts.list_of_objects()
    await drafts.drop("shop", number=(await store.drafts.get("shop")).draft.number)  # type: ignore[union-attr]
    await store.foreign.put(PARTNER, now=now)
    await store.foreign.list_all()
    await store.foreign.delete(PARTNER.trust_domain)
    await store.change_images(lambda known: {**known, "image": now})
    await store.check()


async def _observe(store: Store, now: float) -> None:
    (record,) = make_records(1, [2], count=1, now=now, side=Direction.EGRESS)
    await store.decisions.insert([record])
    drafted = DraftVerdict(answer=Answer.DENY, would_deny=False, reason=Reason.NO_RULE, rule="", drafts=("ns1@1",))
    ends = {
        name: msgspec.structs.replace(getattr(record, name), workload="ns1/w1") for name in ("source", "destination")
    }
    report = Report(instance="s1", namespace="ns1", service_account="w1", lost=3)
    more = [
        msgspec.structs.replace(record, namespace="ns1", sidecar="s1", draft=drafted, port=port, **ends)
        for port in (80, 81)
    ]
    texts = [msgspec.json.encode(each).decode() for each in more]
    for batch in ("a", "a", "b"):
        await store.decisions.insert_batch(more, report, texts=texts, digest=batch)
    await store.decisions.insert([msgspec.structs.replace(each, sidecar="s2") for each in more])
    sighting = Sighting(namespace="shop", service_account="web", program=Program(digest="ab" * 32), last=now)
    other = msgspec.structs.replace(sighting, program=Program(digest="cd" * 32))
    await store.sightings.add([sighting, other, msgspec.structs.replace(other, service_account="db")])
    await store.sightings.list_all()
    await store.sightings.list_newest("ns7")
    await store.sightings.list_of(sighting.namespace, [(sighting.service_account, sighting.program)])
    await store.decisions.query(DecisionFilter(namespace="ns7", program="sha256:00", since=now - 60, until=now))
    await store.decisions.prune(max_age_s=0.0, max_rows=1, now=now - 4e5)
    for _ in range(3):
        await store.edges.prune(max_age_s=20 * 86_400, max_bytes=1, now=now)


async def _join(store: Store, issuance: Issuance, now: float) -> None:
    token, secret = await store.join_tokens.create(
        workload=WEB, addresses=["198.19.0.1"], labels={"a": "b"}, expires=now + 600, now=now
    )
    await store.join_tokens.check(token.token_id, secret)
    first = registration("web-1", "198.19.0.1")
    grant, _ = await store.enrolment.enter_by_token(
        token_id=token.token_id, secret=secret, now=now, renewal_digest=b"1" * 32, registration=first, key_digest=b"key"
    )
    chain = (await issuance.issue_sidecar(grant, make_csr(), now)).chain
    await store.enrolment.find_by_certificate(x509.load_der_x509_certificate(chain[0]).serial_number)
    await store.enrolment.come_again(grant, first, now=now)
    await _fails(
        store.enrolment.enter_by_token(
            token_id=token.token_id, secret=secret, now=now, registration=first, key_digest=b"another"
        )
    )
    for following in (b"2" * 32, b"2" * 32):
        await store.renewal_keys.check(b"1" * 32, instance="web-1")
        await store.enrolment.enter_by_renewal(
            renewal_digest=b"1" * 32, following_digest=following, registration=first, key_digest=b"key", grace_s=60,
            now=now + 10,
        )  # fmt: skip
    pod = replace(grant, workload=POD, instance="pod-1", pod_uid="uid-1", addresses=("198.19.0.2",))
    its = registration("pod-1", "198.19.0.2")
    await store.enrolment.enter_pod(pod, registration=its, key_digest=b"pod", now=now)
    sidecars = store.sidecars
    await issuance.issue_sidecar(pod, make_csr(), now)
    await _fails(store.enrolment.enter_pod(pod, registration=its, key_digest=b"other", now=now))
    await sidecars.register(grant, registration("web-1", "198.19.0.1"), now=now)
    for connected in (True, False):
        await sidecars.mark_seen("web-1", connected=connected, now=1.0)
    await store.replicas.beat({"web-1"})
    await store.replicas.beat()
    await sidecars.mark_bundle_installed("web-1", 1)
    await sidecars.mark_namespace_installed("web-1", "shop", 1)
    await sidecars.mark_subscribed("web-1", "ns1", at_most=10)
    await sidecars.get_at("198.19.0.1")
    await sidecars.list_all()
    await sidecars.list_live(now=now, with_evicted=True)
    await sidecars.list_of_pods(joined_before=now)
    await sidecars.is_open_here("web-1", now=now)
    await sidecars.is_open_elsewhere("web-1", now=now)
    await sidecars.note_second("web-1", origin="198.19.0.1", now=now)
    await sidecars.delete_of_pods(["uid-1"])
    await sidecars.disconnect_all()
    await store.ledger.list_lines(LedgerFilter(authority_id="a0", until=now))
    await store.ledger.has_any(WEB, [])
    await store.join_tokens.list_all()
    await store.evictions.list_instances()
    await store.evictions.check("web-1")
    await store.evictions.evict("web-1", now=now + 20)
    await _fails(store.sidecars.register(grant, registration("web-1", "198.19.0.1"), now=now))
    again, secret = await store.join_tokens.create(
        workload=WEB, addresses=["198.19.0.1"], labels={}, expires=now + 1e5, now=now + 1e4
    )
    await store.enrolment.enter_by_token(
        token_id=again.token_id, secret=secret, now=now + 1e4, key_digest=b"again",
        registration=registration("web-1", "198.19.0.1"),
    )  # fmt: skip
    await store.evictions.evict(WEB, now=now + 2e4)
    await sidecars.delete_silent(silent_since=now, now=now + 1e6)


async def _keep_house(store: Store, now: float) -> None:
    token, _ = await store.join_tokens.create(workload=WEB, addresses=[], labels={}, expires=now + 600, now=now)
    await store.join_tokens.revoke(token.token_id, now=now)
    await _fails(store.join_tokens.revoke(token.token_id, now=now))
    await store.evictions.prune(now=now + 1e7)
    await store.replicas.beat()
    await store.replicas.list_alive()
    await store.replicas.find_moved({"s1"})
    await store.replicas.leave()
    async with store.database.reading() as connection:
        await check_unused(store.database, connection)
    page = await store.audit.list_lines()
    await store.audit.note("test", "subject", after=None)
    await _fails(store.audit.prune(AuditMark(sequence=1, digest="")))
    await store.audit.prune(AuditMark(sequence=1, digest=f"{0:064d}"))
    assert page.lines


async def _rotate(store: Store, authorities: Authorities, now: float) -> None:
    rotation = make_rotation(store, authorities)
    await rotation.start(force=True, now=now)
    await rotation.advance(now)
    await rotation.status(now)
    await rotation.start(force=True, now=now + 60)
    await rotation.advance(now + 1e6)
    last = await store.authorities.get_rotation()
    assert last is not None
    with contextlib.suppress(TouchmarkError):  # It was, or wasn't yet.
        await store.authorities.mark_published(last, now=now)
    records = await store.authorities.list_all()
    sealed = {record.authority_id: record.sealed_key for record in records if record.sealed_key}
    await store.authorities.reseal(sealed, now=now, detail="")
    await store.authorities.get_restoration()
    await store.authorities.get_sequence()
    old = next((each for each in records if each.phase in ("old", "retired")), None)
    if old is not None:
        with contextlib.suppress(TouchmarkError):
            await rotation.taint(old.authority_id, now + 1e6)


async def _fails(what: Awaitable[object]) -> None:
    with pytest.raises(TouchmarkError):
        await what
