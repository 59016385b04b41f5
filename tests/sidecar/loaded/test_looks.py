"""When loaded code is looked at: once for many who wait, again when the last look is old, told once in half an hour."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from shared.model.identity.loaded_code import LoadedCode, LoadedObject
from shared.model.identity.program import Program
from shared.model.policy.reasons import Reason
from shared.runtime.patience import Patience
from sidecar.attest.facts import Attestation, AttestationError, Execution, ProcessFacts
from sidecar.loaded import looks
from sidecar.loaded.looks import CodeLooks
from tests.sidecar.little_ca import until
from tests.sidecar.loaded.loading import execution_of, make_library, sleeping

NOBODY = Execution(4_000_000, 1, 1, 1, 1, 1, 1)


@asynccontextmanager
async def looking(deadline_s: float = 60.0) -> AsyncIterator[CodeLooks]:
    code = CodeLooks(deadline_s=deadline_s)
    try:
        yield code
    finally:
        code.close()


def attested(execution: Execution) -> Attestation:
    process = ProcessFacts(pid=execution.pid, start_time=execution.start_time, uid=0, path="/bin/sleep")
    return Attestation(program=Program(digest="a" * 64), process=process, inode=1, cookie=1, execution=execution)


async def test_one_look_serves_all_who_wait_and_is_fresh_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    with sleeping() as child:
        execution = execution_of(child.pid)
        async with looking() as code:
            assert code.get_fresh(execution) is None
            found = await asyncio.gather(*(code.look(execution) for _ in range(8)))
            assert len({id(each) for each in found}) == 1
            assert code.get_fresh(execution) is found[0]
            monkeypatch.setattr(looks, "MAX_AGE_S", -1.0)
            assert code.get_fresh(execution) is None
            again = await code.look(execution)
            assert again is not found[0]
            assert again.code is found[0].code


async def test_a_look_that_fails_fails_for_all_and_leaves_nothing() -> None:
    async with looking() as code:
        found = await asyncio.gather(*(code.look(NOBODY) for _ in range(2)), return_exceptions=True)
        assert all(isinstance(each, AttestationError) and each.reason is Reason.PROGRAM_CHANGED for each in found)
        assert code.get(NOBODY) is None
        code.look_unhurried(attested(NOBODY))
        await asyncio.sleep(0)


async def test_a_look_for_the_record_is_made_once_and_told_once(tmp_path: Path) -> None:
    with sleeping(make_library(tmp_path)) as child, sleeping() as other:
        execution = execution_of(child.pid)
        async with looking() as code:
            assert code.tell(attested(execution)) is None
            code.look_unhurried(attested(execution))
            code.look_unhurried(attested(execution))
            await until(lambda: code.get(execution))
            told = code.tell(attested(execution))
            assert told is not None
            assert str(tmp_path / "intruder.so") in {each.path for each in told.objects}
            assert code.tell(attested(execution)) is None
            await code.look(execution_of(other.pid))
            assert code.tell(attested(execution_of(other.pid))) != told


async def test_what_was_lost_on_its_way_is_told_again_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sleeping(make_library(tmp_path)) as child, sleeping() as other:
        execution, another = execution_of(child.pid), execution_of(other.pid)
        async with looking() as code:
            await code.look(execution)
            await code.look(another)
            told = code.tell(attested(execution))
            assert told is not None
            assert code.tell(attested(another)) is not None
            code.tell_again(told)
            assert code.tell(attested(execution)) is None, "not at once: what it was lost by goes on"
            monkeypatch.setattr(looks, "_TELL_AGAIN_S", 0.0)
            code.tell_again(told)
            assert code.tell(attested(execution)) == told
            assert code.tell(attested(execution)) is None
            assert code.tell(attested(another)) is None


async def test_of_many_processes_of_one_program_one_a_second_is_looked_at_for_the_record() -> None:
    with sleeping() as first, sleeping() as second:
        one, two = execution_of(first.pid), execution_of(second.pid)
        async with looking() as code:
            code.look_unhurried(attested(one))
            code.look_unhurried(attested(two))
            await until(lambda: code.get(one))
            assert code.get(two) is None
            other = msgspec.structs.replace(attested(two), program=Program(digest="b" * 64))
            code.look_unhurried(other)
            await until(lambda: code.get(two))


async def test_who_accepts_is_looked_at_once_a_second_and_less_and_less_often_while_nothing_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks, "_ACCEPTOR_WAIT_S", 60.0)
    now, program = [1000.0], Program(digest="a" * 64)
    with sleeping() as child, sleeping(make_library(tmp_path)) as other:
        worker, another = attested(execution_of(child.pid)), attested(execution_of(other.pid))
        async with looking() as code:
            monkeypatch.setattr(looks, "_read_clock", lambda: now[0])

            async def wait_for_turn(accepted: Attestation) -> float:
                began = now[0]
                while not code.take_turn(program):
                    now[0] += 1.0
                assert await code.look_at_acceptor(accepted) is not None
                return now[0] - began

            waits = [await wait_for_turn(worker) for _ in range(9)]
            assert waits == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
            assert [await wait_for_turn(another) for _ in range(3)] == [60.0, 1.0, 2.0], "it has loaded something else"
            assert code.take_turn(Program(digest="b" * 64)), "another program's turns are its own"


async def test_a_connection_waits_for_no_look_that_takes_long_or_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    may_end = threading.Event()
    with sleeping() as child:
        execution = execution_of(child.pid)
        async with looking() as code:
            assert code.take_turn(Program(digest="a" * 64))
            assert await code.look_at_acceptor(attested(NOBODY)) is None
            with monkeypatch.context() as patch:
                patch.setattr(looks, "_ACCEPTOR_WAIT_S", 0.0)
                patch.setattr(code._measuring, "look", lambda *_: may_end.wait())
                assert await code.look_at_acceptor(attested(execution)) is None
                patch.setattr(looks, "_MAX_BACKGROUND", 1)
                assert await code.look_at_acceptor(attested(NOBODY)) is None
                may_end.set()
            assert not code.take_turn(Program(digest="a" * 64)), "what came to nothing was a turn all the same"


async def test_what_has_ended_is_let_go() -> None:
    async with looking() as code:
        with sleeping() as child, sleeping() as other:
            execution, living = execution_of(child.pid), execution_of(other.pid)
            for each in (execution, living):
                await code.look(each)
            child.kill()
            child.wait()
            code.forget_ended()
            assert (code.get(execution), code.get(living) is None) == (None, False)


async def test_looks_under_way_are_bounded_and_end_with_the_sidecar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "_MAX_PENDING", 1)
    with sleeping() as child:
        execution = execution_of(child.pid)
        async with looking() as code:
            first = asyncio.create_task(code.look(execution))
            await asyncio.sleep(0)
            with pytest.raises(AttestationError) as full:
                await code.look(msgspec.structs.replace(execution, pid=1))
            assert full.value.reason is Reason.OVERLOADED
            await first


async def test_a_look_that_stands_still_is_refused_and_each_that_ends_is_progress_for_all_who_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended, may_end = list[object](), threading.Event()
    monkeypatch.setattr(Patience, "note_progress", lambda patience: ended.append(patience))
    with sleeping() as child:
        execution = execution_of(child.pid)
        async with looking(deadline_s=0.01) as code:
            with monkeypatch.context() as patch:
                patch.setattr(code._measuring, "look", lambda *_: may_end.wait())
                with pytest.raises(AttestationError) as still:
                    await code.look(execution)
                may_end.set()
                await until(lambda: ended)
            assert still.value.reason is Reason.DEADLINE_EXCEEDED


@pytest.mark.parametrize("character", ["0", '"', "\\"])
def test_a_record_gets_no_more_objects_than_it_has_room_for(character: str) -> None:
    """What counts is what is sent: in JSON a quote and a backslash take two bytes."""
    paths = (f"/{number:{character}>255}" for number in range(500))
    objects = tuple(LoadedObject(path=path, digest=f"{number:0>64x}") for number, path in enumerate(paths))
    cut = looks._cut(LoadedCode(objects=objects))
    assert 0 < len(cut.objects) < 200
    assert len(cut.objects) + cut.omitted == 500
    assert len(msgspec.json.encode(cut)) < 48_000
