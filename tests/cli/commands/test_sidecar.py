"""``sidecar run`` hands its options on, and checks files first; the other verbs ask a running sidecar."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from cli.commands.sidecar import complete_instance, complete_level
from cli.machine import component
from cli.main import run
from cli.text.exit_codes import ExitCode
from shared.model.wire.messages import DirectoryEntry, LiveConnection
from shared.model.wire.sidecar_admin import (
    SOCKET_PREFIX,
    Answer,
    Bound,
    Dump,
    Failure,
    HeldCredential,
    Level,
    NamespaceInForce,
    SidecarConnections,
    encode_line,
)


def test_options_are_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(component, "become_component", lambda name, arguments: became.append((name, list(arguments))))
    file = tmp_path / "sidecar.yaml"
    file.touch()
    assert run(["sidecar", "run", "-c", str(file), "--instance", "web-1"]) == ExitCode.SUCCESS
    assert became == [("sidecar", ["--config", str(file), "--instance", "web-1"])]
    assert run(["sidecar", "run", "--state-directory", "/state", "--instance", "web-1"]) == ExitCode.SUCCESS
    assert became[1:] == [("sidecar", ["--state-directory", "/state", "--instance", "web-1"])]


ENTRY = DirectoryEntry(address="198.18.0.2", namespace="shop", service_account="db", tunnel_port=15008)
DUMP = Dump(
    instance="web-1", version="9", pid=7, stage="serving", log_level="info", ca_connected=True, ca_version="9",
    ca_fault="", workload="shop/web", trust_domain="td", bundle_sequence=3, connections=1, idle_tunnels=2,
    bounds=(Bound(name="outbound", used=1, limit=4096),),
    namespaces=(NamespaceInForce(namespace="shop", version=4, mode="explicit", rules=2, approvals=5),),
    credentials=(HeldCredential(identity="spiffe://td/ns/shop/sa/web/sidecar", not_after=2e9, issuer="issuer 1"),),
    directory=(ENTRY, DirectoryEntry(address="203.0.113.1\x1b[31m")), directory_size=9,
    renewal_kept_in="/state", renewal_grace_s=604_800,
)  # fmt: skip
LIVE = LiveConnection(
    connection="c", tunnel="t", direction="egress", source="127.0.0.1:1", destination="198.18.0.2:5432",
    source_workload="shop/web", destination_workload="shop/db", source_program="sha256:" + "a" * 64,
    destination_program="", transport="tunnel", would_deny=False, reason="same_group", since=1.0, bytes_sent=1,
    bytes_received=2, process="7 /usr/bin/curl",
)  # fmt: skip


@contextmanager
def a_sidecar(instance: str, answer: Answer) -> Iterator[list[bytes]]:
    """Something that answers every question in the same way."""
    asked: list[bytes] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"\0{SOCKET_PREFIX}{instance}")
    listener.listen()

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                asked.append(connection.recv(65536))
                connection.sendall(encode_line(answer))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield asked
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


NAME = f"cli-{os.getpid()}"


def test_a_dump_is_tables_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    with a_sidecar(NAME, DUMP) as asked:
        assert run(["sidecar", "dump", "--instance", NAME, "--limit", "2"]) == ExitCode.SUCCESS
        shown = capsys.readouterr().out
        assert run(["sidecar", "dump", "--instance", NAME, "--json"]) == ExitCode.SUCCESS
        assert json.loads(capsys.readouterr().out)["namespaces"][0]["mode"] == "explicit"
        assert NAME in complete_instance(NAME[:5])
    assert json.loads(asked[0]) == {"type": "dump", "limit": 2}
    for word in (
        "serving",
        "shop/web",
        "/state",
        "4096",
        "explicit",
        "spiffe://td/ns/shop/sa/web/sidecar",
        "shop/db",
        "7 more",
    ):
        assert word in shown
    assert "\x1b" not in shown, "what the CA sent is escaped"


def test_a_certificate_that_has_ended_is_called_so(capsys: pytest.CaptureFixture[str]) -> None:
    held = msgspec.structs.replace(DUMP.credentials[0], not_after=time.time() - 120)
    with a_sidecar(NAME, msgspec.structs.replace(DUMP, credentials=(held,))):
        assert run(["sidecar", "dump", "--instance", NAME]) == ExitCode.SUCCESS
    shown = capsys.readouterr().out
    assert "ended" in shown and "-2 min" not in shown


def test_a_renewal_key_counts_for_sure_only_while_the_ca_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    for is_connected in (True, False):
        dump = msgspec.structs.replace(DUMP, ca_connected=is_connected, ca_fault="" if is_connected else "evicted")
        with a_sidecar(NAME, dump):
            assert run(["sidecar", "dump", "--instance", NAME]) == ExitCode.SUCCESS
        assert ("if the CA still takes it" in capsys.readouterr().out) is not is_connected


def test_connections_are_a_table_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    with a_sidecar(NAME, SidecarConnections(instance=NAME, connections=(LIVE,), truncated=True)):
        assert run(["sidecar", "connections", "--instance", NAME]) == ExitCode.SUCCESS
        printed = capsys.readouterr()
        assert run(["sidecar", "connections", "--instance", NAME, "--json"]) == ExitCode.SUCCESS
        assert json.loads(capsys.readouterr().out)["connections"][0]["transport"] == "tunnel"
    assert "/usr/bin/curl" in printed.out
    assert "--limit" in printed.err


def test_the_log_level_is_shown_and_set(capsys: pytest.CaptureFixture[str]) -> None:
    with a_sidecar(NAME, Level(instance=NAME, level="warning")) as asked:
        assert run(["sidecar", "log-level", "warning", "--instance", NAME]) == ExitCode.SUCCESS
        assert capsys.readouterr().out == f"{NAME}: warning\n"
        assert run(["sidecar", "log-level", "--instance", NAME, "--json"]) == ExitCode.SUCCESS
    assert [json.loads(each).get("level") for each in asked] == ["warning", ""]
    assert complete_level("w") == ["warning"]


def test_what_goes_wrong_has_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sidecar", "dump", "--instance", "nobody"]) == ExitCode.NOT_FOUND
    with a_sidecar(NAME, Failure(message="only root may ask")):
        assert run(["sidecar", "dump", "--instance", NAME]) == ExitCode.REFUSED
        assert "only root may ask" in capsys.readouterr().err
    with a_sidecar(NAME, Level(instance=NAME, level="info")):
        assert run(["sidecar", "dump", "--instance", NAME]) == ExitCode.UNAVAILABLE
