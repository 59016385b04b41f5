"""An evicted sidecar: its live connections are closed by the other end, and it gets no new ones."""

from __future__ import annotations

import pytest

from shared.model.policy.reasons import Reason
from shared.model.wire import admin
from tests.e2e.harness.mesh import wait_until
from tests.e2e.harness.shop import Shop

pytestmark = pytest.mark.needs_root


@pytest.mark.proves(Reason.PEER_DISTRUSTED)
def test_an_evicted_sidecars_live_connection_is_closed_by_its_peer_and_others_go_on(shop: Shop) -> None:
    mesh = shop.mesh
    guest = mesh.add_sidecar("shop/guest")
    try:
        program = mesh.make_program("guest")
        mesh.approve("shop/guest", program)
        port = shop.sell("echo")
        shop.be_explicit()
        guests, buyer = mesh.run(program, guest.pod), shop.buy()
        for actor in (guests, buyer):
            assert actor.do("connect", "live", shop.address, port) == "connected"
            actor.do("send", "live", "one")
            assert actor.do("receive", "live", 3) == "one"
        done = mesh.admin.call("POST", "/v1/evictions", admin.Evicted, admin.EvictionRequest(whom=guest.instance))
        assert done.certificates >= 2, "its own, and its program's"
        assert guests.do("receive_rest", "live") == "<ECONNRESET>"
        shop.server.log.expect_denied(Reason.PEER_DISTRUSTED, port=port)
        assert guests.do("exchange", shop.address, port, "two") == "<ECONNRESET>"
        buyer.do("send", "live", "two")
        assert buyer.do("receive", "live", 3) == "two"

        def is_out() -> bool:
            """The CA waits a moment for a stream to end by its sidecar's answer."""
            (seen,) = (each for each in mesh.admin.sidecars() if each.instance == guest.instance)
            assert seen.evicted is not None
            return not seen.connected

        wait_until(is_out, "the end of its stream")
    finally:
        del mesh.sidecars[guest.instance]
        guest.end()
