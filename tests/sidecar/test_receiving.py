"""What the CA's messages do here: installs are acknowledged, a new stream is asked everything again."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from shared.model.messages import (
    BundleChanged,
    BundleInstalled,
    ConnectionsQuery,
    ConnectionsReport,
    NamespaceChanged,
    NamespaceInstalled,
    Reissue,
)
from shared.model.policy import NamespaceState
from sidecar.policies import Policies
from sidecar.receiving import Receiving
from sidecar.trust import Trust
from tests.sidecar.little_ca import LittleCA


class Parts:
    """A feed that keeps what is sent, and a store that keeps its orders."""

    def __init__(self) -> None:
        self.sent: list[object] = []
        self.spreads: list[float] = []
        self.roots: tuple[bytes, ...] = ()
        self.installed_sequence = 0

    def send(self, message: object) -> None:
        self.sent.append(message)

    def reissue(self, spread_s: float) -> None:
        self.spreads.append(spread_s)


def test_each_message_reaches_its_part_and_installs_are_acknowledged() -> None:
    parts, bundle = Parts(), LittleCA().bundle
    anything = cast("Any", parts)
    policies = Policies(NamespaceState(namespace="shop"), send=anything.send, timeout_s=1)
    receiving = Receiving(
        feed=anything, trust=Trust(bundle), policies=policies, directory=anything, credentials=anything,
        recorder=anything, list_connections=lambda limit: ((), limit == 5),
    )  # fmt: skip
    receiving.receive(BundleChanged(bundle=msgspec.structs.replace(bundle, sequence=2)))
    receiving.receive(NamespaceChanged(state=NamespaceState(namespace="shop", version=3)))
    receiving.receive(ConnectionsQuery(request=1, limit=5))
    receiving.receive(Reissue(spread_s=-1))
    assert parts.sent == [
        BundleInstalled(sequence=2),
        NamespaceInstalled(namespace="shop", version=3),
        ConnectionsReport(request=1, connections=(), truncated=True),
    ]
    assert (parts.installed_sequence, parts.spreads, policies.own.state.version) == (2, [0.0], 3)
