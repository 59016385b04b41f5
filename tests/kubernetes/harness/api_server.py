"""A real etcd and kube-apiserver on one address, nothing else: no controller, no scheduler, no node. Does I/O.

So objects are stored, validated, authorised, watched and sent through webhooks (``clientConfig.url`` on 127.0.0.1), but
pods stay pending, namespaces don't get their ``default`` service account and stay ``Terminating`` once deleted, and the
roles that are put together by a controller (``view``, ``edit``, ``admin``) grant nothing. The API server remembers a
token's good answer for 10 s: a TokenReview just after its pod's end may still say yes.
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from scripts.kubernetes import binaries
from tests.free_ports import free_port
from tests.kubernetes.harness import kubeconfig, pki
from tests.kubernetes.harness.cluster import Cluster
from tests.kubernetes.harness.processes import Program

DEFINITIONS = Path(__file__).parents[3] / "manifests" / "crds"
SERVICES = "198.19.0.0/16"
_FIRST_SERVICE = "198.19.0.1"
ISSUER = "https://kubernetes.default.svc.cluster.local"
_ADMISSION = (
    "ServiceAccount,NodeRestriction,MutatingAdmissionWebhook,ValidatingAdmissionWebhook,ValidatingAdmissionPolicy"
)
_AUDIT_POLICY = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, users: ["system:apiserver"]}
- {level: Metadata}
"""


class ApiServer(Cluster):
    """Runs from `start` to `stop`; `restart` keeps the data, the address, the keys and so every kubeconfig."""

    def __init__(
        self,
        directory: Path,
        *,
        address: str = "127.0.0.1",
        port: int | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        """``arguments`` are kube-apiserver's further ones, such as ``--v=4``; a repeated one replaces ours."""
        self.directory = directory
        self.address = address
        self.arguments = tuple(arguments)
        self.ca = pki.ClusterCA()
        self._port = port or free_port(address)
        self._etcd_port, self._etcd_peer_port = free_port(), free_port()
        self._etcd: Program | None = None
        self._server: Program | None = None
        self._kubeconfigs = 0
        self._write_files()
        super().__init__(self.kubeconfig("admin", groups=["system:masters"]))

    @property
    def url(self) -> str:
        """Where clients reach it."""
        return f"https://{self.address}:{self._port}"

    # ---- Life --------------------------------------------------------------------------------------------------------
    def start(self, *, timeout_s: float = 240.0) -> None:
        """Start etcd and kube-apiserver, whichever isn't running, and wait until the server is ready.

        Call it on the main thread: both end with the thread that started them.
        """
        if self._etcd is None:
            self._etcd = Program(self._etcd_command(), log=self.directory / "etcd.log", directory=self.directory)
        if self._server is None:
            log = self.directory / "kube-apiserver.log"
            self._server = Program(self._server_command(), log=log, directory=self.directory)
        try:
            self._server.wait_until(self.is_ready, timeout_s=timeout_s)
        except BaseException:
            self.stop(kill=True)
            raise

    def stop(self, *, kill: bool = False) -> None:
        """Stop both; the data stays. ``kill`` is a crash, and the quick way at the end of a test run."""
        self.stop_server(kill=kill)
        etcd, self._etcd = self._etcd, None
        if etcd is not None:
            etcd.stop(timeout_s=0.0 if kill else 10.0)

    def stop_server(self, *, kill: bool = False) -> None:
        """Stop kube-apiserver alone: clients see refused connections until `start`. ``kill`` is a crash."""
        server, self._server = self._server, None
        if server is not None:
            server.stop(timeout_s=0.0 if kill else 20.0)

    def restart(self, *, kill: bool = False) -> None:
        """Restart kube-apiserver alone, as an upgrade (or with ``kill`` a crash) of the control plane would."""
        self.stop_server(kill=kill)
        self.start()

    def install_definitions(self) -> None:
        """Apply the CRDs as an overlay brings them, and wait until the API server serves them."""
        self.kubectl("apply", "--server-side", "-k", str(DEFINITIONS))
        self.kubectl.wait_until_established()

    def is_ready(self) -> bool:
        """Whether ``/readyz`` says so to an administrator."""
        try:
            return self.request("/readyz")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    # ---- Identities --------------------------------------------------------------------------------------------------
    def kubeconfig(self, user: str, *, groups: Sequence[str] = (), namespace: str = "default") -> Path:
        """A kubeconfig with a client certificate for this user and these groups."""
        credential = self.ca.issue(user, groups=groups)
        path = self._new_kubeconfig(user)
        return kubeconfig.write(
            path, server=self.url, ca=self.ca.certificate, credential=credential, namespace=namespace
        )

    def service_account_kubeconfig(self, namespace: str, name: str) -> Path:
        """A kubeconfig with a token for a service account; the account is created when it isn't there."""
        self.create_service_account(namespace, name)
        path = self._new_kubeconfig(f"{namespace}-{name}")
        token = self.token(namespace, name)
        return kubeconfig.write(path, server=self.url, ca=self.ca.certificate, credential=token, namespace=namespace)

    def resign(self, token: str, **claims: object) -> str:
        """The same token with other claims (``exp``, ``aud``, …), signed by the cluster's key: one that has expired."""
        changed = {**pki.read_claims(token), **claims}
        return pki.sign_token(changed, (self.directory / "pki" / "sa.key").read_bytes())

    # ---- Looking -----------------------------------------------------------------------------------------------------
    def request(self, path: str, *, timeout_s: float = 5.0) -> tuple[int, bytes]:
        """Status and body of a GET as the administrator; raises `OSError` when nobody answers."""
        connection = http.client.HTTPSConnection(self.address, self._port, context=self._tls, timeout=timeout_s)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def audit(self, *, user: str | None = None) -> Iterator[dict[str, Any]]:
        """The audit log's events (level Metadata, one at each request's end), of one user or all.

        A service account's user is ``system:serviceaccount:NAMESPACE:NAME``. What RBAC must grant stands in
        ``verb`` and ``objectRef``.
        """
        for line in (self.directory / "audit.log").read_text(encoding="utf-8").splitlines():
            event = json.loads(line)
            if user is None or event["user"].get("username") == user:
                yield event

    # ---- Parts -------------------------------------------------------------------------------------------------------
    def _write_files(self) -> None:
        place = self.directory / "pki"
        place.mkdir(parents=True, mode=0o700)
        private, public = pki.make_token_key()
        names = ["localhost", "127.0.0.1", self.address, _FIRST_SERVICE]
        names += ["kubernetes", "kubernetes.default", "kubernetes.default.svc", f"{ISSUER.removeprefix('https://')}"]
        server = self.ca.issue("kube-apiserver", names=list(dict.fromkeys(names)))
        client = self.ca.issue("kube-apiserver-client", groups=["system:masters"])
        files = {"sa.key": private, "sa.pub": public, "ca.crt": self.ca.certificate, "ca.key": self.ca.own.key}
        files |= {"server.crt": server.certificate, "server.key": server.key}
        files |= {"client.crt": client.certificate, "client.key": client.key}
        for name, content in files.items():
            (place / name).write_bytes(content)
        (self.directory / "audit-policy.yaml").write_text(_AUDIT_POLICY, encoding="ascii")
        self._tls = ssl.create_default_context(cafile=str(place / "ca.crt"))
        self._tls.load_cert_chain(place / "client.crt", place / "client.key")

    def _new_kubeconfig(self, name: str) -> Path:
        self._kubeconfigs += 1
        directory = self.directory / "kubeconfigs"
        directory.mkdir(exist_ok=True)
        return directory / f"{self._kubeconfigs}-{name.replace(':', '-').replace('/', '-')}.kubeconfig"

    def _etcd_command(self) -> list[str | Path]:
        client, peer = f"http://127.0.0.1:{self._etcd_port}", f"http://127.0.0.1:{self._etcd_peer_port}"
        command: list[str | Path] = [binaries.locate("etcd"), "--name=test", "--data-dir=etcd", "--logger=zap"]
        command += [f"--listen-client-urls={client}", f"--advertise-client-urls={client}"]
        command += [f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"]
        return [*command, f"--initial-cluster=test={peer}"]

    def _server_command(self) -> list[str | Path]:
        # A loopback address can't be an endpoint of the service "kubernetes".
        reconciler = "none" if self.address.startswith("127.") else "lease"
        return [
            binaries.locate("kube-apiserver"),
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            f"--bind-address={self.address}",
            f"--advertise-address={self.address}",
            f"--secure-port={self._port}",
            f"--endpoint-reconciler-type={reconciler}",
            "--tls-cert-file=pki/server.crt",
            "--tls-private-key-file=pki/server.key",
            "--client-ca-file=pki/ca.crt",
            "--kubelet-client-certificate=pki/client.crt",
            "--kubelet-client-key=pki/client.key",
            "--kubelet-preferred-address-types=InternalIP",
            f"--service-account-issuer={ISSUER}",
            "--service-account-key-file=pki/sa.pub",
            "--service-account-signing-key-file=pki/sa.key",
            f"--service-cluster-ip-range={SERVICES}",
            "--authorization-mode=Node,RBAC",
            "--allow-privileged",
            f"--enable-admission-plugins={_ADMISSION}",
            "--audit-policy-file=audit-policy.yaml",
            "--audit-log-path=audit.log",
            "--shutdown-delay-duration=0s",
            *self.arguments,
        ]
