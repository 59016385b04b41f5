"""The soak's mesh: one CA, two sidecars with their echo servers, and the load of each side; any of them may be killed.

Belongs here: starting, killing and asking these processes. Doesn't: when (``__main__.py``). All of them are started
here, and ended by their process id. I/O.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.errors import BenchError
from bench.processes import REPOSITORY, START_TIMEOUT_S, free_ports, own_python
from shared.model.identity.program import NO_MAIN, Program
from shared.model.policy.rules import Action, Mode, PortRange, Rule
from tests.e2e.harness.admin import Admin, AdminError

NAMESPACE: Final = "soak"
ADDRESSES: Final = {"left": "127.0.0.51", "right": "127.0.0.52"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where one side listens.

    Attributes:
        echo, flip: where its two servers are reached, on its own address; the programs listen on loopback.
        out_echo, out_flip: where its clients find the other side's servers.
    """

    tunnel: int
    echo: int
    flip: int
    echo_program: int
    flip_program: int
    out_echo: int
    out_flip: int
    health: int


@dataclass(slots=True, kw_only=True)
class Mesh:
    """The running processes.

    Attributes:
        key_bytes: after so many a TLS key is renewed; None: as released.
    """

    directory: Path
    key_bytes: int | None
    ports: dict[str, Ports] = field(default_factory=dict)
    _ca_port: int = 0
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def admin(self) -> Admin:
        """The CA's admin API."""
        return Admin(self.directory / "admin.sock")

    def start_ca(self) -> None:
        """Start the CA, or start it again over the same store."""
        self._ca_port = self._ca_port or free_ports(1)[0]
        self._start(
            "ca", "ca", "--data-dir", self.directory / "ca", "--kek-file", self.directory / "kek", "--listen",
            f"127.0.0.1:{self._ca_port}", "--admin-socket", self.directory / "admin.sock", "--log-level", "warning",
        )  # fmt: skip
        self._wait("the CA", self._is_ca_ready)

    def start_servers(self) -> None:
        """Choose ports, and start both sides' echo servers."""
        for side, address in ADDRESSES.items():
            local, own = free_ports(5), free_ports(3, address)
            self.ports[side] = Ports(
                tunnel=own[0], echo=own[1], flip=own[2], echo_program=local[0], flip_program=local[1],
                out_echo=local[2], out_flip=local[3], health=local[4],
            )  # fmt: skip
            for name, port in (("echo", local[0]), ("flip", local[1])):
                self._start(f"{side}-{name}", "bench.soak.echo", "127.0.0.1", port)

    def start_sidecar(self, side: str) -> None:
        """Start one side's sidecar with a new token, and wait until it is ready."""
        other = "right" if side == "left" else "left"
        ports, others, address = self.ports[side], self.ports[other], ADDRESSES[side]
        token = self.admin.make_join_token(f"{NAMESPACE}/{side}", (address,)).token
        path = self.directory / f"{side}.yaml"
        settings = {
            "capture": "listeners",
            "token": token,
            "instance": f"{side}-{time.monotonic_ns() % 10**9}",
            "tunnel": {"addresses": [address], "port": ports.tunnel},
            "inbound": [
                {"listen": f"{address}:{ports.echo}", "application": f"127.0.0.1:{ports.echo_program}"},
                {"listen": f"{address}:{ports.flip}", "application": f"127.0.0.1:{ports.flip_program}"},
            ],
            "outbound": [
                {"listen": f"127.0.0.1:{ports.out_echo}", "destination": f"{ADDRESSES[other]}:{others.echo}"},
                {"listen": f"127.0.0.1:{ports.out_flip}", "destination": f"{ADDRESSES[other]}:{others.flip}"},
            ],
            "health": {"port": ports.health},
            "log": {"file": str(self.directory / f"{side}.decisions")},
        }
        path.touch(mode=0o600)
        path.write_text(json.dumps(settings))  # JSON is YAML.
        limited = self.key_bytes is not None
        self._start(
            f"{side}-sidecar", "bench.soak.limited_sidecar" if limited else "sidecar", "--config", path,
            variables={"KEY_BYTES": str(self.key_bytes)} if limited else {},
        )  # fmt: skip
        self._wait(f"the sidecar {side}", lambda: self.read_metrics(side).get("touchmark_sidecar_serving") == 1)

    def start_load(self, side: str, programs_per_s: float) -> None:
        """Start one side's clients, and what starts its short programs."""
        ports = self.ports[side]
        for name, per_s in (("load", 0.0), ("programs", programs_per_s)):
            self._start(
                f"{side}-{name}", "bench.soak.clients", "--address", "127.0.0.1", "--port", ports.out_echo,
                "--flip-port", ports.out_flip, "--programs-per-s", per_s,
            )  # fmt: skip

    def approve(self) -> None:
        """Approve what the load runs: this interpreter and bash, which are weak."""
        from shared.model.wire import admin

        programs = []
        for path in (Path(own_python()).resolve(), Path("/bin/bash").resolve()):
            digest = _hash(path)
            programs += [Program(digest=digest), Program(digest=digest, main=NO_MAIN)]
        for side in ADDRESSES:
            request = admin.ProgramRequest(
                namespace=NAMESPACE, service_account=side, programs=tuple(programs), name=f"soak-{side}", weak=True
            )
            self.admin.call("POST", "/v1/programs", admin.ProgramView, request)

    def set_policy(self, mode: Mode, *, denies_flip: bool) -> None:
        """Set the namespace's mode, and whether the flip servers are denied."""
        ports = tuple(PortRange(first=each.flip, last=each.flip) for each in self.ports.values())
        deny = Rule(name="no-flip", action=Action.DENY, ports=ports)
        self.admin.set_policy(NAMESPACE, (deny,) if denies_flip else (), mode)

    def kill(self, name: str) -> None:
        """Kill one process, as a crash does."""
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def stop(self, name: str, *, timeout_s: float = 60) -> None:
        """End one process by SIGTERM.

        Raises:
            BenchError: it doesn't end.
        """
        process = self._running.pop(name)
        process.terminate()
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            process.kill()
            process.wait()
            raise BenchError(f"{name} didn't end in {timeout_s:g} s") from error

    def check(self) -> None:
        """Check that everything that should run does.

        Raises:
            BenchError: something has ended.
        """
        for name, process in self._running.items():
            if (code := process.poll()) is not None:
                tail = (self.directory / f"{name}.err").read_text(errors="replace")[-600:]
                raise BenchError(f"{name} ended with status {code}: {tail}")

    def read_metrics(self, side: str) -> dict[str, float]:
        """Read a sidecar's metrics, by name with labels; empty when it doesn't answer."""
        url = f"http://127.0.0.1:{self.ports[side].health}/metrics"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return {}
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}

    def read_lines(self, name: str) -> list[dict[str, Any]]:
        """Read a file of JSON lines in the run's directory."""
        text = (self.directory / name).read_text(errors="replace")
        return [json.loads(line) for line in text.splitlines() if line.startswith("{") and line.endswith("}")]

    def end(self) -> None:
        """End what still runs."""
        for process in self._running.values():
            process.send_signal(signal.SIGKILL)
        for process in self._running.values():
            process.wait()
        self._running.clear()

    def _start(self, name: str, module: str, *arguments: object, variables: dict[str, str] | None = None) -> None:
        with (self.directory / f"{name}.out").open("ab") as out, (self.directory / f"{name}.err").open("ab") as err:
            self._running[name] = subprocess.Popen(
                [own_python(), "-m", module, *(str(each) for each in arguments)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=REPOSITORY,
                env={**os.environ, **(variables or {})},
            )  # fmt: skip

    def _is_ca_ready(self) -> bool:
        try:
            self.admin.status()
        except (OSError, AdminError):
            return False
        return True

    def _wait(self, what: str, is_there: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 2 * START_TIMEOUT_S
        while not is_there():
            self.check()
            if time.monotonic() > deadline:
                raise BenchError(f"{what} isn't ready after {2 * START_TIMEOUT_S:.0f} s")
            time.sleep(0.05)


@contextmanager
def running_mesh(directory: Path, *, key_bytes: int | None) -> Iterator[Mesh]:
    """Start CA, servers and sidecars, and end all of it."""
    mesh = Mesh(directory=directory, key_bytes=key_bytes)
    try:
        mesh.start_ca()
        mesh.start_servers()
        for side in ADDRESSES:
            mesh.start_sidecar(side)
        yield mesh
    finally:
        with suppress(ProcessLookupError):
            mesh.end()


def _hash(path: Path) -> str:
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sum_of(metrics: dict[str, float], name: str) -> float:
    """Add up a metric over its labels."""
    return sum(value for key, value in metrics.items() if key == name or key.startswith(f"{name}{{"))
