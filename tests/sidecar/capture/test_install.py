"""The init container's one command: with real nft in a namespace of its own, and each fault in one line."""

from __future__ import annotations

import ipaddress
import subprocess
import sys

import pytest

from shared.model.errors import InputError
from sidecar.capture.install import MAX_EXCLUSIONS, main, read_rules

COMMAND = [sys.executable, "-m", "sidecar.capture.install"]
# What the container has: root, NET_ADMIN and nothing else.
AS_INIT_CONTAINER = ["setpriv", "--bounding-set=-all,+net_admin", "--inh-caps=-all", "--no-new-privs"]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_defaults_are_those_that_injection_counts_on() -> None:
    rules = read_rules([])
    assert (rules.outbound_port, rules.inbound_port, rules.tunnel_port, rules.health_port, rules.uid) == (
        15001, 15006, 15008, 15020, 1337,
    )  # fmt: skip
    assert not rules.exclude_ports


def test_what_waits_is_wanted_by_name() -> None:
    assert not read_rules([]).holds_connects
    rules = read_rules(["--hold-connects", "--hold-port", "514,601"])
    assert (rules.holds_connects, rules.hold_ports) == (True, (514, 601))


def test_exclusions_may_be_repeated_or_listed() -> None:
    rules = read_rules(
        ["--exclude-inbound-port", "1", "--exclude-inbound-port", "2", "--exclude-outbound-ports", "3,4",
         "--exclude-outbound-cidr", "10.0.0.0/8", "--exclude-outbound-cidr", "fd00::/8", "--uid", "7"]
    )  # fmt: skip
    assert (rules.exclude_inbound_ports, rules.exclude_outbound_ports, rules.uid) == ((1, 2), (3, 4), 7)
    assert rules.exclude_outbound_networks == (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--exclude-port", "1"],
        ["--exclude-inbound-port", "0"],
        ["--exclude-outbound-port", "80; flush ruleset"],
        ["--exclude-outbound-cidr", "10.0.0.1/8"],
        ["--uid", "0"],
        ["--health-port", "15008"],
        ["--hold-port", "514"],
        ["--exclude-inbound-port", "1"] * (MAX_EXCLUSIONS + 1),
    ],
)
def test_what_is_wrong_is_the_users_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError):
        read_rules(arguments)
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1


@pytest.mark.needs_root
def test_with_net_admin_alone_the_table_is_installed_once_however_often_for_both_families() -> None:
    install = [*AS_INIT_CONTAINER, *COMMAND, "--exclude-outbound-cidr", "10.0.0.0/8", "--exclude-inbound-port", "9090"]
    shell = f"{' '.join(install)} && {' '.join(install)} && nft list ruleset"
    done = run("unshare", "--net", "sh", "-c", shell)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("table inet touchmark") == 1
    assert done.stdout.count("redirect to :15006") == 1
    assert "ip daddr 10.0.0.0/8 return" in done.stdout
    assert "tcp dport 9090 return" in done.stdout
    assert "tcp dport 15020 return" in done.stdout
    assert done.stderr == "the redirect is installed\n" * 2


@pytest.mark.needs_root
@pytest.mark.parametrize(
    ("prefix", "says"),
    [
        ([], "refused in the host's network namespace"),
        (["unshare", "--net", "setpriv", "--bounding-set=-all"], "it needs NET_ADMIN"),
        (["unshare", "--net", "setpriv", "--reuid=1337", "--clear-groups"], "installed by root"),
        (["unshare", "--net", "env", "PATH=/nonexistent"], "`nft` is missing"),
    ],
)
def test_a_fault_is_one_line(prefix: list[str], says: str) -> None:
    done = run(*prefix, *COMMAND)
    assert done.returncode == 8
    assert done.stderr.startswith("error: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
