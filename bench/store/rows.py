"""Fills a store's tables that grow, by one statement each, with rows as the CA writes them. I/O through ``Database``.

Belongs here: what the rows are, for SQLite and PostgreSQL. Doesn't: what is asked (``asked.py``). A number that stands
for another in each row is spread evenly: what a search finds is a share of the rows, or none.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from sqlalchemy import text

from bench.edges import make_records
from ca.store.edges.edge import EdgeEvidence
from ca.store.edges.edge_log import find_day, make_partitions
from ca.store.edges.tally import make_key
from ca.store.engine.database import Database
from ca.store.history.generations import Content
from shared.model.adoption.program_queue import Sighting
from shared.model.identity.program import Program
from shared.model.policy.decision import Answer, DraftVerdict
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction
from shared.model.wire.admin_audit import START, AuditActor, AuditEntry, encode_entry

NAMESPACES: Final = 20  # Those that have edges; 50,000 is what one may have.
HOURS: Final = 31 * 24
_MANY: Final = 100_000
# For each table: how many rows of a million, and each column's value in row ``i``. Columns that count by themselves
# are left out. {pad N of X}: X as text of N digits.
_ROWS: Final[Mapping[str, tuple[float, Mapping[str, str]]]] = {
    "certificates": (
        1,
        {
            "serial": "{pad 32 of i}",
            # One in seven is a sidecar's own.
            "identity": "'spiffe://touchmark.local/ns/ns' || (i % 50) || '/sa/web/' ||"
            " CASE WHEN (i / 200) % 7 = 0 THEN 'sidecar' ELSE 'sha256/' || {pad 64 of (i % 1000)} END",
            "namespace": "'ns' || (i % 50)",
            "service_account": "'web'",
            "kind": "CASE WHEN (i / 200) % 7 = 0 THEN 'sidecar' ELSE 'program' END",
            "authority_id": "'a' || (i / 4000)",
            # A hundred sidecars have 5,000 each, the others a hundred.
            "instance": "'s' || (CASE WHEN i % 2 = 0 THEN i % 200 ELSE i % 10000 END)",
            "issued": ":now - 10.0 * i",
            "not_before": ":now - 10.0 * i",
            "not_after": ":now - 10.0 * i + 18000",
            "path": "'/usr/bin/web'",
            "pid": "1",
            "uid": "1",
            "approved_by": "''",
            "digest": "CASE WHEN (i / 200) % 7 = 0 THEN '' ELSE {pad 64 of (i % 1000)} END",
        },
    ),
    "decisions": (
        1,
        {
            "time": ":now - 0.5 * (:rows - i)",
            "namespace": "'ns' || (i % 20)",
            "sidecar": "'s' || (i % 200)",
            "answer": "CASE WHEN i % 1000 = 0 THEN 'deny' ELSE 'allow' END",
            "would_deny": "(i % 1000 = 1)",
            "reason": "CASE WHEN i % 1000 < 2 THEN 'no_rule' ELSE 'allow_rule' END",
            "source_workload": "'ns' || (i % 20) || '/w' || (i % 300)",
            "destination_workload": "'ns' || (i % 20) || '/w' || (i % 100)",
            "source_program": "'sha256:' || {pad 64 of (i % 1000)}",
            "destination_program": "'sha256:' || {pad 64 of (i % 999)}",
            "port": "8080",
            "connection": "{pad 16 of i}",
            "count": "1",
            "record": ":record",
            "draft": "CASE WHEN i % 1000 = 5 THEN 'denied' WHEN i % 1000 = 6 THEN 'same' ELSE '' END",
        },
    ),
    "edges": (
        1,
        {
            "digest": "{pad 64 of i}",
            "source_namespace": "'ns' || (i % 20)",
            # One in twenty leads to another namespace.
            "destination_namespace": "'ns' || ((i % 20 + ((i / 20) % 20) / 19) % 20)",
            "first_hour": ":hour - i % 744",
            "last_hour": ":hour - i % 744",
            "description": ":edge_key",
            "evidence": ":evidence",
        },
    ),
    "edge_hours": (
        1,
        {
            "edge_id": "i + 1",
            "hour": ":hour - i % 744",
            "opened": "3",
            "ended": "3",
            "bytes_sent": "700",
            "bytes_received": "9000",
            "first": ":now - 3600.0 * (i % 744)",
            "last": ":now - 3600.0 * (i % 744) + 60",
        },
    ),
    "edge_reports": (
        1,
        {
            "instance": "'s' || (i / 744)",
            "hour": ":hour - i % 744",
            "namespace": "'ns' || ((i / 744) % 20)",
            "service_account": "'w' || (i / 744)",
            "records": "40",
            "lost": "CASE WHEN i % 1000 = 0 THEN 1 ELSE 0 END",
            "starts": "0",
            "new_edges": "2",
            "first": ":now - 3600.0 * (i % 744)",
            "last": ":now - 3600.0 * (i % 744) + 3000",
        },
    ),
    "edge_drafts": (
        1,
        {
            "draft": "'ns' || ((i / 50000) % 20) || '@1'",
            "edge_id": "i + 1",
            "digest": "CASE WHEN i % 10 = 0 THEN {pad 64 of (i % 7)} ELSE '' END",
            "verdict": "CASE WHEN i % 10 = 0 THEN :verdict ELSE '' END",
            "is_own": "(i % 6 <> 0)",
            "opened": "3",
            "ended": "3",
            "first": ":now - 3600.0 * (i % 744)",
            "last": ":now - 3600.0 * (i % 744) + 60",
        },
    ),
    "audit_lines": (
        1,
        {"sequence": "i + 1", "time": ":now - (:rows - i)", "digest": "{pad 64 of i}", "line": ":audit_line"},
    ),
    "journal": (
        1,
        {
            "time": ":now - (:rows - i)",
            "event": "'prepared'",
            "rotation_id": "i",
            "authority_id": "'a' || (i / 4)",
            "detail": "''",
        },
    ),
    "join_tokens": (
        1,
        {
            "token_id": "{pad 16 of i}",
            "secret_digest": ":digest",
            "namespace": "'ns' || (i % 20)",
            "service_account": "'w' || (i % 300)",
            "addresses": "'[]'",
            "labels": "'{}'",
            "created": ":now - 2.0 * i",
            "expires": ":now - 2.0 * i + 600",
            "spent": "CASE WHEN i % 100 = 0 THEN NULL ELSE :now - 2.0 * i + 60 END",
            "instance": "'s' || i",
            "root_pin": "''",
            "spent_by": "NULL",
        },
    ),
    "renewal_keys": (
        1,
        {
            "digest": "{pad 64 of i}",
            "instance": "'s' || (i % 10000)",
            "made": ":now - 2.0 * i",
            "spent": "CASE WHEN 100 * i < :rows THEN NULL ELSE :now - 2.0 * i + 60 END",
            "following": "{pad 64 of (i + 10000)}",
        },
    ),
    "program_sightings": (
        1,
        {
            "namespace": "'ns' || (i % 20)",
            "service_account": "'w' || (i / 5120)",
            "program": "'sha256:' || {pad 64 of i}",
            "last": ":now - 2.0 * i",
            "record": ":sighting",
        },
    ),
    "program_refusals": (
        0.2,
        {
            "namespace": "'ns' || (i % 20)",
            "service_account": "'w' || (i % 300)",
            "program": "'sha256:' || {pad 64 of i}",
            "refused_by": "'somebody'",
            "refused": ":now - i",
            "path": "'/usr/bin/web'",
        },
    ),
    "namespace_generations": (
        1,
        {
            "namespace": "'ns' || (i / 100)",
            "generation": "i % 100 + 1",
            "version": "i % 100 + 1",
            "time": ":now - i",
            "act": "'mode.set'",
            "subject": "'ns'",
            "actor": ":actor",
            "content": ":content",
        },
    ),
    "namespaces": (
        0.01,
        {
            "namespace": "'ns' || i",
            "version": "100",
            "mode": "'permissive'",
            "has_policy": "(1 = 0)",
            "group_label": "''",
            "rules": "'[]'",
            "requires": "'[]'",
            "workload_modes": "'[]'",
        },
    ),
    "sidecars": (
        0.01,
        {
            "instance": "'s' || i",
            "namespace": "'ns' || (i % 20)",
            "service_account": "'w' || (i % 300)",
            "allowed_addresses": "'[]'",
            "labels": "'{}'",
            "tunnel_port": "15008",
            "version": "'1'",
            "capture": "'listeners'",
            "joined": ":now - 3600",
            "last_seen": ":now - i",
            "connected": "(i % 2 = 0)",
            "installed_sequence": "3",
            "pod_uid": "'u' || i",
            "replica": "''",
        },
    ),
    "sidecar_addresses": (0.01, {"address": "'198.18.' || (i / 250) || '.' || (i % 250)", "instance": "'s' || i"}),
    "installed_namespaces": (
        0.03,
        {"instance": "'s' || (i / 3)", "namespace": "'ns' || (i % 3)", "version": "1"},
    ),
}
_FEW: Final[Mapping[str, tuple[int, Mapping[str, str]]]] = {
    "policy_drafts": (
        NAMESPACES,
        {
            "namespace": "'ns' || i",
            "number": "1",
            "group_label": "''",
            "rules": "'[]'",
            "requires": "'[]'",
            "written": ":now - 2000000",
        },
    ),
    "evicted_certificates": (3_000, {"serial": "{pad 32 of i}", "not_after": ":now + i"}),
    "evicted_sidecars": (1_000, {"instance": "'gone' || i", "pod_uid": "''", "evicted": ":now - i"}),
}


async def fill(database: Database, rows: int, *, now: float) -> dict[str, int]:
    """Fill the tables and have the database count them; return how many rows each has got.

    Arguments:
        rows: of each table that grows without another bound.
        now: seconds since the epoch; the newest rows are of then.
    """
    hour = int(now // 3600)
    if not database.is_sqlite:
        async with database.writing() as connection:
            await make_partitions(connection, range(find_day(hour - HOURS), find_day(hour) + 2))
    indexes = await _drop_indexes(database) if rows >= _MANY else []
    filled: dict[str, int] = {}
    values = {**_make_texts(now), "now": now, "hour": hour}
    for name, (share, columns) in {**_ROWS, **_FEW}.items():
        filled[name] = int(share) if name in _FEW else max(1, int(rows * share))
        statement = _write_statement(name, columns, is_sqlite=database.is_sqlite)
        known = {each: value for each, value in values.items() if f":{each}" in statement}
        async with database.migrating() as connection:  # It may take longer than a statement of the CA.
            await connection.execute(text(statement), {**known, "rows": filled[name]})
    for index in indexes:
        async with database.migrating() as connection:
            await connection.execute(text(index))
    async with database.writing() as connection:
        await connection.execute(
            text("INSERT INTO audit_marks (name, sequence, digest) VALUES ('head', :rows, :digest)"),
            {"rows": filled["audit_lines"], "digest": f"{filled['audit_lines'] - 1:064d}"},
        )
    return filled


async def analyse(database: Database) -> None:
    """Have the database count what it has, as PostgreSQL does by itself. The CA doesn't have SQLite count."""
    async with database.migrating() as connection:
        await connection.execute(text("ANALYZE"))


async def _drop_indexes(database: Database) -> list[str]:
    """Drop the indexes, and return what makes them: faster at the end than with each row."""
    query = "SELECT name, sql AS definition FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    if not database.is_sqlite:
        query = (
            "SELECT indexname AS name, indexdef AS definition FROM pg_indexes JOIN pg_class ON relname = indexname"
            " JOIN pg_index ON indexrelid = pg_class.oid WHERE schemaname = 'public' AND NOT indisunique"
            " AND NOT relispartition"
        )
    async with database.writing() as connection:
        found = list(await connection.execute(text(query)))
        for row in found:
            await connection.execute(text(f'DROP INDEX "{row.name}"'))
    # A partitioned table's index is defined for the table alone: its partitions' would be missing.
    return [str(row.definition).replace(" ON ONLY ", " ON ") for row in found]


def _write_statement(table: str, columns: Mapping[str, str], *, is_sqlite: bool) -> str:
    values = ", ".join(_spell(value, is_sqlite=is_sqlite) for value in columns.values())
    names = ", ".join(f'"{name}"' for name in columns)
    rows = "CAST(:rows AS bigint)"
    if is_sqlite:
        counting = f"WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {rows}) "
        return f"{counting}INSERT INTO {table} ({names}) SELECT {values} FROM n"
    return f"INSERT INTO {table} ({names}) SELECT {values} FROM generate_series(0, {rows} - 1) AS i"


def _spell(value: str, *, is_sqlite: bool) -> str:
    """Return a value as the database has it: PostgreSQL has to be told what a parameter is."""
    while "{pad " in value:
        before, _, rest = value.partition("{pad ")
        width, _, rest = rest.partition(" of ")
        what, _, after = rest.partition("}")
        padded = f"printf('%0{width}d', {what})" if is_sqlite else f"lpad(({what})::text, {width}, '0')"
        value = f"{before}{padded}{after}"
    if is_sqlite:
        return value.replace(":hour - ", "CAST(:hour AS bigint) - ")
    for name, kind in (("now", "double precision"), ("hour", "integer"), ("rows", "bigint")):
        value = value.replace(f":{name}", f"CAST(:{name} AS {kind})")
    if value.startswith(":hour") or "CAST(:hour" in value:
        return f"({value})::integer"
    return value


def _make_texts(now: float) -> dict[str, Any]:
    (record,) = make_records(1, [2], count=1, now=now, side=Direction.EGRESS)
    key = make_key(record, reporter="ns1/w1")
    verdict = DraftVerdict(answer=Answer.DENY, would_deny=False, reason=Reason.NO_RULE, rule="", drafts=("ns1@1",))
    actor = AuditActor(kind="ca")
    entry = AuditEntry(
        sequence=1, previous=START.digest, time=now, act="mode.set", subject="ns1", actor=actor, before=None, after=None
    )
    sighting = Sighting(namespace="ns1", service_account="w1", program=Program(digest=f"{1:064x}"), last=now)
    nothing = msgspec.Raw(b"[]")
    content = Content(mode="permissive", has_policy=False, group_label="", rules=nothing, requires=nothing)
    return {
        "record": msgspec.json.encode(record).decode(),
        "edge_key": msgspec.json.encode(msgspec.structs.replace(key, namespace="ns1")).decode(),
        "evidence": msgspec.json.encode(EdgeEvidence(pods=("s1",), time=now)).decode(),
        "verdict": msgspec.json.encode(verdict).decode(),
        "audit_line": encode_entry(entry),
        "sighting": msgspec.json.encode(sighting).decode(),
        "actor": msgspec.json.encode(actor).decode(),
        "content": zlib.compress(msgspec.json.encode(content)),
        "digest": bytes(32),
    }
