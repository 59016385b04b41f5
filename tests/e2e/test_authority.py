"""The CA's part: tokens used once, outages, the ledger; and a mesh whose mutual TLS is gone."""

from __future__ import annotations

import time

import pytest

from shared.model.policy.decision import Answer, Transport
from shared.model.policy.reasons import Reason
from shared.model.wire.admin import IdentityList
from tests.e2e.harness.mesh import wait_until
from tests.e2e.harness.programs import Executable
from tests.e2e.harness.shop import Shop
from tests.e2e.harness.strangers import Member

pytestmark = pytest.mark.needs_root


def test_a_join_token_is_good_for_one_sidecar(shop: Shop) -> None:
    mesh = shop.mesh
    pod = mesh.network.add("replayer")
    token = mesh.admin.make_join_token("shop/twice", (pod.address, pod.address6)).token
    first = mesh.begin_sidecar("shop/twice", pod, "first-use", settings="capture: redirect", token=token)
    wait_until(lambda: "sidecar_ready" in first.events.read_text(), "the first sidecar")
    first.end()
    second = mesh.begin_sidecar("shop/twice", pod, "second-use", settings="capture: redirect", token=token)
    assert second.process.wait(timeout=180) != 0
    assert "refuses" in second.events.read_text()
    assert token[20:60] not in second.events.read_text()


def test_a_join_token_registers_no_other_address(shop: Shop) -> None:
    mesh = shop.mesh
    pod = mesh.network.add("claimer")
    token = mesh.admin.make_join_token("shop/claimer", (shop.address,)).token
    sidecar = mesh.begin_sidecar("shop/claimer", pod, "claims-more", settings="capture: redirect", token=token)
    assert sidecar.process.wait(timeout=180) != 0
    assert "refuses" in sidecar.events.read_text()


@pytest.mark.proves(Reason.CA_UNAVAILABLE)
def test_without_the_ca_known_programs_go_on_and_a_new_one_is_refused_in_explicit_mode(shop: Shop) -> None:
    port = shop.sell()
    newcomer = shop.mesh.make_program("newcomer")
    shop.mesh.approve("shop/client", newcomer)
    shop.be_explicit()
    assert shop.buy().do("exchange", shop.address, port, "one") == "got one<end>"
    with shop.mesh.without_ca():
        assert shop.buy().do("exchange", shop.address, port, "two") == "got two<end>"
        assert shop.buy(newcomer).do("exchange", shop.address, port, "x") == "<ECONNRESET>"
        shop.client.log.expect_denied(Reason.CA_UNAVAILABLE, port=port)
    # It comes back by itself, over the same store.
    _expect_answer(shop, newcomer, port)
    record = shop.client.log.expect_denied(Reason.CA_UNAVAILABLE, port=port)

    def is_kept() -> bool:
        kept = shop.mesh.admin.decisions(f"reason=ca_unavailable&namespace=shop&since={record.time - 1}")
        return record.connection in {view.record.connection for view in kept}

    wait_until(is_kept, "the refusal, which the sidecar has kept for the CA")


@pytest.mark.proves(Reason.CA_UNAVAILABLE)
def test_a_ca_that_hangs_holds_permissive_programs_up_no_longer_than_the_deadline(shop: Shop) -> None:
    port = shop.sell()
    newcomer = shop.mesh.make_program("newcomer")
    hurried = shop.mesh.add_sidecar("shop/client", main="sidecar")
    known = shop.mesh.run(shop.buyer, hurried.pod)
    assert known.do("exchange", shop.address, port, "one") == "got one<end>"
    shop.mesh.pause_ca()
    try:
        # One deadline of 10 s; two would be 20 each time, however busy the machine is: the fastest of some tells.
        for _ in range(10):
            actor = shop.mesh.run(newcomer, hurried.pod)
            began = time.monotonic()
            assert actor.do("exchange", shop.address, port, "two") == "got two<end>"
            if (took_s := time.monotonic() - began) < 18:
                break
        assert took_s < 18
        record = shop.server.log.expect(Answer.ALLOW, Reason.CA_UNAVAILABLE, port=port, would_deny=True)
        assert record.source.identity.endswith("/sa/client/sidecar")
    finally:
        shop.mesh.resume_ca()
        hurried.end()
    _expect_answer(shop, newcomer, port)


def _expect_answer(shop: Shop, executable: Executable, port: int) -> None:
    actor = shop.buy(executable)
    wait_until(lambda: actor.do("exchange", shop.address, port, "back") == "got back<end>", "an answer again")


@pytest.mark.proves(Reason.MTLS_UNAVAILABLE)
def test_a_destination_whose_sidecar_is_dead_gets_marked_plaintext_or_in_explicit_mode_nothing(shop: Shop) -> None:
    pod = shop.mesh.network.add("bare")
    port = shop.mesh.serve(shop.seller, pod, "answer")
    # In the mesh by its token and registered, but nobody answers on its tunnel port, and no redirect is in the way.
    bare = Member(shop.mesh, pod, "shop/server", (pod.address,))
    with bare.joined():
        assert shop.buy().do("exchange", pod.address, port, "bread") == "got bread<end>"
        record = shop.client.log.expect(Answer.ALLOW, Reason.MTLS_UNAVAILABLE, port=port, would_deny=True)
        assert record.transport is Transport.PLAINTEXT
        shop.be_explicit()
        assert shop.buy().do("exchange", pod.address, port, "bread") == "<ECONNRESET>"
        shop.client.log.expect_denied(Reason.MTLS_UNAVAILABLE, port=port)


@pytest.mark.proves(Reason.MTLS_UNAVAILABLE)
def test_a_killed_sidecar_leaves_its_program_unreachable_and_never_in_plaintext(shop: Shop) -> None:
    mesh = shop.mesh
    doomed = mesh.add_sidecar("shop/server")
    port = mesh.serve(shop.seller, doomed.pod, "answer")
    assert shop.buy().do("exchange", doomed.pod.address, port, "bread") == "got bread<end>"
    doomed.end()
    shop.be_explicit()
    assert shop.buy().do("exchange", doomed.pod.address, port, "bread") == "<ECONNRESET>"
    shop.client.log.expect_denied(Reason.MTLS_UNAVAILABLE, port=port)


def test_the_cas_copy_of_the_decisions_joins_both_sides_by_connection_and_tunnel(shop: Shop) -> None:
    port = shop.sell()
    shop.be_explicit()
    assert shop.buy(shop.intruder).do("exchange", shop.address, port, "bread") == "<ECONNRESET>"
    assert shop.buy().do("exchange", shop.address, port, "bread") == "got bread<end>"
    own = shop.client.log.expect(Answer.ALLOW, Reason.SAME_GROUP, port=port)
    refused = shop.client.log.expect_denied(Reason.PROGRAM_NOT_APPROVED, port=port)
    since = f"namespace=shop&limit=1000&since={refused.time - 1}"

    def find(connection: str) -> list[tuple[str, str]]:
        views = shop.mesh.admin.decisions(since)
        return sorted((v.record.direction.value, v.record.tunnel) for v in views if v.record.connection == connection)

    wait_until(lambda: len(find(refused.connection)) == 1, "the refusal in the CA's copy")
    wait_until(lambda: len(find(own.connection)) == 2, "both sides in the CA's copy")
    assert find(own.connection) == [("egress", own.tunnel), ("ingress", own.tunnel)]


def test_the_ledger_names_every_program_that_got_a_certificate(shop: Shop) -> None:

    port = shop.sell()
    assert shop.buy(shop.intruder).do("exchange", shop.address, port, "bread") == "got bread<end>"
    listed = shop.mesh.admin.call("GET", "/v1/identities?alive=true", IdentityList).identities
    kinds = {(view.workload, view.program): view.kind for view in listed if view.program}
    assert kinds["shop/client", str(shop.intruder.program)] == "observed"
    assert kinds["shop/client", str(shop.buyer.program)] == "program"
