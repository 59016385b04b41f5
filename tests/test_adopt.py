"""docs/how-to/adopt.md works as written: its commands, typed at a real CA to which three sidecars report.

The sidecars are the other end of the CA's stream alone: what they report is what the demonstration's would. The
tutorial's test has real sidecars, the node's tests the demonstration in a cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shlex
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from cli.main import run
from shared.model.identity.program import Program
from shared.model.policy.decision import Answer, DecisionRecord, Ending, PartyRecord, ProcessRecord
from shared.model.policy.documents import MeshPolicyDocument, parse_documents
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction, Mode, Rule
from shared.model.wire.messages import Decisions, DecisionsStored, NamespaceChanged, NamespaceInstalled, decode_from_ca
from tests.ca.running import DEADLINE_S, FakeSidecar, make_decision, running_ca

PAGE = (Path(__file__).parents[1] / "docs/how-to/adopt.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"(?m)^\$ touchmark (.*?)(?: +#.*)?$", PAGE)
FIVE = re.findall(r"(?m)^\$ touchmark (.*?)(?: +#.*)?$", PAGE.partition("## With a way back")[0])
KUBERNETES = (Path(__file__).parents[1] / "docs/how-to/kubernetes.md").read_text(encoding="utf-8")
(BY_HAND,) = (each for each in re.findall(r"```yaml\n(.*?)```", KUBERNETES, re.DOTALL) if "MeshPolicy" in each)
CLIENT, WEB, DB = "demo-client/client", "demo/web", "demo/db"
PATHS = {CLIENT: "/usr/bin/curl", WEB: "/usr/sbin/nginx", DB: "/usr/lib/postgresql/bin/postgres"}
PROGRAMS = {workload: Program(digest=digit * 64) for workload, digit in zip(PATHS, "abc", strict=True)}


def read_rules(text: str) -> list[Rule]:
    """Return the rules of a file, whatever they are called."""
    policies = [each for each in parse_documents(text) if isinstance(each, MeshPolicyDocument)]
    return [msgspec.structs.replace(rule, name="rule") for each in policies for rule in each.rules]


def see(workload: str, time: float) -> list[DecisionRecord]:
    """Return what a workload's sidecar reports: the client asks the web application, and that the database."""
    records = []
    for source, destination, port in ((CLIENT, WEB, 8080), (WEB, DB, 5432)):
        if workload in (source, destination):
            ends = [
                PartyRecord(address=f"198.18.0.{number}:{port}", workload=each, program=str(PROGRAMS[each]))
                for number, each in enumerate((source, destination), start=2)
            ]
            records.append(
                make_decision(
                    f"{source}-{port}",
                    time=time,
                    direction=Direction.EGRESS if workload == source else Direction.INGRESS,
                    answer=Answer.ALLOW,
                    would_deny=True,
                    reason=Reason.PROGRAM_NOT_APPROVED,
                    mode=Mode.PERMISSIVE,
                    source=ends[0],
                    destination=ends[1],
                    port=port,
                    process=ProcessRecord(path=PATHS[workload], digest=PROGRAMS[workload].digest),
                    ending=Ending.FINISHED,
                )
            )
    return records


async def serve(directory: Path, is_ready: threading.Event, is_over: threading.Event) -> None:
    async with running_ca(directory) as services, contextlib.AsyncExitStack() as stack:
        tasks = []
        for workload in PATHS:
            sidecar = await stack.enter_async_context(FakeSidecar(services))
            await sidecar.enrol(workload.partition("/")[2], workload=workload)
            await sidecar.send(Decisions(batch=1, records=tuple(see(workload, services.clock()))))
            await sidecar.expect(DecisionsStored)
            tasks.append(asyncio.create_task(install(sidecar)))
        is_ready.set()
        await asyncio.to_thread(is_over.wait)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def install(sidecar: FakeSidecar) -> None:
    """Confirm each state that the CA sends, as a sidecar does once it is in force."""
    async for data in sidecar.stream:
        assert isinstance(data, bytes)
        message = decode_from_ca(data)
        if isinstance(message, NamespaceChanged):
            await sidecar.send(NamespaceInstalled(namespace=message.state.namespace, version=message.state.version))


@pytest.fixture
def demonstration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    is_ready, is_over = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(serve(tmp_path, is_ready, is_over)))
    thread.start()
    try:
        assert is_ready.wait(2.0 * DEADLINE_S)
        monkeypatch.setenv("TOUCHMARK_ADMIN_SOCKET", str(tmp_path / "admin.sock"))
        monkeypatch.delenv("TOUCHMARK_KUBERNETES", raising=False)
        monkeypatch.chdir(tmp_path)
        yield
    finally:
        is_over.set()
        thread.join()


@pytest.mark.usefixtures("demonstration")
def test_the_page_takes_the_demonstration_to_explicit_mode(capsys: pytest.CaptureFixture[str]) -> None:
    told: list[tuple[str, int, str]] = []
    for command in COMMANDS:
        words, _, file = command.partition(" > ")
        asked = ["--yes"] if "--from-decisions" in words else []  # Not a terminal.
        code = run([*shlex.split(words), *asked])
        printed = capsys.readouterr()
        if file:
            Path(file).write_text(printed.out, encoding="utf-8")
        told.append((command, code, printed.out + printed.err))
    said = "\n".join(f"{command}: {code}\n{text}" for command, code, text in told)
    assert [code for _, code, _ in told] == [3] + [0] * (len(COMMANDS) - 1), said
    assert "demo: BLOCKED" in told[0][2]
    assert "add to spec.rules of MeshPolicy demo/default" in told[0][2]
    texts = {command: text for command, _, text in told}
    assert texts[FIVE[1]].count("approved for ") == 3
    suggested, by_hand = (read_rules(text) for text in (Path("demo.yaml").read_text(encoding="utf-8"), BY_HAND))
    assert suggested == by_hand, "docs/how-to/kubernetes.md writes the same rule by hand"
    assert "demo is explicit" in texts[FIVE[4]]
    assert "demo-client: READY" in said
    assert "the CA goes back to permissive at" in texts["mode demo-client explicit --for 10m"]
    assert "goes back" not in texts["mode demo-client confirm"]
    assert "mode permissive → explicit" in texts["mode demo-client history"]


def test_five_commands_are_five() -> None:
    assert [command.split()[0] for command in FIVE] == ["ready", "program", "policy", "policy", "mode"]
