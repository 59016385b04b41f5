"""Ways out of the mesh by host name: real programs, a real sidecar, a nameserver outside the mesh."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from shared.model.policy.decision import Answer
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Action, Direction, Peer, PortRange, Rule
from tests.e2e.harness.commands import Operator
from tests.e2e.harness.mesh import ROOT, wait_until
from tests.e2e.harness.pods import end
from tests.e2e.harness.shop import Shop

pytestmark = pytest.mark.needs_root

HOST = "api.example.com"


@pytest.mark.proves(Reason.HOST_NOT_RESOLVED, Reason.EGRESS_NOT_ALLOWED, Reason.ALLOW_RULE)
@pytest.mark.fixes(Reason.HOST_NOT_RESOLVED)
def test_a_rule_that_names_a_host_lets_its_addresses_out_once_a_nameserver_tells_them(
    shop: Shop, operator: Operator
) -> None:
    mesh, outsider = shop.mesh, shop.mesh.outsider
    nameserver, port = mesh.take_port(), mesh.serve(shop.intruder, outsider, "answer")
    caller = mesh.add_sidecar(
        "shop/caller", settings=f'capture: redirect\ndns: {{nameservers: ["{outsider.address}:{nameserver}"]}}'
    )
    program = mesh.make_program("caller")
    mesh.approve("shop/caller", program)
    ports = (PortRange(first=port, last=port),)
    peers = (Peer(unidentified=True, hosts=(HOST,)),)
    by_name = Rule(name="api", action=Action.ALLOW, direction=Direction.EGRESS, peers=peers, ports=ports)
    shop.be_explicit(by_name)
    actor = mesh.run(program, caller.pod)
    assert actor.do("exchange", outsider.address, port, "bread") == "<ECONNRESET>"
    record = caller.log.expect_denied(Reason.HOST_NOT_RESOLVED, port=port)
    assert record.detail.startswith(f"couldn't resolve {HOST} (")
    # Where the name can't be resolved, the address itself is allowed.
    by_address = {"unidentified": True, "cidrs": [f"{outsider.address}/32"]}
    operator.edit(lambda spec: spec["rules"][0]["peers"].append(by_address))
    assert actor.do("exchange", outsider.address, port, "bread") == "got bread<end>"
    shop.be_explicit(by_name)
    caller.log.skip()
    command = [
        sys.executable, "-m", "tests.sidecar.hostnames.little_dns", outsider.address, str(nameserver),
        f"{HOST}={outsider.address}",
    ]  # fmt: skip
    dns = outsider.start(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        assert dns.stdout is not None
        assert dns.stdout.readline() == "serving\n"
        wait_until(
            lambda: actor.do("exchange", outsider.address, port, "bread") == "got bread<end>", "the host's address"
        )
        record = caller.log.expect(Answer.ALLOW, Reason.ALLOW_RULE, port=port)
        assert (record.rule, record.destination.hosts) == ("shop/api", (HOST,))
        elsewhere = shop.mesh.serve(shop.intruder, outsider, "answer")
        assert actor.do("exchange", outsider.address, elsewhere, "bread") == "<ECONNRESET>"
        caller.log.expect_denied(Reason.EGRESS_NOT_ALLOWED, port=elsewhere)
    finally:
        end(dns)
        caller.end()
