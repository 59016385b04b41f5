"""``python -m scripts.kubernetes.isolation COMMAND…``: run a command where a whole node may run. Root; does I/O.

The command gets namespaces of its own: network (only loopback, so that no packet filter rule, route or address meets
the machine's), process ids (when the command ends or is killed, the kernel ends everything that it started, pods
included), mounts (what kubelet and containerd write to fixed places under /run and /var vanishes) and IPC. What the
kernel keeps beyond them is a directory of the run and its control groups: taken away at the end, or by the next run
when this one was killed. `RUN_VARIABLE` names the directory; several runs side by side don't meet.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from scripts.kubernetes import cache, packages

RUN_VARIABLE = "TOUCHMARK_NODE_RUN"
_INSIDE = "--inside"
_CGROUPS = Path("/sys/fs/cgroup")
# The kubelet sets these for the whole machine unless it finds them so: here it finds files that say so.
_KUBELET_WANTS = {
    "vm/overcommit_memory": 1,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1_000_000,
    "kernel/keys/root_maxbytes": 25_000_000,
}


def run_directory() -> Path | None:
    """The directory of the run that this process is isolated in; none outside."""
    named = os.environ.get(RUN_VARIABLE)
    return Path(named) if named else None


def cgroup(run: Path) -> str:
    """The name of the run's control group, below every hierarchy's root."""
    return f"touchmark-{run.name}"


def main(arguments: Sequence[str]) -> int:
    """Run the command isolated; its exit code."""
    if arguments[:1] == [_INSIDE]:
        return _run_inside(arguments[1:])
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        return _run_outside(arguments)
    except cache.SetupError as error:
        cache.say(f"✗ {error}")
        return 1


# ---- Outside ---------------------------------------------------------------------------------------------------------
def _run_outside(command: Sequence[str]) -> int:
    if os.geteuid() != 0:
        raise cache.SetupError("a node needs root")
    unshare = packages.which("unshare")
    if unshare is None:
        raise cache.SetupError("unshare (util-linux) not found")
    with _new_run() as run:
        inside = [sys.executable, "-m", "scripts.kubernetes.isolation", _INSIDE, *command]
        namespaces = ["--net", "--pid", "--mount", "--ipc", "--fork", "--kill-child", "--mount-proc"]
        # Killing this process kills unshare with it, and so everything inside.
        outer = ["setpriv", "--pdeathsig", "KILL", "--", str(unshare), *namespaces, "--"]
        process = subprocess.Popen([*outer, *inside], env={**os.environ, RUN_VARIABLE: str(run)})

        def end(number: int, frame: FrameType | None) -> None:
            process.kill()  # unshare itself holds SIGTERM back; its death ends all inside.

        # Control-C reaches the command by itself: it ends in its own way, and this waits for it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, end)
        returned = process.wait()
    return returned if returned >= 0 else 128 - returned


@contextlib.contextmanager
def _new_run() -> Iterator[Path]:
    """A directory under a lock that the kernel drops with its holder: by it the next run knows what was left."""
    runs = cache.directory() / "run"
    runs.mkdir(parents=True, exist_ok=True)
    with cache.lock("run"):
        for left in runs.iterdir():
            with contextlib.suppress(BlockingIOError), _locked(left):
                cache.say(f"cleaning up after a run that was killed: {left.name}")
                _remove(left)
        run = Path(tempfile.mkdtemp(dir=runs, prefix=f"{os.getpid()}-"))
        held = _locked(run)
        held.__enter__()
    try:
        yield run
    finally:
        _remove(run)
        held.__exit__(None, None, None)


@contextlib.contextmanager
def _locked(run: Path) -> Iterator[None]:
    with (run / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def _remove(run: Path) -> None:
    """Remove what the kernel keeps of a run whose processes have ended or are ending."""
    groups = [root / cgroup(run) for root in (_CGROUPS, *_CGROUPS.glob("*"))]
    for _ in range(50):
        for group in groups:
            for path, _, _ in os.walk(group, topdown=False):
                with contextlib.suppress(OSError):  # A process that just ends still holds it.
                    os.rmdir(path)
        if not any(group.exists() for group in groups):
            shutil.rmtree(run, ignore_errors=True)
            return
        time.sleep(0.1)
    cache.say(f"control groups of {run.name} are still in use; the next run takes them away")


# ---- Inside ----------------------------------------------------------------------------------------------------------
def _run_inside(command: Sequence[str]) -> int:
    """As process 1: set up, run the command and bury orphans until it has ended."""
    run = run_directory()
    assert run is not None and os.getpid() == 1
    _separate_mounts(run)
    _call("ip", "link", "set", "lo", "up")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    child = subprocess.Popen(command, preexec_fn=_take_interrupts)  # One thread, before any other.
    while True:
        pid, status = os.wait()
        if pid == child.pid:
            return os.waitstatus_to_exitcode(status) & 0xFF


def _take_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _separate_mounts(run: Path) -> None:
    """What kubelet, containerd and CNI plugins write to fixed places stays in this mount namespace."""
    _call("mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/run")
    for place in ("/var/lib", "/var/log"):
        layers = Path("/run/layers" + place)
        upper, work = layers / "upper", layers / "work"
        for directory in (upper, work):
            directory.mkdir(parents=True)
        _call("mount", "-t", "overlay", "-o", f"lowerdir={place},upperdir={upper},workdir={work}", "overlay", place)
    settings = run / "sysctl"
    settings.mkdir()
    for name, value in _KUBELET_WANTS.items():
        shown = settings / name.replace("/", ".")
        shown.write_text(f"{value}\n", encoding="ascii")
        _call("mount", "--bind", str(shown), f"/proc/sys/{name}")


def _call(program: str, *arguments: str) -> None:
    path = packages.which(program)
    if path is None:
        raise cache.SetupError(f"{program} not found")
    subprocess.run([path, *arguments], check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
