"""The missing rules of a namespace, each with the command that writes it. I/O: through the backend.

Belongs here: finding a rule again that the page has shown, and the policy with it. Doesn't: which rules are missing
(the CA's readiness says that), or who may write them (``actions.py``).
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from cli.backends.base import PolicyBackend
from shared.model.adoption.fixes import add_rule
from shared.model.errors import ConflictError
from shared.model.policy.documents import (
    POLICY_NAME,
    MeshPolicyDocument,
    format_documents,
    read_document,
)
from shared.model.policy.rules import Rule
from shared.model.wire.admin import Readiness

_END: Final = "EOF"


def list_missing(readiness: Readiness) -> dict[str, Rule]:
    """Return the rules that the namespace's own policy lacks, by their digests."""
    fixes = (cause.fix for cause in readiness.causes)
    rules = (fix.rule for fix in fixes if fix is not None and fix.namespace == readiness.namespace)
    return {digest_rule(readiness.namespace, rule): rule for rule in rules if rule is not None}


def digest_rule(namespace: str, rule: Rule) -> str:
    """Return what names a rule of a namespace, wherever it is found: hex."""
    return hashlib.sha256(msgspec.json.encode((namespace, rule))).hexdigest()


async def plan_policy(
    backend: PolicyBackend, readiness: Readiness, digest: str, *, in_cluster: bool
) -> tuple[MeshPolicyDocument, int]:
    """Return the namespace's policy with a rule that is missing, and the version over which it may be written.

    Raises:
        ConflictError: the rule isn't missing, or is another than was shown; or as ``read_policy``.
    """
    rule = list_missing(readiness).get(digest)
    if rule is None:
        raise ConflictError("that rule isn't missing any more", hint="look again")
    policy, version = await read_policy(backend, readiness.namespace, in_cluster=in_cluster)
    return add_rule(policy, rule), version


async def read_policy(backend: PolicyBackend, namespace: str, *, in_cluster: bool) -> tuple[MeshPolicyDocument, int]:
    """Return the namespace's policy as it can be written again, and its version; an empty one where there is none.

    The version is read first: what somebody else writes meanwhile raises it, and the write over it fails.

    In a cluster with its mode, which whoever wrote the object may own; else without, which leaves the mode as it is.

    Raises:
        ConflictError: its mode is on trial, or was: written without the trial it would stay for good.
    """
    state = await backend.get_mode(namespace)
    found = MeshPolicyDocument(namespace=namespace)
    for plain in await backend.list_objects(namespace):
        if plain["kind"] == "MeshPolicy" and plain["metadata"]["name"] == POLICY_NAME:
            document = read_document(plain)
            if isinstance(document, MeshPolicyDocument):
                found = document
    if found.trial is not None or state.back_to is not None:
        raise ConflictError(
            f"the mode of {namespace} is on trial, or was: a rule isn't written meanwhile",
            hint=f"`touchmark mode {namespace} confirm` keeps the mode; in a cluster remove spec.trial once it is over",
        )
    return (found if in_cluster else msgspec.structs.replace(found, mode=None)), state.version


def write_command(document: MeshPolicyDocument, *, version: int, options: str) -> tuple[str, ...]:
    """Return the shell's lines that apply a policy over the version that was looked at."""
    text = format_documents([document]).rstrip()
    return (f"touchmark policy apply -f - --if-version {version}{options} <<'{_END}'", *text.splitlines(), _END)
