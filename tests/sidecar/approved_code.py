"""A sidecar with nothing but what the checks of loaded code need, and approvals that say what may be loaded."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from shared.model.identity.identity import Workload
from shared.model.identity.loaded_code import CodeCheck, LoadedCode, LoadedObject
from shared.model.identity.program import Program
from shared.model.policy.evaluate import compile_namespace
from shared.model.policy.modes import effective_mode
from shared.model.policy.rules import Approval, Mode, NamespaceState, WorkloadCode
from sidecar.attest.facts import Attestation, AttestationError, Execution, ProcessFacts
from sidecar.loaded.looks import SeenCode
from sidecar.loaded.measured_code import Look
from sidecar.parts import Sidecar

WEB = Workload(namespace="shop", service_account="web")
PROGRAM = Program(digest="a" * 64)
LIBC = LoadedObject(path="/lib/libc.so.6", digest="1" * 64)
EVIL = LoadedObject(path="/tmp/evil.so", digest="2" * 64)
ATTESTATION = Attestation(
    program=PROGRAM,
    process=ProcessFacts(pid=7, start_time=1, uid=0, path="/bin/web"),
    inode=1,
    cookie=1,
    execution=Execution(7, 1, 1, 1, 1, 1, 1),
)
ONLY_LIBC = LoadedCode(objects=(LIBC,))
WITH_EVIL = LoadedCode(objects=(LIBC, EVIL))


class FakeLooks:
    """Sees what the test says, or fails as it says; the first look is never there before it is asked for."""

    def __init__(self, found: LoadedCode | AttestationError) -> None:
        self.found = found
        self.last: SeenCode | None = None
        self.looks = 0
        self.unhurried = 0

    def get(self, execution: Execution) -> SeenCode | None:
        return self.last

    get_fresh = get

    async def look(self, execution: Execution) -> SeenCode:
        self.looks += 1
        if isinstance(self.found, AttestationError):
            raise self.found
        self.last = SeenCode(look=Look(code=self.found, keys=()), at=0.0)
        return self.last

    def forget_ended(self) -> None:
        """Nothing has ended."""

    def look_unhurried(self, attestation: Attestation) -> None:
        self.unhurried += 1


def make_state(check: CodeCheck | None, mode: Mode = Mode.EXPLICIT, *, jit: bool = False) -> NamespaceState:
    """Approve the program, with ``LIBC`` for all of the workload."""
    approval = Approval(service_account="web", program=PROGRAM, code=check, jit=jit)
    code = (WorkloadCode(service_account="web", digests=(LIBC.digest,)),)
    return NamespaceState(namespace="shop", version=1, mode=mode, approvals=(approval,), code=code)


def make_sidecar(looks: FakeLooks, state: NamespaceState, **others: Any) -> Sidecar:
    """Make what has the parts that the checks use."""
    policies = SimpleNamespace(own=compile_namespace(state), mode=effective_mode(state, WEB))
    return cast("Sidecar", SimpleNamespace(workload=WEB, policies=policies, code=looks, sightings=None, **others))
