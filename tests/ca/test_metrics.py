"""The metrics are the CA's own, and their labels are ours."""

from __future__ import annotations

import re
from pathlib import Path

import ca
from ca.metrics import FAILURES, SECOND_SIDECARS, Metrics


def test_two_cas_share_no_counts() -> None:
    one, two = Metrics(), Metrics()
    one.streams.set(3)
    one.issued.labels(kind="program").inc()
    assert "touchmark_ca_streams 3.0" in one.render().decode()
    assert 'touchmark_ca_certificates_issued_total{kind="program"} 1.0' in one.render().decode()
    assert "touchmark_ca_streams 0.0" in two.render().decode()


def test_each_metric_is_named_after_the_ca_and_explained() -> None:
    families = list(Metrics().registry.collect())
    assert len(families) > 12
    for family in families:
        assert family.name.startswith("touchmark_ca_")
        assert family.documentation.endswith(".")


def test_each_incident_is_served_as_zero_before_the_first_one() -> None:
    """Prometheus' increase() of a series that begins with 1 is 0."""
    served = Metrics().render().decode()
    for how in SECOND_SIDECARS:
        assert f'touchmark_ca_second_sidecars_total{{how="{how}"}} 0.0' in served
    for where in FAILURES:
        assert f'touchmark_ca_failures_total{{where="{where}"}} 0.0' in served


def test_the_incidents_that_are_counted_are_those_that_are_served_from_the_start() -> None:
    (root,) = ca.__path__
    code = {path: path.read_text(encoding="utf-8") for path in Path(root).rglob("*.py")}
    counted = {name for text in code.values() for name in re.findall(r'failures\.labels\(where="(\w+)"\)', text)}
    assert counted == set(FAILURES)
    stream = [text for path, text in code.items() if path.parent.name == "stream"]
    entered = r'seconds?\.(?:enter|note)\([^)]*how="(\w+)"|self\.note\([^)]*how="(\w+)"'
    hows = {one or other for text in stream for one, other in re.findall(entered, text)}
    assert hows == set(SECOND_SIDECARS)
