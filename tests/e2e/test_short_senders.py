"""Programs that send something and exit at once, beside a sidecar that lets their ``connect()`` wait."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from shared.model.policy.decision import Answer, DecisionRecord, Phase
from shared.model.policy.reasons import Reason
from tests.e2e.harness.mesh import Sidecar, wait_until
from tests.e2e.harness.programs import Executable
from tests.e2e.harness.shop import CLIENT, Shop

pytestmark = pytest.mark.needs_root

# Nothing is awaited after the send: like `logger -T`.
SEND = """
import os, socket, sys
c = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
print("dialling", flush=True)
c.connect((sys.argv[1], int(sys.argv[2])))
c.sendall(b"bread")
os._exit(0)
"""
_TRIES = 20


@pytest.fixture(scope="module")
def holding(whole_shop: Shop) -> Sidecar:
    """Another sidecar of the client's workload, which holds by default what was gone too early before."""
    settings = "capture: redirect"
    return whole_shop.mesh.add_sidecar(CLIENT, settings=settings, main="tests.e2e.harness.holding_sidecar")


@pytest.fixture(autouse=True)
def _clean(shop: Shop, holding: Sidecar) -> Iterator[None]:
    del shop
    holding.log.skip()
    yield
    holding.resume()


def send(sidecar: Sidecar, executable: Executable, address: str, port: int) -> subprocess.Popen[str]:
    """Start a sender; return when it is about to dial."""
    command = [str(executable.path), "-S", "-c", SEND, address, str(port)]
    environment = {**os.environ, "PYTHONHOME": sys.base_prefix}
    process = sidecar.pod.start(command, stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "dialling\n"
    return process


def is_dialling(sidecar: Sidecar) -> bool:
    """Tell whether a connection in the pod waits for its first answer."""
    found = sidecar.pod.run("ss", "-Htn", "state", "syn-sent")
    return bool(found.stdout.strip())


def wait_gone(process: subprocess.Popen[str]) -> None:
    assert process.wait(150) == 0


def miss_one(shop: Shop, holding: Sidecar, address: str, port: int) -> None:
    """Have a program be gone before any look: from then on its port's connections wait."""
    for _ in range(_TRIES):
        holding.log.skip()
        holding.pause()
        wait_gone(send(holding, shop.buyer, address, port))
        holding.resume()
        record = holding.log.wait_for(lambda each: each.port == port and each.phase is Phase.END, "the first sender")
        if record.reason is Reason.SENDER_GONE:
            return
    pytest.fail("a sender was known although the sidecar stood still")


def test_after_one_that_was_gone_senders_wait_for_the_look_and_are_known(shop: Shop, holding: Sidecar) -> None:
    """The sidecar stands still while they dial: without a queue they would be gone before any look."""
    server, address6 = shop.server.pod, shop.server.pod.address6
    port = shop.mesh.serve(shop.seller, server, "answer")
    assert shop.mesh.run(shop.seller, server).do("listen", address6, port, "answer", shared=False) == "listening"
    shop.be_explicit()
    miss_one(shop, holding, shop.address, port)
    for address in (shop.address, address6):
        record = send_until_known(shop, holding, address, port)
        assert record.reason is Reason.SAME_GROUP
        assert record.source.program == f"sha256:{shop.buyer.digest}"


def send_until_known(shop: Shop, holding: Sidecar, address: str, port: int) -> DecisionRecord:
    """Each look counts for 50 ms, which a busy machine may let pass before the connection is accepted.

    While the sidecar stands still it may also lose its stream, by which it asks who is at the destination.
    """
    for _ in range(_TRIES):
        holding.log.skip()
        holding.pause()
        sender = send(holding, shop.buyer, address, port)
        wait_until(lambda: is_dialling(holding), "the sender dials")
        assert sender.poll() is None
        holding.resume()
        wait_gone(sender)
        record = holding.log.wait_for(lambda each: each.port == port and each.phase is Phase.END, "the sender")
        if record.answer is Answer.ALLOW:
            return record
        assert record.reason in {Reason.SENDER_GONE, Reason.CA_UNAVAILABLE}
    pytest.fail("no sender was known")
