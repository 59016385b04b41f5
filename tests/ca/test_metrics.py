"""The metrics are the CA's own, and their labels are ours."""

from __future__ import annotations

from ca.metrics import Metrics


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
