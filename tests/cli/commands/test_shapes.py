"""The command's own JSON objects are written with all their fields, in order."""

from __future__ import annotations

import msgspec

from cli.commands.shapes import CAStatusWithSidecars, InjectionReport, RefusedObject
from tests.cli.observations import CA, SIDECAR


def test_a_report_is_one_object_with_nested_refusals() -> None:
    refused = RefusedObject(where="a:1", code="host_network", message="no", hint="remove it")
    report = InjectionReport(injected=["b:1"], not_asked=[], refused=[refused])
    assert msgspec.to_builtins(report) == {
        "injected": ["b:1"],
        "not_asked": [],
        "refused": [{"where": "a:1", "code": "host_network", "message": "no", "hint": "remove it"}],
        "passed_over": [],
    }


def test_the_ca_s_status_keeps_its_fields_and_gains_the_sidecars() -> None:
    status = CAStatusWithSidecars(**msgspec.structs.asdict(CA), sidecars=(SIDECAR,))
    assert msgspec.to_builtins(status) == {**msgspec.to_builtins(CA), "sidecars": (msgspec.to_builtins(SIDECAR),)}
