"""What the CA's messages do here: installs are acknowledged, a new stream is asked everything again."""

from __future__ import annotations

import time
from typing import Any, cast

import msgspec
import pytest

from shared.model.errors import ProtocolError
from shared.model.identity.identity import Identity, IdentityKind, Workload, parse_workload
from shared.model.policy.rules import NamespaceState
from shared.model.trust.certificate import BundleVerifier
from shared.model.wire.messages import (
    BundleChanged,
    BundleInstalled,
    ConnectionsQuery,
    ConnectionsReport,
    ForeignTrustChanged,
    Lookup,
    NamespaceChanged,
    NamespaceInstalled,
    Reissue,
    Welcome,
)
from sidecar.control.dispatch import Dispatch
from sidecar.credential.credential import Credential, CredentialError, KeyRequest, accept_chain, make_key_request
from sidecar.mesh.foreign_trust import ForeignRoots
from sidecar.mesh.policies import Policies
from sidecar.mesh.trust import Trust
from tests.sidecar.little_ca import TRUST_DOMAIN, LittleCA
from tests.sidecar.partner import Partner

WEB = Workload(namespace="shop", service_account="web")


class Parts:
    """A feed that keeps what is sent, and a store that keeps its orders."""

    def __init__(self) -> None:
        self.sent: list[object] = []
        self.spreads: list[float] = []
        self.own: Credential | None = None
        self.reconnects = 0

    def send(self, message: object) -> None:
        self.sent.append(message)

    async def ask(self, message: object) -> None:
        self.sent.append(message)

    def check_own(self, request: KeyRequest, chain: tuple[bytes, ...], verifier: BundleVerifier) -> Credential:
        return accept_chain(request, chain, verifier=verifier, generation=2, now=time.time())

    def begin_again(self, own: Credential) -> None:
        self.own = own

    def confirm_all(self) -> None:
        self.send(Lookup(address="198.18.0.1"))

    def reconnect(self) -> None:
        self.reconnects += 1

    def reissue(self, spread_s: float) -> None:
        self.spreads.append(spread_s)


def test_each_message_reaches_its_part_and_installs_are_acknowledged() -> None:
    parts, bundle = Parts(), LittleCA().bundle
    trust = Trust(bundle)
    anything = cast("Any", parts)
    policies = Policies(
        NamespaceState(namespace="shop"),
        workload=WEB,
        ask=anything.ask,
        timeout_s=30,
    )
    dispatch = Dispatch(
        uplink=anything, trust=trust, foreign=ForeignRoots(), policies=policies, directory=anything,
        credentials=anything, recorder=anything, list_connections=lambda limit: ((), limit == 5),
    )  # fmt: skip
    dispatch.receive(BundleChanged(bundle=msgspec.structs.replace(bundle, sequence=2)))
    dispatch.receive(NamespaceChanged(state=NamespaceState(namespace="shop", version=3)))
    dispatch.receive(ConnectionsQuery(request=1, limit=5))
    dispatch.receive(Reissue(spread_s=-1))
    assert parts.sent == [
        BundleInstalled(sequence=2),
        NamespaceInstalled(namespace="shop", version=3),
        ConnectionsReport(request=1, connections=(), truncated=True),
    ]
    assert (trust.sequence, parts.spreads, policies.own.state.version) == (2, [0.0], 3)


def test_a_repeated_enrolments_welcome_stands_in_for_everything_before() -> None:
    before, after, parts = LittleCA(), LittleCA(), Parts()
    before.sequence = 7
    anything = cast("Any", parts)
    policies = Policies(
        NamespaceState(namespace="shop"),
        workload=WEB,
        ask=anything.ask,
        timeout_s=30,
    )
    trust = Trust(before.bundle)
    dispatch = Dispatch(
        uplink=anything, trust=trust, foreign=ForeignRoots(), policies=policies, directory=anything,
        credentials=anything, recorder=anything, list_connections=lambda limit: ((), limit == 5),
    )  # fmt: skip
    request = make_key_request()
    own = Identity(trust_domain=TRUST_DOMAIN, workload=parse_workload("shop/web"), kind=IdentityKind.SIDECAR)
    welcome = Welcome(
        trust_domain=TRUST_DOMAIN, namespace="shop", service_account="web", chain=before.issue(request.csr, own),
        bundle=after.bundle, state=NamespaceState(namespace="shop", version=2),
    )  # fmt: skip
    with pytest.raises(CredentialError):
        dispatch.join_again(welcome, request)
    assert (trust.bundle, parts.sent) == (before.bundle, [])
    welcome = msgspec.structs.replace(welcome, chain=after.issue(request.csr, own))
    dispatch.join_again(welcome, request)
    assert parts.own is not None
    assert parts.own.identity == own
    assert parts.sent == [
        BundleInstalled(sequence=1),
        NamespaceInstalled(namespace="shop", version=2),
        Lookup(address="198.18.0.1"),
    ]
    assert (trust.roots, trust.sequence, parts.reconnects) == ((after.root.der,), 1, 1)


def test_other_trust_domains_are_those_that_a_welcome_or_a_push_names_and_an_old_ca_takes_none_away() -> None:
    parts, ca = Parts(), LittleCA()
    anything = cast("Any", parts)
    roots = ForeignRoots()
    dispatch = Dispatch(
        uplink=anything, trust=Trust(ca.bundle), foreign=roots, directory=anything, credentials=anything,
        policies=Policies(NamespaceState(namespace="shop"), workload=WEB, ask=anything.ask, timeout_s=30),
        recorder=anything, list_connections=lambda limit: ((), False),
    )  # fmt: skip
    partner, other = Partner().roots, Partner(domain="other.example").roots
    welcome = Welcome(
        trust_domain=TRUST_DOMAIN, namespace="shop", service_account="web", chain=(), bundle=ca.bundle,
        state=NamespaceState(namespace="shop"), foreign=(partner,), ca_version="0.2.0",
    )  # fmt: skip
    dispatch.acknowledge(welcome)
    assert roots.roots == partner.roots
    dispatch.receive(ForeignTrustChanged(domains=(partner, other)))
    assert roots.roots == (*partner.roots, *other.roots)
    with pytest.raises(ProtocolError, match=TRUST_DOMAIN):
        dispatch.receive(ForeignTrustChanged(domains=(msgspec.structs.replace(other, trust_domain=TRUST_DOMAIN),)))
    dispatch.resume(msgspec.structs.replace(welcome, foreign=(), ca_version=""))
    assert roots.get("partner.example") is not None
    dispatch.resume(msgspec.structs.replace(welcome, foreign=()))
    assert roots.roots == ()
