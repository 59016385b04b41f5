"""What would break without the CA (``cli.admin.leaving``); its words are tested with ``touchmark doctor``."""

from __future__ import annotations

from cli.admin.leaving import examine_leaving
from tests.cli.observations import change_sidecar


def test_a_namespace_that_the_ca_does_not_list_is_permissive() -> None:
    (found,) = examine_leaving([], [change_sidecar(workload="new/web")])
    assert not found.is_well and found.observation.startswith("permissive, with 1 live sidecar")
