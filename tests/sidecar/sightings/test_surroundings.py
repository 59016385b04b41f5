"""What stands around a real process, and around a number that is another process's by now."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from sidecar.attest.facts import ProcessFacts
from sidecar.attest.process_text import parse_stat
from sidecar.sightings.surroundings import Surroundings, look_around


def facts_of(pid: int, path: str = "", *, later: int = 0) -> ProcessFacts:
    start = parse_stat(Path(f"/proc/{pid}/stat").read_bytes()).start_time
    return ProcessFacts(pid=pid, start_time=start + later, uid=0, path=path or os.readlink(f"/proc/{pid}/exe"))


def test_the_ancestors_of_a_process_are_named_the_nearest_first() -> None:
    with subprocess.Popen(["/bin/sleep", "600"]) as child:
        try:
            around = look_around(facts_of(child.pid))
        finally:
            child.kill()
    assert around.parents[0] == os.path.realpath(sys.executable)
    assert len(around.parents) <= 8


def test_another_process_of_that_number_and_one_that_has_ended_are_not_described() -> None:
    assert look_around(facts_of(os.getpid(), later=1)) == Surroundings()
    with subprocess.Popen(["/bin/true"]) as child:
        facts = ProcessFacts(pid=child.pid, start_time=1, uid=0, path="/bin/true")
    assert look_around(facts) == Surroundings()


def test_the_container_is_the_last_one_that_the_control_group_names(tmp_path: Path) -> None:
    """A pod's own group stands above it; a runtime's name or suffix stands around the ID."""
    pod, container = "a" * 64, "b" * 64
    process = tmp_path / "7"
    process.mkdir()
    (process / "stat").write_bytes(Path(f"/proc/{os.getpid()}/stat").read_bytes())
    (process / "status").write_text("Name:\tweb\nPPid:\t0\n")
    (process / "cgroup").write_text(f"0::/kubepods/{pod}/cri-containerd-{container}.scope\n")
    start = parse_stat((process / "stat").read_bytes()).start_time
    facts = ProcessFacts(pid=7, start_time=start, uid=0, path="(gone)")
    assert look_around(facts, proc=str(tmp_path)) == Surroundings(container=container)


def test_a_deleted_file_has_no_package_though_another_stands_in_its_place(tmp_path: Path) -> None:
    process, root = tmp_path / "7", tmp_path / "root"
    (root / "var/lib/dpkg/info").mkdir(parents=True)
    (root / "var/lib/dpkg/info/web.list").write_text("/srv/web\n")
    process.mkdir()
    (process / "root").symlink_to(root)
    (process / "stat").write_bytes(Path(f"/proc/{os.getpid()}/stat").read_bytes())
    (process / "status").write_text("Name:\tweb\nPPid:\t0\n")
    (process / "cgroup").write_text("0::/\n")
    start = parse_stat((process / "stat").read_bytes()).start_time
    packages = [
        look_around(ProcessFacts(pid=7, start_time=start, uid=0, path=path), proc=str(tmp_path)).package
        for path in ("/srv/web", "/srv/web (deleted)")
    ]
    assert packages == ["web (dpkg)", ""]


def test_an_ancestor_at_an_unprintable_path_is_shown_as_records_show_paths(tmp_path: Path) -> None:
    program = tmp_path / "\x1bweb"
    program.symlink_to("/bin/sh")
    for number, parent in ((7, 8), (8, 0)):
        process = tmp_path / str(number)
        process.mkdir()
        (process / "exe").symlink_to(program)
        (process / "stat").write_bytes(Path(f"/proc/{os.getpid()}/stat").read_bytes())
        (process / "status").write_text(f"Name:\tweb\nPPid:\t{parent}\n")
        (process / "cgroup").write_text("0::/\n")
    start = parse_stat((tmp_path / "7" / "stat").read_bytes()).start_time
    facts = ProcessFacts(pid=7, start_time=start, uid=0, path="")
    assert look_around(facts, proc=str(tmp_path)).parents == (f"{tmp_path}/\\x1bweb",)
