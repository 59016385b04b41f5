"""The mesh of the tests: a real CA, real sidecars with redirect capture, and approved programs, in pods."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shared.model.identity.loaded_code import ApprovedCode
from shared.model.policy.rules import Mode, NamespaceState, Rule
from tests.e2e.harness.admin import Admin, AdminError
from tests.e2e.harness.pods import Network, Pod, end, pause
from tests.e2e.harness.programs import Actor, Executable, make_executable
from tests.e2e.harness.records import Log

NAMESPACE = "shop"
MAX_EXECUTABLE_BYTES = 384 * 1024 * 1024
ROOT = Path(__file__).resolve().parents[3]
_START_S = 150.0  # A CA needs seconds of processor time, and a busy machine may give it a tenth of a core.
_POLL_S = 0.05


def wait_until(is_there: Callable[[], bool], what: str, *, timeout_s: float = _START_S) -> None:
    """Wait for something.

    Raises:
        AssertionError: it didn't come.
    """
    deadline = time.monotonic() + timeout_s
    while not is_there():
        if time.monotonic() >= deadline:
            raise AssertionError(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(_POLL_S)


@dataclass(kw_only=True)
class Sidecar:
    """A running sidecar.

    Attributes:
        log: its decisions.
    """

    workload: str
    instance: str
    pod: Pod
    log: Log
    events: Path
    process: subprocess.Popen[str] = field(repr=False)

    def pause(self) -> None:
        """Stop it as SIGSTOP does, and wait until it stands still; connections wait in the kernel."""
        pause(self.process)

    def resume(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Kill it: nothing is drained."""
        end(self.process)


class Mesh:
    """CA and network; sidecars are added.

    Attributes:
        address: where the CA listens.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        # Sidecars run as a user of their own, and programs of other users must be found.
        for path in (directory, *directory.parents):
            if path == Path("/tmp"):
                break
            path.chmod(0o755)
        self.network = Network()
        self.admin = Admin(directory / "admin.sock")
        self.address = f"{self.network.hub.address}:15443"
        self.outsider = self.network.add("outsider")
        self.sidecars: dict[str, Sidecar] = {}
        self._ports = itertools.count(9000)
        self._names = itertools.count(1)
        self._actors: list[Actor] = []
        self._ca: subprocess.Popen[str] | None = None
        self._known_approvals: set[tuple[str, str]] = set()

    def close(self) -> None:
        """End everything."""
        self.network.close()

    # ---- the CA -----------------------------------------------------------------------------------------------------

    def start_ca(self, release: Path = ROOT) -> None:
        """Start the CA, or start it again over the same store; ``release``: where its code is."""
        command = [
            sys.executable, "-m", "ca", "--data-dir", str(self.directory / "ca"),
            "--kek-file", str(self.directory / "kek"), "--listen", self.address,
            "--admin-socket", str(self.directory / "admin.sock"),
        ]  # fmt: skip
        with (self.directory / "ca.log").open("a") as log:
            self._ca = self.network.hub.start(command, stdout=log, stderr=log, env=_environment(release))
        wait_until(self._is_ca_ready, "the CA", timeout_s=_START_S)

    def end_ca(self) -> None:
        """Kill the CA, as a crash does."""
        assert self._ca is not None
        end(self._ca)

    def pause_ca(self) -> None:
        """Stop the CA as SIGSTOP does: it answers nobody and closes nothing."""
        assert self._ca is not None
        pause(self._ca)

    def resume_ca(self) -> None:
        """Let the CA go on."""
        assert self._ca is not None
        self._ca.send_signal(signal.SIGCONT)

    def _is_ca_ready(self) -> bool:
        if self._ca is not None and self._ca.poll() is not None:
            raise AssertionError(f"the CA ended:\n{(self.directory / 'ca.log').read_text()[-3000:]}")
        try:
            self.admin.status()
        except (OSError, AdminError):
            return False
        return True

    # ---- sidecars ---------------------------------------------------------------------------------------------------

    def add_sidecar(
        self,
        workload: str,
        pod: Pod | None = None,
        *,
        settings: str = "capture: redirect",
        has_capabilities: bool = True,
        release: Path = ROOT,
        main: str = "",
    ) -> Sidecar:
        """Start a sidecar and wait until it is ready.

        Arguments:
            pod: where; a new one by default.
            settings: YAML of its configuration beside instance, token and tunnel addresses.
            release: where its code is.
            main: the module that is run; by default the sidecar's, with longer deadlines.
        """
        instance = f"{workload.replace('/', '-')}-{next(self._names)}"
        pod = pod or self.network.add(instance)
        sidecar = self.begin_sidecar(
            workload,
            pod,
            instance,
            settings=settings,
            has_capabilities=has_capabilities,
            release=release,
            main=main,
        )
        self.wait_ready(sidecar)
        self.sidecars[instance] = sidecar
        return sidecar

    def wait_ready(self, sidecar: Sidecar) -> None:
        """Wait until a sidecar that was begun has joined and serves."""

        def is_ready() -> bool:
            if sidecar.process.poll() is not None:
                raise AssertionError(f"{sidecar.instance} ended:\n{sidecar.events.read_text()[-3000:]}")
            return "sidecar_ready" in sidecar.events.read_text()

        wait_until(is_ready, sidecar.instance)

    def begin_sidecar(
        self,
        workload: str,
        pod: Pod,
        instance: str,
        *,
        settings: str,
        token: str = "",
        has_capabilities: bool = True,
        release: Path = ROOT,
        main: str = "",
    ) -> Sidecar:
        """Start a sidecar, whatever becomes of it; ``token``: another than a new one."""
        addresses = (pod.address, pod.address6)
        token = token or self.admin.make_join_token(workload, addresses).token
        main = main or ("tests.e2e.harness.unhurried_sidecar" if release == ROOT else "sidecar")
        configuration = self.directory / f"{instance}.yaml"
        listed = ", ".join(f'"{each}"' for each in addresses)
        configuration.write_text(f"instance: {instance}\ntunnel: {{addresses: [{listed}]}}\n{settings}\n")
        log, events = self.directory / f"{instance}.decisions", self.directory / f"{instance}.events"
        with log.open("a") as out, events.open("a") as err:
            process = pod.start(
                [sys.executable, "-m", main, "--config", str(configuration)],
                stdout=out,
                stderr=err,
                env={**_environment(release), "TOUCHMARK_JOIN_TOKEN": token},
                has_capabilities=has_capabilities,
            )
        return Sidecar(workload=workload, instance=instance, pod=pod, log=Log(log), events=events, process=process)

    # ---- programs ---------------------------------------------------------------------------------------------------

    def make_program(self, name: str, *, size: int = 0) -> Executable:
        """Make an executable that nobody has approved yet."""
        directory = self.directory / "programs"
        directory.mkdir(exist_ok=True)
        return make_executable(directory, f"{name}-{next(self._names)}", size=size)

    def run(
        self, executable: Executable, pod: Pod, *, has_capabilities: bool = True, shares_processes: bool = True
    ) -> Actor:
        """Run a program until the test ends."""
        actor = executable.run_in(pod, has_capabilities=has_capabilities, shares_processes=shares_processes)
        self._actors.append(actor)
        return actor

    def serve(self, executable: Executable, pod: Pod, kind: str, *, address: str = "", shared: bool = False) -> int:
        """Have a program serve a fresh port of the pod in the given way until the test ends; return the port."""
        port = self.take_port()
        outcome = self.run(executable, pod).do("listen", address or pod.address, port, kind, shared=shared)
        assert outcome == "listening"
        return port

    def take_port(self) -> int:
        """Return a port that no other test uses."""
        return next(self._ports)

    def end_actors(self) -> None:
        """End the programs of this test."""
        while self._actors:
            self._actors.pop().end()

    # ---- policy -----------------------------------------------------------------------------------------------------

    def approve(self, workload: str, *executables: Executable, code: ApprovedCode | None = None) -> None:
        """Approve programs for a workload, and wait until every sidecar knows."""
        self.admin.approve(workload, *(each.program for each in executables), code=code)
        self.wait_installed(workload.partition("/")[0])

    def set_policy(self, mode: Mode, *rules: Rule, namespace: str = NAMESPACE) -> None:
        """Set mode and rules of a namespace, and wait until every sidecar has them."""
        self.admin.set_policy(namespace, rules, mode)
        self.wait_installed(namespace)

    def wait_installed(self, namespace: str) -> None:
        """Wait until no connected sidecar has an older version of the namespace."""

        def is_installed() -> bool:
            version = self.admin.call("GET", f"/v1/namespaces/{namespace}", NamespaceState).version
            return all(
                view.namespace_versions.get(namespace, version) >= version
                for view in self.admin.sidecars()
                if view.connected
            )

        wait_until(is_installed, f"the policy of {namespace}")

    def rotate_issuer(self) -> str:
        """Rotate the issuing authority as an operator does; return the new one's name.

        Sidecars that tests have killed still hold certificates: the CA names them, and only for them it takes force.
        """
        before = self.admin.rotation().issuer
        status = self.admin.rotate()

        def is_waiting_for_the_dead_alone() -> bool:
            nonlocal status
            status = self.admin.rotation()
            connected = [view.instance for view in self.admin.sidecars() if view.connected]
            return status.issuer != before or not any(
                laggard.startswith(f"{instance} ") for laggard in status.waiting_for for instance in connected
            )

        wait_until(is_waiting_for_the_dead_alone, "the new bundle everywhere")
        if status.issuer == before and status.waiting_for:
            self.admin.rotate(force=True)
        wait_until(lambda: self.admin.rotation().issuer != before, "the new issuer")
        return self.admin.rotation().issuer

    @contextlib.contextmanager
    def without_ca(self) -> Iterator[None]:
        """Kill the CA for a while; afterwards every sidecar has its stream again."""
        self.end_ca()
        try:
            yield
        finally:
            self.start_ca()
            alive = [name for name, each in self.sidecars.items() if each.process.poll() is None]
            wait_until(lambda: self.are_connected(alive), "the sidecars' streams")

    def are_connected(self, instances: Sequence[str]) -> bool:
        """Tell whether each of these has its stream."""
        connected = {view.instance for view in self.admin.sidecars() if view.connected}
        return connected.issuperset(instances)


def _environment(release: Path) -> dict[str, str]:
    # Whatever the working directory holds isn't imported: it may be another release's code. What that one's processes
    # compile stays beside it for the next of them.
    kept = {} if release != ROOT else {"PYTHONDONTWRITEBYTECODE": "1"}
    return {**os.environ, "PYTHONPATH": str(release), "PYTHONSAFEPATH": "1", **kept}
