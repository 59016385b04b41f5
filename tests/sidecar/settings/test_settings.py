"""The sidecar's configuration: each fault is one clear error with its place."""

from __future__ import annotations

from operator import attrgetter
from pathlib import Path

import pytest

from shared.model.errors import DocumentError, InputError
from shared.model.identity.identity import Workload
from sidecar.parts import Limits
from sidecar.settings.configuration import CaptureKind, Configuration, Hold, InboundListener, OutboundListener
from sidecar.settings.settings import SETTINGS, parse_arguments, read_configuration

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
workers: 2
log: {file: null}
mtls: {ports: [5432], destinationPorts: [5432, 5432]}
"""


def test_a_whole_file_is_read() -> None:
    read = read_configuration(WHOLE, "x.yaml")
    assert read.ca == ("ca.example", 15443)
    assert read.capture is CaptureKind.LISTENERS
    assert read.tunnel_addresses == ("198.18.0.2", "198.18.0.3")
    assert read.outbound == (OutboundListener(listen=("127.0.0.1", 5432), destination=("2001:db8::1", 5432)),)
    assert read.inbound == (InboundListener(listen=("198.18.0.2", 5432), application=("127.0.0.1", 5433)),)
    assert (read.redirect.mark, read.redirect.exclude_ports, read.max_executable_bytes) == (31, (22,), 5)
    assert (read.max_connections, read.drain_s, read.workers) == (100, 0, 2)
    assert (read.mtls_ports, read.mtls_destination_ports) == ((5432,), (5432,))


def test_the_documented_file_is_read_and_shows_the_defaults() -> None:
    page = (Path(__file__).parents[3] / "docs/reference/sidecar.md").read_text(encoding="utf-8")
    text = page.partition("```yaml\n")[2].partition("```")[0].replace("tokenFile: /run/touchmark/token", "token: x")
    read = read_configuration(text, "docs/reference/sidecar.md")
    default = Configuration()
    assert (read.redirect, read.drain_s, read.max_executable_bytes, read.tunnel_port, read.log_file) == (
        default.redirect, default.drain_s, default.max_executable_bytes, default.tunnel_port, default.log_file,
    )  # fmt: skip
    assert (read.max_connections, read.workers) == (Limits().max_connections, default.workers)
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
        ("workers: 0\n", 1, "workers"),
        ("workers: 65\n", 1, "workers"),
        ("workers: auto\n", 1, "workers"),
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


@pytest.mark.parametrize("address", ["198.18.0.2", "0.0.0.0", "[::]", "[2001:db8::1]"])
def test_an_outbound_listener_that_others_reach_is_refused_unless_that_is_asked_for(address: str) -> None:
    arguments, environment = ["--outbound", f"{address}:1=127.0.0.2:2"], {"TOUCHMARK_JOIN_TOKEN": "t"}
    with pytest.raises(InputError, match="clients outside the pod"):
        parse_arguments(arguments, environment)
    assert parse_arguments([*arguments, "--takes-remote-clients"], environment).takes_remote_clients
    assert read_configuration("takesRemoteClients: true\n", "x.yaml").takes_remote_clients
    assert not parse_arguments(["--outbound", "[::1]:1=127.0.0.2:2"], environment).takes_remote_clients


def test_a_missing_token_is_said() -> None:
    with pytest.raises(InputError, match="join token"):
        parse_arguments(["--outbound", "127.0.0.1:1=127.0.0.2:2"], {})


def test_with_a_state_directory_no_token_is_needed_here() -> None:
    """Whether there is a renewal key in it is looked at when the sidecar is prepared."""
    arguments = ["--outbound", "127.0.0.1:1=127.0.0.2:2", "--state-directory", "/s"]
    assert parse_arguments(arguments, {}).state_directory == Path("/s")
    assert read_configuration("stateDirectory: /s\n", "x.yaml").state_directory == Path("/s")


def test_a_tpm_binds_the_key_of_a_state_directory_only() -> None:
    arguments = ["--outbound", "127.0.0.1:1=127.0.0.2:2", "--tpm", "/dev/tpmrm0"]
    assert parse_arguments([*arguments, "--state-directory", "/s"], {}).tpm == Path("/dev/tpmrm0")
    assert read_configuration("stateDirectory: /s\ntpm: /dev/tpmrm0\n", "x.yaml").tpm == Path("/dev/tpmrm0")
    with pytest.raises(InputError, match="--tpm binds the renewal key of a state directory"):
        parse_arguments(arguments, {"TOUCHMARK_JOIN_TOKEN": "t"})


POD = {
    "TOUCHMARK_POD_NAME": "web-5d4",
    "TOUCHMARK_POD_NAMESPACE": "shop",
    "TOUCHMARK_POD_UID": "01234567-89ab-cdef-0123-456789abcdef",
    "TOUCHMARK_POD_IPS": "198.18.0.7,fd00::7",
    "TOUCHMARK_SERVICE_ACCOUNT": "web",
}
IN_A_POD = [
    "--capture", "redirect", "--redirect-installed", "--ca", "touchmark-ca.touchmark-system.svc:15443",
    "--service-account-token", "/t/token", "--trust-file", "/r/roots.pem", "--trust-domain", "cluster.local",
    "--health-port", "15020",
]  # fmt: skip


def test_the_level_of_events_is_one_of_four() -> None:
    listener = ["--outbound", "127.0.0.1:1=127.0.0.2:2"]
    assert parse_arguments([*listener, "--log-level", "warning"], {"TOUCHMARK_JOIN_TOKEN": "t"}).log_level == "warning"
    with pytest.raises(InputError):
        parse_arguments([*listener, "--log-level", "loud"], {"TOUCHMARK_JOIN_TOKEN": "t"})


def test_in_a_pod_the_downward_api_says_who_and_where_it_is() -> None:
    probes = '[{"container": "app", "kind": "liveness", "handler": "tcp", "port": 80}]'
    read = parse_arguments([*IN_A_POD, "--drain-s", "5"], {**POD, "TOUCHMARK_PROBES": probes})
    assert read.pod is not None
    assert read.pod.trust_domain == "cluster.local"
    assert read.pod.pod.workload == Workload(namespace="shop", service_account="web")
    assert (read.instance, read.tunnel_addresses) == ("web-5d4.01234567", ("198.18.0.7", "fd00::7"))
    assert (read.health_port, read.redirect.is_installed, read.token, read.drain_s) == (15020, True, None, 5)
    assert [target.request_path for target in read.probes] == ["/probe/app/liveness"]


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        (
            [each for each in IN_A_POD if "trust-domain" not in each and "cluster" not in each],
            POD,
            "needs --trust-file",
        ),
        (["--trust-file", "/x", "--outbound", "127.0.0.1:1=127.0.0.2:2"], {}, "belongs to --service-account-token"),
        (IN_A_POD, {**POD, "TOUCHMARK_POD_IPS": ""}, "TOUCHMARK_POD_IPS isn't set"),
        (IN_A_POD, {**POD, "TOUCHMARK_JOIN_TOKEN": "x"}, "exclude one another"),
        ([each for each in IN_A_POD if "ca" not in each.split("-")[:4] and ".svc" not in each], POD, "needs --ca"),
        ([*IN_A_POD, "--state-directory", "/s"], POD, "needs no state directory"),
        ([*IN_A_POD, "--redirect-mark", "1"], POD, "takes no mark"),
        ([*IN_A_POD, "--hold-connects", "--hold-port", "514"], POD, "sidecar.capture.install"),
        ([*IN_A_POD, "--hold-port", "514"], POD, "always held"),
        ([*IN_A_POD, "--hold-connects", "sometimes"], POD, "not a time to hold"),
        ([*IN_A_POD, "--capture", "listeners"], POD, "belongs to `capture: redirect`"),
        ([*IN_A_POD, "--health-port", "15006"], POD, "must differ"),
        ([*IN_A_POD, "--trust-domain", "No Domain"], POD, "trust domain"),
    ],
)
def test_what_does_not_fit_together_in_a_pod_is_said(
    arguments: list[str], environment: dict[str, str], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        parse_arguments(arguments, environment)


@pytest.mark.parametrize(
    ("arguments", "hold"),
    [
        ([], Hold.AUTO),
        (["--hold-connects"], Hold.ALWAYS),
        (["--hold-connects", "auto"], Hold.AUTO),
        (["--hold-connects=never"], Hold.NEVER),
    ],
)
def test_when_connections_wait_is_said_with_or_without_a_word(arguments: list[str], hold: Hold) -> None:
    assert parse_arguments([*IN_A_POD, *arguments], POD).redirect.hold is hold


@pytest.mark.parametrize(
    ("word", "hold"), [("true", Hold.ALWAYS), ("false", Hold.NEVER), ("auto", Hold.AUTO), ("always", Hold.ALWAYS)]
)
def test_in_the_file_it_may_be_a_yes_or_no(word: str, hold: Hold) -> None:
    assert read_configuration(f"redirect: {{holdConnects: {word}}}\n", "x.yaml").redirect.hold is hold


REDIRECT = ("--capture", "redirect", "--tunnel-address", "198.18.0.2")
LISTENERS = ("--inbound", "198.18.0.2:8443=127.0.0.1:80", "--outbound", "127.0.0.1:1=198.18.0.9:9443")


def read_mtls(*arguments: str) -> Configuration:
    return parse_arguments(arguments, {"TOUCHMARK_JOIN_TOKEN": "x"})


def test_mtls_ports_are_lists_and_win_over_the_file(tmp_path: Path) -> None:
    read = read_mtls(*REDIRECT, "--mtls-ports", "8443, 9443,8443", "--mtls-destination-ports", "443")
    assert (read.mtls_ports, read.mtls_destination_ports) == ((8443, 9443), (443,))
    file = tmp_path / "x.yaml"
    file.write_text("mtls: {ports: [1], destinationPorts: [2]}")
    read = read_mtls(*REDIRECT, "--config", str(file), "--mtls-ports", "8443")
    assert (read.mtls_ports, read.mtls_destination_ports) == ((8443,), (2,))
    read = read_mtls(
        *LISTENERS, "--tunnel-address", "198.18.0.2", "--mtls-ports", "8443", "--mtls-destination-ports", "9443"
    )
    assert (read.mtls_ports, read.mtls_destination_ports) == ((8443,), (9443,))


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ((*REDIRECT, "--mtls-ports", ""), "port"),
        ((*REDIRECT, "--mtls-ports", "8443,"), "port"),
        ((*REDIRECT, "--mtls-ports", "x"), "port"),
        ((*REDIRECT, "--mtls-ports", ",".join(str(port) for port in range(1, 258))), "at most 256"),
        ((*REDIRECT, "--mtls-ports", "8443", "--exclude-port", "8443"), "excluded from capture"),
        ((*REDIRECT, "--mtls-destination-ports", "22", "--exclude-port", "22"), "excluded from capture"),
        ((*REDIRECT, "--mtls-ports", "15008"), "sidecar's own"),
        ((*REDIRECT, "--mtls-destination-ports", "15001"), "sidecar's own"),
        ((*LISTENERS, "--tunnel-address", "198.18.0.2", "--mtls-ports", "80"), "no inbound listener listens on it"),
        (
            (*LISTENERS, "--tunnel-address", "198.18.0.2", "--mtls-destination-ports", "1"),
            "no outbound listener leads to it",
        ),
    ],
)
def test_an_mtls_port_that_nobody_could_meet_is_refused(arguments: tuple[str, ...], what: str) -> None:
    with pytest.raises(InputError, match=what):
        read_mtls(*arguments)


def test_the_token_of_an_option_wins_over_the_environments_and_that_over_the_files(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("option\n")
    (tmp_path / "x.yaml").write_text("token: file")
    words = [*LISTENERS, "--tunnel-address", "198.18.0.2", "--config", str(tmp_path / "x.yaml")]
    environment = {"TOUCHMARK_JOIN_TOKEN": "environment"}
    assert parse_arguments([*words, "--token-file", str(tmp_path / "token")], environment).token == "option"
    assert parse_arguments(words, environment).token == "environment"
    assert parse_arguments(words, {"TOUCHMARK_JOIN_TOKEN": ""}).token == "file"


def test_what_the_downward_api_says_wins_over_the_file_and_loses_to_options(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("instance: by-file\ntunnel: {addresses: [198.18.0.1]}")
    read = parse_arguments([*IN_A_POD, "--config", str(file)], POD)
    assert (read.instance, read.tunnel_addresses) == ("web-5d4.01234567", ("198.18.0.7", "fd00::7"))
    read = parse_arguments([*IN_A_POD, "--config", str(file), "--instance", "by-option"], POD)
    assert (read.instance, read.is_named) == ("by-option", True)


def test_repeated_ports_and_addresses_count_once() -> None:
    read = read_mtls(*REDIRECT, "--tunnel-address", "::ffff:198.18.0.2", "--exclude-port", "22", "--exclude-port", "22")
    assert (read.tunnel_addresses, read.redirect.exclude_ports) == (("198.18.0.2",), (22,))


def test_each_setting_is_an_attribute_of_the_configuration() -> None:
    elsewhere = {"config", "service_account_token", "trust_file", "trust_domain"}
    for setting in SETTINGS:
        assert setting.options or setting.yaml or setting.environment
        if setting.name not in elsewhere:
            attrgetter(setting.name)(Configuration())


def test_nameservers_are_addresses_with_or_without_a_port_and_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text('dns: {nameservers: [198.18.0.53, "[2001:db8::53]:5353", "2001:db8::54"]}')
    read = read_mtls(*REDIRECT, "--config", str(file))
    assert read.nameservers == (("198.18.0.53", 53), ("2001:db8::53", 5353), ("2001:db8::54", 53))
    read = read_mtls(*REDIRECT, "--config", str(file), "--nameserver", "127.0.0.1:5353")
    assert read.nameservers == (("127.0.0.1", 5353),)
    with pytest.raises(InputError, match="at most 3"):
        read_mtls(*REDIRECT, *(f"--nameserver=198.18.0.{number}" for number in range(4)))
    with pytest.raises(InputError, match="not an IP address"):
        read_mtls(*REDIRECT, "--nameserver", "ns.example.com")
