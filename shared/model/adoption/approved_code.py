"""Refusals for loaded code that has been approved since: such a record names what was loaded, but no program. Pure.

Belongs here: giving such records back the program that they were about. Doesn't: deciding again (``blockers.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from shared.model.errors import IdentityError
from shared.model.identity.identity import parse_workload
from shared.model.identity.loaded_code import LoadedCode
from shared.model.identity.program import Program, format_program
from shared.model.policy.decision import DecisionRecord, PartyRecord
from shared.model.policy.evaluate import NamespacePolicy, compile_namespace
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction, NamespaceState

_Key = tuple[str, str]


def restore_programs(records: Sequence[DecisionRecord], state: NamespaceState) -> list[DecisionRecord]:
    """Name the program where all that was ever told of its loaded code is approved by now.

    Only one record in half an hour tells what a program had loaded: where none does, all stay as they are.

    Arguments:
        records: of one namespace's sidecars.
        state: of that namespace.
    """
    policy = compile_namespace(state)
    loaded: dict[_Key, set[LoadedCode]] = {}
    for record, key in _find_refused(records):
        if record.process.code is not msgspec.UNSET:
            loaded.setdefault(key, set()).add(record.process.code)
    approved = {key for key, codes in loaded.items() if _is_approved(policy, key, codes)}
    if not approved:
        return list(records)
    of_connection = {record.connection: key for record, key in _find_refused(records) if key in approved}
    of_connection.pop("", None)
    return [_restore(record, approved, of_connection) for record in records]


def _find_refused(records: Sequence[DecisionRecord]) -> Iterator[tuple[DecisionRecord, _Key]]:
    for record in records:
        if (own := _own(record)).why == Reason.CODE_NOT_APPROVED and record.process.digest:
            yield record, (own.workload, record.process.digest)


def _is_approved(policy: NamespacePolicy, key: _Key, codes: set[LoadedCode]) -> bool:
    try:
        workload, program = parse_workload(key[0]), Program(digest=key[1])
    except IdentityError:
        return False
    approval = policy.find_approval(workload, program)
    return approval is not None and all(
        policy.find_foreign_code(workload.service_account, code, is_jit=approval.jit) is None for code in codes
    )


def _restore(record: DecisionRecord, approved: set[_Key], of_connection: dict[str, _Key]) -> DecisionRecord:
    own = _own(record)
    if own.why == Reason.CODE_NOT_APPROVED and (own.workload, record.process.digest) in approved:
        return _name(record, record.process.digest, is_source=record.direction is Direction.EGRESS)
    # The other side's record of it, which saw no program at that end.
    key = of_connection.get(record.connection) if record.count == 1 else None
    if key is not None:
        is_source = record.direction is Direction.INGRESS
        party = record.source if is_source else record.destination
        if party.workload == key[0] and not party.program:
            return _name(record, key[1], is_source=is_source)
    return record


def _name(record: DecisionRecord, digest: str, *, is_source: bool) -> DecisionRecord:
    party = record.source if is_source else record.destination
    named = msgspec.structs.replace(party, program=format_program(Program(digest=digest)), why="")
    if is_source:
        return msgspec.structs.replace(record, source=named)
    return msgspec.structs.replace(record, destination=named)


def _own(record: DecisionRecord) -> PartyRecord:
    return record.source if record.direction is Direction.EGRESS else record.destination
