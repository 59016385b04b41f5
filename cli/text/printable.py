"""Other people's words on an operator's terminal: paths, names and details that a peer or a process chose. Pure.

Escape sequences could rewrite what was printed before, a newline could add a line of its own: both are shown instead.
"""

from __future__ import annotations

import re
from typing import Final

_PLAIN: Final = re.compile(r"[A-Za-z0-9/._+@=,-]+")


def escape(text: str, *, keep: str = "") -> str:
    """Return the text with every character that isn't printable as its escape, such as ``\\x1b`` or ``\\n``.

    Control characters, line separators, and what changes the direction of writing aren't printable
    (``str.isprintable``).

    Arguments:
        keep: characters that stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each in keep else each.encode("unicode_escape").decode() for each in text
    )


def is_plain(text: str) -> bool:
    """Tell whether every shell reads the text as it stands, also one that knows no comments."""
    return bool(_PLAIN.fullmatch(text))
