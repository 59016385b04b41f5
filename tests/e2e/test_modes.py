"""Who may talk to whom, in both modes: real programs, real certificates, real redirect."""

from __future__ import annotations

import pytest

from shared.model.decision import Answer, Ending, Transport
from shared.model.policy import Mode
from shared.model.reasons import Reason
from tests.e2e.harness.shop import Shop

pytestmark = pytest.mark.needs_root


@pytest.mark.proves(Reason.SAME_GROUP)
def test_permissive_approved_programs_talk_mutual_tls_and_both_records_name_one_connection(shop: Shop) -> None:
    port = shop.sell()
    assert shop.buy().do("exchange", shop.address, port, "bread") == "got bread<end>"
    sent = shop.client.log.expect(Answer.ALLOW, Reason.SAME_GROUP, port=port)
    got = shop.server.log.expect(Answer.ALLOW, Reason.SAME_GROUP, port=port)
    assert sent.transport is got.transport is Transport.TUNNEL
    assert (sent.connection, sent.tunnel) == (got.connection, got.tunnel)
    assert sent.source.program == got.source.program == f"sha256:{shop.buyer.digest}"
    assert sent.destination.identity == got.destination.identity
    assert got.source.identity.endswith(f"/ns/shop/sa/client/sha256/{shop.buyer.digest}")
    assert got.destination.identity.endswith(f"/ns/shop/sa/server/sha256/{shop.seller.digest}")
    assert (sent.bytes_sent, sent.bytes_received) == (5, 9)
    assert sent.ending is got.ending is Ending.FINISHED
    assert sent.mode is Mode.PERMISSIVE


@pytest.mark.proves(Reason.PROGRAM_NOT_APPROVED)
def test_permissive_lets_an_unapproved_program_flow_and_marks_it(shop: Shop) -> None:
    port = shop.sell()
    assert shop.buy(shop.intruder).do("exchange", shop.address, port, "bread") == "got bread<end>"
    for log in (shop.client.log, shop.server.log):
        record = log.expect(Answer.ALLOW, Reason.PROGRAM_NOT_APPROVED, port=port, would_deny=True)
        assert record.source.program == f"sha256:{shop.intruder.digest}"
        assert "/observed/" in record.source.identity


@pytest.mark.proves(Reason.PROGRAM_NOT_APPROVED)
def test_explicit_serves_the_approved_program_and_resets_the_intruder(shop: Shop) -> None:
    port = shop.sell()
    shop.be_explicit()
    assert shop.buy().do("exchange", shop.address, port, "bread") == "got bread<end>"
    assert shop.buy(shop.intruder).do("exchange", shop.address, port, "bread") == "<ECONNRESET>"
    record = shop.client.log.expect_denied(Reason.PROGRAM_NOT_APPROVED, port=port)
    assert record.source.program == f"sha256:{shop.intruder.digest}"
    assert record.process.path == str(shop.intruder.path)
    assert record.mode is Mode.EXPLICIT
