"""What ``--help`` says of a verb, made of its docstring. Pure.

Belongs here: paragraphs that a terminal of any width may break, and examples as lines to be copied. Doesn't: the words
themselves (each verb's docstring), or how they are drawn (typer).
"""

from __future__ import annotations

import inspect
import re


def split_help(text: str) -> tuple[list[str], list[str]]:
    """Return a docstring's paragraphs, each on one line, and the examples that its last one lists.

    The source's own line breaks are for the source: on a terminal of 80 columns they would tear every sentence.
    """
    paragraphs = [" ".join(each.split()) for each in re.split(r"\n\s*\n", inspect.cleandoc(text)) if each.strip()]
    found = re.fullmatch("Examples?: (.*)", paragraphs[-1]) if paragraphs else None
    if found is None:
        return paragraphs, []
    return paragraphs[:-1], found[1].split(" · ")


def format_help(text: str) -> str:
    """Write a docstring for ``--help``, each example on a line of its own."""
    paragraphs, examples = split_help(text)
    return "\n\n".join([*paragraphs, *(["\n".join(f"$ {each}" for each in examples)] if examples else [])])
