"""Decisions as people read them: table rows, verdicts, the names of parties. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from msgspec import UNSET

from cli.text.duration import format_time
from cli.text.output import name_authority, shorten
from cli.text.printable import escape
from shared.model.policy.decision import DecisionRecord, DraftChange, Origin, PartyRecord, compare_draft
from shared.model.policy.rules import Direction
from shared.model.wire.admin import DecisionView

COLUMNS: Final = (
    "TIME",
    "SIDE",
    "VERDICT",
    "REASON",
    "SOURCE",
    "PROGRAM",
    "DESTINATION",
    "PROGRAM",
    "PORT",
    "RULE",
    "ISSUER",
)


def format_rows(views: Iterable[DecisionView]) -> Iterable[tuple[str, ...]]:
    """Write decisions as table rows under ``COLUMNS``."""
    for view in views:
        record = view.record
        yield (
            format_time(record.time),
            record.direction,
            describe_verdict(record),
            record.reason,
            describe_party(record.source),
            describe_program(record, Direction.EGRESS),
            describe_party(record.destination),
            describe_program(record, Direction.INGRESS),
            str(record.port),
            record.rule or "-",
            name_authority(record.issuer) or "-",
        )


def describe_program(record: DecisionRecord, of: Direction) -> str:
    """Shorten the program at one end; ``(exec)``: its process came from a session such as that of ``kubectl exec``.

    Arguments:
        of: the source's (egress) or the destination's. Only the side that recorded it knows its process.
    """
    program = shorten((record.source if of is Direction.EGRESS else record.destination).program)
    return f"{program} (exec)" if of is record.direction and record.process.origin is Origin.EXEC else program


def describe_fully(view: DecisionView) -> Iterable[str]:
    """Write everything of a decision that people ask for, a line each; what a process or peer chose is escaped."""
    record, process = view.record, view.record.process
    yield f"#{view.id}  {format_time(record.time)}  {record.direction}  {describe_verdict(record)}  {record.reason}"
    pid = f" (pid {process.pid}, uid {process.uid})" if process.pid else ""
    origin = ", from an exec session" if process.origin is Origin.EXEC else ""
    service = f", Service {record.service}" if record.service else ""
    lines = (
        ("source", _describe_end(record.source)),
        ("destination", f"{_describe_end(record.destination)}, port {record.port}{service}"),
        ("program", f"{process.path or 'unknown'}{pid}{origin}" if process.pid or process.path else ""),
        ("sidecar", record.sidecar),
        ("rule", f"{record.rule or 'none'}, {record.mode} mode, version {record.policy_version} of {record.namespace}"),
        ("draft", _describe_draft(record)),
        ("transport", f"{record.transport}, ended: {record.ending}"),
        ("detail", drop_service(record.detail, record.service or "")),
    )
    for name, text in lines:
        if text:
            yield f"  {name:12} {escape(text)}"


def drop_service(detail: str, service: str) -> str:
    """Return a record's detail; empty where it says but the Service, which is named beside it.

    Arguments:
        service: with its port; empty: none.
    """
    return "" if service and detail == f"service {service.rpartition(':')[0]}" else detail


def _describe_end(party: PartyRecord) -> str:
    parts = [describe_party(party)]
    if party.program:
        parts.append(f"{party.program}{'' if party.approved else ' (not approved)'}")
        if party.why:
            parts.append(f"not proven: {party.why}")
    elif party.why:
        parts.append(f"no program: {party.why}")
    if party.address and (party.workload or party.identity):
        parts.append(f"at {party.address}")
    if party.listed and party.listed != party.workload:
        parts.append(f"the directory lists {party.listed}")
    return ", ".join(parts)


def describe_verdict(record: DecisionRecord) -> str:
    """Say in a few words what happened: ``allow``, ``allow (would deny)``, ``DENY``; with what else matters."""
    verdict = describe_answer(record)
    if record.phase == "start":
        verdict += " (start)"
    if compare_draft(record) in (DraftChange.DENIED, DraftChange.ALLOWED):
        verdict += f"; draft: {_describe_draft(record)}"
    return f"{verdict} ×{record.count}" if record.count > 1 else verdict


def _describe_draft(record: DecisionRecord) -> str:
    draft = record.draft
    if draft is UNSET:
        return ""
    answer = "DENY" if draft.answer == "deny" else "allow (would deny)" if draft.would_deny else "allow"
    return f"{answer} {draft.reason}{f' by {draft.rule}' if draft.rule else ''}"


def describe_answer(record: DecisionRecord) -> str:
    """Say the same of one connection, whatever the record's count."""
    verdict = "DENY" if record.answer == "deny" else "allow (would deny)" if record.would_deny else "allow"
    if record.weak:
        verdict += " weak"
    if record.transport == "plaintext":
        verdict += " plaintext"
    return verdict


def describe_party(party: PartyRecord) -> str:
    """Name the proven workload or foreign identity, or the address; ``-`` for none (readiness was withheld)."""
    if party.workload or party.identity:
        return party.workload or party.identity
    hosts = ", ".join(party.hosts or ())
    if not party.address:
        return hosts or "-"
    return f"unidentified {party.address}{f' ({hosts})' if hosts else ''}"
