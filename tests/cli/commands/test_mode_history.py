"""History, undo and trials: what they print and ask (with the steps of ``cli.commands.mode_switch``)."""

from __future__ import annotations

import msgspec
import pytest

from cli.commands import mode_switch
from cli.commands.mode_history import describe_actor
from cli.main import run
from cli.text.exit_codes import ExitCode
from shared.model.policy.modes import make_modes
from shared.model.policy.rules import Action, Mode, NamespaceState, Rule
from shared.model.wire.admin import GenerationContent, GenerationView, History, ModeTrial, ReadinessVerdict
from shared.model.wire.admin_audit import AuditActor
from tests.cli.commands.test_mode import CAUSE, make_acknowledgements, make_readiness
from tests.cli.fake_ca import FakeCA

ANN = AuditActor(kind="socket", name="ann", uid=1000)
GENERATIONS = (
    GenerationView(
        generation=3, version=9, time=2.0, act="mode.set", subject="shop", actor=ANN, mode=Mode.PERMISSIVE,
        changes=("mode explicit → permissive",),
    ),
    GenerationView(
        generation=2, version=8, time=1.0, act="policy.put", subject="shop", actor=AuditActor(kind="ca"),
        mode=Mode.EXPLICIT, changes=tuple(f"+ rule r{number}" for number in range(7)),
    ),
)  # fmt: skip
CONTENT = GenerationContent(
    namespace="shop",
    generation=2,
    mode=Mode.EXPLICIT,
    has_policy=True,
    group_label="",
    rules=(Rule(name="a", action=Action.ALLOW),),
    requires=(),
    programs=(),
)


@pytest.fixture
def shop(ca: FakeCA) -> FakeCA:
    state = NamespaceState(namespace="shop", version=10, mode=Mode.EXPLICIT)
    ca.answers["GET /v1/namespaces/shop/history"] = History(namespace="shop", generations=GENERATIONS)
    ca.answers["GET /v1/namespaces/shop/history/2"] = CONTENT
    ca.answers["POST /v1/namespaces/shop/readiness"] = make_readiness()
    ca.answers["GET /v1/namespaces/shop/readiness"] = make_readiness()
    for key in ("POST /v1/namespaces/shop/undo", "POST /v1/namespaces/shop/mode/confirm", "GET /v1/namespaces/shop"):
        ca.answers[key] = state
    ca.answers["PUT /v1/namespaces/shop/mode"] = state
    ca.answers["GET /v1/namespaces/shop/acknowledgements"] = make_acknowledgements()
    return ca


def test_history_shows_each_change_with_who_made_it(shop: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["mode", "shop", "history"]) == ExitCode.SUCCESS
    printed = capsys.readouterr().out
    assert "ann" in printed
    assert "mode explicit → permissive" in printed
    assert "+ rule r4, … 2 more" in printed
    assert run(["mode", "shop", "history", "--json"]) == ExitCode.SUCCESS
    assert msgspec.json.decode(capsys.readouterr().out, type=History).generations == GENERATIONS
    assert describe_actor(GENERATIONS[1]) == "the CA"


def test_undo_goes_to_the_generation_before_if_explicit_mode_would_refuse_nothing_then(
    shop: FakeCA, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["mode", "shop", "undo"]) == ExitCode.SUCCESS
    assert shop.asked("POST /v1/namespaces/shop/undo") == [{"to": 2, "expected": 3}]
    [candidate] = shop.asked("POST /v1/namespaces/shop/readiness")
    assert candidate["replaces_programs"] is True
    assert "touchmark mode shop undo --to 3" in capsys.readouterr().out
    blocked = msgspec.structs.replace(make_readiness(CAUSE), verdict=ReadinessVerdict.BLOCKED)
    shop.answers["POST /v1/namespaces/shop/readiness"] = blocked
    assert run(["mode", "shop", "undo", "--to", "2", "--yes"]) == ExitCode.REFUSED
    assert "error[blocked]" in capsys.readouterr().err
    assert run(["mode", "shop", "undo", "--to", "2", "--force", "--json"]) == ExitCode.SUCCESS
    assert shop.asked("POST /v1/namespaces/shop/undo")[-1] == {"to": 2, "expected": 3, "force": True}
    assert msgspec.json.decode(capsys.readouterr().out)["restored"] == 2
    assert mode_switch.judge(blocked) is ReadinessVerdict.BLOCKED


def test_an_undo_that_makes_one_workload_explicit_asks_about_that_one_alone(shop: FakeCA) -> None:
    modes = make_modes({"db": Mode.EXPLICIT, "web": Mode.PERMISSIVE})
    content = msgspec.structs.replace(CONTENT, mode=Mode.PERMISSIVE, workload_modes=modes)
    shop.answers["GET /v1/namespaces/shop/history/2"] = content
    shop.answers["GET /v1/namespaces/shop"] = NamespaceState(namespace="shop", version=10)
    assert run(["mode", "shop", "undo"]) == ExitCode.SUCCESS
    asked = [query["workload"] for key, query, _ in shop.requests if key == "POST /v1/namespaces/shop/readiness"]
    assert asked == ["shop/db"]
    shop.answers["GET /v1/namespaces/shop"] = NamespaceState(namespace="shop", version=10, workload_modes=modes)
    shop.requests.clear()
    assert run(["mode", "shop", "undo"]) == ExitCode.SUCCESS
    assert not shop.asked("POST /v1/namespaces/shop/readiness"), "it is explicit already"


def test_undo_without_a_past_is_a_conflict(shop: FakeCA) -> None:
    assert run(["mode", "shop", "undo", "--to", "3"]) == ExitCode.CONFLICT
    shop.answers["GET /v1/namespaces/shop/history"] = History(namespace="shop", generations=GENERATIONS[:1])
    assert run(["mode", "shop", "undo"]) == ExitCode.CONFLICT
    assert not shop.asked("POST /v1/namespaces/shop/undo")


def test_undo_right_after_a_trial_has_gone_back_is_a_conflict(shop: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    gone_back = msgspec.structs.replace(GENERATIONS[0], act="mode.return")
    shop.answers["GET /v1/namespaces/shop/history"] = History(namespace="shop", generations=(gone_back, GENERATIONS[1]))
    tried = msgspec.structs.replace(CONTENT, mode=Mode.PERMISSIVE, tried=Mode.EXPLICIT)
    shop.answers["GET /v1/namespaces/shop/history/2"] = tried
    assert run(["mode", "shop", "undo"]) == ExitCode.CONFLICT
    assert "explicit was on trial in shop and has gone back" in capsys.readouterr().err
    assert run(["mode", "shop", "undo", "--to", "2"]) == ExitCode.SUCCESS


def test_a_mode_for_a_while_says_when_the_ca_goes_back_and_is_confirmed(
    shop: FakeCA, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = ModeTrial(mode=Mode.EXPLICIT, back_to=Mode.PERMISSIVE, started=0.0, until=600.0)
    history = History(namespace="shop", generations=(), trial=trial)
    shop.answers["GET /v1/namespaces/shop/history"] = history
    assert run(["mode", "shop", "explicit", "--for", "10m"]) == ExitCode.SUCCESS
    assert shop.asked("PUT /v1/namespaces/shop/mode") == [{"mode": "explicit", "for_s": 600.0, "expected_version": 3}]
    said = "the CA goes back to permissive at 1970-01-01 00:10:00Z, unless `touchmark mode shop confirm`"
    assert said in capsys.readouterr().out
    assert run(["mode", "shop"]) == ExitCode.SUCCESS
    assert said in capsys.readouterr().out
    assert run(["mode", "shop", "--json"]) == ExitCode.SUCCESS
    assert msgspec.json.decode(capsys.readouterr().out)["back_to"] == "permissive"
    assert run(["mode", "shop", "confirm"]) == ExitCode.SUCCESS
    assert shop.asked("POST /v1/namespaces/shop/mode/confirm")


def test_what_is_to_be_run_next_reaches_the_same_ca(
    shop: FakeCA, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TOUCHMARK_ADMIN_SOCKET")
    where = f"--admin-socket {shop.socket}"
    assert run(["mode", "shop", "undo", *where.split()]) == ExitCode.SUCCESS
    assert f"`touchmark mode shop undo --to 3 {where}`" in capsys.readouterr().out
    trial = ModeTrial(mode=Mode.EXPLICIT, back_to=Mode.PERMISSIVE, started=0.0, until=600.0)
    shop.answers["GET /v1/namespaces/shop/history"] = History(namespace="shop", generations=(), trial=trial)
    for words in (["mode", "shop"], ["mode", "shop", "history"], ["mode", "shop", "confirm"]):
        assert run([*words, *where.split()]) == ExitCode.SUCCESS
        assert f"unless `touchmark mode shop confirm {where}`" in capsys.readouterr().out, words
    blocked = msgspec.structs.replace(make_readiness(CAUSE), verdict=ReadinessVerdict.BLOCKED)
    shop.answers["GET /v1/namespaces/shop"] = NamespaceState(namespace="shop", version=10)
    shop.answers["GET /v1/namespaces/shop/readiness"] = blocked
    assert run(["mode", "shop", "explicit", *where.split()]) == ExitCode.REFUSED
    assert f"`touchmark ready shop {where}` lists what adds them" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--for", "10m"],
        ["confirm", "--for", "10m"],
        ["explicit", "--to", "2"],
        ["history", "--check"],
        ["undo", "--check"],
    ],
)
def test_options_that_say_nothing_are_refused(shop: FakeCA, words: list[str]) -> None:
    assert run(["mode", "shop", *words]) == ExitCode.BAD_INPUT
    assert not shop.asked("PUT /v1/namespaces/shop/mode")
