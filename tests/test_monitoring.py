"""The rules and the dashboard in manifests/monitoring ask for metrics and labels that the CA really has."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from ca.metrics import Metrics
from tests.ca.running import make_client_context, running_ca

MONITORING = Path(__file__).parents[1] / "manifests/monitoring"
_NAME = re.compile(r"touchmark_\w+")
_NEEDS_PROMTOOL = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool, which is in Debian's package prometheus, isn't installed"
)
_BY = re.compile(r"\bby \(([\w, ]+)\)")


def list_expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in _list_rules())
    for panel in json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))["panels"]:
        yield from (target["expr"] for target in panel["targets"])


async def test_every_metric_that_is_asked_for_is_served(tmp_path: Path) -> None:
    async with (
        running_ca(tmp_path) as ca,
        aiohttp.ClientSession() as session,
        session.get(f"https://{ca.listen}/metrics", ssl=make_client_context(ca)) as response,
    ):
        text = await response.text()
    served = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE):
        served |= {f"{name}{part}" for part in ("_bucket", "_sum", "_count")} if kind == "histogram" else {name}
    asked = {name for expression in list_expressions() for name in _NAME.findall(expression)}
    assert asked and asked <= served, asked - served


def test_every_label_that_is_asked_for_exists() -> None:
    labels = {f"touchmark_{name}": names for name, names in _list_labels()}
    for expression in list_expressions():
        for named in _BY.findall(expression):
            wanted = {label.strip() for label in named.split(",")} - {"le"}
            (metric,) = {re.sub("_(total|bucket)$", "", name) for name in _NAME.findall(expression)}
            assert wanted <= set(labels[metric]), expression


def test_every_alert_says_what_it_means_and_how_bad_it_is() -> None:
    rules = _list_rules()
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert rule["annotations"]["summary"].endswith(".")


@_NEEDS_PROMTOOL
def test_promtool_finds_no_fault_in_the_rules() -> None:
    _run_promtool("check", "rules", str(MONITORING / "rules.yaml"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What one alert is for.

    Attributes:
        firing: the series that differ from a healthy CA's, with their values from minute to minute, so that it fires.
        nearly: the same, just not bad enough.
        labels: of the alert that fires, beside its severity.
    """

    firing: Mapping[str, str]
    nearly: Mapping[str, str]
    labels: Mapping[str, str] = field(default_factory=dict)


_DAY_S = 86400
_LOOK_S = 3600  # When promtool looks. Its clock begins at 0, so that this is also what time() says.
_HEALTHY = {
    'touchmark_ca_second_sidecars_total{how="enrol_pod"}': "0x60",
    "touchmark_ca_store_up": "1x60",
    'touchmark_ca_store_seconds_bucket{le="1.0"}': "0+4x60",
    'touchmark_ca_store_seconds_bucket{le="2.5"}': "0+4x60",
    'touchmark_ca_store_seconds_bucket{le="+Inf"}': "0+4x60",
    "touchmark_ca_store_free_bytes": " ".join(["NaN"] * 61),
    'touchmark_ca_issue_seconds_bucket{le="1.0"}': "0+1000x60",
    'touchmark_ca_issue_seconds_bucket{le="2.5"}': "0+1000x60",
    'touchmark_ca_issue_seconds_bucket{le="+Inf"}': "0+1000x60",
    'touchmark_ca_certificates_refused_total{reason="not_approved"}': "0x60",
    "touchmark_ca_ledger_waiting": "0x60",
    "touchmark_ca_stream_messages_waiting": "0x60",
    "touchmark_ca_rotation_laggards": "0x60",
    'touchmark_ca_rotation_step{step="prepared"}': "0x60",
    "touchmark_ca_issuer_not_after_seconds": f"{60 * _DAY_S}x60",
    "touchmark_ca_root_not_after_seconds": f"{3650 * _DAY_S}x60",
    "touchmark_ca_server_not_after_seconds": f"{_DAY_S}x60",
    'touchmark_ca_enrolments_refused_total{reason="not_injected"}': "0x60",
    'touchmark_ca_failures_total{where="upkeep"}': "0x60",
    "touchmark_ca_decisions_lost_total": "0x60",
    "touchmark_ca_audit_lines": "100+1x60",
    "touchmark_ca_clock_offset_seconds": "0.2x60",
    "touchmark_ca_decisions_over_quota_total": "0x60",
}
_CASES = {
    "TouchmarkSecondSidecar": Case(  # The first one of all, half an hour ago.
        firing={'touchmark_ca_second_sidecars_total{how="enrol_pod"}': "0x29 1x31"},
        nearly={'touchmark_ca_second_sidecars_total{how="enrol_pod"}': "1x60"},
        labels={"how": "enrol_pod"},
    ),
    "TouchmarkStoreDown": Case(
        firing={"touchmark_ca_store_up": "1x57 0x3"}, nearly={"touchmark_ca_store_up": "1x59 0"}
    ),
    "TouchmarkStoreSlow": Case(
        firing={'touchmark_ca_store_seconds_bucket{le="1.0"}': "0+3x60"},
        nearly={'touchmark_ca_store_seconds_bucket{le="1.0"}': "0+3.8x60"},
    ),
    "TouchmarkDiskLow": Case(
        firing={"touchmark_ca_store_free_bytes": "0x60"}, nearly={"touchmark_ca_store_free_bytes": f"{100 << 20}x60"}
    ),
    "TouchmarkIssuanceSlow": Case(
        firing={'touchmark_ca_issue_seconds_bucket{le="1.0"}': "0+980x60"},
        nearly={'touchmark_ca_issue_seconds_bucket{le="1.0"}': "0+995x60"},
    ),
    "TouchmarkIssuanceRefused": Case(
        firing={'touchmark_ca_certificates_refused_total{reason="not_approved"}': "0+12x60"},
        nearly={'touchmark_ca_certificates_refused_total{reason="not_approved"}': "0+3x60"},
        labels={"reason": "not_approved"},
    ),
    "TouchmarkLedgerQueue": Case(
        firing={"touchmark_ca_ledger_waiting": "1001x60"}, nearly={"touchmark_ca_ledger_waiting": "1000x60"}
    ),
    "TouchmarkSidecarsSlow": Case(
        firing={"touchmark_ca_stream_messages_waiting": "10001x60"},
        nearly={"touchmark_ca_stream_messages_waiting": "0x57 10001x3"},
    ),
    "TouchmarkRotationWaits": Case(
        firing={"touchmark_ca_rotation_laggards": "2x60", 'touchmark_ca_rotation_step{step="prepared"}': "1x60"},
        nearly={"touchmark_ca_rotation_laggards": "2x60"},
    ),
    "TouchmarkIssuerEnds": Case(
        firing={"touchmark_ca_issuer_not_after_seconds": f"{7 * _DAY_S + _LOOK_S - 1}x60"},
        nearly={"touchmark_ca_issuer_not_after_seconds": f"{7 * _DAY_S + _LOOK_S}x60"},
    ),
    "TouchmarkRootEnds": Case(
        firing={"touchmark_ca_root_not_after_seconds": f"{90 * _DAY_S + _LOOK_S - 1}x60"},
        nearly={"touchmark_ca_root_not_after_seconds": f"{90 * _DAY_S + _LOOK_S}x60"},
    ),
    "TouchmarkServerCertificateEnds": Case(
        firing={"touchmark_ca_server_not_after_seconds": f"{2 * _LOOK_S - 1}x60"},
        nearly={"touchmark_ca_server_not_after_seconds": f"{2 * _LOOK_S}x60"},
    ),
    "TouchmarkEnrolmentsRefused": Case(
        firing={'touchmark_ca_enrolments_refused_total{reason="not_injected"}': "0x49 0+1x11"},
        nearly={'touchmark_ca_enrolments_refused_total{reason="not_injected"}': "0x49 0+0.3x11"},
        labels={"reason": "not_injected"},
    ),
    "TouchmarkCAFails": Case(
        firing={'touchmark_ca_failures_total{where="upkeep"}': "0x49 1x11"},
        nearly={'touchmark_ca_failures_total{where="upkeep"}': "0x9 1x51"},
        labels={"where": "upkeep"},
    ),
    "TouchmarkAuditCut": Case(
        firing={"touchmark_ca_audit_lines": "100x57 0 98x2"}, nearly={"touchmark_ca_audit_lines": "100x58 0x2"}
    ),
    "TouchmarkDecisionsLost": Case(
        firing={"touchmark_ca_decisions_lost_total": "0x9 7x51"}, nearly={"touchmark_ca_decisions_lost_total": "7x60"}
    ),
    "TouchmarkClockDiffers": Case(
        firing={"touchmark_ca_clock_offset_seconds": "-61x60"}, nearly={"touchmark_ca_clock_offset_seconds": "60x60"}
    ),
    "TouchmarkDecisionsOverQuota": Case(
        firing={"touchmark_ca_decisions_over_quota_total": "0x49 7x11"},
        nearly={"touchmark_ca_decisions_over_quota_total": "0x9 7x51"},
    ),
}


@_NEEDS_PROMTOOL
def test_each_alert_fires_for_what_it_is_for_and_for_nothing_else(tmp_path: Path) -> None:
    rules = _list_rules()
    assert [rule["alert"] for rule in rules] == list(_CASES)
    groups = [_make_group("a healthy CA", {}, None)]
    for rule in rules:
        case = _CASES[rule["alert"]]
        groups.append(_make_group(f"{rule['alert']} nearly", case.nearly, None))
        groups.append(_make_group(rule["alert"], case.firing, rule))
    written = tmp_path / "rules_test.yaml"
    # JSON is YAML, too.
    written.write_text(json.dumps({"rule_files": [str(MONITORING / "rules.yaml")], "tests": groups}), encoding="utf-8")
    _run_promtool("test", "rules", str(written))


def _make_group(name: str, series: Mapping[str, str], fires: Mapping[str, Any] | None) -> dict[str, Any]:
    """One of promtool's test groups: at `_LOOK_S` the rule ``fires`` and no other does."""
    assert set(series) <= set(_HEALTHY)
    alerts: list[dict[str, Any]] = []
    for alert, case in _CASES.items():
        expected: list[dict[str, Any]] = []
        if fires is not None and alert == fires["alert"]:
            texts = dict(fires["annotations"])
            for label, value in case.labels.items():
                texts = {key: text.replace(f"{{{{ $labels.{label} }}}}", value) for key, text in texts.items()}
            expected = [{"exp_labels": {**case.labels, **fires["labels"]}, "exp_annotations": texts}]
        alerts.append({"eval_time": f"{_LOOK_S}s", "alertname": alert, "exp_alerts": expected})
    values = {**_HEALTHY, **series}
    return {
        "name": name,
        "interval": "1m",
        "input_series": [{"series": each, "values": value} for each, value in values.items()],
        "alert_rule_test": alerts,
    }


def _run_promtool(*arguments: str) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def _list_rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((MONITORING / "rules.yaml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _list_labels() -> Iterator[tuple[str, tuple[str, ...]]]:
    for metric in vars(Metrics()).values():
        if hasattr(metric, "_labelnames"):
            yield metric._name.removeprefix("touchmark_"), metric._labelnames
