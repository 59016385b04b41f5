"""Who may talk to whom, in both modes: real programs, real certificates, real redirect."""

from __future__ import annotations

import os

import pytest

from shared.model.adoption.program_queue import ProgramQueue, QueuedProgram
from shared.model.identity.program import Program
from shared.model.policy.decision import Answer, Ending, Transport
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Action, Direction, Mode, Peer, PortRange, Rule
from tests.e2e.harness.commands import Operator
from tests.e2e.harness.mesh import wait_until
from tests.e2e.harness.programs import Executable
from tests.e2e.harness.records import expect_denied_on_either
from tests.e2e.harness.shop import CLIENT, Bank, Shop

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


def test_a_program_at_an_unprintable_path_gets_its_certificate_and_its_records(shop: Shop) -> None:
    program = shop.mesh.make_program("strange")
    program = Executable(path=program.path.rename(program.path.with_name(os.fsdecode(b"a\n\x1b[31m\xff"))))
    shop.mesh.approve(CLIENT, program)
    port = shop.sell()
    shop.be_explicit()
    assert shop.buy(program).do("exchange", shop.address, port, "bread") == "got bread<end>"
    record = shop.client.log.expect(Answer.ALLOW, Reason.SAME_GROUP, port=port)
    assert record.source.program == f"sha256:{program.digest}"
    assert record.process.path == f"{program.path.parent}/a\\n\\x1b[31m\\xff"


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
    # The CA lists it for those who approve, although no certificate was asked for; by this sidecar, among others'.
    waiting: list[QueuedProgram] = []

    def is_listed() -> bool:
        queue = shop.mesh.admin.call("GET", "/v1/programs/queue?namespace=shop", ProgramQueue)
        seen_here = [each for each in queue.waiting if shop.client.instance in each.seen.pods]
        waiting[:] = [each for each in seen_here if each.seen.path == str(shop.intruder.path)]
        return bool(waiting)

    wait_until(is_listed, "the intruder is in the queue")
    assert waiting[0].seen.program == Program(digest=shop.intruder.digest)


@pytest.mark.proves(Reason.PROGRAM_NOT_APPROVED)
def test_each_side_decides_by_its_own_workloads_mode(shop: Shop) -> None:
    port = shop.sell()
    shop.switch_workload("server", Mode.EXPLICIT)
    assert shop.buy().do("exchange", shop.address, port, "bread") == "got bread<end>"
    sent = shop.client.log.expect(Answer.ALLOW, Reason.SAME_GROUP, port=port)
    got = shop.server.log.expect(Answer.ALLOW, Reason.SAME_GROUP, port=port)
    assert (sent.mode, got.mode) == (Mode.PERMISSIVE, Mode.EXPLICIT)
    assert shop.buy(shop.intruder).do("exchange", shop.address, port, "bread") == "<ECONNRESET>"
    refused = shop.server.log.expect_denied(Reason.PROGRAM_NOT_APPROVED, port=port)
    assert refused.mode is Mode.EXPLICIT
    # Now the other way round: permissive by a mode of its own, in an explicit namespace.
    port = shop.sell()
    shop.be_explicit()
    shop.switch_workload("server", Mode.PERMISSIVE)
    shop.switch_workload("client", Mode.PERMISSIVE)
    assert shop.buy(shop.intruder).do("exchange", shop.address, port, "bread") == "got bread<end>"
    shop.server.log.expect(Answer.ALLOW, Reason.PROGRAM_NOT_APPROVED, port=port, would_deny=True)
    shop.switch_workload("client", None)
    assert shop.buy(shop.intruder).do("exchange", shop.address, port, "bread") == "<ECONNRESET>"
    assert shop.client.log.expect_denied(Reason.PROGRAM_NOT_APPROVED, port=port).mode is Mode.EXPLICIT


@pytest.mark.proves(Reason.LISTENER_NOT_APPROVED)
def test_explicit_refuses_a_listener_that_nobody_approved(shop: Shop) -> None:
    port = shop.mesh.serve(shop.intruder, shop.server.pod, "answer")
    assert shop.buy().do("exchange", shop.address, port, "bread") == "got bread<end>"
    shop.client.log.expect(Answer.ALLOW, Reason.LISTENER_NOT_APPROVED, port=port, would_deny=True)
    shop.be_explicit()
    assert shop.buy().do("exchange", shop.address, port, "bread") == "<ECONNRESET>"
    shop.client.log.expect_denied(Reason.LISTENER_NOT_APPROVED, port=port)
    assert shop.buy().do("exchange", shop.address, port, "bread") == "<ECONNRESET>", "by a tunnel of its own"
    # The listening side names the program, which the client was never shown: it is what an approval is made of.
    record = shop.server.log.expect_denied(Reason.LISTENER_NOT_APPROVED, port=port)
    assert record.destination.program == f"sha256:{shop.intruder.digest}"
    assert record.process.path == str(shop.intruder.path)
    assert (record.source.workload, record.source.program) == ("shop/client", f"sha256:{shop.buyer.digest}")


@pytest.mark.proves(Reason.NO_LISTENER)
def test_explicit_says_that_nothing_listens_on_a_closed_port_rather_than_that_it_isnt_approved(shop: Shop) -> None:
    port = shop.mesh.take_port()
    shop.be_explicit()
    assert shop.buy().do("exchange", shop.address, port, "bread") == "<ECONNRESET>"
    shop.client.log.expect_denied(Reason.NO_LISTENER, port=port)
    shop.server.log.expect_denied(Reason.NO_LISTENER, port=port)


@pytest.mark.proves(Reason.DENY_RULE)
def test_the_reason_of_a_reset_reaches_the_other_sides_record(shop: Shop, bank: Bank) -> None:
    """A rule of the destination's namespace that only the destination's sidecar has by then, or has first."""
    port = shop.sell("echo")
    teller = shop.mesh.run(bank.teller, bank.sidecar.pod)
    assert teller.do("connect", "live", shop.address, port) == "connected"
    teller.do("send", "live", "one")
    assert teller.do("receive", "live", 3) == "one"
    shop.be_permissive(Rule(name="closed", action=Action.DENY, workloads=("server",)))
    assert teller.do("receive_rest", "live") == "<ECONNRESET>"
    for log in (shop.server.log, bank.sidecar.log):
        log.expect_denied(Reason.DENY_RULE, port=port)


@pytest.mark.proves(Reason.PEER_UNIDENTIFIED, Reason.ALLOW_RULE)
def test_an_outsider_is_marked_then_refused_then_allowed_by_a_rule_that_names_its_address(shop: Shop) -> None:
    port = shop.sell()
    outsider = shop.mesh.outsider
    visitor = shop.mesh.run(shop.intruder, outsider)
    assert visitor.do("exchange", shop.address, port, "bread") == "got bread<end>"
    record = shop.server.log.expect(Answer.ALLOW, Reason.PEER_UNIDENTIFIED, port=port, would_deny=True)
    assert (record.transport, record.source.program, record.source.workload) == (Transport.PLAINTEXT, "", "")
    shop.be_explicit()
    assert visitor.do("exchange", shop.address, port, "bread") == "<ECONNRESET>"
    shop.server.log.expect_denied(Reason.PEER_UNIDENTIFIED, port=port)
    elsewhere = Peer(unidentified=True, cidrs=("198.19.0.0/16",))
    shop.be_explicit(Rule(name="elsewhere", action=Action.ALLOW, peers=(elsewhere,)))
    assert visitor.do("exchange", shop.address, port, "bread") == "<ECONNRESET>"
    here = Peer(unidentified=True, cidrs=(f"{outsider.address}/32",))
    shop.be_explicit(Rule(name="front door", action=Action.ALLOW, workloads=("server",), peers=(here,)))
    assert visitor.do("exchange", shop.address, port, "bread") == "got bread<end>"
    record = shop.server.log.expect(Answer.ALLOW, Reason.ALLOW_RULE, port=port)
    assert record.rule == "shop/front door"


@pytest.mark.proves(Reason.PEER_UNIDENTIFIED)
def test_a_member_that_leaves_its_mark_at_home_gains_nothing_by_an_unidentified_rule(shop: Shop) -> None:
    port = shop.sell()
    everybody = Peer(unidentified=True, cidrs=("0.0.0.0/0", "::/0"))
    shop.be_explicit(Rule(name="everybody", action=Action.ALLOW, peers=(everybody,)))
    # The sidecar's own user isn't captured: the program goes out in plaintext, from a member's address.
    member = shop.buy(shop.intruder)
    member.do("become", 1337)
    assert member.do("exchange", shop.address, port, "bread") == "<ECONNRESET>"
    record = shop.server.log.expect_denied(Reason.PEER_UNIDENTIFIED, port=port)
    assert record.source.listed == "shop/client"


@pytest.mark.proves(Reason.EGRESS_NOT_ALLOWED, Reason.ALLOW_RULE)
def test_a_way_out_of_the_mesh_is_marked_then_refused_then_allowed_by_an_egress_rule(shop: Shop) -> None:
    outsider = shop.mesh.outsider
    port = shop.mesh.serve(shop.intruder, outsider, "answer")
    assert shop.buy().do("exchange", outsider.address, port, "bread") == "got bread<end>"
    shop.client.log.expect(Answer.ALLOW, Reason.EGRESS_NOT_ALLOWED, port=port, would_deny=True)
    shop.be_explicit()
    assert shop.buy().do("exchange", outsider.address, port, "bread") == "<ECONNRESET>"
    shop.client.log.expect_denied(Reason.EGRESS_NOT_ALLOWED, port=port)
    shop.be_explicit(_way_out(outsider.address, port))
    assert shop.buy().do("exchange", outsider.address, port, "bread") == "got bread<end>"
    assert shop.client.log.expect(Answer.ALLOW, Reason.ALLOW_RULE, port=port).rule == "shop/way out"
    assert shop.buy(shop.intruder).do("exchange", outsider.address, port, "bread") == "<ECONNRESET>"


@pytest.mark.fixes(
    Reason.PROGRAM_NOT_APPROVED, Reason.LISTENER_NOT_APPROVED, Reason.NO_RULE, Reason.PEER_UNIDENTIFIED,
    Reason.EGRESS_NOT_ALLOWED,
)  # fmt: skip
def test_what_ready_prints_lets_each_refused_connection_pass(shop: Shop, bank: Bank, operator: Operator) -> None:
    mesh, outsider = shop.mesh, shop.mesh.outsider
    newcomer, clerk = mesh.make_program("newcomer"), mesh.make_program("clerk")
    for_newcomer, for_teller, for_outsider = shop.sell(), shop.sell(), shop.sell()
    at_clerk = mesh.serve(clerk, shop.server.pod, "answer")
    outside = mesh.serve(shop.intruder, outsider, "answer")
    tries = (
        (shop.buy(newcomer), shop.address, for_newcomer, shop.client, Reason.PROGRAM_NOT_APPROVED),
        (shop.buy(), shop.address, at_clerk, shop.server, Reason.LISTENER_NOT_APPROVED),
        (mesh.run(bank.teller, bank.sidecar.pod), shop.address, for_teller, shop.server, Reason.NO_RULE),
        (mesh.run(shop.intruder, outsider), shop.address, for_outsider, shop.server, Reason.PEER_UNIDENTIFIED),
        (shop.buy(), outsider.address, outside, shop.client, Reason.EGRESS_NOT_ALLOWED),
    )
    shop.be_explicit()
    for actor, address, port, sidecar, reason in tries:
        assert actor.do("exchange", address, port, "bread") == "<ECONNRESET>", reason
        sidecar.log.expect_denied(reason, port=port)
    operator.approve(f"touchmark program approve shop/client sha256:{newcomer.digest}")
    operator.approve(f"touchmark program approve shop/server sha256:{clerk.digest}")
    operator.add_rules(*(f", port {port}" for port in (for_teller, for_outsider, outside)))
    for actor, address, port, _, reason in tries:
        assert actor.do("exchange", address, port, "bread") == "got bread<end>", reason


@pytest.mark.proves(Reason.DENY_RULE)
@pytest.mark.fixes(Reason.DENY_RULE)
def test_a_deny_rule_holds_in_permissive_mode_too(shop: Shop, operator: Operator) -> None:
    port, other = shop.sell(), shop.sell()
    ports = (PortRange(first=port, last=port),)
    shop.be_permissive(Rule(name="closed", action=Action.DENY, workloads=("server",), ports=ports))
    assert shop.buy().do("exchange", shop.address, port, "bread") == "<ECONNRESET>"
    record = shop.client.log.expect_denied(Reason.DENY_RULE, port=port)
    assert record.rule == "shop/closed"
    visitor = shop.mesh.run(shop.intruder, shop.mesh.outsider)
    assert visitor.do("exchange", shop.address, port, "bread") == "<ECONNRESET>"
    shop.server.log.expect_denied(Reason.DENY_RULE, port=port)
    assert shop.buy().do("exchange", shop.address, other, "bread") == "got bread<end>"
    operator.edit(lambda spec: spec.pop("rules"))
    assert shop.buy().do("exchange", shop.address, port, "bread") == "got bread<end>"


@pytest.mark.proves(Reason.NO_RULE, Reason.ALLOW_RULE)
def test_another_namespace_needs_a_rule_that_names_it(shop: Shop, bank: Bank) -> None:
    port = shop.sell()
    teller = shop.mesh.run(bank.teller, bank.sidecar.pod)
    assert teller.do("exchange", shop.address, port, "bread") == "got bread<end>"
    shop.server.log.expect(Answer.ALLOW, Reason.NO_RULE, port=port, would_deny=True)
    shop.be_explicit()
    assert teller.do("exchange", shop.address, port, "bread") == "<ECONNRESET>"
    shop.server.log.expect_denied(Reason.NO_RULE, port=port)
    refused = bank.sidecar.log.expect_denied(Reason.NO_RULE, port=port)
    assert refused.mode is Mode.PERMISSIVE, "the stricter side decided"
    peer = Peer(namespace="bank", service_account="teller", program=bank.teller.program)
    shop.be_explicit(Rule(name="tellers", action=Action.ALLOW, workloads=("server",), peers=(peer,)))
    assert teller.do("exchange", shop.address, port, "bread") == "got bread<end>"
    assert shop.server.log.expect(Answer.ALLOW, Reason.ALLOW_RULE, port=port).rule == "shop/tellers"
    stranger = shop.mesh.run(shop.intruder, bank.sidecar.pod)
    assert stranger.do("exchange", shop.address, port, "bread") == "<ECONNRESET>"


@pytest.mark.proves(Reason.PROGRAM_NOT_APPROVED)
def test_switching_to_explicit_closes_live_connections_that_are_denied_now_and_no_others(shop: Shop) -> None:
    port = shop.sell("echo")
    intruder, buyer = shop.buy(shop.intruder), shop.buy()
    for actor in (intruder, buyer):
        assert actor.do("connect", "live", shop.address, port) == "connected"
        actor.do("send", "live", "one")
        assert actor.do("receive", "live", 3) == "one"
    shop.be_explicit()
    assert intruder.do("receive_rest", "live") == "<ECONNRESET>"
    _expect_closed(shop, port)
    buyer.do("send", "live", "two")
    assert buyer.do("receive", "live", 3) == "two"


@pytest.mark.proves(Reason.PROGRAM_NOT_APPROVED)
def test_withdrawing_an_approval_closes_its_live_connection(shop: Shop) -> None:
    port = shop.sell("echo")
    guest = shop.mesh.make_program("guest")
    shop.mesh.approve("shop/client", guest)
    shop.be_explicit()
    actor = shop.buy(guest)
    assert actor.do("connect", "live", shop.address, port) == "connected"
    actor.do("send", "live", "one")
    assert actor.do("receive", "live", 3) == "one"
    shop.mesh.admin.remove_program("shop", f"client-{guest.digest[:12]}")
    assert actor.do("receive_rest", "live") == "<ECONNRESET>"
    _expect_closed(shop, port)


def _expect_closed(shop: Shop, port: int) -> None:
    """The side that hears of the change first closes the connection; the other one sees its reset, which says why."""
    record = expect_denied_on_either((shop.client.log, shop.server.log), Reason.PROGRAM_NOT_APPROVED, port=port)
    assert record.ending in (Ending.POLICY_CHANGED, Ending.RESET_BY_DESTINATION, Ending.RESET_BY_SOURCE)


def _way_out(address: str, port: int) -> Rule:
    outside = Peer(unidentified=True, cidrs=(f"{address}/32",))
    ports = (PortRange(first=port, last=port),)
    return Rule(name="way out", action=Action.ALLOW, direction=Direction.EGRESS, peers=(outside,), ports=ports)
