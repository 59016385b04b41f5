"""A server whose worker has loaded more than the process that listens, from the first look to explicit mode.

The steps are those of docs/how-to/adopt.md: nothing that `ready` calls ready is refused afterwards.
"""

from __future__ import annotations

import pytest

from tests.e2e.harness.commands import Operator
from tests.e2e.harness.mesh import wait_until
from tests.e2e.harness.shop import Shop
from tests.sidecar.loaded.loading import make_library

pytestmark = pytest.mark.needs_root

_WORKLOAD = "stall/web"


def test_the_first_approval_lists_what_a_worker_has_loaded_that_closes_with_its_answer(
    shop: Shop, operator: Operator
) -> None:
    mesh = shop.mesh
    web = mesh.add_sidecar(_WORKLOAD, settings="capture: redirect")
    program = mesh.make_program("web")
    library = make_library(program.path.parent, f"{program.path.name}.so")
    port = mesh.take_port()
    assert mesh.run(program, web.pod).do("listen_by_worker", "0.0.0.0", port, str(library)) == "listening"
    buyer = shop.buy()

    def buy() -> str:
        return str(buyer.do("exchange", web.pod.address, port, "bread"))

    def is_told() -> bool:
        """On a busy machine its look may take longer than a connection waits for it."""
        assert buy() == "got bread<end>"
        return str(library) in operator.type(f"touchmark decisions --workload {_WORKLOAD} --json")

    wait_until(is_told, "a record of what the worker has loaded")
    operator.type(f"touchmark program approve {_WORKLOAD} --from-decisions --yes")
    assert str(library) in operator.type("touchmark program list stall --json")
    mesh.wait_installed("stall")
    policy = mesh.directory / "stall.yaml"
    policy.write_text(operator.type("touchmark policy suggest stall"))
    operator.type(f"touchmark policy apply -f {policy}")
    assert "stall: READY" in operator.type("touchmark ready stall")
    operator.type("touchmark mode stall explicit")
    assert buy() == "got bread<end>"
