"""Nothing is ready that was approved with what its programs load before it was seen what those load that accept."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from ca.observation.explicit_readiness import assess
from ca.observation.loaded_code import find_serving
from ca.observation.namespace_changes import view_content
from ca.observation.programs_seen import ProgramsSeen
from ca.store.records import ProgramRecord
from ca.store.store import Store
from shared.model.adoption.program_queue import CODE_KEPT_S
from shared.model.adoption.seen import see_record
from shared.model.identity.identity import Workload
from shared.model.identity.loaded_code import ApprovedCode, CodeCheck, LoadedCode, LoadedObject
from shared.model.policy.decision import Answer, PartyRecord, ProcessRecord
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction, Mode
from shared.model.wire.admin import PolicyCandidateRequest, Readiness, ReadinessVerdict
from shared.model.wire.messages import ProgramSeen
from tests.ca.founded import NOW, opened
from tests.ca.running import CURL, WEB, make_decision

LIBC, NSS = (LoadedObject(path=f"/lib/{name}.so", digest=letter * 64) for name, letter in (("libc", "1"), ("nss", "2")))
DB = Workload(namespace="shop", service_account="db")
SERVED = make_decision("c", time=NOW, answer=Answer.ALLOW, reason=Reason.SAME_GROUP, mode=Mode.PERMISSIVE)


async def approve(store: Store, *objects: LoadedObject, check: CodeCheck | None = None) -> None:
    client = ProgramRecord(namespace="shop", name="web", service_account="web", programs=(WEB,))
    code = ApprovedCode(objects=objects, check=check)
    server = ProgramRecord(namespace="shop", name="db", service_account="db", programs=(CURL,), code=code)
    for record in (client, server):
        await store.namespaces.put_program(record)


async def tell(store: Store, code: LoadedCode, *, has_accepted: bool = True, at: float = NOW) -> None:
    programs = ProgramsSeen(store, clock=lambda: at)
    programs.take(ProgramSeen(program=CURL, code=code, has_accepted=has_accepted), instance="a", workload=DB)
    await programs.flush()


async def ask(store: Store, *, since: float = NOW - 60, candidate: PolicyCandidateRequest | None = None) -> Readiness:
    return await assess(store, "shop", since=since, now=NOW + 1, candidate=candidate)


def name_code(readiness: Readiness) -> list[str]:
    return [each for each in readiness.unknowns if "accept connections" in each]


async def test_what_wasnt_told_of_who_accepts_isnt_known_and_what_isnt_approved_of_it_blocks(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        store = core.store
        await store.decisions.insert([SERVED])
        await approve(store, LIBC)
        await tell(store, LoadedCode(objects=(LIBC,)), has_accepted=False)
        found = await ask(store)
        (unknown,) = name_code(found)
        assert "shop/db" in unknown and "connect to it once more" in unknown
        assert (found.verdict, found.is_safe) == (ReadinessVerdict.UNKNOWN, False)
        await tell(store, LoadedCode(objects=(LIBC, NSS)))
        found = await ask(store)
        (cause,) = found.causes
        assert (found.verdict, name_code(found)) == (ReadinessVerdict.BLOCKED, [])
        assert (cause.reason, cause.destination_workload) == (Reason.CODE_NOT_APPROVED, "shop/db")
        assert cause.fix is not None and "/lib/nss.so" in cause.fix.advice and "update-code" in cause.fix.advice
        other = await assess(store, "shop", since=NOW - 60, now=NOW + 1, workload="shop/web")
        assert (other.causes, name_code(other)) == ((), []), "another workload's mode"
        await approve(store, LIBC, NSS)
        found = await ask(store)
        assert (found.causes, name_code(found)) == ((), []), "it needn't connect again"


async def test_each_programs_code_is_compared_whatever_a_connection_of_another_was_refused_for(tmp_path: Path) -> None:
    """One round shows everything; what a client says of its peer isn't that peer's."""
    async with opened(tmp_path / "d") as core:
        for path in ("/usr/bin/other", "/usr/bin/web"):
            refused = make_decision(
                "e", time=NOW, answer=Answer.ALLOW, reason=Reason.CODE_NOT_APPROVED, would_deny=True,
                mode=Mode.PERMISSIVE, process=ProcessRecord(pid=8, uid=0, path=path, digest=WEB.digest),
                destination=PartyRecord(workload="shop/db", why=Reason.CODE_NOT_APPROVED),
            )  # fmt: skip
            await core.store.decisions.insert([msgspec.structs.replace(refused, connection=path)])
            await core.store.decisions.insert([SERVED])
            await approve(core.store, LIBC)
            await tell(core.store, LoadedCode(objects=(LIBC, NSS)))
            causes = [each for each in (await ask(core.store)).causes if each.reason is Reason.CODE_NOT_APPROVED]
            assert sorted(each.path for each in causes) == ["/usr/bin/other", "/usr/bin/web"], path


async def test_of_more_files_than_are_told_the_rest_isnt_known(tmp_path: Path) -> None:
    """The sidecar compares all of them."""
    async with opened(tmp_path / "d") as core:
        await core.store.decisions.insert([SERVED])
        await approve(core.store, LIBC)
        await tell(core.store, LoadedCode(objects=(LIBC,), omitted=3))
        found = await ask(core.store)
        assert (found.causes, found.is_safe) == ((), False)
        assert any("more files than are told" in each for each in found.unknowns)


async def test_what_was_told_too_long_ago_isnt_known(tmp_path: Path) -> None:
    """Sidecars tell it twice an hour, so that it may be told before the window begins."""
    async with opened(tmp_path / "d") as core:
        await core.store.decisions.insert([SERVED])
        await approve(core.store, LIBC)
        for at, count in ((NOW - 61 - CODE_KEPT_S, 1), (NOW - 59 - CODE_KEPT_S, 0)):
            await tell(core.store, LoadedCode(objects=(LIBC,)), at=at)
            assert len(name_code(await ask(core.store))) == count


@pytest.mark.parametrize("check", [CodeCheck.REPORT, None])
async def test_what_explicit_mode_doesnt_compare_needs_no_look(tmp_path: Path, check: CodeCheck | None) -> None:
    async with opened(tmp_path / "d") as core:
        await core.store.decisions.insert([SERVED])
        await approve(core.store, *((LIBC,) if check else ()), check=check)
        assert name_code(await ask(core.store)) == []
        replaced = PolicyCandidateRequest(replaces_programs=True)
        await approve(core.store, LIBC)
        assert len(name_code(await ask(core.store))) == 1
        assert name_code(await ask(core.store, candidate=replaced)) == [], "they take the approval away"


async def test_of_an_undo_what_its_approvals_list_is_compared(tmp_path: Path) -> None:
    """The switch to explicit mode was refused for it, and going back to explicit mode wasn't."""
    async with opened(tmp_path / "d") as core:
        await core.store.decisions.insert([SERVED])
        await approve(core.store, LIBC)
        (newest,) = await core.store.history.list_generations("shop", limit=1)
        former = PolicyCandidateRequest.from_generation(view_content(newest))
        await approve(core.store, LIBC, NSS)
        assert len(name_code(await ask(core.store, candidate=former))) == 1, "what accepts wasn't seen"
        await tell(core.store, LoadedCode(objects=(LIBC, NSS)))
        assert (await ask(core.store)).causes == ()
        (cause,) = (await ask(core.store, candidate=former)).causes
        assert (cause.reason, cause.destination_workload) == (Reason.CODE_NOT_APPROVED, "shop/db")
        (newest,) = await core.store.history.list_generations("shop", limit=1)
        latter = PolicyCandidateRequest.from_generation(view_content(newest))
        await approve(core.store, LIBC)
        assert len((await ask(core.store)).causes) == 1
        assert (await ask(core.store, candidate=latter)).causes == ()


async def test_what_was_refused_for_its_code_is_judged_by_the_approvals_of_the_undo(tmp_path: Path) -> None:
    """What is approved now isn't in what it goes back to."""
    refused = make_decision(
        "e", time=NOW, answer=Answer.ALLOW, reason=Reason.CODE_NOT_APPROVED, would_deny=True, mode=Mode.PERMISSIVE,
        direction=Direction.EGRESS, sidecar="a", source=PartyRecord(workload="shop/db", why=Reason.CODE_NOT_APPROVED),
        destination=PartyRecord(workload="shop/web", program=f"sha256:{WEB.digest}"),
        process=ProcessRecord(pid=8, uid=0, path="/usr/bin/db", digest=CURL.digest, code=LoadedCode(objects=(NSS,))),
    )  # fmt: skip
    async with opened(tmp_path / "d") as core:
        await core.store.decisions.insert([refused])
        await approve(core.store, LIBC)
        (newest,) = await core.store.history.list_generations("shop", limit=1)
        former = PolicyCandidateRequest.from_generation(view_content(newest))
        await approve(core.store, LIBC, NSS)
        assert (await ask(core.store)).causes == ()
        (cause,) = (await ask(core.store, candidate=former)).causes
        assert cause.reason is Reason.CODE_NOT_APPROVED


def test_programs_serve_by_their_own_sidecars_word() -> None:
    served = see_record(SERVED)
    others = [
        make_decision("c", answer=Answer.ALLOW, direction=Direction.EGRESS),
        make_decision("c", answer=Answer.ALLOW, namespace="bank"),
        make_decision("c"),
        make_decision("c", answer=Answer.ALLOW, destination=PartyRecord(workload="shop/db")),
    ]
    assert find_serving(map(see_record, others), "shop") == {}
    newer = see_record(make_decision("d", time=NOW + 5, answer=Answer.ALLOW))
    assert find_serving([newer, served], "shop") == {("db", CURL): newer}
