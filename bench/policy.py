"""``python -m bench.policy``: a decision among 10,000 rules of 20 networks each, and what putting them in force costs.

Decided are connections that no rule matches, members' and strangers', so that every rule that could match has to be
asked. ``stall_ms`` is the longest time without the event loop while such a state is decoded, compiled and put in force,
in CPU time of the process, so that what else runs on the machine doesn't count.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import json
import sys
import time
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

from shared.model.identity.identity import Workload
from shared.model.identity.program import Program
from shared.model.policy.evaluate import NamespacePolicy, compile_namespace, evaluate
from shared.model.policy.party import Party
from shared.model.policy.rules import Action, Approval, Direction, NamespaceState, Peer, PortRange, Rule
from shared.model.wire.messages import NamespaceChanged, encode_message

if TYPE_CHECKING:
    from sidecar.mesh.policies import Policies

_PROGRAM = Program(digest="a" * 64)
_WEB = Workload(namespace="shop", service_account="web")
_NETWORKS = 20
_DECISIONS = 2000


def make_state(rules: int) -> NamespaceState:
    """Return a state with so many rules, a fifth of which name members and the others strangers' networks."""
    made = []
    for number in range(rules):
        if number % 5:
            networks = tuple(
                f"10.{(number * _NETWORKS + each) >> 8 & 255}.{(number * _NETWORKS + each) & 255}.0/24"
                for each in range(_NETWORKS)
            )
            peer = Peer(unidentified=True, cidrs=networks)
        else:
            peer = Peer(namespace=f"n{number}", service_account="client")
        made.append(
            Rule(
                name=f"r{number}", action=Action.ALLOW if number % 2 else Action.DENY, peers=(peer,),
                workloads=("web",) if number % 3 else (), ports=(PortRange(first=1000 + number % 1000, last=9000),),
            )
        )  # fmt: skip
    approvals = (Approval(service_account="web", program=_PROGRAM),)
    return NamespaceState(namespace="shop", version=1, rules=tuple(made), approvals=approvals)


def time_decisions(policy: NamespacePolicy) -> dict[str, float]:
    """Return the median microseconds of one decision about a stranger and about a member."""
    server = Party(workload=_WEB, listed=_WEB, program=_PROGRAM)
    figures = {}
    for name in ("stranger", "member"):
        taken = []
        for number in range(_DECISIONS):
            if name == "stranger":
                source = Party(address=ipaddress.ip_address(f"192.0.2.{number % 250}"))
            else:
                workload = Workload(namespace=f"m{number % 250}", service_account="client")
                source = Party(workload=workload, program=_PROGRAM, listed=workload)
            started = time.perf_counter()
            evaluate(
                direction=Direction.INGRESS, source=source, destination=server, port=5432, source_policy=None,
                destination_policy=policy,
            )  # fmt: skip
            taken.append((time.perf_counter() - started) * 1e6)
        figures[f"{name}_us"] = round(median(taken), 1)
    return figures


async def install(data: bytes, policies: Policies | None = None) -> Policies:
    """Decode a state as it comes from the CA, compile it and put it in force, in place of what ``policies`` has."""
    from sidecar.control.link import decode
    from sidecar.mesh.policies import Policies

    async def ask(_: object) -> None:
        pass

    policies = policies or Policies(NamespaceState(namespace="shop"), workload=_WEB, ask=ask, timeout_s=60)
    is_done = asyncio.Event()
    message = await decode(data)
    if not isinstance(message, NamespaceChanged):
        raise TypeError(type(message).__name__)
    policies.install(message.state, acknowledge=lambda _: is_done.set())
    del message
    await is_done.wait()
    return policies


async def time_install(state: NamespaceState) -> dict[str, float]:
    """Return the seconds until a state from the CA is compiled, and the longest stall of the loop until then."""
    data = encode_message(NamespaceChanged(state=state))
    started, stall_s = time.perf_counter(), 0.0
    installing = asyncio.create_task(install(data))
    while not installing.done():
        before = time.process_time()
        await asyncio.sleep(0)
        stall_s = max(stall_s, time.process_time() - before)
    await installing
    return {
        "message_mib": round(len(data) / 2**20, 1),
        "install_s": round(time.perf_counter() - started, 2),
        "stall_ms": round(stall_s * 1000, 1),
    }


def main(arguments: Sequence[str]) -> int:
    """Measure, print one JSON object a number of rules, return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.policy")
    parser.add_argument("--rules", type=int, nargs="+", default=[10, 1000, 10_000], help="(default: 10 1000 10000)")
    options = parser.parse_args(arguments)
    for rules in options.rules:
        state = make_state(rules)
        figures = {"rules": rules, **time_decisions(compile_namespace(state)), **asyncio.run(time_install(state))}
        print(json.dumps(figures), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
