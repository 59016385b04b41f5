"""A bill of materials of what an image installs from its lock, as CycloneDX 1.6 in JSON. Pure.

Belongs here: the document. Doesn't: the Debian packages of the base, which `dpkg-query -W` lists in the image. Its
serial number is made of its content, so that the same lock and time give the same file.

Source: CycloneDX 1.6 (ECMA-424); the package URL specification.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from scripts.release.lockfile import Locked

_SPACE = uuid.UUID("5f1a8b3e-6a0e-5c0d-9a52-0d5c3b8f7e41")


def write_sbom(*, name: str, version: str, locked: Iterable[Locked], made_at: float) -> str:
    """Return the document.

    Arguments:
        name: the image's, such as ``touchmark-sidecar``.
        made_at: seconds since the epoch.
    """
    entries = list(locked)
    subject = {"type": "container", "bom-ref": name, "name": name, "version": version}
    document: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(made_at, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": subject | {"licenses": [{"license": {"id": "Apache-2.0"}}]},
        },
        "components": [_describe(entry) for entry in entries],
        "dependencies": _connect(name, entries),
    }
    serial = uuid.uuid5(_SPACE, json.dumps(document, sort_keys=True))
    return json.dumps({"serialNumber": f"urn:uuid:{serial}"} | document, indent=1) + "\n"


def _identify(entry: Locked) -> str:
    return f"pkg:pypi/{entry.name}@{entry.version}"


def _describe(entry: Locked) -> dict[str, Any]:
    files = [{"alg": "SHA-256", "content": digest} for digest in entry.sha256]
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": _identify(entry),
        "name": entry.name,
        "version": entry.version,
        "scope": "optional" if entry.marker else "required",
        "purl": _identify(entry),
        # One of these files is installed, whichever fits the machine; so they are the distribution's, not its own.
        "externalReferences": [{"type": "distribution", "url": _identify(entry), "hashes": files}],
    }
    if entry.marker:
        component["properties"] = [{"name": "touchmark:marker", "value": entry.marker}]
    return component


def _connect(name: str, entries: list[Locked]) -> list[dict[str, Any]]:
    refs: dict[str, list[str]] = {}
    for entry in entries:
        refs.setdefault(entry.name, []).append(_identify(entry))
    needs: dict[str, list[str]] = {ref: [] for ref in (name, *map(_identify, entries))}
    for entry in entries:
        for parent in entry.wanted_by:
            for ref in refs.get(parent, [name]):
                if _identify(entry) not in needs[ref]:
                    needs[ref].append(_identify(entry))
    return [{"ref": ref, "dependsOn": children} for ref, children in needs.items()]
