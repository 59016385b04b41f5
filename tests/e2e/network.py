"""Network namespaces for the end-to-end tests: made with ``ip``, joined by one bridge, removed afterwards.

Addresses lie in 198.18.0.0/15 (RFC 2544). Needs root. Names carry the test's process ID, so that runs don't meet.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

_TIMEOUT_S = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One namespace with one address, as a pod has it."""

    namespace: str
    address: str

    def command(self, *words: str) -> list[str]:
        """Write a command line that runs within the namespace."""
        return ["ip", "netns", "exec", self.namespace, *words]

    def run(self, *words: str, timeout_s: float = _TIMEOUT_S) -> subprocess.CompletedProcess[str]:
        """Run a command within the namespace to its end."""
        return subprocess.run(self.command(*words), capture_output=True, text=True, timeout=timeout_s, check=False)


@contextmanager
def network(addresses: Sequence[str]) -> Iterator[list[Host]]:
    """Make a namespace for each address, all on one bridge in a namespace of its own.

    Raises:
        subprocess.CalledProcessError: ``ip`` failed; what was made until then is removed.
    """
    wire = f"tm{os.getpid()}w"
    hosts = [Host(namespace=f"tm{os.getpid()}h{number}", address=one) for number, one in enumerate(addresses)]
    made: list[str] = []
    try:
        _add(wire, made)
        _ip("-n", wire, "link", "add", "bridge", "type", "bridge")
        _ip("-n", wire, "link", "set", "bridge", "up")
        for number, host in enumerate(hosts):
            _add(host.namespace, made)
            inside = ("-n", host.namespace)
            _ip(*inside, "link", "add", "eth0", "type", "veth", "peer", "name", f"host{number}", "netns", wire)
            _ip("-n", wire, "link", "set", f"host{number}", "master", "bridge", "up")
            _ip(*inside, "address", "add", f"{host.address}/15", "dev", "eth0")
            _ip(*inside, "link", "set", "eth0", "up")
        yield hosts
    finally:
        for namespace in reversed(made):
            subprocess.run(["ip", "netns", "delete", namespace], timeout=_TIMEOUT_S, check=False)


def _add(namespace: str, made: list[str]) -> None:
    _ip("netns", "add", namespace)
    made.append(namespace)
    _ip("-n", namespace, "link", "set", "lo", "up")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], timeout=_TIMEOUT_S, check=True)
