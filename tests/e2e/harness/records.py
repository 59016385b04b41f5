"""Reads the decision records that a sidecar writes to its log: JSON Lines, strictly decoded."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from shared.model.policy.decision import Answer, DecisionRecord, Phase
from shared.model.policy.reasons import Reason
from tests.e2e.harness.proofs import witness

_WAIT_S = 150.0  # Bounds a failure alone.
_POLL_S = 0.02
_decoder = msgspec.json.Decoder(DecisionRecord, strict=True)


class Log:
    """One sidecar's decision log, read from where the last look ended."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def skip(self) -> None:
        """Begin at the log's present end."""
        self._offset = self._path.stat().st_size if self._path.exists() else 0

    def read(self) -> list[DecisionRecord]:
        """Read the complete lines since ``skip``."""
        return [record for record, _ in self._lines(self._offset)]

    def wait_for(
        self, accept: Callable[[DecisionRecord], bool], what: str, *, timeout_s: float = _WAIT_S
    ) -> DecisionRecord:
        """Wait for a record since ``skip`` that is accepted.

        Raises:
            AssertionError: none came in time; the message shows those that did.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            records = self.read()
            for record in records:
                if accept(record):
                    witness(record.reason)
                    return record
            if time.monotonic() >= deadline:
                shown = "\n".join(f"  {describe(record)}" for record in records[-20:]) or "  no record at all"
                raise AssertionError(f"no record of {what} in {self._path.name}; there are:\n{shown}")
            time.sleep(_POLL_S)

    def expect(
        self,
        answer: Answer,
        reason: Reason,
        *,
        port: int | None = None,
        would_deny: bool = False,
        phase: Phase | None = Phase.END,
        timeout_s: float = _WAIT_S,
    ) -> DecisionRecord:
        """Wait for the record of one decision.

        Arguments:
            phase: None accepts the start's or the end's, whichever comes first.
        """

        def accept(record: DecisionRecord) -> bool:
            return (
                (record.answer, record.reason, record.would_deny) == (answer, reason, would_deny)
                and (port is None or record.port == port)
                and (phase is None or record.phase is phase)
            )

        mark = " would_deny" if would_deny else ""
        where = "" if port is None else f" to port {port}"
        return self.wait_for(accept, f"{answer.value} {reason.value}{mark}{where}", timeout_s=timeout_s)

    def expect_denied(self, reason: Reason, *, port: int | None = None, timeout_s: float = _WAIT_S) -> DecisionRecord:
        """Wait for a refusal."""
        return self.expect(Answer.DENY, reason, port=port, timeout_s=timeout_s)

    def list_denied(self, port: int) -> list[str]:
        """Describe the refusals of connections to a port since ``skip``."""
        return [describe(each) for each in self.read() if each.port == port and each.answer is not Answer.ALLOW]

    def _lines(self, offset: int) -> Iterator[tuple[DecisionRecord, int]]:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                offset += len(line)
                yield _decoder.decode(line), offset


def expect_denied_on_either(logs: Sequence[Log], reason: Reason, *, port: int) -> DecisionRecord:
    """Wait for a refusal in one of several logs."""
    deadline = time.monotonic() + _WAIT_S
    while True:
        for log in logs:
            for record in log.read():
                if (record.answer, record.reason, record.port) == (Answer.DENY, reason, port):
                    witness(reason)
                    return record
        if time.monotonic() >= deadline:
            shown = "\n".join(f"  {describe(record)}" for log in logs for record in log.read()[-10:])
            raise AssertionError(f"no refusal {reason.value} to port {port}; there are:\n{shown}")
        time.sleep(_POLL_S)


def describe(record: DecisionRecord) -> str:
    """One line for an assertion's message."""
    return (
        f"{record.direction.value} {record.phase.value} {record.answer.value} {record.reason.value}"
        f"{' would_deny' if record.would_deny else ''} port {record.port} {record.transport.value}"
        f" {record.ending.value} {record.source.program[:15]}→{record.destination.program[:15]} {record.detail}"
    )
