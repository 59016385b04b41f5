"""What capture and the way onward refuse: connections straight to the sidecar, dead destinations, limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.model.policy.decision import Answer, Ending
from shared.model.policy.reasons import Reason
from tests.e2e.harness.mesh import Sidecar, wait_until
from tests.e2e.harness.shop import Shop

pytestmark = pytest.mark.needs_root


@pytest.mark.proves(Reason.DIRECT_CONNECTION)
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_program_that_dials_the_capture_port_itself_is_reset(shop: Shop, address: str) -> None:
    assert shop.buy().do("exchange", address, 15001, "x") == "<ECONNRESET>"
    shop.client.log.expect_denied(Reason.DIRECT_CONNECTION, port=15001)


@pytest.mark.proves(Reason.DIRECT_CONNECTION)
def test_the_inbound_capture_port_is_no_destination_for_anybody(shop: Shop) -> None:
    assert shop.buy().do("exchange", "127.0.0.1", 15006, "x") == "<ECONNRESET>"
    shop.client.log.expect_denied(Reason.DIRECT_CONNECTION, port=15006)
    visitor = shop.mesh.run(shop.intruder, shop.mesh.outsider)
    for port in (15001, 15006):
        assert visitor.do("exchange", shop.address, port, "x") == "<ECONNRESET>"
        shop.server.log.expect_denied(Reason.DIRECT_CONNECTION, port=port)


def test_one_source_port_towards_many_destinations_is_attested_each_time(shop: Shop) -> None:
    """Redirected to one port they would be one: the kernel would change the source port to tell them apart."""
    seller = shop.mesh.run(shop.seller, shop.server.pod)
    ports = [shop.mesh.take_port() for _ in range(12)]
    shop.be_explicit()
    buyer = shop.buy()
    for port in ports:
        assert seller.do("listen", shop.address, port, "echo") == "listening"
        assert buyer.do("connect", f"to {port}", shop.address, port, source_port=20404) == "connected"
        buyer.do("send", f"to {port}", "bread")
        assert buyer.do("receive", f"to {port}", 5) == "bread"


@pytest.mark.proves(Reason.DESTINATION_UNREACHABLE)
def test_a_dead_destination_outside_the_mesh_is_a_reset_with_its_reason(shop: Shop) -> None:
    port = shop.mesh.take_port()
    assert shop.buy().do("exchange", shop.mesh.outsider.address, port, "x") == "<ECONNRESET>"
    shop.client.log.expect_denied(Reason.DESTINATION_UNREACHABLE, port=port)


@pytest.mark.proves(Reason.APPLICATION_UNREACHABLE)
def test_a_port_behind_the_peers_sidecar_where_nobody_listens_is_a_reset_on_both_sides(shop: Shop) -> None:
    port = shop.mesh.take_port()
    assert shop.buy().do("exchange", shop.address, port, "x") == "<ECONNRESET>"
    shop.server.log.expect_denied(Reason.APPLICATION_UNREACHABLE, port=port)
    shop.client.log.expect_denied(Reason.APPLICATION_UNREACHABLE, port=port)


@pytest.fixture(scope="module")
def narrow(whole_shop: Shop) -> Sidecar:
    """A client whose sidecar takes three connections at most."""
    return whole_shop.mesh.add_sidecar("shop/client", settings="capture: redirect\nlimits: {maxConnections: 3}")


@pytest.mark.proves(Reason.OVERLOADED)
def test_above_its_limit_a_sidecar_resets_new_connections_and_keeps_the_others(shop: Shop, narrow: Sidecar) -> None:
    port = shop.sell("echo")
    buyer = shop.mesh.run(shop.buyer, narrow.pod)
    for name in ("a", "b", "c"):
        assert buyer.do("connect", name, shop.address, port) == "connected"
        buyer.do("send", name, name)
        assert buyer.do("receive", name, 1) == name
    assert buyer.do("exchange", shop.address, port, "x") == "<ECONNRESET>"
    narrow.log.expect_denied(Reason.OVERLOADED, port=port)
    buyer.do("send", "a", "still")
    assert buyer.do("receive", "a", 5) == "still"
    buyer.do("close", "b")
    narrow.log.expect(Answer.ALLOW, Reason.SAME_GROUP, port=port)
    assert buyer.do("exchange", shop.address, port, "x") == "x<end>"


@pytest.mark.proves(Reason.INTERNAL_ERROR)
def test_a_fault_of_the_sidecars_own_is_a_reset_and_isnt_blamed_on_the_peer(whole_shop: Shop) -> None:
    mesh = whole_shop.mesh
    faulty = mesh.add_sidecar("shop/client", main="tests.e2e.harness.faulty_sidecar")
    port = mesh.take_port()
    buyer = mesh.run(whole_shop.buyer, faulty.pod)
    for _ in range(2):  # The sidecar goes on.
        assert buyer.do("exchange", whole_shop.address, port, "x") == "<ECONNRESET>"
        record = faulty.log.expect_denied(Reason.INTERNAL_ERROR, port=port)
        assert record.detail == "ZeroDivisionError: ordered by the test"
    wait_until(lambda: "ZeroDivisionError" in faulty.events.read_text(), "the event, which another thread writes")


@pytest.mark.proves(Reason.SHUTTING_DOWN)
def test_a_shutdown_before_the_verdict_is_a_reset_and_recorded_as_one(whole_shop: Shop) -> None:
    mesh = whole_shop.mesh
    ending = mesh.add_sidecar("shop/client", settings="capture: redirect\nlimits: {drainSeconds: 0}")
    port = mesh.take_port()
    buyer = mesh.run(whole_shop.buyer, ending.pod)
    mesh.pause_ca()  # The directory is asked, and doesn't answer: the connection waits before its verdict.
    try:
        buyer.begin("exchange", mesh.outsider.address, port, "x")
        wait_until(lambda: _has_accepted(ending), "the connection")
        ending.process.terminate()
        assert buyer.answer() == "<ECONNRESET>"
    finally:
        mesh.resume_ca()
    record = ending.log.expect_denied(Reason.SHUTTING_DOWN, port=port)
    assert record.ending is Ending.SHUTDOWN


def _has_accepted(sidecar: Sidecar) -> bool:
    """Tell whether it holds a redirected connection: in proc(5) at loopback, with an inode, half-closed or not."""
    table = Path(f"/proc/{sidecar.process.pid}/net/tcp").read_text()  # Of its pod's network.
    rows = [line.split() for line in table.splitlines()[1:]]
    return any(row[1].startswith("0100007F:") and row[3] in ("01", "08") and row[9] != "0" for row in rows)
