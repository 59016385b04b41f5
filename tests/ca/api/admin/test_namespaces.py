"""Modes, readiness, acknowledgements, programs and policies, asked over the real socket."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from ca.runtime.compose import RunningCA
from shared.model.identity.program import Program
from shared.model.policy.decision import Answer
from shared.model.policy.modes import make_modes, read_modes
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Action, Mode, NamespaceState, PortRange, Requirement, Rule
from shared.model.wire import admin as api
from shared.model.wire.admin_audit import read_entry
from shared.model.wire.messages import Decisions, DecisionsStored, NamespaceChanged, NamespaceInstalled, Subscribe
from tests.ca.kubernetes.faked_cluster import FakeCluster, running_in_cluster
from tests.ca.running import CURL, WEB, Admin, FakeSidecar, eventually, make_decision

REQUIRES = (Requirement.MATCHING_ADDRESS,)
RULE = Rule(name="web", action=Action.ALLOW, ports=(PortRange(first=80, last=81),))


async def test_a_mode_is_switched_where_nothing_was_said_before(admin: Admin) -> None:
    unknown = await admin.get("/v1/namespaces/shop", NamespaceState)
    assert (unknown.version, unknown.mode) == (0, Mode.PERMISSIVE)
    assert (await admin.get("/v1/namespaces", api.NamespaceList)).namespaces == ()
    wanted = api.ModeRequest(mode=Mode.EXPLICIT, expected_version=0)
    switched = await admin.ask("PUT", "/v1/namespaces/shop/mode", NamespaceState, wanted)
    assert (switched.version, switched.mode) == (1, Mode.EXPLICIT)
    assert await admin.get("/v1/namespaces/shop", NamespaceState) == switched
    assert (await admin.get("/v1/namespaces", api.NamespaceList)).namespaces == (switched,)
    late = await admin.fail("PUT", "/v1/namespaces/shop/mode", 409, wanted)
    assert late.code == "conflict"


async def test_the_ca_itself_refuses_a_switch_that_would_refuse_what_was_seen(
    services: RunningCA, admin: Admin
) -> None:
    """By whichever way it is asked for, and whether or not a command looked first."""
    marked = make_decision("c1", time=services.clock(), answer=Answer.ALLOW, would_deny=True, mode=Mode.PERMISSIVE)
    explicit = api.PolicyRequest(namespace="shop", mode=Mode.EXPLICIT)
    await admin.ask("PUT", "/v1/policies", api.PolicyView, explicit)  # Nothing was seen yet.
    back = api.ModeRequest(mode=Mode.PERMISSIVE)
    state = await admin.ask("PUT", "/v1/namespaces/shop/mode", NamespaceState, back)
    async with FakeSidecar(services) as sidecar:
        await sidecar.enrol("a")
        await sidecar.send(Decisions(batch=1, records=(marked,)))
        await sidecar.expect(DecisionsStored)
    for method, path, body in (
        ("PUT", "/v1/namespaces/shop/mode", api.ModeRequest(mode=Mode.EXPLICIT)),
        ("PUT", "/v1/namespaces/shop/mode", api.ModeRequest(mode=Mode.EXPLICIT, for_s=60)),
        ("PUT", "/v1/namespaces/shop/mode", api.ModeRequest(mode=Mode.EXPLICIT, expected_version=state.version)),
        ("PUT", "/v1/policies", explicit),
        ("POST", "/v1/namespaces/shop/undo", api.UndoRequest()),
        ("POST", "/v1/namespaces/shop/undo", api.UndoRequest(to=2)),
    ):
        refused = await admin.fail(method, path, 403, body)
        assert refused.code == "blocked"
        assert "shop/web → shop/" in refused.message
    assert (await admin.get("/v1/namespaces/shop", NamespaceState)).version == state.version
    odd = api.ModeRequest(mode=Mode.EXPLICIT, since_s=-1)
    assert (await admin.fail("PUT", "/v1/namespaces/shop/mode", 400, odd)).code == "bad_input"

    forced = api.ModeRequest(mode=Mode.EXPLICIT, force=True)
    for method, path, body in (
        ("PUT", "/v1/namespaces/shop/mode", forced),
        ("PUT", "/v1/policies", msgspec.structs.replace(explicit, force=True)),
        ("POST", "/v1/namespaces/shop/undo", api.UndoRequest(to=2, force=True)),
        ("PUT", "/v1/namespaces/shop/mode", msgspec.structs.replace(forced, for_s=60)),
    ):
        await admin.ask(method, path, Any, body)
        (line,) = (await services.store.audit.list_lines(limit=1, newest=True)).lines
        assert read_entry(line).after["forced"] is True
        await admin.ask("PUT", "/v1/namespaces/shop/mode", NamespaceState, back)
    (line,) = (await services.store.audit.list_lines(limit=1, newest=True)).lines
    assert "forced" not in read_entry(line).after


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/namespaces/No_Name", None),
        ("PUT", "/v1/namespaces/No_Name/mode", api.ModeRequest(mode=Mode.EXPLICIT)),
        ("PUT", "/v1/namespaces/shop/mode", {"mode": "strict"}),
        ("PUT", "/v1/namespaces/shop/mode", None),
        ("GET", "/v1/namespaces/No_Name/acknowledgements", None),
        ("POST", "/v1/programs", api.ProgramRequest(namespace="shop", service_account="web", programs=())),
        ("POST", "/v1/programs", api.ProgramRequest(namespace="shop", service_account="We b", programs=(WEB,))),
        ("POST", "/v1/programs", {"namespace": "shop", "service_account": "web", "programs": [{"digest": "ab"}]}),
        (
            "POST",
            "/v1/programs",
            api.ProgramRequest(namespace="shop", service_account="web", programs=(WEB,), name="n" * 254),
        ),
        ("PUT", "/v1/policies", api.PolicyRequest(namespace="No_Name")),
        ("PUT", "/v1/policies", api.PolicyRequest(namespace="shop", rules=(RULE, RULE))),
        ("PUT", "/v1/policies", api.PolicyRequest(namespace="shop", group_label="no label")),
        ("PUT", "/v1/namespaces/shop/draft", api.DraftRequest(group_label="no label")),
        ("PUT", "/v1/policies", {"namespace": "shop", "rules": [{"name": "", "action": "allow"}]}),
    ],
    ids=lambda value: repr(value)[:60],
)
async def test_what_cannot_be_is_refused_and_changes_nothing(
    admin: Admin, method: str, path: str, body: object
) -> None:
    assert (await admin.fail(method, path, 400, body)).code in {"bad_input", "bad_identity"}
    assert (await admin.get("/v1/namespaces", api.NamespaceList)).namespaces == ()


async def test_programs_are_approved_listed_replaced_and_removed(services: RunningCA, admin: Admin) -> None:
    async with FakeSidecar(services) as sidecar:
        await sidecar.enrol("a")
        wanted = api.ProgramRequest(namespace="shop", service_account="web", programs=(WEB,), approved_by="ann")
        made = await admin.ask("POST", "/v1/programs", api.ProgramView, wanted)
        assert (made.name, made.version, made.approved_by) == (f"web-{WEB.digest[:12]}", 1, "ann")
        pushed = await sidecar.expect(NamespaceChanged)
        assert [one.program for one in pushed.state.approvals] == [WEB]
    other = api.ProgramRequest(namespace="bank", service_account="web", programs=(CURL,), name="curl", weak=True)
    await admin.ask("POST", "/v1/programs", api.ProgramView, other)
    listed = await admin.get("/v1/programs", api.ProgramList)
    assert [(one.namespace, one.name, one.weak) for one in listed.programs] == [
        ("bank", "curl", True),
        ("shop", made.name, False),
    ]
    (curl,) = (await admin.get("/v1/programs", api.ProgramList, namespace="bank")).programs
    assert curl.programs == (CURL,)
    replaced = api.ProgramRequest(namespace="bank", service_account="web", programs=(CURL, WEB), name="curl")
    assert (await admin.ask("POST", "/v1/programs", api.ProgramView, replaced)).version == 2
    left = await admin.ask("DELETE", "/v1/programs/bank/curl", NamespaceState)
    assert (left.version, left.approvals) == (3, ())
    assert (await admin.fail("DELETE", "/v1/programs/bank/curl", 404)).code == "not_found"
    assert (await admin.fail("GET", "/v1/programs", 400, query={"name": "curl"})).code == "bad_input"


async def test_an_approval_without_a_name_takes_no_other_away(admin: Admin) -> None:
    """0.1 named the object after the digest of its first program: the next script of it replaced all of them."""
    scripts = [Program(digest=WEB.digest, main=digits * 32) for digits in ("aa", "bb")]
    for programs in ((scripts[0], CURL), (scripts[1],), (WEB, CURL), (WEB,)):
        wanted = api.ProgramRequest(namespace="shop", service_account="web", programs=programs)
        await admin.ask("POST", "/v1/programs", api.ProgramView, wanted)
    listed = await admin.get("/v1/programs", api.ProgramList)
    assert sorted(len(one.programs) for one in listed.programs) == [1, 1, 2, 2]
    old = api.ProgramRequest(
        namespace="old", service_account="web", programs=(WEB, CURL), name=f"web-{WEB.digest[:12]}"
    )
    for wanted in (old, msgspec.structs.replace(old, programs=(WEB,), name="")):
        await admin.ask("POST", "/v1/programs", api.ProgramView, wanted)
    state = await admin.get("/v1/namespaces/old", NamespaceState)
    assert {one.program for one in state.approvals} == {WEB, CURL}


async def test_a_policy_is_replaced_pushed_and_removed_and_the_mode_stays(services: RunningCA, admin: Admin) -> None:
    async with FakeSidecar(services) as sidecar:
        await sidecar.enrol("a")
        wanted = api.PolicyRequest(
            namespace="shop", rules=(RULE,), group_label="team", mode=Mode.EXPLICIT, requires=REQUIRES
        )
        put = await admin.ask("PUT", "/v1/policies", api.PolicyView, wanted)
        assert (put.rules, put.group_label, put.mode, put.requires) == ((RULE,), "team", Mode.EXPLICIT, REQUIRES)
        assert (await sidecar.expect(NamespaceChanged)).state.rules == (RULE,)
    kept = await admin.ask("PUT", "/v1/policies", api.PolicyView, api.PolicyRequest(namespace="shop"))
    assert (kept.rules, kept.mode, kept.version) == ((), Mode.EXPLICIT, put.version + 1)
    await admin.ask("PUT", "/v1/policies", api.PolicyView, api.PolicyRequest(namespace="bank"))
    assert [one.namespace for one in (await admin.get("/v1/policies", api.PolicyList)).policies] == ["bank", "shop"]
    (shop,) = (await admin.get("/v1/policies", api.PolicyList, namespace="shop")).policies
    assert shop == kept
    gone = await admin.ask("DELETE", "/v1/policies/shop", NamespaceState)
    assert (gone.rules, gone.mode) == ((), Mode.EXPLICIT)
    assert (await admin.fail("DELETE", "/v1/policies/shop", 404)).code == "not_found"


async def test_a_policy_is_only_written_over_the_version_that_was_looked_at(admin: Admin) -> None:
    first = await admin.ask("PUT", "/v1/policies", api.PolicyView, api.PolicyRequest(namespace="shop", rules=(RULE,)))
    stale = api.PolicyRequest(namespace="shop", expected_version=first.version - 1)
    assert (await admin.fail("PUT", "/v1/policies", 409, stale)).code == "conflict"
    (kept,) = (await admin.get("/v1/policies", api.PolicyList)).policies
    assert kept == first, "nothing is lost"
    current = msgspec.structs.replace(stale, expected_version=first.version)
    assert (await admin.ask("PUT", "/v1/policies", api.PolicyView, current)).rules == ()
    judged = api.PolicyRequest(namespace="shop", mode=Mode.EXPLICIT, expected_version=first.version)
    assert (await admin.fail("PUT", "/v1/policies", 409, judged)).code == "conflict"


async def test_readiness_groups_causes_and_names_who_said_nothing(services: RunningCA, admin: Admin) -> None:
    now = services.clock()
    async with FakeSidecar(services) as reporter:
        await reporter.enrol("reporter")
        refused = [make_decision(f"c{n}", time=now - 60) for n in range(3)]
        marked = make_decision(
            "m", time=now - 60, answer=Answer.ALLOW, would_deny=True, reason=Reason.NO_RULE, port=6379
        )
        old = make_decision("old", time=now - 7200, reason=Reason.DENY_RULE)
        allowed = make_decision("fine", time=now, answer=Answer.ALLOW, reason=Reason.SAME_GROUP)
        await reporter.send(Decisions(batch=1, records=(*refused, refused[0], marked, old, allowed)))
        await reporter.expect(DecisionsStored)
        seen = await admin.get("/v1/namespaces/shop/readiness", api.Readiness, since_s="3600")
        # What was allowed then, and wouldn't be now, counts as well.
        assert {(one.reason, one.connections) for one in seen.causes} == {
            (Reason.PROGRAM_NOT_APPROVED, 5),
            (Reason.LISTENER_NOT_APPROVED, 5),
        }
        assert (seen.verdict, seen.unknowns) == (api.ReadinessVerdict.BLOCKED, ())
        assert [(one.workload, one.pods, one.records) for one in seen.coverage] == [("shop/web", 1, 7)]
        assert (seen.causes[0].source_workload, seen.causes[0].source_program) == ("shop/web", f"sha256:{WEB.digest}")
        assert (seen.sidecars_reported, seen.sidecars_total, seen.silent) == (1, 1, ())
        assert not seen.is_safe
        longer = await admin.get("/v1/namespaces/shop/readiness", api.Readiness)
        assert {one.connections for one in longer.causes} == {6}
        async with FakeSidecar(services) as quiet:
            await quiet.enrol("quiet")
            assert (await admin.get("/v1/namespaces/shop/readiness", api.Readiness)).sidecars_reported == 2

        async def names_the_quiet() -> bool:
            seen = await admin.get("/v1/namespaces/shop/readiness", api.Readiness)
            return (seen.sidecars_reported, seen.sidecars_total, seen.silent) == (1, 2, ("quiet",))

        await eventually(names_the_quiet)
    elsewhere = await admin.get("/v1/namespaces/bank/readiness", api.Readiness)
    assert (elsewhere.causes, elsewhere.sidecars_total, elsewhere.is_safe) == ((), 0, True)
    assert (await admin.fail("GET", "/v1/namespaces/shop/readiness", 400, query={"since": "1"})).code == "bad_input"
    assert (await admin.fail("GET", "/v1/namespaces/shop/readiness", 400, query={"since_s": "-1"})).code == "bad_input"


async def test_what_was_approved_meanwhile_no_longer_stands_against_explicit(services: RunningCA, admin: Admin) -> None:
    await services.store.decisions.insert([make_decision("c", time=services.clock(), count=3)])
    before = await admin.get("/v1/namespaces/shop/readiness", api.Readiness)
    assert (before.is_safe, before.settled, before.causes[0].connections) == (False, 0, 3)
    for account, program in (("web", WEB), ("db", CURL)):
        approval = api.ProgramRequest(namespace="shop", service_account=account, programs=(program,))
        await admin.ask("POST", "/v1/programs", api.ProgramView, approval)
    after = await admin.get("/v1/namespaces/shop/readiness", api.Readiness)
    assert (after.is_safe, after.settled, after.causes) == (True, 3, ())


async def test_other_rules_and_approvals_are_judged_by_without_being_put_in_force(
    services: RunningCA, admin: Admin
) -> None:
    await services.store.decisions.insert([make_decision("c", time=services.clock())])
    programs = tuple(
        api.ProgramRequest(namespace="shop", service_account=account, programs=(program,))
        for account, program in (("web", WEB), ("db", CURL))
    )
    path = "/v1/namespaces/shop/readiness"
    then = await admin.ask("POST", path, api.Readiness, api.PolicyCandidateRequest(programs=programs))
    assert (then.is_safe, then.settled) == (True, 1)
    deny = api.PolicyCandidateRequest(programs=programs, rules=(Rule(name="no", action=Action.DENY),))
    assert (await admin.ask("POST", path, api.Readiness, deny)).settled == 0, "a deny rule refuses it, as intended"
    assert not (await admin.get(path, api.Readiness)).is_safe


async def test_a_lonely_denial_makes_a_namespace_unsafe_although_all_reported(
    services: RunningCA, admin: Admin
) -> None:
    assert (await admin.get("/v1/namespaces/shop/readiness", api.Readiness)).is_safe
    await services.store.decisions.insert([make_decision("c", time=services.clock())])
    assert not (await admin.get("/v1/namespaces/shop/readiness", api.Readiness)).is_safe


async def test_acknowledgements_name_who_has_not_installed_the_present_version(
    services: RunningCA, admin: Admin
) -> None:
    async with FakeSidecar(services) as own, FakeSidecar(services) as subscriber, FakeSidecar(services) as stranger:
        await own.enrol("own")
        await subscriber.enrol("subscriber", workload="bank/teller")
        await stranger.enrol("stranger", workload="zoo/keeper")
        await subscriber.send(Subscribe(namespace="shop"))
        await subscriber.expect(NamespaceChanged)
        await admin.ask("PUT", "/v1/namespaces/shop/mode", NamespaceState, api.ModeRequest(mode=Mode.EXPLICIT))
        before = await admin.get("/v1/namespaces/shop/acknowledgements", api.Acknowledgements)
        assert (before.version, before.installed, before.total) == (1, 0, 2)
        assert before.waiting == ("own", "subscriber")
        for sidecar in (own, subscriber):
            state = (await sidecar.expect(NamespaceChanged)).state
            await sidecar.send(NamespaceInstalled(namespace="shop", version=state.version))

        async def all_installed() -> bool:
            now = await admin.get("/v1/namespaces/shop/acknowledgements", api.Acknowledgements)
            return (now.installed, now.waiting) == (2, ())

        await eventually(all_installed)


async def test_a_change_whose_asker_hangs_up_is_finished_and_told(
    services: RunningCA, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    namespaces = services.store.namespaces
    set_mode = namespaces.set_mode

    async def begin(namespace: str, *arguments: Any, **options: Any) -> Any:
        begun.append(namespace)
        return await set_mode(namespace, *arguments, **options)

    monkeypatch.setattr(namespaces, "set_mode", begin)
    await namespaces.get_state("shop")  # Kept in memory from here on.
    async with FakeSidecar(services) as sidecar:
        await sidecar.enrol("a")
        async with services.store.database.writing():  # The change has to wait for its turn.
            body = api.ModeRequest(mode=Mode.EXPLICIT)
            await admin.hang_up_on("PUT", "/v1/namespaces/shop/mode", body, is_begun=lambda: bool(begun))
        assert (await sidecar.expect(NamespaceChanged)).state.mode is Mode.EXPLICIT
    assert (await admin.get("/v1/namespaces/shop", NamespaceState)).mode is Mode.EXPLICIT


async def test_in_a_cluster_its_objects_say_what_holds(tmp_path: Path) -> None:
    async with running_in_cluster(tmp_path, FakeCluster()) as services, Admin(services) as admin:
        await _refuses_changes(admin)


async def _refuses_changes(admin: Admin) -> None:
    for method, path, body in (
        ("PUT", "/v1/namespaces/shop/mode", api.ModeRequest(mode=Mode.EXPLICIT)),
        ("POST", "/v1/programs", api.ProgramRequest(namespace="shop", service_account="web", programs=(WEB,))),
        ("DELETE", "/v1/programs/shop/web", None),
        ("PUT", "/v1/policies", api.PolicyRequest(namespace="shop", rules=(RULE,))),
        ("DELETE", "/v1/policies/shop", None),
    ):
        refused = await admin.fail(method, path, 409, body)
        assert "MeshPolicy" in refused.message and "--kubernetes" in refused.hint
    assert (await admin.get("/v1/namespaces", api.NamespaceList)).namespaces == ()


async def test_workloads_get_modes_of_their_own_for_good_or_for_a_while(services: RunningCA, admin: Admin) -> None:
    path = "/v1/namespaces/shop/mode"

    async def switch(mode: Mode | None, *names: str, **terms: Any) -> NamespaceState:
        return await admin.ask("PUT", path, NamespaceState, api.ModeRequest(mode=mode, workloads=names, **terms))

    switched = await switch(Mode.EXPLICIT, "db", "web")
    assert (switched.mode, read_modes(switched.workload_modes)) == (
        Mode.PERMISSIVE,
        {"db": Mode.EXPLICIT, "web": Mode.EXPLICIT},
    )
    assert read_modes((await switch(None, "web")).workload_modes) == {"db": Mode.EXPLICIT}
    assert (await switch(None, "db", for_s=60)).workload_modes == ()
    history = await admin.get("/v1/namespaces/shop/history", api.History)
    assert history.trial is not None
    assert history.trial.workload_modes == make_modes({"db": Mode.EXPLICIT})
    assert history.generations[0].changes == ("mode of db explicit → inherited", "workloads' modes on trial")
    assert [each.act for each in history.generations] == ["mode.try", "mode.set", "mode.set", "before"]
    undone = await admin.ask("POST", "/v1/namespaces/shop/undo", NamespaceState, api.UndoRequest())
    assert read_modes(undone.workload_modes) == {"db": Mode.EXPLICIT}
    view = (await admin.get("/v1/policies", api.PolicyList)).policies[0]
    assert view.workload_modes == undone.workload_modes
    policy = api.PolicyRequest(namespace="shop", workload_modes=())
    assert (await admin.ask("PUT", "/v1/policies", api.PolicyView, policy)).workload_modes == ()
    for body in (
        api.ModeRequest(mode=None),
        api.ModeRequest(mode=Mode.EXPLICIT, workloads=("No Name",)),
        {"mode": "explicit", "workload": "db"},
    ):
        assert (await admin.fail("PUT", path, 400, body)).code in ("bad_input", "bad_identity")


async def test_the_ca_refuses_to_make_a_workload_explicit_that_would_refuse_what_it_saw(
    services: RunningCA, admin: Admin
) -> None:
    await services.store.decisions.insert([make_decision("c", time=services.clock())])
    wanted = api.ModeRequest(mode=Mode.EXPLICIT, workloads=("db",))
    policy = api.PolicyRequest(namespace="shop", workload_modes=make_modes({"db": Mode.EXPLICIT}))
    for path, body in (("/v1/namespaces/shop/mode", wanted), ("/v1/policies", policy)):
        assert (await admin.fail("PUT", path, 403, body)).code == "blocked"
    other = msgspec.structs.replace(wanted, workloads=("job",))
    await admin.ask("PUT", "/v1/namespaces/shop/mode", NamespaceState, other)
    forced = msgspec.structs.replace(wanted, force=True)
    await admin.ask("PUT", "/v1/namespaces/shop/mode", NamespaceState, forced)
    (line,) = (await services.store.audit.list_lines(limit=1, newest=True)).lines
    after = read_entry(line).after
    assert (after["forced"], after["workload_modes"]) == (True, {"db": "explicit", "job": "explicit"})
