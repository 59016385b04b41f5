"""Decision records as OpenTelemetry logs: the JSON of OTLP/HTTP. Pure.

Source: the OTLP specification 1.7 (JSON Protobuf encoding: 64-bit numbers are strings) and OpenTelemetry's semantic
conventions 1.37 for ``source.*``, ``destination.*``, ``network.*``, ``process.*`` and ``k8s.*``; everything else is
``touchmark.*``, since there is no convention for a SPIFFE ID or an executable's digest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from shared.model.formats.endpoint import Gravity, name_verdict, split_address, weigh
from shared.model.policy.decision import DecisionRecord, PartyRecord
from shared.model.policy.rules import Direction
from shared.model.version import VERSION

EVENT_NAME: Final = "touchmark.decision"
_SEVERITIES: Final = {Gravity.ALLOWED: (9, "INFO"), Gravity.WOULD_DENY: (13, "WARN"), Gravity.DENIED: (17, "ERROR")}

Attribute = dict[str, Any]


def make_request(
    records: Iterable[DecisionRecord], *, instance: str, observed: float, every: int = 1
) -> dict[str, Any]:
    """Return an ``ExportLogsServiceRequest`` of records.

    Arguments:
        instance: of the CA that sends them.
        observed: when it took them, in seconds since the epoch.
        every: one of so many allowed connections is sent.
    """
    scope = {"name": "touchmark.decisions", "version": VERSION}
    logs = [_make_log(record, observed=observed, every=every) for record in records]
    return {
        "resourceLogs": [
            {
                "resource": make_resource(instance),
                "scopeLogs": [{"scope": scope, "logRecords": logs}],
            }
        ]
    }


def make_resource(instance: str) -> dict[str, Any]:
    """Return who sends: this CA."""
    resource = {
        "service.name": "touchmark-ca",
        "service.namespace": "touchmark",
        "service.version": VERSION,
        "service.instance.id": instance,
    }
    return {"attributes": write_attributes(resource)}


def _make_log(record: DecisionRecord, *, observed: float, every: int) -> dict[str, Any]:
    number, text = _SEVERITIES[weigh(record)]
    source = record.source.workload or record.source.listed or record.source.address or "?"
    destination = record.destination.workload or record.destination.listed or record.destination.address or "?"
    return {
        "timeUnixNano": str(round(record.time * 1e9)),
        "observedTimeUnixNano": str(round(observed * 1e9)),
        "severityNumber": number,
        "severityText": text,
        "eventName": EVENT_NAME,
        "body": {"stringValue": f"{name_verdict(record)} {source} -> {destination}:{record.port} ({record.reason})"},
        "attributes": write_attributes(_list_attributes(record, every=every)),
    }


def _list_attributes(record: DecisionRecord, *, every: int) -> dict[str, str | int | float | bool]:
    source, source_port = split_address(record.source.address)
    destination, destination_port = split_address(record.destination.address)
    process = record.process
    attributes: dict[str, str | int | float | bool] = {
        "source.address": source,
        "source.port": source_port,
        "destination.address": destination,
        "destination.port": destination_port or record.port,
        "network.transport": "tcp",
        "network.type": "ipv6" if ":" in (destination or source) else "ipv4",
        "network.io.direction": "transmit" if record.direction is Direction.EGRESS else "receive",
        "k8s.namespace.name": record.namespace,
        "process.pid": process.pid,
        "process.executable.path": process.path,
        "touchmark.process.digest": process.digest,
        "touchmark.process.uid": process.uid if process.pid else "",
        "touchmark.verdict": name_verdict(record),
        "touchmark.reason": record.reason,
        "touchmark.detail": record.detail,
        "touchmark.rule": record.rule,
        "touchmark.mode": record.mode,
        "touchmark.policy_version": record.policy_version,
        "touchmark.weak": record.weak,
        "touchmark.phase": record.phase,
        "touchmark.direction": record.direction,
        "touchmark.transport": record.transport,
        "touchmark.ending": record.ending,
        "touchmark.sidecar": record.sidecar,
        "touchmark.connection": record.connection,
        "touchmark.tunnel": record.tunnel,
        "touchmark.issuer": record.issuer,
        "touchmark.service": record.service or "",
        "touchmark.bytes_sent": record.bytes_sent,
        "touchmark.bytes_received": record.bytes_received,
        "touchmark.duration_s": record.duration_s,
        "touchmark.count": record.count,
        "touchmark.sampled_one_of": every if weigh(record) is Gravity.ALLOWED else 1,
        **_list_end("source", record.source),
        **_list_end("destination", record.destination),
    }
    # Numbers are told even when they are zero, but for those that mean that something isn't known.
    unknown = {"source.port", "destination.port", "process.pid"}
    return {key: value for key, value in attributes.items() if value != "" and not (key in unknown and not value)}


def _list_end(name: str, party: PartyRecord) -> dict[str, str | int | float | bool]:
    return {
        f"touchmark.{name}.workload": party.workload,
        f"touchmark.{name}.listed": party.listed,
        f"touchmark.{name}.program": party.program,
        f"touchmark.{name}.spiffe_id": party.identity,
        f"touchmark.{name}.approved": party.approved,
        f"touchmark.{name}.why": party.why,
    }


def write_attributes(attributes: Mapping[str, str | int | float | bool]) -> list[Attribute]:
    """Write attributes as OTLP's list of keys and typed values."""
    return [{"key": key, "value": _write_value(value)} for key, value in attributes.items()]


def _write_value(value: str | int | float | bool) -> Attribute:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    return {"stringValue": str(value)}
