"""The till: ``shop/till``, whose sidecar has mTLS ports, and a partner of another trust domain outside the mesh."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from shared.model.policy.rules import Mode, Rule
from shared.model.wire import admin
from tests.e2e.harness.mesh import Mesh, Sidecar, wait_until
from tests.e2e.harness.pods import end
from tests.e2e.harness.programs import Executable
from tests.sidecar.partner import DOMAIN, Partner

SERVED, DIALLED = 8443, 9443
PARTNER = Partner()


@dataclass(frozen=True, slots=True, kw_only=True)
class Till:
    """A sidecar with mTLS ports, its approved program, and what an openssl of the partner's needs.

    Attributes:
        mesh_roots: PEM, by which the partner knows our mesh.
    """

    mesh: Mesh
    sidecar: Sidecar
    program: Executable
    chain: Path
    key: Path
    mesh_roots: Path

    @property
    def address(self) -> str:
        return self.sidecar.pod.address

    def call(self, text: str = "bread\n", *, options: tuple[str, ...] | None = None) -> str:
        """Call the served port from outside as the partner; return what came back."""
        certificate = ("-cert", str(self.chain), "-cert_chain", str(self.chain), "-key", str(self.key))
        command = [
            "openssl", "s_client", "-connect", f"{self.address}:{SERVED}", "-tls1_3", "-quiet", "-no_ign_eof",
            "-CAfile", str(self.mesh_roots), "-verify_return_error",
            *(certificate if options is None else options),
        ]  # fmt: skip
        client = self.mesh.outsider.start(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        try:
            assert client.stdin is not None
            assert client.stdout is not None
            with suppress(BrokenPipeError):  # It was refused, and has ended already.
                client.stdin.write(text)
                client.stdin.flush()
            return client.stdout.readline()
        finally:
            end(client)

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Have the partner serve the dialled port outside: it sends each line back reversed."""
        command = [
            "openssl", "s_server", "-accept", str(DIALLED), "-tls1_3", "-rev", "-Verify", "4", "-verify_return_error",
            "-cert", str(self.chain), "-cert_chain", str(self.chain), "-key", str(self.key),
            "-CAfile", str(self.mesh_roots),
        ]  # fmt: skip
        pod = self.mesh.outsider
        server = pod.start(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: f":{DIALLED} " in pod.run("ss", "-Hltn").stdout, "the partner's server", timeout_s=60)
            yield
        finally:
            end(server)

    def dial(self, program: Executable | None = None) -> str:
        """Dial the partner's server by plaintext, as the approved program; return what came back."""
        actor = self.mesh.run(program or self.program, self.sidecar.pod)
        outcome = actor.do("connect", "partner", self.mesh.outsider.address, DIALLED)
        if outcome != "connected":  # Capture accepts; a refusal may come before connect(2) has returned, or later.
            return str(outcome)
        actor.do("send", "partner", "hello\n")
        return str(actor.do("receive", "partner", 6))

    def serve(self, kind: str) -> str:
        """Have the approved program serve the mTLS port in the given way."""
        return str(self.mesh.run(self.program, self.sidecar.pod).do("listen", self.address, SERVED, kind))

    def be_explicit(self, *rules: Rule) -> None:
        self.mesh.set_policy(Mode.EXPLICIT, *rules)

    def trust(self, partner: Partner | None) -> None:
        """Make the partner's domain known, or forgotten."""
        path, answer = f"/v1/foreign-domains/{DOMAIN}", admin.ForeignDomainList
        if partner is not None:
            request = admin.ForeignDomainRequest(roots=partner.roots.roots)
            self.mesh.admin.call("PUT", path, answer, request)
        else:
            self.mesh.admin.call("DELETE", path, answer)


def open_till(mesh: Mesh) -> Till:
    """Start the sidecar, approve its program, make the partner's domain known."""
    directory = mesh.directory / "partner"
    directory.mkdir(exist_ok=True)
    chain, key = PARTNER.issue().write(directory)
    roots = directory / "mesh.pem"
    known = mesh.admin.call("GET", "/v1/foreign-domains", admin.ForeignDomainList)
    roots.write_text("".join(ssl.DER_cert_to_PEM_cert(der) for der in known.own_roots))
    sidecar = mesh.add_sidecar(
        "shop/till", settings=f"capture: redirect\nmtls: {{ports: [{SERVED}], destinationPorts: [{DIALLED}]}}"
    )
    program = mesh.make_program("till")
    mesh.approve("shop/till", program)
    till = Till(mesh=mesh, sidecar=sidecar, program=program, chain=chain, key=key, mesh_roots=roots)
    till.trust(PARTNER)
    return till
