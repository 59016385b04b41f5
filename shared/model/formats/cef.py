"""A decision record as a line of the Common Event Format, version 0. Pure.

Source: ArcSight's Common Event Format, revision 25. Names without a key of CEF's are in the custom strings ``cs1`` to
``cs6``, each with its label.
"""

from __future__ import annotations

import re
from typing import Final

from shared.model.formats.endpoint import Gravity, name_verdict, split_address, weigh
from shared.model.policy.decision import DecisionRecord
from shared.model.policy.rules import Direction
from shared.model.version import VERSION

_NAMES: Final = {
    Gravity.ALLOWED: "Connection allowed",
    Gravity.WOULD_DENY: "Connection that explicit mode would refuse",
    Gravity.DENIED: "Connection refused",
}
_SEVERITIES: Final = {Gravity.ALLOWED: 1, Gravity.WOULD_DENY: 4, Gravity.DENIED: 6}
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def write_line(record: DecisionRecord) -> str:
    """Return the line of a record, without a newline; empty fields are left out."""
    gravity = weigh(record)
    head = ("Touchmark", "touchmark", VERSION, str(record.reason), _NAMES[gravity], str(_SEVERITIES[gravity]))
    extension = " ".join(f"{key}={_escape_value(value)}" for key, value in _list_fields(record) if value)
    return f"CEF:0|{'|'.join(map(_escape_head, head))}|{extension}"


def _list_fields(record: DecisionRecord) -> list[tuple[str, str]]:
    source, source_port = split_address(record.source.address)
    destination, destination_port = split_address(record.destination.address)
    fields = [
        ("rt", str(round(record.time * 1000))),
        ("act", name_verdict(record)),
        ("reason", str(record.reason)),
        ("proto", "TCP"),
        ("deviceDirection", "1" if record.direction is Direction.EGRESS else "0"),
        *_write_host("src", "c6a2", "Source IPv6 Address", source),
        ("spt", str(source_port or "")),
        *_write_host("dst", "c6a3", "Destination IPv6 Address", destination),
        ("dpt", str(destination_port or record.port or "")),
        ("out", str(record.bytes_sent)),
        ("in", str(record.bytes_received)),
        ("cnt", str(record.count)),
        ("dvchost", record.sidecar),
        ("externalId", record.connection),
        ("outcome", "failure" if weigh(record) is Gravity.DENIED else "success"),
        ("filePath", record.process.path),
        ("fileHash", record.process.digest.removeprefix("sha256:").partition("/")[0]),
        ("dvcpid" if record.process.pid else "", str(record.process.pid or "")),
        ("msg", record.detail),
    ]
    custom = {
        "sourceWorkload": record.source.workload or record.source.listed,
        "destinationWorkload": record.destination.workload or record.destination.listed,
        "sourceProgram": record.source.program,
        "destinationProgram": record.destination.program,
        "rule": record.rule,
        "mode": str(record.mode),
    }
    for number, (label, value) in enumerate(custom.items(), start=1):
        if value:
            fields += [(f"cs{number}Label", label), (f"cs{number}", value)]
    return [*fields, ("cn1Label", "policyVersion"), ("cn1", str(record.policy_version))]


def _write_host(key: str, key_v6: str, label: str, host: str) -> list[tuple[str, str]]:
    if ":" in host:
        return [(f"{key_v6}Label", label), (key_v6, host)]
    return [(key, host)]


def _escape_head(text: str) -> str:
    return _CONTROL.sub(" ", text).replace("\\", "\\\\").replace("|", "\\|")


def _escape_value(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("=", "\\=").replace("\r", "").replace("\n", "\\n")
    return _CONTROL.sub(" ", escaped)
