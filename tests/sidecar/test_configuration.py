"""The sidecar's configuration: each fault is one clear error with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.model.errors import DocumentError, InputError
from sidecar.app import Limits
from sidecar.configuration import (
    CaptureKind,
    Configuration,
    InboundListener,
    OutboundListener,
    parse_address,
    parse_arguments,
    parse_endpoint,
    read_configuration,
)

WHOLE = """
ca: ca.example:15443
instance: web-1
capture: listeners
tunnel: {addresses: [198.18.0.2, "::ffff:198.18.0.3"], port: 15009}
redirect: {outboundPort: 1, inboundPort: 2, uid: 7, excludePorts: [22], mark: 0x1f}
outbound: [{listen: 127.0.0.1:5432, destination: "[2001:db8::1]:5432"}]
inbound: [{listen: 198.18.0.2:5432, application: 127.0.0.1:5433}]
attestation: {maxExecutableBytes: 5}
limits: {maxConnections: 100, drainSeconds: 0}
log: {file: null}
"""


def test_a_whole_file_is_read() -> None:
    read = read_configuration(WHOLE, "x.yaml")
    assert read.ca == ("ca.example", 15443)
    assert read.capture is CaptureKind.LISTENERS
    assert read.tunnel_addresses == ("198.18.0.2", "198.18.0.3")
    assert read.outbound == (OutboundListener(listen=("127.0.0.1", 5432), destination=("2001:db8::1", 5432)),)
    assert read.inbound == (InboundListener(listen=("198.18.0.2", 5432), application=("127.0.0.1", 5433)),)
    assert (read.redirect.mark, read.redirect.exclude_ports, read.max_executable_bytes) == (31, (22,), 5)
    assert (read.max_connections, read.drain_s) == (100, 0)


def test_the_documented_file_is_read_and_shows_the_defaults() -> None:
    page = (Path(__file__).parents[2] / "docs/sidecar.md").read_text(encoding="utf-8")
    text = page.partition("```yaml\n")[2].partition("```")[0].replace("tokenFile: /run/touchmark/token", "token: x")
    read = read_configuration(text, "docs/sidecar.md")
    default = Configuration()
    assert (read.redirect, read.drain_s, read.max_executable_bytes, read.tunnel_port, read.log_file) == (
        default.redirect, default.drain_s, default.max_executable_bytes, default.tunnel_port, default.log_file,
    )  # fmt: skip
    assert read.max_connections == Limits().max_connections
    read.check()


@pytest.mark.parametrize(
    ("text", "line", "path"),
    [
        ("capture: listeners\ntunel: 1\n", 2, "tunel"),
        ("tunnel:\n  port: 65536\n", 2, "tunnel.port"),
        ("outbound:\n- listen: 127.0.0.1:1\n", 2, "outbound[0]"),
        ("outbound:\n- listen: localhost:1\n  destination: 127.0.0.1:2\n", 2, "outbound[0].listen"),
        ("capture: magic\n", 1, "capture"),
        ("attestation: {maxExecutableBytes: 0}\n", 1, "attestation.maxExecutableBytes"),
        ("limits:\n  maxConnections: 0\n", 2, "limits.maxConnections"),
        ("limits: {maxConnections: 100001}\n", 1, "limits.maxConnections"),
        ("limits: {drainSeconds: -1}\n", 1, "limits.drainSeconds"),
        ("limits: {drainSeconds: 86401}\n", 1, "limits.drainSeconds"),
        ("redirect: {uid: 0}\n", 1, "redirect.uid"),
        ("token: a\ntokenFile: b\n", 1, "token"),
    ],
)
def test_a_fault_names_its_line_and_path(text: str, line: int, path: str) -> None:
    with pytest.raises(DocumentError) as caught:
        read_configuration(text, "x.yaml")
    assert (caught.value.line, caught.value.path) == (line, path)


def test_options_win_over_the_file_and_the_token_comes_from_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "sidecar.yaml"
    file.write_text(WHOLE, encoding="utf-8")
    read = parse_arguments(["--config", str(file), "--tunnel-port", "15010"], {"TOUCHMARK_JOIN_TOKEN": "secret"})
    assert (read.tunnel_port, read.token, read.instance) == (15010, "secret", "web-1")
    assert "secret" not in repr(read)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--bogus"],
        [],
        ["--tunnel-address", "198.18.0.1"],
        ["--capture", "redirect"],
        ["--outbound", "127.0.0.1:1"],
        ["--outbound", "127.0.0.1:1=127.0.0.2:99999"],
        ["--outbound", "127.0.0.1:1=127.0.0.2:2", "--outbound", "127.0.0.1:1=127.0.0.2:3"],
        ["--inbound", "127.0.0.1:1=127.0.0.2:2"],
        ["--instance", "a b", "--outbound", "127.0.0.1:1=127.0.0.2:2"],
        ["--max-connections", "0", "--outbound", "127.0.0.1:1=127.0.0.2:2"],
        ["--drain-seconds", "1.5", "--outbound", "127.0.0.1:1=127.0.0.2:2"],
        ["--config", "/nonexistent/file"],
    ],
)
def test_wrong_options_are_the_users_error(arguments: list[str]) -> None:
    with pytest.raises(InputError):
        parse_arguments(arguments, {"TOUCHMARK_JOIN_TOKEN": "t"})


def test_a_missing_token_is_said() -> None:
    with pytest.raises(InputError, match="join token"):
        parse_arguments(["--outbound", "127.0.0.1:1=127.0.0.2:2"], {})


@pytest.mark.parametrize("text", ["1.2.3.4", ":5", "::1:5", "1.2.3.4:0", "1.2.3.4:65536", "1.2.3.4:-1", "host:5"])
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_endpoint(text)


def test_addresses_have_one_form() -> None:
    assert parse_address("2001:DB8:0::1") == "2001:db8::1"
    with pytest.raises(InputError):
        parse_address("fe80::1%eth0")
