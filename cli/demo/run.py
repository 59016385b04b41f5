"""Running the demo: chooses the stage, tells the story, ends everything. Does I/O."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Final

from cli.demo.facts import Facts
from cli.demo.listeners import build_listeners
from cli.demo.namespaces import build_namespaces
from cli.demo.narrator import Narrator
from cli.demo.processes import Processes, touchmark_command
from cli.demo.stage import Stage
from cli.demo.story import Story
from cli.machine.machine import (
    USER_NAMESPACE,
    can_make_namespaces,
    find_program,
    has_user_namespaces,
    is_sidecar_user_mapped,
)
from cli.text.exit_codes import ExitCode
from cli.text.json_result import JsonResult
from shared.model.errors import MachineError

# Set inside the user namespace: the process outside that holds the namespaces, for `nsenter`.
_INSIDE_VARIABLE: Final = "TOUCHMARK_DEMO_USER_NAMESPACE"
_KEEP_POLL_S: Final = 0.5
_ENDING_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_demo(*, capture: str, server: str, keep: bool, json_result: JsonResult[Facts] | None = None) -> int:
    """Run the demo and return its exit code.

    Arguments:
        capture: ``auto``, ``redirect`` or ``listeners``.
        server: ``auto``, ``nginx`` or ``python``.
        json_result: prints the facts; None: text alone.

    Raises:
        MachineError: this machine can't show what was asked for.
        TouchmarkError: a part didn't start.
    """
    as_json = json_result is not None
    is_inside = _INSIDE_VARIABLE in os.environ
    is_ordinary = os.geteuid() != 0 or not is_sidecar_user_mapped()
    if capture != "listeners" and not is_inside and is_ordinary and _has_tools() and has_user_namespaces():
        return _run_in_user_namespace(server=server, keep=keep, as_json=as_json)
    kind = _choose(capture, is_inside=is_inside)
    narrator = Narrator(as_json=as_json)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_ending_by_signal())
        directory = Path(tempfile.mkdtemp(prefix="touchmark-demo-"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        stage: Stage
        if kind == "redirect":
            stage = stack.enter_context(build_namespaces(is_user_namespace=is_inside))
        else:
            stage = build_listeners()
        processes = Processes(directory, {"TOUCHMARK_ADMIN_SOCKET": str(directory / "admin.sock")})
        stack.callback(processes.end)
        stack.callback(_ignore_signals)  # The first to run: a second Ctrl-C doesn't stop the clean-up.
        story = Story(stage, directory, processes, narrator, server=server)
        story.tell()
        contradictions = list(story.facts.find_contradictions())
        for contradiction in contradictions:
            narrator.conclude(holds=False, text=contradiction)
        if json_result is not None:
            json_result.print(story.facts)
        if keep:
            _keep(narrator, directory, stage, processes, is_inside=is_inside)
    return ExitCode.CHECK_FAILED if contradictions else ExitCode.SUCCESS


def _choose(capture: str, *, is_inside: bool) -> str:
    if capture == "listeners":
        return "listeners"
    can_redirect = _has_tools() and (is_inside or can_make_namespaces())
    if capture == "redirect" and not can_redirect:
        raise MachineError(
            "capture by redirect needs the programs nft and ip, and root or user namespaces",
            hint="`touchmark doctor` shows what is missing; `--capture listeners` needs neither",
        )
    return "redirect" if can_redirect else "listeners"


def _has_tools() -> bool:
    return all(find_program(name) for name in ("nft", "ip", "nsenter"))


def _run_in_user_namespace(*, server: str, keep: bool, as_json: bool) -> int:
    """Run the demo inside a user namespace of its own, where this user is root of new networks, mounts and processes.

    ``unshare`` takes no SIGTERM while its child runs, so a signal kills it, and the kernel passes SIGTERM on to the
    demo, which is waited for until it has cleaned up: it alone holds the pipe. Ctrl-C comes from the terminal.
    """
    unshare = find_program("unshare") or "unshare"
    flags = [*(["--keep"] if keep else []), *(["--json"] if as_json else [])]
    arguments = ["demo", "--capture", "redirect", "--server", server, *flags]
    source_root = str(Path(__file__).resolve().parent.parent.parent)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(part for part in (source_root, os.environ.get("PYTHONPATH", "")) if part),
    }
    inside = ["sh", "-c", 'mount -t tmpfs tmpfs /run && exec "$@"', "sh", *touchmark_command(arguments)]
    outside = ["sh", "-c", f'{_INSIDE_VARIABLE}=$$ exec "$@"', "sh", unshare, *USER_NAMESPACE, "--kill-child=TERM"]
    sys.stdout.flush()
    is_over, is_held = os.pipe()
    with open(is_over, "rb") as over:
        demo = subprocess.Popen([*outside, *inside], env=environment, pass_fds=[is_held])
        os.close(is_held)

        def end(number: int, frame: FrameType | None) -> None:
            demo.kill()

        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, end)
        over.read()
    code = demo.wait()
    return code if code >= 0 else ExitCode.INTERRUPTED


@contextlib.contextmanager
def _ending_by_signal() -> Iterator[None]:
    """Make SIGTERM and SIGHUP end the demo as Ctrl-C does, also where SIGINT was ignored: with everything cleaned."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in _ENDING_SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _ignore_signals() -> None:
    for number in _ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _keep(narrator: Narrator, directory: Path, stage: Stage, processes: Processes, *, is_inside: bool) -> None:
    narrator.step("It keeps running until Ctrl-C. In another terminal:")
    if is_inside:
        outside = os.environ[_INSIDE_VARIABLE]
        processes_there = f"--pid=/proc/{outside}/ns/pid_for_children"
        narrator.typed(["nsenter", "--preserve-credentials", "-U", "-m", processes_there, "-t", outside, "bash"])
    if shutil.which("touchmark") is None:
        narrator.say(f'$ export PATH="{os.path.dirname(sys.executable)}:$PATH"')
    narrator.typed(["export", f"TOUCHMARK_ADMIN_SOCKET={directory / 'admin.sock'}"])
    narrator.typed(["touchmark", "ca", "status"])
    narrator.typed([*stage.client.prefix, "curl", stage.client_url])
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            processes.check()
            time.sleep(_KEEP_POLL_S)
