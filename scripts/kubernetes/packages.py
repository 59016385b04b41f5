"""Debian packages that the Kubernetes levels use: named always, installed where root and apt are there. Does I/O."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from scripts.kubernetes import cache

API = {"etcd": "etcd-server"}
NODE = {
    **API,
    "buildah": "buildah",
    "containerd": "containerd",
    "debootstrap": "debootstrap",
    "ip": "iproute2",
    "nft": "nftables",
    "runc": "runc",
    "unshare": "util-linux",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
}
_SERVICES = {"etcd-server": "etcd", "containerd": "containerd"}
_POLICY = Path("/usr/sbin/policy-rc.d")
_SEARCHED = ":".join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])


def which(program: str) -> Path | None:
    """Where a program is, also when the PATH of an ordinary user leaves out the administrators' directories."""
    found = shutil.which(program, path=_SEARCHED)
    return Path(found) if found else None


def ensure(wanted: Mapping[str, str]) -> None:
    """Install the packages of missing programs; raises `SetupError` where that can't be done."""
    missing = sorted({package for program, package in wanted.items() if which(program) is None})
    if not missing:
        return
    if os.geteuid() != 0 or which("apt-get") is None:
        raise cache.SetupError(f"not installed, and installing takes root and apt-get: {' '.join(missing)}")
    cache.say(f"installing system packages with apt-get: {' '.join(missing)}")
    with _no_service_starts():
        if _install(missing).returncode != 0:
            subprocess.run(["apt-get", "update", "-qq"], check=False, stdout=subprocess.DEVNULL)
            if (result := _install(missing)).returncode != 0:
                raise cache.SetupError(f"apt-get couldn't install {' '.join(missing)}:\n{result.stdout[-2000:]}")
    _disable([_SERVICES[package] for package in missing if package in _SERVICES])


def _install(names: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *names],
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
    )


@contextlib.contextmanager
def _no_service_starts() -> Iterator[None]:
    """Debian starts a package's service at once unless ``policy-rc.d`` forbids it (exit code 101)."""
    if _POLICY.exists():
        yield  # An existing file is somebody's decision; if a service starts after all, `_disable` stops it.
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n", encoding="ascii")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink()


def _disable(services: Sequence[str]) -> None:
    """What the tests alone brought must not run on this machine, now or after its next start."""
    if not services or not Path("/run/systemd/system").is_dir():
        return
    subprocess.run(["systemctl", "disable", "--now", *services], check=False, stderr=subprocess.DEVNULL)
