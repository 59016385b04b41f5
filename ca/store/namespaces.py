"""Namespaces in the store: mode, policy, programs, vouched labels, assembled to versioned states. I/O.

Each change is one transaction that raises the namespace's version, and assembles the new state before it commits: a
state that can't be built (too many rules) is never stored. Longer than most, because each kind of change ends in that
one assembly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec
from sqlalchemy import Row, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.store.audit.audit_log import append_audit
from ca.store.drafts.drafts import drop_draft, no_draft, read_draft
from ca.store.drafts.tables import policy_drafts
from ca.store.engine.counters import raise_counter
from ca.store.engine.database import Database
from ca.store.engine.prepared import prepare_upsert
from ca.store.history.generations import Content, append_generation
from ca.store.namespace_history import (
    UNDO,
    Trial,
    begin_trial,
    change_trial,
    end_trial,
    read_content,
    read_trial,
    read_workload_modes,
    write_workload_modes,
)
from ca.store.programs_seen.refusals import forget_refusals
from ca.store.records import ProgramRecord
from ca.store.tables import NAMESPACE_CHANGES, namespaces, programs, sidecars, workload_labels
from shared.model.errors import ConflictError, InputError, NotFoundError
from shared.model.identity.identity import Workload, check_namespace
from shared.model.identity.loaded_code import ApprovedCode
from shared.model.identity.program import Program
from shared.model.policy.modes import change_modes
from shared.model.policy.rules import (
    MAX_PROGRAMS,
    Approval,
    Mode,
    NamespaceState,
    Requirement,
    Rule,
    WorkloadCode,
    WorkloadLabels,
    WorkloadMode,
    check_rules,
)

MAX_NAMESPACES: Final = 10_000
# A sidecar takes no message above 8 MiB (``MAX_MESSAGE_BYTES``), whichever namespace's state it needs: a larger one
# would end the streams of peers in other namespaces, again and again. The rest is for labels and for the bundle.
MAX_STATE_BYTES: Final = 6 * 1024 * 1024
_ADDING: Final = frozenset({"program.put", "policy.put", "draft.put"})  # The others must be possible at any size.
_LIST: Final = prepare_upsert(namespaces, tuple(column.name for column in namespaces.c), updated=())
_MAX_NAME_CHARACTERS: Final = 253
_rules: Final = msgspec.json.Decoder(tuple[Rule, ...])
_requires: Final = msgspec.json.Decoder(tuple[Requirement, ...])
_programs: Final = msgspec.json.Decoder(tuple[Program, ...])
_code: Final = msgspec.json.Decoder(ApprovedCode)
_labels: Final = msgspec.json.Decoder(dict[str, str])


class Namespaces:
    """States of namespaces, kept in memory where this process is the only writer (SQLite).

    Arguments:
        trust_domain: our own.
    """

    def __init__(self, database: Database, *, trust_domain: str) -> None:
        self._database = database
        self._trust_domain = trust_domain
        self._states: dict[str, NamespaceState] = {}
        self._full: dict[str, tuple[int, int, int]] = {}  # Version, bytes and approvals where a Program had no room.
        self._changes = 0
        self._listeners: list[Callable[[str], None]] = []

    def on_change(self, listener: Callable[[str], None]) -> None:
        """Call the listener with a namespace's name after each change that this process has committed."""
        self._listeners.append(listener)

    async def get_state(self, namespace: str) -> NamespaceState:
        """Return the namespace's state now; version 0 when nothing was ever said about it."""
        check_namespace(namespace)
        state = self._states.get(namespace)
        if state is not None:
            return state
        changes = self._changes
        async with self._database.reading() as connection:
            state = await _read_state(connection, namespace)
        # A change that committed during the reading must not be hidden by what was read before it.
        if self._database.is_sqlite and changes == self._changes:
            if len(self._states) >= MAX_NAMESPACES:
                # Else a sidecar that asks for names which nobody has would keep the others' states from being kept.
                del self._states[next(iter(self._states))]
            self._states[namespace] = state
        return state

    async def list_states(self) -> list[NamespaceState]:
        """Return the state of every namespace that has objects or sidecars, by name."""
        async with self._database.reading() as connection:
            names = list(await connection.scalars(select(namespaces.c.namespace).order_by(namespaces.c.namespace)))
            return [await _read_state(connection, name) for name in names]

    async def list_versions(self) -> dict[str, tuple[int, Mode, tuple[WorkloadMode, ...]]]:
        """Return each listed namespace's version and modes, without the rest."""
        columns = namespaces.c
        query = select(columns.namespace, columns.version, columns.mode, columns.workload_modes)
        async with self._database.reading() as connection:
            return {
                row.namespace: (row.version, Mode(row.mode), read_workload_modes(row.workload_modes))
                for row in await connection.execute(query)
            }

    async def set_mode(
        self, namespace: str, mode: Mode, *, expected_version: int | None = None, is_forced: bool = False
    ) -> NamespaceState:
        """Switch the namespace's mode, and keep it where it was on trial. Workloads' own modes stay.

        Arguments:
            expected_version: the version that the operator looked at; None: whatever it is.
            is_forced: recorded in the audit log: what explicit mode would refuse didn't matter.

        Raises:
            ConflictError: the namespace has another version by now.
        """

        async def change(connection: AsyncConnection) -> None:
            await end_trial(connection, namespace, of_workloads=False)
            await self._write_namespace(connection, namespace, mode=mode.value)

        return await self.change(
            namespace, change, act="mode.set", expected_version=expected_version, is_forced=is_forced
        )

    async def set_workload_modes(
        self,
        namespace: str,
        service_accounts: Sequence[str],
        mode: Mode | None,
        *,
        expected_version: int | None = None,
        is_forced: bool = False,
    ) -> NamespaceState:
        """Give workloads a mode of their own, and keep it where it was on trial; None: they inherit the namespace's.

        Other workloads' modes that are on trial still go back by themselves.

        Arguments:
            expected_version, is_forced: as for ``set_mode``.

        Raises:
            InputError: too many workloads have one.
        """

        async def change(connection: AsyncConnection) -> None:
            content = await read_content(connection, namespace)
            present = change_modes(content.workload_modes, service_accounts, mode)
            if content.workload_modes_back_to is not None:
                back_to = change_modes(content.workload_modes_back_to, service_accounts, mode)
                await change_trial(connection, namespace, present=present, back_to=back_to)
            await write_workload_modes(connection, namespace, present)

        return await self.change(
            namespace, change, act="mode.set", expected_version=expected_version, is_forced=is_forced
        )

    async def put_policy(
        self,
        namespace: str,
        *,
        rules: Sequence[Rule],
        group_label: str = "",
        mode: Mode | None = None,
        requires: Sequence[Requirement] = (),
        expected_version: int | None = None,
        is_forced: bool = False,
        trial: Trial | None = None,
        workload_modes: Sequence[WorkloadMode] | None = None,
        draft: int | None = None,
    ) -> NamespaceState:
        """Replace the namespace's policy; ``mode`` None keeps the present mode, and so ``workload_modes`` None.

        Arguments:
            trial: how ``mode`` goes back by itself; None: it stays.
            draft: the number of the draft that it was, which is dropped; None: it was none.
            expected_version, is_forced: as for ``set_mode``.

        Raises:
            InputError: too many rules, two of one name, or a foreign peer that would be one of our own.
            NotFoundError: there is no draft; ConflictError: it is another one by now.
        """
        check_rules(rules, trust_domain=self._trust_domain)
        values = {
            "has_policy": True,
            "rules": msgspec.json.encode(tuple(rules)).decode(),
            "group_label": group_label,
            "requires": msgspec.json.encode(tuple(dict.fromkeys(requires))).decode(),
        }
        if mode is not None:
            values["mode"] = mode.value

        async def change(connection: AsyncConnection) -> None:
            if mode is not None:
                await end_trial(connection, namespace, of_workloads=False)
            if workload_modes is not None:
                await end_trial(connection, namespace, of_workloads=True)
                await write_workload_modes(connection, namespace, workload_modes)
            if trial is not None:
                await begin_trial(connection, trial)
            if draft is not None and not await drop_draft(connection, namespace, draft):
                raise no_draft(namespace)
            await self._write_namespace(connection, namespace, **values)

        act = "policy.put" if draft is None else "draft.promote"
        return await self.change(namespace, change, act=act, expected_version=expected_version, is_forced=is_forced)

    async def delete_policy(self, namespace: str) -> NamespaceState:
        """Remove rules and group. The modes stay: nothing becomes more permissive by itself.

        Raises:
            NotFoundError: the namespace has no policy.
        """

        async def change(connection: AsyncConnection) -> None:
            row = (await connection.execute(select(namespaces).where(namespaces.c.namespace == namespace))).first()
            if row is None or not row.has_policy:
                raise NotFoundError(f"namespace {namespace} has no policy")
            await self._write_namespace(
                connection, namespace, has_policy=False, rules="[]", group_label="", requires="[]"
            )

        return await self.change(namespace, change, act="policy.delete")

    async def put_program(self, record: ProgramRecord) -> NamespaceState:
        """Add a ``Program`` object or replace the one of its name.

        Raises:
            InputError: the record can't be, or the namespace holds too many programs.
        """
        workload = Workload(namespace=record.namespace, service_account=record.service_account)
        if not record.programs or not 1 <= len(record.name) <= _MAX_NAME_CHARACTERS:
            raise InputError("a Program needs a name of 1 to 253 characters and at least one digest")
        values = {
            "namespace": workload.namespace,
            "name": record.name,
            "service_account": workload.service_account,
            "programs": msgspec.json.encode(tuple(dict.fromkeys(record.programs))).decode(),
            "weak": record.weak,
            "approved_by": record.approved_by[:_MAX_NAME_CHARACTERS],
            "approved": record.approved,
            "code": None if record.code is None else msgspec.json.encode(record.code).decode(),
        }

        async def change(connection: AsyncConnection) -> None:
            await connection.execute(self._database.upsert(programs, values))
            await forget_refusals(connection, workload, record.programs)

        await self._refuse_early(record)
        try:
            return await self.change(workload.namespace, change, act="program.put", program=record.name)
        except InputError:
            state = await self.get_state(workload.namespace)
            if len(self._full) < MAX_NAMESPACES:
                size = len(msgspec.json.encode(state))
                self._full[workload.namespace] = (state.version, size, len(state.approvals))
            raise

    async def _refuse_early(self, record: ProgramRecord) -> None:
        """Refuse a Program for which its namespace certainly has no room, at the version that had none for another.

        The transaction takes as long as the state is large, and whoever may edit a namespace can make thousands of
        objects that are refused, and looked at again and again.

        Raises:
            InputError: the state would be too large.
        """
        if record.namespace not in self._full:
            return
        version, size, count = self._full[record.namespace]
        async with self._database.reading() as connection:
            query = select(namespaces.c.version).where(namespaces.c.namespace == record.namespace)
            if await connection.scalar(query) != version:
                return
        known = await self.get_program(record.namespace, record.name)
        count, size = count + len(set(record.programs)), size + _measure_approvals(record)
        if known is not None:  # With its commas, and what is told of its code at most.
            count -= len(known.programs)
            size -= _measure_approvals(known) + len(known.programs)
            size -= 0 if known.code is None else 512 + 128 * len(known.code.objects)
        if count > MAX_PROGRAMS:
            raise InputError(f"a namespace holds at most {MAX_PROGRAMS} approved programs")
        if size > MAX_STATE_BYTES:
            raise _too_large(record.namespace, size)

    async def delete_program(self, namespace: str, name: str) -> NamespaceState:
        """Remove a ``Program`` object.

        Raises:
            NotFoundError: there is none of this name.
        """

        async def change(connection: AsyncConnection) -> None:
            gone = await connection.execute(
                delete(programs).where(programs.c.namespace == namespace, programs.c.name == name)
            )
            if gone.rowcount != 1:
                raise NotFoundError(f"no program {name} in namespace {namespace}")

        return await self.change(namespace, change, act="program.delete", program=name)

    async def get_program(self, namespace: str, name: str) -> ProgramRecord | None:
        """Return one ``Program`` object."""
        async with self._database.reading() as connection:
            row = (
                await connection.execute(
                    select(programs).where(programs.c.namespace == namespace, programs.c.name == name)
                )
            ).first()
            return None if row is None else _program(row)

    async def list_programs(self, namespace: str = "") -> list[ProgramRecord]:
        """Return the ``Program`` objects of one namespace, or of all, by name."""
        query = select(programs).order_by(programs.c.namespace, programs.c.name)
        if namespace:
            query = query.where(programs.c.namespace == namespace)
        async with self._database.reading() as connection:
            return [_program(row) for row in await connection.execute(query)]

    async def list_group_labels(self) -> frozenset[str]:
        """Return the labels by which namespaces make their mesh groups, or would by their drafts."""
        labels: set[str] = set()
        async with self._database.reading() as connection:
            for column in (namespaces.c.group_label, policy_drafts.c.group_label):
                labels.update(await connection.scalars(select(column).where(column != "").distinct()))
        return frozenset(labels)

    async def list_pod_workloads(self) -> dict[Workload, dict[str, str]]:
        """Return the workloads of pods that have joined, with the labels that are vouched for."""
        query = (
            select(sidecars.c.namespace, sidecars.c.service_account, workload_labels.c.labels)
            .outerjoin(
                workload_labels,
                (workload_labels.c.namespace == sidecars.c.namespace)
                & (workload_labels.c.service_account == sidecars.c.service_account),
            )
            .where(sidecars.c.pod_uid != "")
            .distinct()
        )
        async with self._database.reading() as connection:
            return {
                Workload(namespace=row.namespace, service_account=row.service_account): _labels.decode(
                    row.labels or "{}"
                )
                for row in await connection.execute(query)
            }

    async def set_labels(self, workload: Workload, labels: dict[str, str]) -> NamespaceState:
        """Vouch for these labels of a workload, and for no others."""

        async def change(connection: AsyncConnection) -> None:
            await self._write_labels(connection, workload, labels)

        return await self.change(workload.namespace, change)

    async def change(
        self,
        namespace: str,
        change: Callable[[AsyncConnection], Any],
        *,
        act: str = "",
        program: str = "",
        expected_version: int | None = None,
        is_forced: bool = False,
    ) -> NamespaceState:
        """Make a change and, where it is an administrative act, its generation and its line in the audit log.

        Arguments:
            act: what the audit log calls it; empty: what pods say of themselves isn't one.
            program: the name of the ``Program`` that it concerns; empty: the namespace itself.
            is_forced: the audit log says ``forced`` of it.

        Raises:
            InputError: an act that adds would make the state larger than what sidecars take.
        """
        check_namespace(namespace)
        async with self._database.writing() as connection:
            await self._raise_version(connection, namespace, expected_version)
            before = await read_content(connection, namespace) if act else None
            described = await _describe(connection, namespace, program, before if act == UNDO else None)
            await change(connection)
            state = await _read_state(connection, namespace)
            if act in _ADDING and (size := len(msgspec.json.encode(state))) > MAX_STATE_BYTES:
                raise _too_large(namespace, size)
            await raise_counter(connection, NAMESPACE_CHANGES)
            if before is not None:
                subject = f"{namespace}/{program}" if program else namespace
                after = await read_content(connection, namespace)
                await append_generation(
                    self._database, connection, namespace,
                    version=state.version, act=act, subject=subject, before=before, after=after,
                )  # fmt: skip
                now = await _describe(connection, namespace, program, after if act == UNDO else None)
                if is_forced:
                    now = {**(msgspec.structs.asdict(now) if isinstance(now, Content) else now), "forced": True}
                await append_audit(self._database, connection, act, subject, before=described, after=now)
        self.announce(namespace)
        return state

    async def _raise_version(
        self, connection: AsyncConnection, namespace: str, expected_version: int | None = None
    ) -> None:
        await self.list_from_now_on(connection, namespace)
        query = update(namespaces).where(namespaces.c.namespace == namespace)
        if expected_version is not None:
            query = query.where(namespaces.c.version == expected_version)
        if (await connection.execute(query.values(version=namespaces.c.version + 1))).rowcount != 1:
            raise ConflictError(
                f"namespace {namespace} is no longer at version {expected_version}",
                hint=f"`touchmark mode {namespace}` shows the version now, `touchmark mode {namespace} history` who"
                " changed what; look again, then repeat",
            )

    async def list_from_now_on(self, connection: AsyncConnection, namespace: str) -> None:
        """List the namespace from now on; at version 0 when nothing was said about it yet."""
        values = {
            "namespace": namespace,
            "version": 0,
            "mode": Mode.PERMISSIVE.value,
            "has_policy": False,
            "group_label": "",
            "rules": "[]",
            "requires": "[]",
            "workload_modes": "[]",
        }
        await _LIST.on(connection, **values)

    async def _write_namespace(self, connection: AsyncConnection, namespace: str, **values: Any) -> None:
        await connection.execute(update(namespaces).where(namespaces.c.namespace == namespace).values(**values))

    async def _write_labels(self, connection: AsyncConnection, workload: Workload, labels: dict[str, str]) -> None:
        values = {
            "namespace": workload.namespace,
            "service_account": workload.service_account,
            "labels": msgspec.json.encode(labels).decode(),
        }
        await connection.execute(self._database.upsert(workload_labels, values))

    async def vouch_for_labels(self, connection: AsyncConnection, workload: Workload, labels: dict[str, str]) -> bool:
        """Vouch for the labels within a greater transaction; return whether that changed anything."""
        known = await connection.scalar(
            select(workload_labels.c.labels).where(
                workload_labels.c.namespace == workload.namespace,
                workload_labels.c.service_account == workload.service_account,
            )
        )
        if labels == ({} if known is None else _labels.decode(known)):
            return False
        await self._raise_version(connection, workload.namespace)
        await self._write_labels(connection, workload, labels)
        await raise_counter(connection, NAMESPACE_CHANGES)
        return True

    def announce(self, namespace: str) -> None:
        """Tell the listeners of a change that was committed by a greater transaction, or by another replica."""
        self._changes += 1
        self._states.pop(namespace, None)
        self._full.pop(namespace, None)
        for listener in self._listeners:
            listener(namespace)


async def _describe(connection: AsyncConnection, namespace: str, program: str, content: Content | None = None) -> Any:
    """Return what the audit log says of a ``Program``, or of a namespace itself; None: it isn't there.

    Arguments:
        content: all of the namespace, where an act changes more than one part of it.
    """
    if content is not None:
        return content
    if program:
        query = select(programs).where(programs.c.namespace == namespace, programs.c.name == program)
        row = (await connection.execute(query)).first()
        return None if row is None else _program(row)
    row = (await connection.execute(select(namespaces).where(namespaces.c.namespace == namespace))).first()
    if row is None:
        return None
    described = {
        "mode": row.mode,
        "group": row.group_label,
        "rules": _rules.decode(row.rules),
        "requires": _requires.decode(row.requires),
    }
    if modes := read_workload_modes(row.workload_modes):
        described["workload_modes"] = {each.service_account: each.mode for each in modes}
    if (trial := await read_trial(connection, namespace)) is not None:
        described["trial"] = {"back_to": trial.back_to, "until": trial.until}
        if trial.workload_modes is not None:
            back_to = {each.service_account: each.mode for each in trial.workload_modes}
            described["trial"] = {"workload_modes": back_to, "until": trial.until}
    if (known := await read_draft(connection, namespace)) is not None:
        described["draft"] = known.draft
    return described


async def _read_state(connection: AsyncConnection, namespace: str) -> NamespaceState:
    row = (await connection.execute(select(namespaces).where(namespaces.c.namespace == namespace))).first()
    if row is None:
        return NamespaceState(namespace=namespace)
    listed = await connection.execute(
        select(programs).where(programs.c.namespace == namespace).order_by(programs.c.name)
    )
    records = [_program(row) for row in listed]
    approvals, code = describe_programs(records)
    drafted = await read_draft(connection, namespace)
    vouched = await connection.execute(
        select(workload_labels)
        .where(workload_labels.c.namespace == namespace)
        .order_by(workload_labels.c.service_account)
    )
    return NamespaceState(
        namespace=namespace,
        version=row.version,
        mode=Mode(row.mode),
        group_label=row.group_label,
        rules=_rules.decode(row.rules),
        requires=_requires.decode(row.requires),
        workload_modes=read_workload_modes(row.workload_modes),
        approvals=approvals,
        code=code,
        labels=tuple(
            WorkloadLabels(service_account=label.service_account, labels=_labels.decode(label.labels))
            for label in vouched
        ),
        draft=drafted.draft if drafted is not None and drafted.fits_beside(row.rules) else None,
    )


def describe_programs(records: Sequence[ProgramRecord]) -> tuple[tuple[Approval, ...], tuple[WorkloadCode, ...]]:
    """Return what a namespace's ``Program`` objects come to: who is approved, and what each workload may load."""
    approvals = tuple(_approval(record, program) for record in records for program in record.programs)
    return approvals, _gather_code(records)


def _too_large(namespace: str, size: int) -> InputError:
    return InputError(
        f"what sidecars are told of namespace {namespace} would take {size:,} bytes;"
        f" at most {MAX_STATE_BYTES:,} are possible",
        hint="name fewer programs, rules, peers and ports, or shorter names",
    )


def _measure_approvals(record: ProgramRecord) -> int:
    """Return how many bytes a state has of a Program at least."""
    record = replace(record, approved_by=record.approved_by[:_MAX_NAME_CHARACTERS])
    return sum(len(msgspec.json.encode(_approval(record, program))) for program in set(record.programs))


def _approval(record: ProgramRecord, program: Program) -> Approval:
    code = record.code or ApprovedCode()
    return Approval(
        service_account=record.service_account,
        program=program,
        weak=record.weak,
        name=record.name,
        approved_by=record.approved_by,
        code=code.effective_check,
        jit=code.jit,
    )


def _gather_code(records: Sequence[ProgramRecord]) -> tuple[WorkloadCode, ...]:
    """Gather what each workload's programs may load: all that its ``Program`` objects name."""
    digests: dict[str, dict[str, None]] = {}
    for record in records:
        if record.code is not None and record.code.objects:
            found = digests.setdefault(record.service_account, {})
            found.update(dict.fromkeys(each.digest for each in record.code.objects))
    return tuple(WorkloadCode(service_account=name, digests=tuple(sorted(digests[name]))) for name in sorted(digests))


def _program(row: Row[Any]) -> ProgramRecord:
    return ProgramRecord(
        namespace=row.namespace,
        name=row.name,
        service_account=row.service_account,
        programs=_programs.decode(row.programs),
        weak=row.weak,
        approved_by=row.approved_by,
        approved=row.approved,
        code=None if row.code is None else _code.decode(row.code),
    )
