"""Pods: a network, PID and mount namespace each, as containers of one Kubernetes pod share them. Needs root.

A pod lives as long as its first process, which dies with the test run: nothing is left behind, not even a name, also
after SIGKILL. Addresses lie in 198.18.0.0/15 (RFC 2544) and 2001:db8::/32 (RFC 3849).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, TypeVar

_CLONE_NEWNS = 0x00020000
_CLONE_NEWPID = 0x20000000
_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1
_PR_CAPBSET_DROP = 24
_TIMEOUT_S = 150  # Bounds a failure alone: a busy machine may give a process a tenth of a core.
# Left to itself, a bridge takes the lowest address of its ports: a later pod could change it, and for a minute or two
# the pods before would send to the hub's old one in vain.
_BRIDGE_ADDRESS = "02:00:c6:12:00:01"
# Reaps whoever is left to it, and says when its /proc is there.
_FIRST_PROCESS = "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN); print('up', flush=True); signal.pause()"

_libc = ctypes.CDLL(None, use_errno=True)
T = TypeVar("T")


def _enter(descriptor: int, kind: int) -> None:
    if _libc.setns(descriptor, kind):
        raise OSError(ctypes.get_errno(), "setns")


@dataclass(kw_only=True)
class Pod:
    """One pod on the network.

    Attributes:
        address, address6: its IPv4 and IPv6 addresses.
    """

    name: str
    address: str
    address6: str
    _first: subprocess.Popen[str] = field(repr=False)
    _network: int = field(repr=False)
    _pids: int = field(repr=False)
    _mounts: int = field(repr=False)
    _children: list[subprocess.Popen[str]] = field(default_factory=list, repr=False)

    def start(
        self,
        command: Sequence[str],
        *,
        stdin: int | IO[str] | None = subprocess.DEVNULL,
        stdout: int | IO[str] | None = None,
        stderr: int | IO[str] | None = None,
        env: Mapping[str, str] | None = None,
        has_capabilities: bool = True,
        shares_processes: bool = True,
    ) -> subprocess.Popen[str]:
        """Start a process in the pod. It dies with the test run.

        Arguments:
            has_capabilities: false: it runs as an ordinary user would, though its number is 0.
            shares_processes: false: only the network is shared, as with a container outside the pod's PID namespace.
        """
        directory = os.getcwd()

        def enter() -> None:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            _enter(self._network, _CLONE_NEWNET)
            if shares_processes:
                _enter(self._mounts, _CLONE_NEWNS)
                os.chdir(directory)
            if not has_capabilities:
                for capability in range(64):
                    _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)

        with self._children_here() if shares_processes else contextlib.nullcontext():
            child = subprocess.Popen(
                command, stdin=stdin, stdout=stdout, stderr=stderr, env=env, text=True, preexec_fn=enter
            )
        self._children.append(child)
        return child

    def run(self, *command: str, timeout_s: float = _TIMEOUT_S) -> subprocess.CompletedProcess[str]:
        """Run a command in the pod to its end."""
        child = self.start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            output, errors = child.communicate(timeout=timeout_s)
        finally:
            end(child)
        return subprocess.CompletedProcess(command, child.returncode, output, errors)

    def socket(self, family: int = socket.AF_INET) -> socket.socket:
        """Make a TCP socket that belongs to the pod's network, for the test itself."""
        return self.call(lambda: socket.socket(family, socket.SOCK_STREAM))

    def call(self, function: Callable[[], T]) -> T:
        """Call a function in a thread that is in the pod's network."""
        outcome: list[T] = []
        failure: list[BaseException] = []

        def enter_and_call() -> None:
            try:
                _enter(self._network, _CLONE_NEWNET)
                outcome.append(function())
            except BaseException as error:  # Raised on in the caller's thread.
                failure.append(error)

        thread = threading.Thread(target=enter_and_call, name=f"in {self.name}")
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return outcome[0]

    def local_pid(self, pid: int) -> int:
        """Return the number by which the pod's own processes know a process."""
        with open(f"/proc/{pid}/status", encoding="ascii") as status:
            line = next(line for line in status if line.startswith("NSpid:"))
        return int(line.split()[-1])

    def close(self) -> None:
        """End everything in the pod."""
        for child in reversed(self._children):
            end(child)
        end(self._first)
        for descriptor in (self._network, self._pids, self._mounts):
            os.close(descriptor)

    @contextlib.contextmanager
    def _children_here(self) -> Iterator[None]:
        """Children of this thread begin in the pod's PID namespace; a thread can't be started meanwhile."""
        own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(self._pids, _CLONE_NEWPID)
            try:
                yield
            finally:
                _enter(own, _CLONE_NEWPID)
        finally:
            os.close(own)


def end(child: subprocess.Popen[str]) -> None:
    """Kill a process if it still runs, wait for it, close its pipes."""
    if child.poll() is None:
        child.kill()
    child.wait(timeout=_TIMEOUT_S)
    for pipe in (child.stdin, child.stdout, child.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def pause(child: subprocess.Popen[str]) -> None:
    """Stop a process as SIGSTOP does; return when none of its threads runs any more, or it has ended.

    The signal itself only tells one thread, and the others run on until the kernel has run that one.
    """
    child.send_signal(signal.SIGSTOP)
    if child.returncode is None:
        os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)


class Network:
    """Pods that reach one another over a bridge, which lies in the first pod."""

    def __init__(self) -> None:
        self._pods: list[Pod] = []
        self.hub = self.add("hub")

    def add(self, name: str) -> Pod:
        """Make a pod with the next free addresses."""
        number = len(self._pods) + 1
        command = ["unshare", "--net", "--pid", "--mount", "--fork", "--mount-proc", "--kill-child=KILL"]
        first = subprocess.Popen(
            [*command, sys.executable, "-S", "-E", "-c", _FIRST_PROCESS],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0),
        )
        try:
            if first.stdout is None or first.stdout.readline() != "up\n":
                raise RuntimeError("a pod's first process didn't start: unshare(1) refused")
            with open(f"/proc/{first.pid}/task/{first.pid}/children", encoding="ascii") as children:
                pid = int(children.read().split()[0])
            opened = [os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in ("net", "pid", "mnt")]
        except BaseException:
            end(first)
            raise
        pod = Pod(
            name=name,
            address=f"198.18.0.{number}",
            address6=f"2001:db8::{number:x}",
            _first=first,
            _network=opened[0],
            _pids=opened[1],
            _mounts=opened[2],
        )
        self._pods.append(pod)
        device = "bridge" if number == 1 else "eth0"
        _ip(pod, "link", "set", "lo", "up")
        if number == 1:
            _ip(pod, "link", "add", device, "address", _BRIDGE_ADDRESS, "type", "bridge")
        else:
            hub = self._pods[0]
            _ip(hub, "link", "add", f"pod{number}", "type", "veth", "peer", "name", device, "netns", str(pid))
            _ip(hub, "link", "set", f"pod{number}", "master", "bridge", "up")
        _ip(pod, "address", "add", f"{pod.address}/15", "dev", device)
        _ip(pod, "address", "add", f"{pod.address6}/64", "dev", device, "nodad")
        _ip(pod, "link", "set", device, "up")
        return pod

    def close(self) -> None:
        """End every pod and all that runs there."""
        for pod in reversed(self._pods):
            pod.close()
        self._pods.clear()


def _ip(pod: Pod, *words: str) -> None:
    # Within the pod's network alone: ``netns PID`` means a number of the PID namespace outside.
    child = pod.start(["ip", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, shares_processes=False)
    output, _ = child.communicate(timeout=_TIMEOUT_S)
    pod._children.remove(child)
    if child.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {output}")
