"""Bytes pass as if nobody were in between: half-close, reset, order, back-pressure, IPv4 and IPv6."""

from __future__ import annotations

import pytest

from shared.model.policy.decision import Answer, DecisionRecord, Ending, Phase, Transport
from shared.model.policy.reasons import Reason
from tests.e2e.harness.mesh import wait_until
from tests.e2e.harness.records import Log
from tests.e2e.harness.shop import Shop

pytestmark = pytest.mark.needs_root


@pytest.fixture(autouse=True)
def _explicit(shop: Shop) -> None:
    shop.be_explicit()


def test_ipv6_connections_take_the_tunnel_too(shop: Shop) -> None:
    address = shop.server.pod.address6
    port = shop.mesh.serve(shop.seller, shop.server.pod, "answer", address=address)
    assert shop.buy().do("exchange", address, port, "bread") == "got bread<end>"
    record = shop.server.log.expect(Answer.ALLOW, Reason.SAME_GROUP, port=port)
    assert record.transport is Transport.TUNNEL
    assert record.destination.address == f"[{address}]:{port}"
    assert shop.buy(shop.intruder).do("exchange", address, port, "bread") == "<ECONNRESET>"
    shop.client.log.expect_denied(Reason.PROGRAM_NOT_APPROVED, port=port)


def test_ipv6_outsiders_are_refused_as_ipv4_ones_are(shop: Shop) -> None:
    address = shop.server.pod.address6
    port = shop.mesh.serve(shop.seller, shop.server.pod, "answer", address=address)
    visitor = shop.mesh.run(shop.intruder, shop.mesh.outsider)
    assert visitor.do("exchange", address, port, "bread") == "<ECONNRESET>"
    shop.server.log.expect_denied(Reason.PEER_UNIDENTIFIED, port=port)


def test_a_server_that_speaks_first_is_heard_at_once(shop: Shop) -> None:
    port = shop.sell("greet")
    buyer = shop.buy()
    assert buyer.do("connect", "mail", shop.address, port) == "connected"
    assert buyer.do("receive", "mail", 13) == "220 welcome\r\n"


def test_half_close_reaches_the_server_and_its_answer_comes_back(shop: Shop) -> None:
    port = shop.sell("answer")
    buyer = shop.buy()
    assert buyer.do("connect", "half", shop.address, port) == "connected"
    buyer.do("send", "half", "one ")
    buyer.do("send", "half", "two")
    buyer.do("finish", "half")
    assert buyer.do("receive_rest", "half") == "got one two<end>"
    assert shop.server.log.expect(Answer.ALLOW, Reason.SAME_GROUP, port=port).ending is Ending.FINISHED


def test_the_servers_reset_after_an_answer_loses_nothing_of_the_answer(shop: Shop) -> None:
    port = shop.sell("reset")
    buyer = shop.buy()
    assert buyer.do("connect", "torn", shop.address, port) == "connected"
    buyer.do("send", "torn", "bread")
    assert buyer.do("receive_rest", "torn") == "got bread<ECONNRESET>"
    assert shop.client.log.expect(Answer.ALLOW, Reason.SAME_GROUP, port=port).ending is Ending.RESET_BY_DESTINATION
    assert shop.server.log.expect(Answer.ALLOW, Reason.SAME_GROUP, port=port).ending is Ending.RESET_BY_DESTINATION


def test_the_clients_reset_reaches_the_other_side_as_a_reset(shop: Shop) -> None:
    port = shop.sell("echo")
    buyer = shop.buy()
    assert buyer.do("connect", "torn", shop.address, port) == "connected"
    buyer.do("send", "torn", "x")
    assert buyer.do("receive", "torn", 1) == "x"
    buyer.do("close", "torn", by_reset=True)
    assert shop.server.log.expect(Answer.ALLOW, Reason.SAME_GROUP, port=port).ending is Ending.RESET_BY_SOURCE


def test_48_mib_there_and_back_at_once_arrive_unchanged(shop: Shop) -> None:
    port = shop.sell("echo")
    size = 48 * 1024 * 1024
    sent, got, count = shop.buy().do("exchange_bulk", shop.address, port, size)
    assert (got, int(count)) == (sent, size)
    record = shop.server.log.expect(Answer.ALLOW, Reason.SAME_GROUP, port=port)
    assert (record.bytes_sent, record.bytes_received) == (size, size)


def test_connections_one_after_another_share_a_tunnel(shop: Shop) -> None:
    port = shop.sell("answer")
    buyer = shop.buy()

    def list_records(log: Log) -> list[DecisionRecord]:
        return [record for record in log.read() if record.port == port and record.phase is Phase.END]

    for number, text in enumerate(("one", "two", "three"), start=1):
        assert buyer.do("exchange", shop.address, port, text) == f"got {text}<end>"
        # When the client's sidecar has its record, the tunnel is back in the pool.
        for log in (shop.client.log, shop.server.log):
            wait_until(lambda log=log, number=number: len(list_records(log)) >= number, f"the record of {text}")  # type: ignore[misc]
    records = list_records(shop.server.log)
    assert len({record.connection for record in records}) == 3
    assert len({record.tunnel for record in records}) == 1


def test_1000_idle_connections_stay_alive_and_the_next_one_is_served(shop: Shop) -> None:
    port = shop.sell("echo")
    buyer = shop.buy()
    for count in range(100, 1001, 100):  # Each answer has a deadline.
        assert buyer.do("connect_many", shop.address, port, 100) == count
    other = shop.sell("answer")
    assert shop.buy().do("exchange", shop.address, other, "bread") == "got bread<end>"
    assert buyer.do("count_alive") == 1000
    buyer.do("close_many")
    assert shop.buy().do("exchange", shop.address, other, "bread") == "got bread<end>"
