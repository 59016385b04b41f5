"""What ``touchmark policy diff`` asks the CA and prints. Pure but for printing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shared.model.policy.documents import Document, MeshPolicyDocument, ProgramDocument
from shared.model.wire.admin import (
    DecidedOtherwise,
    PolicyDifference,
    PolicyDifferenceRequest,
    PolicyRequest,
    ProgramRequest,
)


def make_request(documents: Sequence[Document]) -> PolicyDifferenceRequest:
    """Return documents as the CA compares them."""
    policies, programs = [], []
    for each in documents:
        if not isinstance(each, ProgramDocument):
            policy = each if isinstance(each, MeshPolicyDocument) else each.policy
            policies.append(
                PolicyRequest(
                    namespace=policy.namespace,
                    rules=policy.rules,
                    group_label=policy.group_label,
                    mode=policy.mode,
                    workload_modes=policy.workload_modes,
                    requires=policy.requires,
                )
            )
        else:
            programs.append(
                ProgramRequest(
                    namespace=each.namespace,
                    service_account=each.service_account,
                    programs=each.programs,
                    name=each.name,
                    weak=each.weak,
                )
            )
    return PolicyDifferenceRequest(policies=tuple(policies), programs=tuple(programs))


def show_difference(found: PolicyDifference) -> None:
    """Print what is newly denied and newly allowed, and how much stays."""
    from cli.text.output import print_line
    from cli.text.printable import escape

    for mark, name, changed in (("✗", "newly denied", found.denied), ("+", "newly allowed", found.allowed)):
        if changed:
            print_line(f"{mark} {name}: {count_connections(changed)}")
        for each in changed:
            print_line(f"  {describe(each)}")
    if not found.denied:
        print_line("✓ nothing that was seen would be newly denied")
    print_line(
        f"unchanged: {found.unchanged} connection{'s' if found.unchanged != 1 else ''}; unknown: {found.unknown}"
    )
    if found.unknown:
        print_line("  unknown: they failed before anything was decided, or their records don't say enough")
    for unknown in found.unknowns:
        print_line(f"? {escape(unknown)}")


def count_connections(changed: Iterable[DecidedOtherwise]) -> str:
    """Say how many connections these are."""
    total = sum(each.connections for each in changed)
    return f"{total} connection{'s' if total != 1 else ''}"


def describe(each: DecidedOtherwise) -> str:
    """Say which connections are decided how, and why."""
    from cli.text.output import shorten
    from cli.text.printable import escape

    source = each.source + (f" {shorten(each.source_program)}" if each.source_program else "")
    destination = each.destination + (f" {shorten(each.destination_program)}" if each.destination_program else "")
    service = f", Service {each.service}" if each.service else ""
    rule = f" by {each.rule}" if each.rule else ""
    times = f"{each.connections} connection{'s' if each.connections != 1 else ''}"
    return escape(
        f"{source} → {destination}, port {each.port}{service}: {each.before} → {each.after} ({each.reason}{rule}),"
        f" {times}"
    )
