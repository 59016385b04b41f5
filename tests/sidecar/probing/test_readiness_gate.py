"""Readiness is withheld in explicit mode while the listening program isn't approved, until it has been ready once."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from shared.model.identity.program import Program
from shared.model.kubernetes.contract import ProbeTarget
from shared.model.policy.decision import Answer, Transport
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Mode
from sidecar.probing.life import Life
from sidecar.probing.outcome import Outcome
from sidecar.probing.readiness_gate import ReadinessGate
from tests.sidecar.pair import CLIENT, CLIENT_PROGRAM, SERVER, SERVER_PROGRAM, Pair, approve, running_pair

READY, DOWN = Outcome(status=200, body=b"fine"), Outcome(status=503, body=b"down")
NEXT = Program(digest="c" * 64)
NOT_APPROVED = approve((CLIENT, CLIENT_PROGRAM), mode=Mode.EXPLICIT)
APPROVED = approve((CLIENT, CLIENT_PROGRAM), (SERVER, SERVER_PROGRAM), mode=Mode.EXPLICIT)


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


class Probed:
    """A server's sidecar that is asked for a probe of its application."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.life = Life()
        self.gate = ReadinessGate(self.life)
        self.life.begin_serving(pair.server.sidecar, has_expired=lambda: False)

    async def ask(self, outcome: Outcome = READY, kind: str = "readiness") -> Outcome:
        address, port = self.pair.application
        target = ProbeTarget(container="app", kind=kind, handler="tcp", port=port)
        return await self.gate.judge(target, address, outcome)


async def test_an_unapproved_listener_is_not_ready_and_one_record_says_what_to_approve() -> None:
    async with running_pair(_serve) as pair:
        probed = Probed(pair)
        pair.set_state(NOT_APPROVED)
        for _ in range(3):
            outcome = await probed.ask()
            assert (outcome.status, outcome.is_success) == (503, False)
            assert outcome.body == b"readiness is withheld: listener_not_approved\n"
        [record] = pair.server.records
        assert (record.answer, record.reason) == (Answer.DENY, Reason.LISTENER_NOT_APPROVED)
        assert (record.source.address, record.source.workload) == ("", "")
        assert record.destination.workload == "shop/db"
        assert record.destination.program == f"sha256:{'b' * 64}"
        assert not record.destination.approved
        assert (record.process.path, record.transport) == ("/usr/bin/it", Transport.NONE)
        assert record.detail.endswith(f"touchmark program approve shop/db sha256:{'b' * 64}")
        pair.set_state(msgspec.structs.replace(NOT_APPROVED, version=2))
        await probed.ask()
        assert len(pair.server.records) == 2  # Under another version of the policy it is said again.


async def test_it_is_ready_from_its_approval_on_and_stays_so_when_that_is_withdrawn() -> None:
    async with running_pair(_serve) as pair:
        probed = Probed(pair)
        pair.set_state(NOT_APPROVED)
        assert not (await probed.ask()).is_success
        pair.set_state(APPROVED)
        assert await probed.ask() == READY
        pair.set_state(NOT_APPROVED)
        assert await probed.ask() == READY
        pair.server.attestor.program = None  # It can't be looked at for a moment.
        assert await probed.ask() == READY
        pair.server.attestor.program = NEXT
        assert not (await probed.ask()).is_success  # Another program has taken its place.


async def test_permissive_withholds_nothing_and_what_was_ready_there_stays_ready_in_explicit() -> None:
    async with running_pair(_serve) as pair:
        probed = Probed(pair)
        pair.set_state(msgspec.structs.replace(NOT_APPROVED, mode=Mode.PERMISSIVE))
        assert await probed.ask() == READY
        pair.set_state(NOT_APPROVED)
        assert await probed.ask() == READY
        assert pair.server.records == []


async def test_a_listener_that_cannot_be_attested_is_not_ready_either() -> None:
    async with running_pair(_serve) as pair:
        probed = Probed(pair)
        pair.set_state(APPROVED)
        pair.server.attestor.program, pair.server.attestor.reason = None, Reason.SOCKET_SHARED
        assert (await probed.ask()).body == b"readiness is withheld: socket_shared\n"
        [record] = pair.server.records
        assert record.reason is Reason.SOCKET_SHARED
        assert record.detail == "readiness is withheld: socket_shared: ordered by the test"


@pytest.mark.parametrize("kind", ["liveness", "startup", "post-start", "pre-stop"])
async def test_only_readiness_is_withheld(kind: str) -> None:
    """A liveness or start-up probe that failed would restart the container over and over."""
    async with running_pair(_serve) as pair:
        probed = Probed(pair)
        pair.set_state(NOT_APPROVED)
        assert await probed.ask(kind=kind) == READY
        assert await probed.ask(DOWN) == DOWN  # What failed needs no further reason.
        assert pair.server.records == []


async def test_nothing_is_withheld_before_it_has_joined_or_while_it_drains() -> None:
    async with running_pair(_serve) as pair:
        probed = Probed(pair)
        pair.set_state(NOT_APPROVED)
        target = ProbeTarget(container="app", kind="readiness", handler="tcp", port=pair.application[1])
        assert await ReadinessGate(Life()).judge(target, pair.application[0], READY) == READY
        assert not (await probed.ask()).is_success
        probed.life.begin_draining()
        assert await probed.ask() == READY
