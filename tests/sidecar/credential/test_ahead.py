"""Listening programs get their credential ahead of the first peer."""

from __future__ import annotations

import os

from shared.model.identity.program import Program
from shared.model.policy.reasons import Reason
from shared.model.wire.messages import ProgramEvidence
from shared.runtime.sinks import LineSink
from sidecar.attest.facts import Attestation, AttestationError, Execution, ProcessFacts
from sidecar.credential.ahead import AheadOfPeers
from sidecar.credential.credential import Credential
from sidecar.events import Events

PROGRAM = Program(digest="a" * 64)


class Both:
    """An attestor that knows port 1 alone, and a store that never has anything yet."""

    def __init__(self) -> None:
        self.asked: list[Program] = []

    def attest_listener_now(self, address: str, port: int) -> Attestation | None:
        if port != 1:
            raise AttestationError("nobody", reason=Reason.NO_LISTENER)
        process = ProcessFacts(pid=1, start_time=1, uid=0, path="/x")
        return Attestation(
            program=PROGRAM, process=process, inode=1, cookie=1, execution=Execution(1, 1, 0, 0, 0, 0, 0)
        )

    async def attest_listener(self, address: str, port: int) -> Attestation:
        raise AssertionError

    async def describe(self, attestation: Attestation) -> ProgramEvidence:
        return ProgramEvidence(path=attestation.process.path)

    def get(self, program: Program) -> Credential | None:
        return None

    async def obtain(self, program: Program, evidence: ProgramEvidence) -> Credential:
        self.asked.append(program)
        raise AttestationError("no credential today", reason=Reason.CA_UNAVAILABLE)


async def test_each_listener_is_asked_for_and_a_fault_is_told_once() -> None:
    reading, writing = os.pipe()
    sink, both = LineSink(writing), Both()
    ahead = AheadOfPeers(
        attestor=both,
        credentials=both,
        events=Events(sink),
        list_applications=lambda: [("127.0.0.1", 2), ("127.0.0.1", 1)],
        describe=both.describe,
    )
    await ahead.look()
    await ahead.look()
    assert both.asked == [PROGRAM, PROGRAM]
    sink.close(timeout_s=30)
    os.close(writing)
    with os.fdopen(reading) as file:
        assert file.read().count("listener_without_credential") == 2
