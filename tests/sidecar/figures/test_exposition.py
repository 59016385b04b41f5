"""The text format, as the official parser reads it."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from sidecar.figures.counts import Histogram
from sidecar.figures.exposition import Page


def test_the_official_parser_reads_what_was_written() -> None:
    page = Page()
    odd = 'a "quoted" \\ and\na new line'
    page.add_counter("x_total", "Counted.", [({"reason": odd, "side": "in"}, 3), ({"reason": "b", "side": "out"}, 0)])
    page.add_gauge("y_seconds", "Lasting.", 0.25)
    page.add_gauge("big_bytes", "Large.", 123_456_789_012)
    histogram = Histogram((0.001, 0.5))
    for value in (0.0005, 0.2, 9.0):
        histogram.observe(value)
    page.add_histogram("z_seconds", "Distributed.", histogram)
    families = {each.name: each for each in text_string_to_metric_families(page.render().decode())}
    assert [(each.labels, each.value) for each in families["x"].samples] == [
        ({"reason": odd, "side": "in"}, 3), ({"reason": "b", "side": "out"}, 0),
    ]  # fmt: skip
    assert families["x"].type == "counter"
    assert families["y_seconds"].samples[0].value == 0.25
    assert families["big_bytes"].samples[0].value == 123_456_789_012
    assert families["z_seconds"].type == "histogram"
    samples = {(each.name, each.labels.get("le", "")): each.value for each in families["z_seconds"].samples}
    assert samples == {
        ("z_seconds_bucket", "0.001"): 1, ("z_seconds_bucket", "0.5"): 2, ("z_seconds_bucket", "+Inf"): 3,
        ("z_seconds_count", ""): 3, ("z_seconds_sum", ""): 9.2005,
    }  # fmt: skip
