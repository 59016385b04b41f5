"""Where decisions may be sent: never in the clear to another machine, never with secrets in options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ca.forwarding.targets import make_forwarders, make_span_forwarder, read_headers, read_url
from ca.metrics import Metrics
from ca.settings.configuration import Configuration
from shared.model.errors import InputError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://collector.example:4318", "https://collector.example:4318/v1/logs"),
        ("https://collector.example/", "https://collector.example/v1/logs"),
        ("https://collector.example/otlp/v1/logs", "https://collector.example/otlp/v1/logs"),
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/logs"),
        ("http://[::1]:4318", "http://[::1]:4318/v1/logs"),
    ],
)
def test_a_url_gets_its_path(text: str, expected: str) -> None:
    assert read_url(text) == expected
    assert read_url("https://c.example", path="/v1/traces") == "https://c.example/v1/traces"


@pytest.mark.parametrize(
    "text",
    ["", "collector:4318", "http://collector.example", "http://localhost:4318", "https://u:p@c.example", "ftp://c",
     "https://c.example:99999", "https://c.example/?token=x"],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        read_url(text)


def test_headers_are_opentelemetrys_and_their_values_are_never_shown() -> None:
    assert read_headers("authorization=Bearer%20x, x-scope=1") == {"authorization": "Bearer x", "x-scope": "1"}
    assert read_headers("") == {}
    for wrong in ("secret", "a b=secret", "a=secret%0d%0ax"):
        with pytest.raises(InputError) as caught:
            read_headers(wrong)
        assert "secret" not in caught.value.message


def test_each_named_store_has_a_forwarder_and_unreadable_roots_are_refused(tmp_path: Path) -> None:
    paths: dict[str, Any] = {"data_dir": tmp_path / "d", "kek_file": tmp_path / "k", "admin_socket": tmp_path / "s"}
    both = Configuration(**paths, otlp_logs="https://c.example", syslog="s.example:6514")
    assert len(make_forwarders(both, metrics=Metrics(), instance="ca")) == 2
    assert make_forwarders(Configuration(**paths), metrics=Metrics(), instance="ca") == ()
    traced = Configuration(**paths, otlp_traces="https://c.example")
    assert make_span_forwarder(traced, metrics=Metrics(), instance="ca") is not None
    assert make_span_forwarder(both, metrics=Metrics(), instance="ca") is None
    clear = Configuration(**paths, otlp_traces="http://c.example")
    with pytest.raises(InputError, match="--otlp-traces would send in the clear"):
        make_span_forwarder(clear, metrics=Metrics(), instance="ca")
    with pytest.raises(InputError, match="--trace-every"):
        Configuration(**paths, trace_every=-1)
    wrong = Configuration(**paths, syslog="s.example:6514", forward_roots=tmp_path / "none")
    with pytest.raises(InputError, match="none"):
        make_forwarders(wrong, metrics=Metrics(), instance="ca")
