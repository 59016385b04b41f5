"""A go-spiffe program as a foreign peer, in both directions. `make test-peers` builds and runs it; needs Go."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from shared.model.policy.decision import Answer, Ending, Transport
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Action, Direction, Peer, Rule
from tests.e2e.harness.mesh import wait_until
from tests.e2e.harness.pods import end
from tests.e2e.harness.till import DIALLED, SERVED, Till
from tests.sidecar.partner import BILLING

pytestmark = [pytest.mark.needs_root, pytest.mark.peers]

SOURCE = Path(__file__).parent / "peers"
LET_IN = Rule(name="partner-in", action=Action.ALLOW, peers=(Peer(spiffe_id=BILLING),))
LET_OUT = Rule(name="partner-out", action=Action.ALLOW, direction=Direction.EGRESS, peers=(Peer(spiffe_id=BILLING),))


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built program."""
    path = tmp_path_factory.mktemp("go") / "peer"
    subprocess.run(["go", "build", "-o", str(path), "."], cwd=SOURCE, check=True, timeout=600)
    return path


def _command(peer: Path, till: Till, verb: str, address: str, *, expected: str = "") -> Sequence[str]:
    ours = f"spiffe://touchmark.local/ns/shop/sa/till/sha256/{expected or till.program.digest}"
    return [str(peer), verb, address, ours, str(till.chain), str(till.key), str(till.mesh_roots), "touchmark.local"]


def _dial(peer: Path, till: Till, *, expected: str = "") -> tuple[str, str]:
    command = _command(peer, till, "dial", f"{till.address}:{SERVED}", expected=expected)
    client = till.mesh.outsider.start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        return client.communicate("bread", timeout=60)
    finally:
        end(client)


def test_it_reaches_the_program_and_goes_by_the_hash_in_its_id(till: Till, peer: Path) -> None:
    till.be_explicit()
    assert _dial(peer, till)[0] == ""
    till.sidecar.log.expect_denied(Reason.FOREIGN_NOT_ALLOWED, port=SERVED)
    till.be_explicit(LET_IN)
    assert _dial(peer, till) == ("bread", "")
    record = till.sidecar.log.expect(Answer.ALLOW, Reason.ALLOW_RULE, port=SERVED)
    assert (record.source.identity, record.transport, record.ending) == (BILLING, Transport.MTLS, Ending.FINISHED)
    said, fault = _dial(peer, till, expected="0" * 64)
    assert (said, "unexpected ID" in fault) == ("", True), fault


def test_the_program_reaches_it(till: Till, peer: Path) -> None:
    outsider = till.mesh.outsider
    command = _command(peer, till, "serve", f"0.0.0.0:{DIALLED}")
    server = outsider.start(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: f":{DIALLED} " in outsider.run("ss", "-Hltn").stdout, "the go-spiffe server")
        till.be_explicit(LET_OUT)
        buyer = till.mesh.run(till.program, till.sidecar.pod)
        assert buyer.do("exchange", outsider.address, DIALLED, "bread") == "got bread<end>"
        record = till.sidecar.log.expect(Answer.ALLOW, Reason.ALLOW_RULE, port=DIALLED)
    finally:
        end(server)
    assert (record.destination.identity, record.transport, record.ending) == (
        BILLING, Transport.MTLS, Ending.FINISHED,
    )  # fmt: skip
