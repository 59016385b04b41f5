"""What happens during a soak, in a circle: policy flips, a killed CA, a killed peer. Each leaves its window. I/O.

The windows are what excuses a failure: a denied port excuses connections to it, a killed peer those that meet it, and a
killed CA or a change of mode excuses nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from bench.soak.judgement import AFTER_PEER_S, AFTER_POLICY_S, Window
from bench.soak.mesh import Mesh
from shared.model.policy.rules import Mode

FLIP: Final = frozenset({"flip"})


def deny_and_allow(mesh: Mesh, wait: Callable[[float], None], part_s: float) -> Window:
    """Deny the flip servers for a while."""
    began = time.time()
    mesh.set_policy(Mode.PERMISSIVE, denies_flip=True)
    wait(part_s)
    mesh.set_policy(Mode.PERMISSIVE, denies_flip=False)
    return Window(what="a rule denies a port", began=began, ended=time.time(), kinds=FLIP, after_s=AFTER_POLICY_S)


def lose_ca(mesh: Mesh, wait: Callable[[float], None], part_s: float) -> None:
    """Make the namespace explicit, kill the CA, start it again, and become permissive: nothing may fail."""
    mesh.set_policy(Mode.EXPLICIT, denies_flip=False)
    wait(part_s / 2)
    mesh.kill("ca")
    wait(part_s / 2)
    mesh.start_ca()
    wait(part_s / 2)
    mesh.set_policy(Mode.PERMISSIVE, denies_flip=False)


def lose_peer(mesh: Mesh, wait: Callable[[float], None], part_s: float) -> Window:
    """Kill the right side's sidecar and start another one in its place."""
    began = time.time()
    mesh.kill("right-sidecar")
    wait(part_s / 4)
    mesh.start_sidecar("right")
    return Window(what="the peer's sidecar is killed", began=began, ended=time.time(), after_s=AFTER_PEER_S)
