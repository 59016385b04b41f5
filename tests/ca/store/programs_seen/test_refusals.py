"""Refused programs, in the store: remembered with who and when, taken back, ended by an approval."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import event

from ca.store.programs_seen import refusals
from ca.store.records import ProgramRecord
from shared.model.adoption.program_queue import ProgramRefusal
from shared.model.errors import InputError, NotFoundError
from shared.model.identity.program import Program
from tests.ca.founded import NOW, WEB, opened

CURL, SHELL = Program(digest="aa" * 32), Program(digest="bb" * 32, main="none")


def refuse(program: Program = CURL, *, by: str = "alice", namespace: str = "shop") -> ProgramRefusal:
    return ProgramRefusal(
        namespace=namespace, service_account="web", program=program, refused_by=by, refused=NOW, path="/usr/bin/curl"
    )


async def test_a_refusal_stays_until_it_is_taken_back_and_the_first_one_counts(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await core.store.refusals.add([refuse(), refuse(SHELL)])
    async with opened(tmp_path / "d") as core:
        await core.store.refusals.add([refuse(by="bob")])
        assert await core.store.refusals.list_all("shop") == [refuse(), refuse(SHELL)]
        assert await core.store.refusals.list_all("bank") == []
        await core.store.refusals.take_back(WEB, [CURL])
        assert await core.store.refusals.list_all() == [refuse(SHELL)]
        with pytest.raises(NotFoundError):
            await core.store.refusals.take_back(WEB, [CURL])


async def test_many_are_read_in_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "_PAGE", 2)
    refused = [
        refuse(Program(digest=f"{number:064x}"), namespace=name) for name in ("bank", "shop") for number in range(3)
    ]
    async with opened(tmp_path / "d") as core:
        await core.store.refusals.add(refused)
        assert await core.store.refusals.list_all() == refused
        assert await core.store.refusals.list_all("shop") == refused[3:]


async def test_an_approval_ends_a_refusal(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await core.store.refusals.add([refuse(), refuse(SHELL)])
        await core.store.namespaces.put_program(
            ProgramRecord(
                namespace="shop",
                name="curl",
                service_account="web",
                programs=(CURL,),
                weak=False,
                approved_by="bob",
                approved=NOW,
            )
        )
        assert await core.store.refusals.list_all() == [refuse(SHELL)]


async def test_an_approval_of_ten_thousand_programs_takes_few_statements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One for each of them held the writer for half a minute, from everybody's certificates as well."""
    many = tuple(Program(digest=f"{number:064x}") for number in range(2_000))
    refused = (many[3], many[1_999])
    async with opened(tmp_path / "d") as core:
        await core.store.refusals.add([refuse(each) for each in (*refused, CURL)])
        executed = 0

        @event.listens_for(core.store.database._engine.sync_engine, "before_cursor_execute")
        def count(*_: object) -> None:
            nonlocal executed
            executed += 1

        record = ProgramRecord(namespace="shop", name="p", service_account="web", programs=many)
        await core.store.namespaces.put_program(record)
        assert executed < 100
        assert await core.store.refusals.list_all() == [refuse(CURL)]


async def test_there_are_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "MAX_PER_NAMESPACE", 1)
    async with opened(tmp_path / "d") as core:
        with pytest.raises(InputError, match="at most 1"):
            await core.store.refusals.add([refuse(), refuse(SHELL)])
        assert await core.store.refusals.list_all() == []
        with pytest.raises(InputError):
            await core.store.refusals.add([])
