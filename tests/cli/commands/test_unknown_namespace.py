"""A misspelt namespace is named as such by what would show nothing of it; a known one isn't."""

from __future__ import annotations

import json

import msgspec
import pytest

from cli.commands.unknown_namespace import suggest_namespace
from cli.main import run
from cli.text.exit_codes import ExitCode
from shared.model.adoption.program_queue import ProgramQueue
from shared.model.policy.rules import Mode, NamespaceState
from shared.model.wire.admin import (
    Acknowledgements,
    CoverageList,
    DecisionList,
    ErrorAnswer,
    IdentityList,
    NamespaceList,
    PolicyList,
    ProgramList,
    ReadinessVerdict,
    SidecarList,
)
from shared.model.wire.admin_edges import Timeline
from tests.cli.commands.test_ready import make_readiness
from tests.cli.edges import list_edges
from tests.cli.fake_ca import FakeCA

COMMANDS = (
    ("program", "queue", "shpo"),
    ("program", "list", "shpo"),
    ("policy", "get", "shpo"),
    ("policy", "suggest", "shpo"),
    ("ready", "shpo"),
    ("edges", "shpo"),
    ("graph", "shpo"),
    ("coverage", "shpo"),
    ("timeline", "shpo"),
    ("decisions", "--namespace", "shpo"),
    ("decisions", "--workload", "shpo/web"),
    ("identities", "--workload", "shpo/web"),
)


@pytest.fixture
def empty(ca: FakeCA) -> FakeCA:
    """A CA that knows the namespace shop, and says nothing of shpo."""
    of_it = "GET /v1/namespaces/shpo"
    readiness = msgspec.structs.replace(make_readiness(ReadinessVerdict.UNKNOWN), namespace="shpo", version=0)
    ca.answers |= {
        of_it: NamespaceState(namespace="shpo", version=0, mode=Mode.PERMISSIVE),
        f"{of_it}/acknowledgements": Acknowledgements(namespace="shpo", version=0, installed=0, total=0, waiting=()),
        f"{of_it}/readiness": readiness,
        f"{of_it}/edges": list_edges(),
        f"{of_it}/coverage": CoverageList(namespace="shpo", since=0.0, workloads=(), is_truncated=False),
        f"{of_it}/timeline": Timeline(namespace="shpo"),
        "GET /v1/decisions": DecisionList(decisions=(), lost=0),
        "GET /v1/identities": IdentityList(identities=()),
        "GET /v1/policies": PolicyList(policies=()),
        "GET /v1/programs": ProgramList(programs=()),
        "GET /v1/programs/queue": ProgramQueue(waiting=(), refused=()),
        "GET /v1/sidecars": SidecarList(sidecars=()),
        "GET /v1/namespaces": NamespaceList(namespaces=(NamespaceState(namespace="shop"),)),
    }
    return ca


@pytest.mark.parametrize("words", COMMANDS)
def test_a_misspelt_namespace_is_named_with_what_may_be_meant(
    empty: FakeCA, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert run(words) == ExitCode.NOT_FOUND
    said = capsys.readouterr()
    assert "there is no namespace shpo" in said.err and "did you mean shop?" in said.err
    assert not said.out
    if words[:2] != ("policy", "suggest"):  # It writes YAML alone.
        assert run([*words, "--json"]) == ExitCode.NOT_FOUND
        assert json.loads(capsys.readouterr().err)["code"] == "not_found"


@pytest.mark.parametrize("words", COMMANDS)
def test_a_known_one_or_one_that_cannot_be_asked_for_has_nothing_to_show(empty: FakeCA, words: tuple[str, ...]) -> None:
    usual = ExitCode.UNKNOWN if words[0] == "ready" else ExitCode.SUCCESS
    empty.answers["GET /v1/namespaces"] = NamespaceList(namespaces=(NamespaceState(namespace="shpo"),))
    assert run(words) == usual
    empty.answers["GET /v1/namespaces"] = ErrorAnswer(code="unavailable", message="the store is away")
    assert run(words) == usual


def test_what_is_like_nothing_known_is_told_where_to_look() -> None:
    assert suggest_namespace("zzz", ("shop", "bank")) == "`touchmark status` lists those with sidecars"
