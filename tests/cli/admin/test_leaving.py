"""What would break without the CA (``cli.admin.leaving``); its words are tested with ``touchmark doctor``."""

from __future__ import annotations

from cli.admin.leaving import examine_leaving
from shared.model.policy.modes import make_modes
from shared.model.policy.rules import Mode, NamespaceState
from tests.cli.observations import change_sidecar


def test_a_namespace_that_the_ca_does_not_list_is_permissive() -> None:
    (found,) = examine_leaving([], [change_sidecar(workload="new/web")])
    assert not found.is_well and found.observation.startswith("permissive, with 1 live sidecar")


def test_workloads_that_are_explicit_by_a_mode_of_their_own_are_named() -> None:
    state = NamespaceState(namespace="new", workload_modes=make_modes({"web": Mode.EXPLICIT, "db": Mode.PERMISSIVE}))
    (found,) = examine_leaving([state], [change_sidecar(workload="new/web")])
    assert found.observation.startswith("explicit, with")
    assert found.hint.startswith("`touchmark mode new permissive --workload web`, then make")
