"""The previous release's CA never takes a draft for a policy, whatever the definition has left of the object."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ca.kubernetes.objects.objects import RawObject, read_object
from shared.model.policy.documents import DraftDocument
from tests.releases import previous
from tests.shared.model.policy.object_cases import policy

SPEC = {"mode": "explicit", "rules": [{"name": "none", "action": "deny"}]}
# As this release's definition keeps a draft, and as one that knows no such field hands it out.
OBJECTS = [policy({"draft": True, **SPEC}, name="draft"), policy(SPEC, name="draft")]
# Prints why the release refuses each object; empty: it would put it in force.
_PROGRAM = """
import json, sys
import msgspec
from ca.kubernetes.objects import RawObject, read_object
found = []
for each in json.load(sys.stdin):
    read = read_object("MeshPolicy")(msgspec.convert(each, RawObject))
    found.append(read.fault if read.document is None else "")
json.dump(found, sys.stdout)
"""


def test_the_previous_release_refuses_drafts_by_their_name(tmp_path: Path) -> None:
    release = previous.unpack(tmp_path)
    faults = json.loads(previous.run(release, _PROGRAM, json.dumps([*OBJECTS, policy(SPEC)]).encode()))
    assert [fault.partition(":")[0] for fault in faults] == ["metadata.name", "metadata.name", ""]


@pytest.mark.parametrize("document", OBJECTS)
def test_a_definition_of_the_previous_release_makes_no_draft_a_policy(document: dict[str, object]) -> None:
    """After a downgrade of the definitions alone the API server leaves the field out of what is stored."""
    import msgspec

    read = read_object("MeshPolicy")(msgspec.convert(document, RawObject))
    assert isinstance(read.document, DraftDocument) == ("draft" in document["spec"])  # type: ignore[operator]
    assert "draft" in document["spec"] or read.fault.startswith("metadata.name")  # type: ignore[operator]
