"""What is watched while the sidecar runs: a shared socket ends its connection, other faults don't."""

from __future__ import annotations

import asyncio
import os
from typing import Any, cast

import pytest

from shared.model.policy.reasons import Reason
from shared.runtime.sinks import LineSink
from sidecar.attest.facts import AttestationError
from sidecar.events import Events
from sidecar.runtime.periodic import watch_holders
from tests.sidecar.little_ca import until


class Scene:
    """One connection, and an attestor that finds what it is told."""

    def __init__(self, reason: Reason) -> None:
        self.attestor = self.connections = self.parties = self
        self.attestation, self.id = object(), "c"
        self.reason, self.left = reason, [self]
        self.revoked: list[Reason] = []
        self.is_checked = False

    def next_unchecked(self) -> Scene | None:
        return self.left.pop() if self.left else None

    async def check_holders(self, attestation: object) -> None:
        self.is_checked = True
        raise AttestationError("found", reason=self.reason)

    def revoke(self, reason: Reason, detail: str) -> None:
        self.revoked.append(reason)


@pytest.mark.parametrize(
    ("found", "revoked"), [(Reason.SOCKET_SHARED, [Reason.SOCKET_SHARED]), (Reason.OVERLOADED, [])]
)
async def test_only_a_shared_socket_ends_a_connection(found: Reason, revoked: list[Reason]) -> None:
    null = os.open("/dev/null", os.O_WRONLY)
    sink, scene = LineSink(null), Scene(found)
    watching = asyncio.create_task(watch_holders(cast("Any", scene), Events(sink)))
    await until(lambda: scene.is_checked)
    assert not watching.done()
    watching.cancel()
    await asyncio.wait({watching})
    assert scene.revoked == revoked
    sink.close(timeout_s=1)
    os.close(null)
