"""One look at what a process has loaded: each mapped file's digest, of the ``execve`` that was attested."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shared.model.policy.reasons import Reason
from sidecar.attest.facts import AttestationError
from sidecar.loaded import measured_code
from sidecar.loaded.measured_code import CodeMeasuring
from tests.sidecar.attest.processes import CONNECT, digest_of, hear, listening, running, tell
from tests.sidecar.loaded.loading import PYTHON_LOADS, PYTHON_MAPS_MEMORY, execution_of, make_library, sleeping

LIMIT = 1 << 30


def test_a_preloaded_library_is_measured_and_the_executable_is_not_among_it(tmp_path: Path) -> None:
    library = make_library(tmp_path)
    measuring = CodeMeasuring(max_bytes=LIMIT)
    with sleeping() as plain, sleeping(library) as preloaded:
        ordinary = measuring.look(execution_of(plain.pid), None).code
        found = measuring.look(execution_of(preloaded.pid), None).code
    paths = {each.path for each in found.objects}
    assert digest_of(library) in {each.digest for each in found.objects}
    assert str(library) in paths
    assert {each.digest for each in ordinary.objects} < {each.digest for each in found.objects}
    assert all(each.digest == digest_of(each.path) for each in found.objects)
    assert os.path.realpath("/bin/sleep") not in paths
    assert not found.anonymous


def test_what_is_loaded_later_is_seen_by_the_next_look_and_nothing_else_changes(tmp_path: Path) -> None:
    library = make_library(tmp_path)
    measuring = CodeMeasuring(max_bytes=LIMIT)
    with running(PYTHON_LOADS) as child:
        execution = execution_of(child.pid)
        first = measuring.look(execution, None)
        assert measuring.look(execution, first).code is first.code
        assert child.stdin is not None
        child.stdin.write(f"{library}\n")
        child.stdin.flush()
        assert hear(child) == "loaded"
        second = measuring.look(execution, first)
    new = {each.path for each in second.code.objects} - {each.path for each in first.code.objects}
    assert str(library) in new


def test_a_library_that_is_written_to_in_place_is_measured_again(tmp_path: Path) -> None:
    library = make_library(tmp_path)
    measuring = CodeMeasuring(max_bytes=LIMIT)
    with sleeping(library) as child:
        execution = execution_of(child.pid)
        first = measuring.look(execution, None)
        with library.open("ab") as file:
            file.write(b"more")
        second = measuring.look(execution, first)
    assert digest_of(library) in {each.digest for each in second.code.objects}
    assert first.code != second.code


def test_anonymous_executable_memory_is_told() -> None:
    with running(PYTHON_MAPS_MEMORY) as child:
        assert CodeMeasuring(max_bytes=LIMIT).look(execution_of(child.pid), None).code.anonymous


def test_a_file_over_the_limit_or_that_has_gone_has_no_digest(tmp_path: Path) -> None:
    library = make_library(tmp_path)
    with sleeping(library) as child:
        execution = execution_of(child.pid)
        small = CodeMeasuring(max_bytes=10).look(execution, None).code
    assert {each.digest for each in small.objects} == {""}
    assert str(library) in {each.path for each in small.objects}


def test_more_objects_than_are_told_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured_code, "MAX_OBJECTS", 1)
    with running(PYTHON_LOADS) as child:
        code = CodeMeasuring(max_bytes=LIMIT).look(execution_of(child.pid), None).code
    assert len(code.objects) == 1
    assert code.omitted >= 1


def test_a_process_that_ended_or_executes_another_program_yields_no_code() -> None:
    measuring = CodeMeasuring(max_bytes=LIMIT)
    executes = CONNECT + "print('ready',flush=True)\nsys.stdin.readline()\nos.execv('/bin/sleep',['sleep','600'])"
    with listening() as server, running(executes, str(server.getsockname()[1])) as child:
        execution = execution_of(child.pid)
        tell(child)
        while os.readlink(f"/proc/{child.pid}/exe") != os.path.realpath("/bin/sleep"):
            pass
        with pytest.raises(AttestationError) as changed:
            measuring.look(execution, None)
    with pytest.raises(AttestationError) as ended:
        measuring.look(execution, None)
    assert changed.value.reason is Reason.PROGRAM_CHANGED
    assert ended.value.reason is Reason.PROCESS_VANISHED


def test_the_cache_of_hashes_is_bounded(tmp_path: Path) -> None:
    measuring = CodeMeasuring(max_bytes=LIMIT, max_files=1)
    with sleeping(make_library(tmp_path)) as child:
        code = measuring.look(execution_of(child.pid), None).code
        assert measuring.look(execution_of(child.pid), None).code == code
