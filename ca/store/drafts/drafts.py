"""Draft policies in the store: at most one of each namespace, beside the policy in force. I/O.

Belongs here: writing, reading and dropping them. Doesn't: the state that carries a draft to sidecars, how a change is
made (``ca/store/namespaces.py``, which hands its ``change`` over), what its verdicts were
(``ca/observation/draft_outcome.py``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.store.drafts.tables import policy_drafts
from ca.store.engine.counters import raise_counter, read_counter
from ca.store.engine.database import Database
from shared.model.errors import ConflictError, InputError, NotFoundError
from shared.model.policy.documents import DRAFT_NAME
from shared.model.policy.rules import (
    Mode,
    NamespaceState,
    PolicyDraft,
    Requirement,
    Rule,
    WorkloadMode,
    check_rules,
)

# As JSON. What a namespace says goes to sidecars in one message: a draft never keeps the rest from getting there.
MAX_BYTES: Final = 2 * 1024 * 1024
MAX_BYTES_WITH_RULES: Final = 5 * 1024 * 1024
_NUMBERS: Final = "policy_drafts"
_rules: Final = msgspec.json.Decoder(tuple[Rule, ...])
_requires: Final = msgspec.json.Decoder(tuple[Requirement, ...])
_modes: Final = msgspec.json.Decoder(tuple[WorkloadMode, ...])


class Change(Protocol):
    """How a namespace is changed: ``Namespaces.change``."""

    async def __call__(
        self, namespace: str, change: Callable[[AsyncConnection], Awaitable[None]], *, act: str
    ) -> NamespaceState:
        """Make a change within one transaction that raises the version."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDraft:
    """A draft.

    Attributes:
        written: seconds since the epoch, by the database's clock.
        size: of its rules, bytes.
        is_object: a cluster's object says it.
    """

    draft: PolicyDraft
    written: float
    size: int
    is_object: bool = False

    def fits_beside(self, rules: str) -> bool:
        """Tell whether sidecars are sent it beside these rules in force, as their row has them."""
        return self.size + len(rules) <= MAX_BYTES_WITH_RULES


class Drafts:
    """The drafts of all namespaces.

    Arguments:
        change: ``Namespaces.change``.
        trust_domain: our own.
    """

    def __init__(self, database: Database, *, change: Change, trust_domain: str) -> None:
        self._database = database
        self._change = change
        self._trust_domain = trust_domain

    async def get(self, namespace: str) -> StoredDraft | None:
        """Return a namespace's draft."""
        async with self._database.reading() as connection:
            return await read_draft(connection, namespace)

    async def list_of_objects(self) -> list[str]:
        """Return the namespaces whose draft an object says, by name."""
        query = select(policy_drafts.c.namespace).where(policy_drafts.c.is_object).order_by(policy_drafts.c.namespace)
        async with self._database.reading() as connection:
            return list(await connection.scalars(query))

    async def put(
        self,
        namespace: str,
        draft: PolicyDraft,
        *,
        is_object: bool = False,
        spares_objects: bool = False,
        is_first: bool = False,
    ) -> NamespaceState:
        """Write a namespace's draft, in the place of an earlier one.

        Arguments:
            draft: its number is given here.
            is_object: an object says it.
            spares_objects: not in the place of one that an object says.
            is_first: not in the place of any.

        Raises:
            InputError: its rules can't be a policy.
            ConflictError: there is one that may not be replaced.
        """
        check_rules(draft.rules, trust_domain=self._trust_domain)
        rules = msgspec.json.encode(draft.rules).decode()
        if len(rules) > MAX_BYTES:
            raise InputError(f"a draft's rules have at most {MAX_BYTES} bytes as JSON, not {len(rules)}")
        modes = draft.workload_modes

        async def change(connection: AsyncConnection) -> None:
            known = await read_draft(connection, namespace) if spares_objects or is_first else None
            if known is not None and spares_objects:
                _spare_object(namespace, known)
            if known is not None and is_first:
                raise ConflictError(
                    f"namespace {namespace} has a draft already, number {known.draft.number}, which would be lost",
                    hint=f"`touchmark policy draft {namespace}` shows it; --replace writes over it",
                )
            await raise_counter(connection, _NUMBERS)
            values = {
                "namespace": namespace,
                "number": await read_counter(connection, _NUMBERS),
                "mode": None if draft.mode is None else draft.mode.value,
                "group_label": draft.group_label,
                "rules": rules,
                "requires": msgspec.json.encode(tuple(dict.fromkeys(draft.requires))).decode(),
                "written": await self._database.read_clock(connection),
                "workload_modes": None if modes is None else msgspec.json.encode(modes).decode(),
                "is_object": is_object,
            }
            await connection.execute(self._database.upsert(policy_drafts, values))

        return await self._change(namespace, change, act="draft.put")

    async def drop(
        self, namespace: str, *, number: int | None = None, spares_objects: bool = False, is_object: bool = False
    ) -> NamespaceState:
        """Drop a namespace's draft.

        Arguments:
            number: only this one.
            spares_objects: not one that an object says.
            is_object: only one that an object says.

        Raises:
            NotFoundError: it has none.
            ConflictError: it has another one by now, or one that may not be dropped.
        """

        async def change(connection: AsyncConnection) -> None:
            known = await read_draft(connection, namespace)
            if known is None or (is_object and not known.is_object):
                raise no_draft(namespace)
            if spares_objects:
                _spare_object(namespace, known)
            await drop_draft(connection, namespace, number)

        return await self._change(namespace, change, act="draft.delete")


def _spare_object(namespace: str, known: StoredDraft) -> None:
    """Refuse to change the draft of an object.

    Raises:
        ConflictError: it is one.
    """
    if known.is_object:
        raise ConflictError(
            f"the draft of {namespace} is what MeshPolicy {namespace}/{DRAFT_NAME} says",
            hint=f"edit that object, or delete it: `kubectl delete meshpolicy {DRAFT_NAME} -n {namespace}`",
        )


def no_draft(namespace: str) -> NotFoundError:
    """Return the error that says that a namespace has no draft."""
    return NotFoundError(
        f"namespace {namespace} has no draft", hint="`touchmark policy apply -f FILE --draft` writes one"
    )


async def read_draft(connection: AsyncConnection, namespace: str) -> StoredDraft | None:
    """Return a namespace's draft."""
    row = (await connection.execute(select(policy_drafts).where(policy_drafts.c.namespace == namespace))).first()
    if row is None:
        return None
    draft = PolicyDraft(
        number=row.number,
        mode=None if row.mode is None else Mode(row.mode),
        group_label=row.group_label,
        rules=_rules.decode(row.rules),
        requires=_requires.decode(row.requires),
        workload_modes=None if row.workload_modes is None else _modes.decode(row.workload_modes),
    )
    return StoredDraft(draft=draft, written=row.written, size=len(row.rules), is_object=row.is_object)


async def drop_draft(connection: AsyncConnection, namespace: str, number: int | None = None) -> bool:
    """Drop a namespace's draft within a greater transaction; return whether there was one.

    Arguments:
        number: only this one.

    Raises:
        ConflictError: the namespace has another one by now.
    """
    known = await read_draft(connection, namespace)
    if known is not None and number is not None and known.draft.number != number:
        raise ConflictError(
            f"namespace {namespace} has another draft by now",
            hint=f"`touchmark policy draft {namespace}` shows it; then repeat",
        )
    await connection.execute(delete(policy_drafts).where(policy_drafts.c.namespace == namespace))
    return known is not None
