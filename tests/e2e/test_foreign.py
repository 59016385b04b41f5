"""Foreign SPIFFE peers by plain mTLS: openssl with certificates of a CA of its own, in both directions."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest

from shared.model.policy.decision import Answer, Ending, Transport
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Action, Direction, Mode, Peer, Rule
from tests.e2e.harness.commands import Operator
from tests.e2e.harness.mesh import wait_until
from tests.e2e.harness.pods import end
from tests.e2e.harness.shop import Shop
from tests.e2e.harness.till import DIALLED, PARTNER, SERVED, Till
from tests.sidecar.partner import BILLING, DOMAIN

pytestmark = pytest.mark.needs_root

LET_IN = Rule(name="partner-in", action=Action.ALLOW, peers=(Peer(spiffe_id=BILLING),))
LET_OUT = Rule(
    name="partner-out",
    action=Action.ALLOW,
    direction=Direction.EGRESS,
    peers=(Peer(spiffe_id=f"spiffe://{DOMAIN}/*"),),
)


# ---- in --------------------------------------------------------------------------------------------------------------


@pytest.mark.fixes(Reason.FOREIGN_NOT_ALLOWED)
def test_what_ready_prints_lets_a_refused_foreign_client_pass(till: Till, operator: Operator) -> None:
    till.be_explicit()
    assert till.call() == ""
    till.sidecar.log.expect_denied(Reason.FOREIGN_NOT_ALLOWED, port=SERVED)
    operator.add_rules(f"spiffeID: {BILLING}")
    assert till.call() == "bread\n"


@pytest.mark.proves(Reason.ALLOW_RULE, Reason.FOREIGN_NOT_ALLOWED)
def test_a_foreign_client_reaches_the_program_only_under_a_rule_that_names_it(till: Till) -> None:
    till.be_explicit()
    assert till.call() == ""
    refused = till.sidecar.log.expect_denied(Reason.FOREIGN_NOT_ALLOWED, port=SERVED)
    assert (refused.source.identity, refused.bytes_sent, refused.bytes_received) == (BILLING, 0, 0)
    till.be_explicit(LET_IN)
    assert till.call() == "bread\n"
    record = till.sidecar.log.expect(Answer.ALLOW, Reason.ALLOW_RULE, port=SERVED)
    assert (record.rule, record.transport) == ("shop/partner-in", Transport.MTLS)
    assert (record.source.identity, record.source.workload) == (BILLING, "")
    assert record.destination.identity.endswith(f"/ns/shop/sa/till/sha256/{till.program.digest}")
    assert record.process.path == str(till.program.path)


def test_permissive_marks_a_foreign_client_that_no_rule_names(till: Till) -> None:
    assert till.call() == "bread\n"
    till.sidecar.log.expect(Answer.ALLOW, Reason.FOREIGN_NOT_ALLOWED, port=SERVED, would_deny=True)


@pytest.mark.proves(Reason.MTLS_REQUIRED)
@pytest.mark.parametrize("mode", [Mode.PERMISSIVE, Mode.EXPLICIT])
def test_plaintext_and_clients_without_a_certificate_are_refused_in_both_modes(till: Till, mode: Mode) -> None:
    till.mesh.set_policy(mode, LET_IN)
    assert till.call(options=()) == ""
    till.sidecar.log.expect_denied(Reason.MTLS_REQUIRED, port=SERVED)
    till.sidecar.log.skip()
    stranger = till.mesh.run(till.program, till.mesh.outsider)
    assert stranger.do("exchange", till.address, SERVED, "GET / HTTP/1.0\r\n\r\n") in ("<ECONNRESET>", "<EPIPE>")
    assert till.sidecar.log.expect_denied(Reason.MTLS_REQUIRED, port=SERVED).mode is mode


@pytest.mark.proves(Reason.TRUST_DOMAIN_UNKNOWN)
@pytest.mark.fixes(Reason.TRUST_DOMAIN_UNKNOWN)
def test_a_domain_is_known_and_forgotten_at_once_and_live_connections_follow(
    till: Till, operator: Operator, tmp_path: Path
) -> None:
    till.be_explicit(LET_IN)
    certificate = ("-cert", str(till.chain), "-cert_chain", str(till.chain), "-key", str(till.key))
    command = ["openssl", "s_client", "-connect", f"{till.address}:{SERVED}", "-tls1_3", "-quiet", *certificate]
    client = till.mesh.outsider.start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write("bread\n")
        client.stdin.flush()
        assert client.stdout.readline() == "bread\n"
        till.trust(None)
        record = till.sidecar.log.expect_denied(Reason.TRUST_DOMAIN_UNKNOWN, port=SERVED)
        assert record.ending is Ending.POLICY_CHANGED
        assert client.stdout.readline() == ""
        till.sidecar.log.skip()
        assert till.call() == ""
        till.sidecar.log.expect_denied(Reason.TRUST_DOMAIN_UNKNOWN, port=SERVED)
        roots = tmp_path / "roots.pem"
        roots.write_text("".join(ssl.DER_cert_to_PEM_cert(der) for der in PARTNER.roots.roots))
        operator.type(f"touchmark trust add {DOMAIN} {roots}")
        wait_until(lambda: till.call() == "bread\n", "the partner, known again")
    finally:
        end(client)
        till.trust(PARTNER)


def test_members_of_the_mesh_reach_the_port_by_their_tunnel(till: Till, shop: Shop) -> None:
    shop.be_explicit()
    assert shop.buy().do("exchange", till.address, SERVED, "bread") == "bread<end>"
    assert till.sidecar.log.expect(Answer.ALLOW, Reason.SAME_GROUP, port=SERVED).transport is Transport.TUNNEL


# ---- out -------------------------------------------------------------------------------------------------------------


@pytest.mark.proves(Reason.FOREIGN_NOT_ALLOWED, Reason.ALLOW_RULE, Reason.PROGRAM_NOT_APPROVED)
def test_an_approved_program_reaches_a_foreign_server_only_under_a_rule_that_names_it(till: Till, shop: Shop) -> None:
    with till.serving():
        till.be_explicit()
        assert till.dial() == "<ECONNRESET>"
        till.sidecar.log.expect_denied(Reason.FOREIGN_NOT_ALLOWED, port=DIALLED)
        till.be_explicit(LET_OUT)
        assert till.dial() == "olleh\n"
        wait_until(lambda: till.dial(shop.intruder) == "<ECONNRESET>", "the intruder's reset")
        till.sidecar.log.expect_denied(Reason.PROGRAM_NOT_APPROVED, port=DIALLED)
        till.mesh.end_actors()
        record = till.sidecar.log.expect(Answer.ALLOW, Reason.ALLOW_RULE, port=DIALLED)
    assert (record.rule, record.transport) == ("shop/partner-out", Transport.MTLS)
    assert (record.destination.identity, record.destination.workload) == (BILLING, "")
    assert record.source.identity.endswith(f"/ns/shop/sa/till/sha256/{till.program.digest}")


def test_what_isnt_a_foreign_tls_server_gets_no_plaintext(till: Till) -> None:
    """The port says mTLS: a plain server there hears nothing but a ClientHello."""
    outsider = till.mesh.outsider
    assert till.mesh.run(till.program, outsider).do("listen", outsider.address, DIALLED, "echo") == "listening"
    assert till.dial() == "<ECONNRESET>"
    till.sidecar.log.expect_denied(Reason.HANDSHAKE_FAILED, port=DIALLED)
