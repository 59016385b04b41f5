"""The shop: ``shop/client`` and ``shop/server`` with a sidecar each, and the programs that are approved for them."""

from __future__ import annotations

from shared.model.policy.rules import Mode, NamespaceState, Rule
from tests.e2e.harness.mesh import MAX_EXECUTABLE_BYTES, NAMESPACE, Mesh
from tests.e2e.harness.programs import Actor, Executable

CLIENT = "shop/client"
SERVER = "shop/server"


class Shop:
    """What most tests play with.

    Attributes:
        client, server: the sidecars.
        buyer: approved for ``shop/client``; ``seller``: for ``shop/server``.
        intruder: approved for nobody.
    """

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        settings = f"capture: redirect\nattestation: {{maxExecutableBytes: {MAX_EXECUTABLE_BYTES}}}"
        self.client = mesh.add_sidecar(CLIENT, settings=settings)
        self.server = mesh.add_sidecar(SERVER, settings=settings)
        self.buyer = mesh.make_program("buyer")
        self.seller = mesh.make_program("seller")
        self.intruder = mesh.make_program("intruder")
        mesh.approve(CLIENT, self.buyer)
        mesh.approve(SERVER, self.seller)

    @property
    def address(self) -> str:
        """The server's."""
        return self.server.pod.address

    def skip_logs(self) -> None:
        """Leave what earlier tests wrote."""
        for sidecar in self.mesh.sidecars.values():
            sidecar.log.skip()

    def be_explicit(self, *rules: Rule) -> None:
        """Switch to explicit mode, with these rules."""
        self.mesh.set_policy(Mode.EXPLICIT, *rules)

    def be_permissive(self, *rules: Rule) -> None:
        """Switch to permissive mode, with these rules."""
        self.mesh.set_policy(Mode.PERMISSIVE, *rules)

    def switch_workload(self, service_account: str, mode: Mode | None) -> None:
        """Give a workload of the shop a mode of its own, or (None) its namespace's."""
        self.mesh.admin.set_workload_mode(NAMESPACE, service_account, mode)
        self.mesh.wait_installed(NAMESPACE)

    def reset(self) -> None:
        """Be permissive without rules, and let no workload have a mode of its own, whatever a test before has left."""
        self.be_permissive()
        state = self.mesh.admin.call("GET", f"/v1/namespaces/{NAMESPACE}", NamespaceState)
        for each in state.workload_modes:
            self.switch_workload(each.service_account, None)

    def sell(self, kind: str = "answer") -> int:
        """Have the approved server program serve a fresh port; return the port."""
        return self.mesh.serve(self.seller, self.server.pod, kind)

    def buy(self, executable: Executable | None = None) -> Actor:
        """Run a program beside the client's sidecar: the approved one by default."""
        return self.mesh.run(executable or self.buyer, self.client.pod)


class Bank:
    """Another namespace: ``bank/teller``, permissive, with one approved program."""

    def __init__(self, mesh: Mesh) -> None:
        self.sidecar = mesh.add_sidecar("bank/teller")
        self.teller = mesh.make_program("teller")
        mesh.approve("bank/teller", self.teller)
