"""The parts know of each other what they must: changes reach live connections; own ports are no destinations."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest

from shared.model.identity.identity import Identity, IdentityKind
from shared.model.policy.rules import NamespaceState
from shared.model.trust.join_token import parse_join_token
from shared.model.wire.messages import BundleChanged, ForeignTrustChanged, NamespaceChanged, Registration, Welcome
from shared.runtime.sinks import LineSink
from sidecar.connection.registry import LiveConnections
from sidecar.control.joining import ByJoinToken
from sidecar.control.opening import Opener
from sidecar.control.uplink import Uplink
from sidecar.credential.credential import accept_chain, make_key_request
from sidecar.events import Events
from sidecar.mesh.trust import Trust
from sidecar.parts import Limits
from sidecar.runtime.compose import Joined, compose
from sidecar.runtime.prepare import Prepared
from sidecar.settings.configuration import TOKEN_VARIABLE
from sidecar.settings.settings import parse_arguments
from tests.sidecar.little_ca import TRUST_DOMAIN, LittleCA, until
from tests.sidecar.partner import Partner
from tests.sidecar.runtime.whole_sidecar import open_socket_in, run_client, sidecar, two_namespaces


@pytest.mark.needs_root
async def test_nothing_gets_in_by_the_redirects_own_ports() -> None:
    """15006 listens on every address: whoever dials it, or 14970 to 15001, directly is refused, in v4 and v6."""
    hits = [
        (side, address, port)
        for side, address in [
            ("outside", "198.18.0.2"), ("outside", "fd00:18::2"), ("inside", "198.18.0.2"), ("inside", "fd00:18::2"),
            ("inside", "127.0.0.1"), ("inside", "::1"),
        ]
        for port in (14970, 15001, 15006)
    ]  # fmt: skip
    with two_namespaces() as (left, right):
        here = LittleCA(host="198.18.0.1", port=15443, open_socket=lambda: open_socket_in(left))
        async with (
            here.serving() as ca,
            sidecar(
                ca.make_token("shop/db"), "--capture", "redirect", "--exclude-port", "15443",
                "--tunnel-address", "198.18.0.2", "--tunnel-address", "fd00:18::2", namespace=right,
            ) as running,
        ):  # fmt: skip
            await running.wait_ready()
            answers = await asyncio.gather(
                *(
                    run_client(port, "x", address=address, namespace=left if side == "outside" else right)
                    for side, address, port in hits
                )
            )
            assert answers == [""] * len(hits)
            # 15001 listens on loopback alone: inside, the other addresses have nobody there to record it.
            expected = len(hits) - 4
            await until(lambda: len(running.records) >= expected)
            assert await running.stop() == 0
    assert len(running.records) == expected
    assert {(record["answer"], record["reason"]) for record in running.records} == {("deny", "direct_connection")}


async def test_every_change_that_the_ca_sends_reaches_the_live_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Live connections that weren't told would go on under the previous policy and trust."""
    told: list[str] = []
    monkeypatch.setattr(LiveConnections, "decide_again", lambda *_: told.append("policy"))
    monkeypatch.setattr(LiveConnections, "check_peers_again", lambda _: told.append("trust"))
    ca = LittleCA()
    token = ca.make_token("shop/web")
    arguments = ["--tunnel-address", "127.0.0.1", "--inbound", "127.0.0.1:15000=127.0.0.1:8080"]
    configuration = parse_arguments(arguments, {TOKEN_VARIABLE: token})
    joining = ByJoinToken(token=parse_join_token(token))
    prepared = Prepared(
        configuration=configuration, joining=joining, ca=("127.0.0.1", 1), limits=Limits(), doors=[],
        probe_listeners=[], log=1, pages_locked=False,
    )  # fmt: skip
    opener = Opener(
        ca=prepared.ca, joining=joining, uplink=Uplink(is_join_repeatable=False),
        registration=Registration(instance="one", version="0", addresses=(), tunnel_port=15008, capture="listeners"),
    )  # fmt: skip
    request, trust = make_key_request(), Trust(ca.bundle)
    own = Identity(trust_domain=TRUST_DOMAIN, workload=joining.workload, kind=IdentityKind.SIDECAR)
    welcome = Welcome(
        trust_domain=TRUST_DOMAIN, namespace="shop", service_account="web", chain=ca.issue(request.csr, own),
        bundle=ca.bundle, state=NamespaceState(namespace="shop"),
    )  # fmt: skip
    credential = accept_chain(request, welcome.chain, verifier=trust.verifier, generation=1, now=time.time())
    sink = LineSink(2)
    joined = Joined(welcome=welcome, trust=trust, own=credential)
    parts = compose(prepared, opener, joined, Events(sink), sink)
    try:
        parts.dispatch.receive(NamespaceChanged(state=NamespaceState(namespace="shop", version=3)))
        assert told == ["policy"]
        parts.dispatch.receive(BundleChanged(bundle=msgspec.structs.replace(ca.bundle, sequence=2)))
        assert told == ["policy", "trust"]
        parts.dispatch.receive(ForeignTrustChanged(domains=(Partner().roots,)))
        assert told == ["policy", "trust", "trust"]
        assert parts.sidecar.own_ports == {configuration.tunnel_port}
    finally:
        parts.sidecar.credentials.close()
        parts.sidecar.attestor.close()
        await parts.background.close(timeout_s=30)
        sink.close(timeout_s=30)
