"""A decision record as an OCSF event: Network Activity (class 4001), schema 1.5.0. Pure.

Source: https://schema.ocsf.io/1.5.0/classes/network_activity, with the profiles host and security_control. A connection
that explicit mode would refuse has the action Observed. What OCSF has no attribute for stands in ``unmapped``.
"""

from __future__ import annotations

from typing import Any, Final

from shared.model.formats.endpoint import Gravity, split_address, weigh
from shared.model.policy.decision import DecisionRecord, PartyRecord, Phase
from shared.model.policy.rules import Direction
from shared.model.version import VERSION

SCHEMA_VERSION: Final = "1.5.0"
_CATEGORY: Final = 4
_CLASS: Final = 4001
_OPEN, _CLOSE, _REFUSE = 1, 2, 5
_ACTIONS: Final = {Gravity.ALLOWED: (1, "Allowed"), Gravity.WOULD_DENY: (3, "Observed"), Gravity.DENIED: (2, "Denied")}
# Allowed, Logged, Blocked.
_DISPOSITIONS: Final = {Gravity.ALLOWED: 1, Gravity.WOULD_DENY: 17, Gravity.DENIED: 2}
_SEVERITIES: Final = {Gravity.ALLOWED: 1, Gravity.WOULD_DENY: 2, Gravity.DENIED: 3}  # Informational, Low, Medium.
_TCP: Final = 6
_SHA256: Final = 3
_REGULAR_FILE: Final = 1


def make_event(record: DecisionRecord) -> dict[str, Any]:
    """Return the event of a record. Times and durations are in milliseconds."""
    gravity = weigh(record)
    activity = _REFUSE if gravity is Gravity.DENIED else _OPEN if record.phase is Phase.START else _CLOSE
    action, action_name = _ACTIONS[gravity]
    time_ms = round(record.time * 1000)
    event: dict[str, Any] = {
        "activity_id": activity,
        "category_uid": _CATEGORY,
        "class_uid": _CLASS,
        "type_uid": _CLASS * 100 + activity,
        "severity_id": _SEVERITIES[gravity],
        "time": time_ms,
        "duration": round(record.duration_s * 1000),
        "start_time": round((record.time - record.duration_s) * 1000),
        "end_time": time_ms,
        "count": record.count,
        "action_id": action,
        "action": action_name,
        "disposition_id": _DISPOSITIONS[gravity],
        "status_id": 2 if gravity is Gravity.DENIED else 1,
        "status_code": record.reason,
        "metadata": {
            "version": SCHEMA_VERSION,
            "product": {"name": "Touchmark", "vendor_name": "Touchmark", "version": VERSION},
            "profiles": ["host", "security_control"],
            "log_name": "decisions",
        },
        "src_endpoint": _describe_end(record.source),
        "dst_endpoint": _describe_end(record.destination, port=record.port, service=record.service or ""),
        "connection_info": {
            "direction_id": 2 if record.direction is Direction.EGRESS else 1,
            "protocol_num": _TCP,
            "protocol_name": "tcp",
        },
        "traffic": {"bytes_out": record.bytes_sent, "bytes_in": record.bytes_received},
        "device": {"type_id": 0, "name": record.sidecar},
        "unmapped": _list_unmapped(record),
    }
    if record.connection:
        event["connection_info"]["uid"] = record.connection
    if record.detail:
        event["status_detail"] = record.detail
    if record.rule:
        event["firewall_rule"] = {"name": record.rule}
    if record.process.pid:
        event["actor"] = {"process": _describe_process(record)}
    return event


def _describe_end(party: PartyRecord, *, port: int = 0, service: str = "") -> dict[str, Any]:
    host, own_port = split_address(party.address)
    end: dict[str, Any] = {}
    if host:
        end["ip"] = host
    if number := own_port or port:
        end["port"] = number
    if name := party.workload or party.listed:
        end["name"] = name
    if party.identity:
        end["uid"] = party.identity
    if party.hosts:
        end["hostname"] = party.hosts[0]
    if service:
        end["svc_name"] = service
    return end


def _describe_process(record: DecisionRecord) -> dict[str, Any]:
    process = record.process
    described: dict[str, Any] = {"pid": process.pid}
    if process.uid >= 0:
        described["user"] = {"uid": str(process.uid)}
    if process.path:
        file: dict[str, Any] = {
            "name": process.path.rpartition("/")[2] or process.path,
            "path": process.path,
            "type_id": _REGULAR_FILE,
        }
        digest = process.digest.removeprefix("sha256:").partition("/")[0]
        if digest:
            file["hashes"] = [{"algorithm_id": _SHA256, "algorithm": "SHA-256", "value": digest}]
        described["file"] = file
    return described


def _list_unmapped(record: DecisionRecord) -> dict[str, Any]:
    ends = {"source": record.source, "destination": record.destination}
    return {
        "touchmark": {
            "would_deny": record.would_deny,
            "mode": record.mode,
            "policy_version": record.policy_version,
            "weak": record.weak,
            "transport": record.transport,
            "ending": record.ending,
            "phase": record.phase,
            "tunnel": record.tunnel,
            "issuer": record.issuer,
            "namespace": record.namespace,
            **{f"{name}_program": end.program for name, end in ends.items()},
            **{f"{name}_workload": end.workload for name, end in ends.items()},
            **{f"{name}_listed": end.listed for name, end in ends.items()},
            **{f"{name}_approved": end.approved for name, end in ends.items()},
            **{f"{name}_why": end.why for name, end in ends.items()},
        }
    }
