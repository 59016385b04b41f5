"""Going back: a namespace's earlier modes, rules and approvals, and modes that go back by themselves. I/O.

Belongs here: reading and restoring what a namespace says, undo, modes on trial. Doesn't: which generations are kept
(``history/generations.py``), or how a change is made (``namespaces.py``, which hands its ``change`` over). Longer than
most: an undo and a trial each concern the namespace's mode and its workloads' own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec
import structlog
from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.store.engine.database import Database
from ca.store.history.generations import Content, Generation, StoredProgram, find_generation, list_generations
from ca.store.tables import mode_trials, namespaces, programs
from shared.model.errors import ConflictError, NotFoundError, TouchmarkError
from shared.model.policy.modes import change_modes
from shared.model.policy.rules import Mode, NamespaceState, WorkloadMode

MIN_TRIAL_S: Final = 1.0
MAX_TRIAL_S: Final = 30 * 86_400.0
UNDO: Final = "namespace.undo"
RETURN: Final = "mode.return"
_NOTHING: Final = msgspec.Raw(b"[]")
_NULL: Final = msgspec.Raw(b"null")
_workload_modes: Final = msgspec.json.Decoder(tuple[WorkloadMode, ...])
_log = structlog.get_logger("touchmark.ca")


class Change(Protocol):
    """How a namespace is changed: ``Namespaces.change``."""

    async def __call__(
        self,
        namespace: str,
        change: Callable[[AsyncConnection], Awaitable[None]],
        *,
        act: str,
        expected_version: int | None = None,
        is_forced: bool = False,
    ) -> NamespaceState:
        """Make a change within one transaction that raises the version."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A mode that goes back by itself: the namespace's, or those of workloads.

    Attributes:
        started, until: seconds since the epoch, by the CA's clock.
        workload_modes: the workloads' own modes go back to these, and the namespace's stays; None: the namespace's
            goes back, from ``mode`` to ``back_to``, and the workloads' stay.
    """

    namespace: str
    mode: Mode
    back_to: Mode
    started: float
    until: float
    workload_modes: tuple[WorkloadMode, ...] | None = None

    @property
    def is_of_workloads(self) -> bool:
        """Whether workloads' own modes are on trial."""
        return self.workload_modes is not None


async def read_content(connection: AsyncConnection, namespace: str) -> Content:
    """Return what a namespace says at present."""
    row = (await connection.execute(select(namespaces).where(namespaces.c.namespace == namespace))).first()
    listed = await connection.execute(
        select(programs).where(programs.c.namespace == namespace).order_by(programs.c.name)
    )
    records = tuple(
        StoredProgram(
            name=each.name,
            service_account=each.service_account,
            programs=msgspec.Raw(each.programs),
            weak=each.weak,
            approved_by=each.approved_by,
            approved=each.approved,
            code=msgspec.Raw("null" if each.code is None else each.code),
        )
        for each in listed
    )
    trial = await read_trial(connection, namespace)
    if row is None:
        return Content(
            mode=Mode.PERMISSIVE.value, has_policy=False, group_label="", rules=_NOTHING, requires=_NOTHING,
            programs=records,
        )  # fmt: skip
    return Content(
        mode=row.mode,
        has_policy=row.has_policy,
        group_label=row.group_label,
        rules=msgspec.Raw(row.rules),
        requires=msgspec.Raw(row.requires),
        programs=records,
        back_to="" if trial is None or trial.is_of_workloads else trial.back_to.value,
        workload_modes=read_workload_modes(row.workload_modes),
        workload_modes_back_to=None if trial is None else trial.workload_modes,
    )


def read_workload_modes(column: str) -> tuple[WorkloadMode, ...]:
    """Return the workloads' own modes, as a row has them."""
    return _workload_modes.decode(column)


async def write_workload_modes(connection: AsyncConnection, namespace: str, modes: Sequence[WorkloadMode]) -> None:
    """Replace the modes that workloads have of their own."""
    values = {"workload_modes": msgspec.json.encode(tuple(modes)).decode()}
    await connection.execute(update(namespaces).where(namespaces.c.namespace == namespace).values(**values))


async def end_trial(connection: AsyncConnection, namespace: str, *, of_workloads: bool | None = None) -> bool:
    """Forget that a mode is on trial; return whether one was.

    Arguments:
        of_workloads: only a trial of workloads' modes, or only one of the namespace's; None: either.
    """
    query = delete(mode_trials).where(mode_trials.c.namespace == namespace)
    if of_workloads is not None:
        column = mode_trials.c.workload_modes
        query = query.where(column.is_not(None) if of_workloads else column.is_(None))
    return (await connection.execute(query)).rowcount == 1


async def begin_trial(connection: AsyncConnection, trial: Trial) -> None:
    """Remember that a mode, which the caller sets, goes back by itself. None is on trial."""
    await connection.execute(
        insert(mode_trials).values(
            namespace=trial.namespace,
            mode=trial.mode.value,
            back_to=trial.back_to.value,
            started=trial.started,
            until=trial.until,
            workload_modes=None if trial.workload_modes is None else msgspec.json.encode(trial.workload_modes).decode(),
        )
    )


async def change_trial(
    connection: AsyncConnection,
    namespace: str,
    *,
    present: tuple[WorkloadMode, ...],
    back_to: tuple[WorkloadMode, ...],
) -> None:
    """Have workloads' modes that are on trial go back to others; where nothing would change then, end the trial."""
    if present == back_to:
        await end_trial(connection, namespace, of_workloads=True)
        return
    values = {"workload_modes": msgspec.json.encode(back_to).decode()}
    await connection.execute(update(mode_trials).where(mode_trials.c.namespace == namespace).values(**values))


class NamespaceHistory:
    """What namespaces said before, and which mode is on trial.

    Arguments:
        change: ``Namespaces.change``.
    """

    def __init__(self, database: Database, *, change: Change) -> None:
        self._database = database
        self._change = change

    async def list_generations(self, namespace: str, *, limit: int) -> list[Generation]:
        """Return the newest generations, newest first."""
        async with self._database.reading() as connection:
            return await list_generations(connection, namespace, limit=limit)

    async def get_generation(self, namespace: str, generation: int) -> Generation:
        """Return one generation.

        Raises:
            NotFoundError: there is none of this number, or no longer.
        """
        async with self._database.reading() as connection:
            return await _require_generation(connection, namespace, generation)

    async def undo(
        self, namespace: str, *, to: int | None = None, expected: int | None = None, is_forced: bool = False
    ) -> NamespaceState:
        """Give a namespace the mode, rules and approvals of an earlier generation, as a new one.

        A mode on trial that this leaves as it is stays on trial. Of a generation whose mode was on trial, the mode to
        which it was to go back is given back: a trial that is over never becomes permanent. A mode that was tried and
        is now the namespace's own, since it was confirmed or switched, stays.

        Arguments:
            to: the generation; None: the one before the newest.
            expected: the newest generation that the operator looked at; None: whichever it is.
            is_forced: recorded in the audit log: what explicit mode would refuse didn't matter.

        Raises:
            NotFoundError: there is no such generation.
            ConflictError: the namespace has changed since, or there is nothing before, or what was before was a trial
                that has gone back.
        """

        async def change(connection: AsyncConnection) -> None:
            newest = await list_generations(connection, namespace, limit=2)
            if expected is not None and (not newest or newest[0].generation != expected):
                raise ConflictError(f"{namespace} has changed since", hint="look again, then repeat")
            if to is None and len(newest) < 2:
                raise ConflictError(f"{namespace} has no earlier generation: there is nothing to undo")
            wanted = (newest[1] if to is None else await _require_generation(connection, namespace, to)).content
            trial = await read_trial(connection, namespace)
            was_tried = wanted.back_to or wanted.workload_modes_back_to is not None
            if to is None and trial is None and newest[0].act == RETURN and was_tried:
                tried = wanted.mode if wanted.back_to else "another mode of workloads"
                raise ConflictError(
                    f"{tried} was on trial in {namespace} and has gone back: there is nothing to undo",
                    hint=f"`touchmark mode {namespace} history` lists what was before; --to goes there",
                )
            present = await read_content(connection, namespace)
            is_same_mode = wanted.mode == present.mode
            are_same_modes = wanted.workload_modes == present.workload_modes
            # A mode that is on trial in both still goes back by itself; one that was confirmed since stays.
            goes_back = trial is not None and (are_same_modes if trial.is_of_workloads else is_same_mode)
            keeps_mode = is_same_mode and (trial is None or trial.is_of_workloads or goes_back)
            keeps_modes = are_same_modes and (trial is None or not trial.is_of_workloads or goes_back)
            await self._restore(
                connection,
                namespace,
                wanted,
                mode=wanted.mode if keeps_mode else wanted.settled_mode,
                workload_modes=wanted.workload_modes if keeps_modes else wanted.settled_workload_modes,
            )
            if not goes_back:
                await end_trial(connection, namespace)

        return await self._change(namespace, change, act=UNDO, is_forced=is_forced)

    async def get_trial(self, namespace: str) -> Trial | None:
        """Return the namespace's mode on trial; None: its mode stays."""
        async with self._database.reading() as connection:
            return await read_trial(connection, namespace)

    async def try_mode(
        self,
        namespace: str,
        mode: Mode,
        *,
        for_s: float,
        now: float,
        expected_version: int | None = None,
        is_forced: bool = False,
    ) -> NamespaceState:
        """Switch a mode that goes back to the present one by itself; of a mode on trial, set its end anew.

        Raises:
            ConflictError: the namespace has another version by now, or is in this mode already, and not on trial.
        """

        async def change(connection: AsyncConnection) -> None:
            present = Mode((await read_content(connection, namespace)).mode)
            known = await read_trial(connection, namespace)
            _check_kind(known, namespace, of_workloads=False)
            back_to = present if known is None else known.back_to
            if mode is back_to:
                raise ConflictError(
                    f"{namespace} is {mode} already: there is nothing to go back to"
                    if known is None
                    else f"{namespace} goes back to {mode} by itself",
                    hint=f"without --for, `touchmark mode {namespace} {mode}` keeps it",
                )
            await end_trial(connection, namespace)
            trial = Trial(namespace=namespace, mode=mode, back_to=back_to, started=now, until=now + for_s)
            await begin_trial(connection, trial)
            await _set_mode(connection, namespace, mode)

        return await self._change(
            namespace, change, act="mode.try", expected_version=expected_version, is_forced=is_forced
        )

    async def try_workload_modes(
        self,
        namespace: str,
        service_accounts: Sequence[str],
        mode: Mode | None,
        *,
        for_s: float,
        now: float,
        expected_version: int | None = None,
        is_forced: bool = False,
    ) -> NamespaceState:
        """Give workloads a mode of their own that goes back by itself; of modes on trial, set their end anew.

        Arguments:
            mode: None: that of their namespace.

        Raises:
            ConflictError: the namespace has another version by now, or its own mode or that of other workloads is on
                trial, or nothing changes.
        """

        async def change(connection: AsyncConnection) -> None:
            content = await read_content(connection, namespace)
            known = await read_trial(connection, namespace)
            _check_kind(known, namespace, of_workloads=True)
            back_to = content.settled_workload_modes
            _check_tried(content, namespace, service_accounts)
            wanted = change_modes(content.workload_modes, service_accounts, mode)
            if wanted == back_to:
                raise ConflictError(
                    f"{', '.join(service_accounts)}: {mode or 'inherit'} already, or when the trial ends: there is"
                    " nothing to go back to",
                    hint="without --for the same command keeps it",
                )
            await end_trial(connection, namespace)
            present = Mode(content.mode)
            trial = Trial(
                namespace=namespace, mode=present, back_to=present, started=now, until=now + for_s,
                workload_modes=back_to,
            )  # fmt: skip
            await begin_trial(connection, trial)
            await write_workload_modes(connection, namespace, wanted)

        return await self._change(
            namespace, change, act="mode.try", expected_version=expected_version, is_forced=is_forced
        )

    async def confirm_mode(self, namespace: str) -> NamespaceState:
        """Keep the mode that is on trial.

        Raises:
            ConflictError: none is.
        """

        async def change(connection: AsyncConnection) -> None:
            if not await end_trial(connection, namespace):
                raise ConflictError(
                    f"the mode of {namespace} isn't on trial: there is nothing to confirm",
                    hint=f"`touchmark mode {namespace} history` shows whether it went back",
                )

        return await self._change(namespace, change, act="mode.confirm")

    async def end_due_trials(self, *, now: float) -> list[str]:
        """Let the modes go back whose time is up; return the namespaces. Several replicas may do so at once."""
        async with self._database.reading() as connection:
            due = list(await connection.scalars(select(mode_trials.c.namespace).where(mode_trials.c.until <= now)))
        ended = []
        for namespace in due:
            try:
                await self._go_back(namespace, now=now)
            except ConflictError:
                continue  # It was confirmed, ended or prolonged a moment ago.
            except TouchmarkError as error:  # The others go back all the same; this one is tried again.
                _log.warning("mode_did_not_go_back", namespace=namespace, code=error.code, error=error.message)
                continue
            ended.append(namespace)
            _log.info("mode_went_back", namespace=namespace)
        return ended

    async def _go_back(self, namespace: str, *, now: float) -> NamespaceState:
        async def change(connection: AsyncConnection) -> None:
            trial = await read_trial(connection, namespace)
            if trial is None or trial.until > now:
                raise ConflictError(f"the mode of {namespace} isn't on trial any more")
            await end_trial(connection, namespace)
            if trial.workload_modes is None:
                await _set_mode(connection, namespace, trial.back_to)
            else:
                await write_workload_modes(connection, namespace, trial.workload_modes)

        return await self._change(namespace, change, act=RETURN)

    async def _restore(
        self,
        connection: AsyncConnection,
        namespace: str,
        content: Content,
        *,
        mode: str,
        workload_modes: Sequence[WorkloadMode],
    ) -> None:
        await write_workload_modes(connection, namespace, workload_modes)
        values = {
            "mode": mode,
            "has_policy": content.has_policy,
            "group_label": content.group_label,
            "rules": bytes(content.rules).decode(),
            "requires": bytes(content.requires).decode(),
        }
        await connection.execute(update(namespaces).where(namespaces.c.namespace == namespace).values(**values))
        kept = [each.name for each in content.programs]
        await connection.execute(
            delete(programs).where(programs.c.namespace == namespace, programs.c.name.not_in(kept))
        )
        for each in content.programs:
            row = {
                "namespace": namespace,
                "name": each.name,
                "service_account": each.service_account,
                "programs": bytes(each.programs).decode(),
                "weak": each.weak,
                "approved_by": each.approved_by,
                "approved": each.approved,
                "code": None if each.code == _NULL else bytes(each.code).decode(),
            }
            await connection.execute(self._database.upsert(programs, row))


async def _set_mode(connection: AsyncConnection, namespace: str, mode: Mode) -> None:
    await connection.execute(update(namespaces).where(namespaces.c.namespace == namespace).values(mode=mode.value))


async def read_trial(connection: AsyncConnection, namespace: str) -> Trial | None:
    """Return the namespace's mode on trial; None: its mode stays."""
    row = (await connection.execute(select(mode_trials).where(mode_trials.c.namespace == namespace))).first()
    if row is None:
        return None
    return Trial(
        namespace=namespace,
        mode=Mode(row.mode),
        back_to=Mode(row.back_to),
        started=row.started,
        until=row.until,
        workload_modes=None if row.workload_modes is None else read_workload_modes(row.workload_modes),
    )


def _check_kind(known: Trial | None, namespace: str, *, of_workloads: bool) -> None:
    """Refuse a second trial of another kind: only one goes back by itself."""
    if known is not None and known.is_of_workloads is not of_workloads:
        what = f"modes of workloads of {namespace} are" if known.is_of_workloads else f"the mode of {namespace} is"
        raise ConflictError(
            f"{what} on trial already",
            hint=f"`touchmark mode {namespace} confirm` keeps that, `touchmark mode {namespace} undo` takes it back",
        )


def _check_tried(content: Content, namespace: str, service_accounts: Sequence[str]) -> None:
    """Refuse to set the end of a trial anew for workloads that aren't named: a break-glass ends when it was to end."""
    tried = set(content.workload_modes) ^ set(content.settled_workload_modes)
    if others := sorted({each.service_account for each in tried} - {*service_accounts}):
        raise ConflictError(
            f"modes of other workloads of {namespace} are on trial already: {', '.join(others)}",
            hint=f"name them, too, or `touchmark mode {namespace} confirm` or `undo` first",
        )


async def _require_generation(connection: AsyncConnection, namespace: str, generation: int) -> Generation:
    found = await find_generation(connection, namespace, generation)
    if found is None:
        raise NotFoundError(
            f"{namespace} has no generation {generation}", hint=f"`touchmark mode {namespace} history` lists them"
        )
    return found
