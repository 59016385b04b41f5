"""The log stores that the settings name. I/O: root certificates are read.

Belongs here: reading addresses, headers and roots, and refusing what would send decisions in the clear. Doesn't:
sending.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from ca.forwarding.courier import Destination
from ca.forwarding.forwarder import Forwarder
from ca.forwarding.otlp import Collector, OtlpStore, OtlpTraceStore
from ca.forwarding.spans import SpanForwarder
from ca.forwarding.syslog import SyslogStore
from ca.metrics import Metrics
from ca.settings.configuration import Configuration, parse_endpoint
from shared.model.errors import InputError
from shared.model.policy.decision import DecisionRecord

_LOGS_PATH: Final = "/v1/logs"
_TRACES_PATH: Final = "/v1/traces"
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


def make_forwarders(configuration: Configuration, *, metrics: Metrics, instance: str) -> tuple[Forwarder, ...]:
    """Return a forwarder for each log store of the settings; nothing is connected to yet.

    Arguments:
        instance: names this CA.

    Raises:
        InputError: an address or a header can't be used, or the roots can't be read.
    """
    stores: list[Destination[DecisionRecord]] = []
    every = configuration.forward_allows
    if configuration.otlp_logs:
        stores.append(
            OtlpStore(_make_collector(configuration, configuration.otlp_logs), instance=instance, every=every)
        )
    if configuration.syslog:
        host, port = parse_endpoint(configuration.syslog)
        stores.append(SyslogStore(host, port, context=_make_context(configuration.forward_roots), hostname=instance))
    return tuple(Forwarder(store, every=every, metrics=metrics) for store in stores)


def make_span_forwarder(configuration: Configuration, *, metrics: Metrics, instance: str) -> SpanForwarder | None:
    """Return what sends spans, None when the settings name no collector for them; nothing is connected to yet.

    Raises:
        InputError: as ``make_forwarders``.
    """
    if not configuration.otlp_traces:
        return None
    collector = _make_collector(configuration, configuration.otlp_traces, option="--otlp-traces", path=_TRACES_PATH)
    return SpanForwarder(OtlpTraceStore(collector, instance=instance), metrics=metrics)


def _make_collector(
    configuration: Configuration, url: str, *, option: str = "--otlp-logs", path: str = _LOGS_PATH
) -> Collector:
    return Collector(
        read_url(url, option=option, path=path),
        headers=read_headers(configuration.otlp_headers),
        context=_make_context(configuration.forward_roots),
    )


def read_url(text: str, *, option: str = "--otlp-logs", path: str = _LOGS_PATH) -> str:
    """Return the collector's URL with its path.

    Arguments:
        option: by which it was given.
        path: where it names none.

    Raises:
        InputError: it isn't one, holds a password, or would send decisions in the clear to another machine.
    """
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise InputError(f"not a URL: {text[:120]!r}") from error
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise InputError(f"not a collector's URL: {text[:120]!r}", hint="such as https://collector.example:4318")
    if parts.username is not None or parts.password is not None:
        raise InputError(f"{option} holds a user or password", hint="put headers into OTEL_EXPORTER_OTLP_HEADERS")
    if parts.scheme == "http" and not _is_loopback(host):
        raise InputError(
            f"{option} would send in the clear who talks to whom",
            hint="use https, or a collector on this machine's loopback",
        )
    return parts._replace(path=parts.path if parts.path.strip("/") else path).geturl()


def read_headers(text: str) -> dict[str, str]:
    """Read ``name=value,name=value`` with percent-encoded values, as OpenTelemetry's variable has them.

    Raises:
        InputError: a header isn't one. Its value isn't shown.
    """
    headers: dict[str, str] = {}
    for number, entry in enumerate(filter(None, (each.strip() for each in text.split(","))), start=1):
        name, sign, value = entry.partition("=")
        value = unquote(value.strip())
        if not sign or not _HEADER.fullmatch(name.strip()) or not value.isprintable() or not value.isascii():
            raise InputError(f"header {number} of OTEL_EXPORTER_OTLP_HEADERS isn't name=value")
        headers[name.strip()] = value
    return headers


def _make_context(roots: Path | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=roots)
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"{roots}: no root certificates can be read there: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # A name: what it resolves to may change.
        return False
