"""A namespace's draft as the page shows it: what it would decide otherwise, and each link under it. Pure.

Belongs here: the draft in the page's words, and the verdict that it would give a link. Doesn't: the verdicts, which the
sidecars gave and the CA counted; putting it in force (``actions.py``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from cli.text.edge import describe_program
from cli.ui.shapes import Command, ShownChange, ShownDraft, ShownFix
from shared.model.adoption.fixes import Fix, FixKind
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction
from shared.model.wire.admin import DecidedOtherwise, DraftView
from shared.model.wire.admin_edges import EdgeEnd, EdgeView

MAX_SHOWN: Final = 200
# What a draft makes of a link, worst first; empty: nothing else.
DENIED: Final = "newly denied"
MARKED: Final = "newly marked"
ALLOWED: Final = "newly allowed"
UNKNOWN: Final = "not seen since"
SETTLED: Final = "allowed by now"
_STRICTEST: Final = ("deny", "would deny", "allow")
_Link = tuple[str, str, int]


def show_draft(
    view: DraftView | None,
    namespace: str,
    *,
    fix: Callable[[Fix, Reason, str], ShownFix],
    notes: Callable[[DraftView], list[str]],
    options: str,
) -> ShownDraft:
    """Write a draft out.

    Arguments:
        view: the CA's answer; None: the namespace has no draft.
        fix: writes what lets a connection pass that was refused for this reason, of a program at this path.
        notes: what sidecars can't tell of a draft.
        options: what shown commands need to reach the same CA.
    """
    options = f" {options}" if options else ""
    if view is None:
        return ShownDraft(
            namespace=namespace,
            write=(
                f"touchmark policy apply -f FILE --draft{options}",
                f"touchmark policy draft {namespace} --mode explicit{options}  # the policy in force, in another mode",
            ),
        )
    force = " --force" if view.is_outdated else ""
    return ShownDraft(
        namespace=namespace,
        number=view.draft.number,
        mode="" if view.draft.mode is None else view.draft.mode.value,
        rules=len(view.draft.rules),
        written=view.written,
        evaluated_since=view.evaluated_since or 0.0,
        sidecars=view.sidecars,
        evaluating=view.evaluating,
        waiting=view.waiting,
        denied=tuple(_show_change(each, view, fix) for each in view.denied[:MAX_SHOWN]),
        allowed=tuple(_show_change(each, view, fix) for each in view.allowed[:MAX_SHOWN]),
        settled=tuple(_show_change(each, view, fix, change=SETTLED) for each in view.settled[:MAX_SHOWN]),
        unchanged=view.unchanged,
        uncounted=view.uncounted,
        is_truncated=view.is_truncated or max(len(view.denied), len(view.allowed), len(view.settled)) > MAX_SHOWN,
        is_partly_unknown=view.is_partly_unknown,
        is_outdated=view.is_outdated,
        is_object=view.is_object,
        notes=tuple(notes(view)),
        promote=Command(line=f"touchmark policy draft {namespace} --promote{force}{options}"),
        drop=Command(
            line=f"kubectl delete meshpolicy draft -n {namespace}"
            if view.is_object
            else f"touchmark policy draft {namespace} --drop{options}"
        ),
    )


def _show_change(
    changed: DecidedOtherwise, view: DraftView, write: Callable[[Fix, Reason, str], ShownFix], *, change: str = ""
) -> ShownChange:
    fixes = []
    for each in changed.fixes:
        shown = write(each, changed.reason, find_path(changed, each))
        if each.kind is FixKind.RULE and each.namespace == view.namespace:
            head = head_rule(view.namespace, is_object=view.is_object)
            shown = msgspec.structs.replace(shown, lines=(head, *shown.lines[1:]))
        fixes.append(shown)
    return ShownChange(
        change=change or _name_change(changed),
        before=changed.before,
        after=changed.after,
        reason=changed.reason,
        rule=changed.rule,
        source=changed.source,
        source_program=_describe(changed.source_program),
        destination=changed.destination,
        destination_program=_describe(changed.destination_program),
        port=changed.port,
        service=changed.service,
        connections=changed.connections,
        last=changed.last_seen,
        fixes=tuple(fixes),
    )


def find_path(changed: DecidedOtherwise, fix: Fix) -> str:
    """Return the path of the program to approve, if it is the reporter's own; else nobody has said it."""
    is_egress = changed.side is Direction.EGRESS
    own = changed.source if is_egress else changed.destination
    program = changed.source_program if is_egress else changed.destination_program
    return changed.path if (own, program) == (fix.workload, fix.program) else ""


def head_rule(namespace: str, *, is_object: bool = False) -> str:
    """Say where a rule goes that a draft lacks."""
    if is_object:
        return f"add to spec.rules of MeshPolicy {namespace}/draft:"
    return (
        f"add to spec.rules of the draft: `touchmark policy draft {namespace} --yaml` prints it, "
        "`touchmark policy apply -f FILE --draft` writes it"
    )


def _describe(program: str) -> str:
    return describe_program(EdgeEnd(program=program)) if program else ""


def _name_change(changed: DecidedOtherwise) -> str:
    if _STRICTEST.index(changed.after) > _STRICTEST.index(changed.before):
        return ALLOWED
    return DENIED if changed.after == "deny" else MARKED


class Redecided:
    """What a draft makes of a namespace's links."""

    def __init__(self, view: DraftView) -> None:
        self._since = view.evaluated_since
        self._changes: dict[_Link, list[DecidedOtherwise]] = defaultdict(list)
        for each in (*view.denied, *view.allowed):
            self._changes[each.source, each.destination, each.port].append(each)

    def decide(self, link: _Link, edges: Sequence[EdgeView]) -> tuple[str, str, tuple[str, ...]]:
        """Return a link's strictest verdict under the draft, what the draft changes, and the verdict's reasons.

        Connections count as before where nothing is known of them: a link that no draft's verdict is newer than is
        ``UNKNOWN``.

        Arguments:
            link: source, destination, port; ``edges`` are its edges by program.
        """
        changes = self._changes.get(link, [])
        decided = [(each.after, each.reason.value) for each in changes]
        decided += [
            (outcome.verdict, outcome.reason.value)
            for edge in edges
            for outcome in edge.outcomes
            if not _is_changed(edge, outcome.verdict, changes)
        ]
        verdict = next(each for each in _STRICTEST if any(each == found for found, _ in decided))
        reasons = tuple(sorted({reason for found, reason in decided if found == verdict}))
        names = {_name_change(each) for each in changes}
        change = next((each for each in (DENIED, MARKED, ALLOWED) if each in names), "")
        if not change and (self._since is None or max(edge.last for edge in edges) < self._since):
            change = UNKNOWN
        return verdict, change, reasons


def _is_changed(edge: EdgeView, verdict: str, changes: Iterable[DecidedOtherwise]) -> bool:
    """Tell whether connections of these programs with this verdict are decided otherwise."""
    programs = edge.source.program, edge.destination.program
    return any(
        each.before == verdict and (each.source_program, each.destination_program) == programs for each in changes
    )
