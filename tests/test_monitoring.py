"""The rules and the dashboard in manifests/monitoring ask for metrics and labels that the CA really has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import yaml

from ca.metrics import Metrics
from tests.ca.running import make_client_context, running_ca

MONITORING = Path(__file__).parents[1] / "manifests/monitoring"
_NAME = re.compile(r"touchmark_\w+")
_BY = re.compile(r"\bby \(([\w, ]+)\)")


def list_expressions() -> Iterator[str]:
    rules = yaml.safe_load((MONITORING / "rules.yaml").read_text(encoding="utf-8"))
    for group in rules["groups"]:
        yield from (rule["expr"] for rule in group["rules"])
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
    rules = yaml.safe_load((MONITORING / "rules.yaml").read_text(encoding="utf-8"))["groups"][0]["rules"]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert rule["annotations"]["summary"].endswith(".")


def _list_labels() -> Iterator[tuple[str, tuple[str, ...]]]:
    for metric in vars(Metrics()).values():
        if hasattr(metric, "_labelnames"):
            yield metric._name.removeprefix("touchmark_"), metric._labelnames
