"""Writes ``docs/reference/reasons.md`` from the table of reasons; `make docs` runs it.

Belongs here: the page's wording and order. Doesn't: what a reason means (``shared/model/policy/reasons.py``). Writes
the named file.
"""

from __future__ import annotations

import sys
from pathlib import Path

from shared.model.policy.reasons import EXPLANATIONS, REMEDIES, REMEDIES_IN_WORDS, Reason, Remedy

_SECTIONS: tuple[tuple[str, Reason], ...] = (
    ("Allowed", Reason.ALLOW_RULE),
    ("Policy says no", Reason.DENY_RULE),
    ("The program couldn't be attested", Reason.NO_OWNER),
    ("The identity couldn't be had, or doesn't hold", Reason.CA_UNAVAILABLE),
    ("Something went wrong on the way", Reason.DESTINATION_NOT_SERVED),
)

_INTRODUCTION = """\
# Reason codes

<!-- Generated from shared/model/policy/reasons.py by `make docs`. Don't edit. -->

Each decision has one of these codes, in the sidecar's log and in `touchmark decisions`. Codes are never renamed. In
permissive mode `deny_rule` is the only policy reason that refuses; the others of that section mark the connection
*would-deny*. The exception is `mtls_unavailable`, which also refuses if the other end's namespace is explicit. See
also [troubleshooting](../how-to/troubleshooting.md).

*By:* is who can change it: what `touchmark ready`, `explain`, `policy suggest` and the page print ready to run; a
command of Touchmark's with something that somebody has to judge; or none, because what is wrong is no state that
Touchmark keeps. Each of the first two is run by an end-to-end test, after which the connection passes.
"""


def write_page() -> str:
    """Return the page as Markdown, reasons in the order of the enumeration."""
    starts = {first: title for title, first in _SECTIONS}
    parts = [_INTRODUCTION]
    for reason in Reason:
        if reason in starts:
            parts.append(f"\n## {starts[reason]}\n")
        explanation = EXPLANATIONS[reason]
        parts.append(f"\n### `{reason.value}`\n\n{explanation.cause}\n\n*What to do:* {explanation.fix}\n")
        if REMEDIES[reason] is not Remedy.NONE:
            parts.append(f"\n*By:* {REMEDIES_IN_WORDS[REMEDIES[reason]]}\n")
    return "".join(parts)


def main(arguments: list[str]) -> int:
    """Write the page to the named file, or to standard output."""
    if len(arguments) > 1:
        print("usage: python -m scripts.pages.reasons_page [FILE]", file=sys.stderr)
        return 2
    if arguments:
        Path(arguments[0]).write_text(write_page(), encoding="utf-8")
    else:
        sys.stdout.write(write_page())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
