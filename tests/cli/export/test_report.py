"""The text: YAML that can be read again, the losses above it, the same for the same rules and pods."""

from __future__ import annotations

import pytest
import yaml

from cli.export.engine import Engine
from cli.export.plan import Effect
from cli.export.report import export, write_export
from cli.export.selectors import choose_selectors
from shared.model.policy.rules import NamespaceState
from tests.cli.export.world import PODS, STATES, export_all


@pytest.mark.parametrize("engine", Engine)
@pytest.mark.parametrize("as_explicit", [False, True])
def test_it_is_yaml_with_unique_names_and_every_loss_in_a_comment(engine: Engine, as_explicit: bool) -> None:
    found = export_all(engine, as_explicit=as_explicit)
    text = write_export(found)
    assert list(filter(None, yaml.safe_load_all(text))) == found.objects
    names = [(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in found.objects]
    assert len(set(names)) == len(names)
    assert all(f"# {loss}" in text for loss in found.losses)
    assert any(each.effect is Effect.LOOSER and "programs" in each.message for each in found.losses)
    assert not found.is_exact


@pytest.mark.parametrize("engine", Engine)
def test_the_order_of_pods_and_namespaces_changes_nothing(engine: Engine) -> None:
    turned = export(
        engine,
        sorted(STATES, reverse=True),
        dict(reversed(STATES.items())),
        choose_selectors(reversed(PODS)),
        system_namespace="touchmark-system",
    )
    assert write_export(turned) == write_export(export_all(engine))


def test_nothing_to_enforce_is_said_and_is_exact() -> None:
    found = export(
        Engine.ISTIO,
        ["a"],
        {"a": NamespaceState(namespace="a")},
        choose_selectors([]),
        system_namespace="touchmark-system",
    )
    assert write_export(found).endswith("# nothing to enforce\n")
    assert found.is_exact


def test_a_rules_name_cant_leave_the_comment() -> None:
    found = export_all(Engine.ISTIO)
    assert all(line.startswith("#") for line in write_export(found).split("---", 1)[0].splitlines())
