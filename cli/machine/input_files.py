"""Reading the text files that ``-f`` names; ``-`` is standard input. Does I/O."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from shared.model.errors import InputError


def read_texts(paths: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """Yield each file's text, and its name as errors show it.

    Raises:
        InputError: a file can't be read, or isn't UTF-8.
    """
    for path in paths:
        try:
            if str(path) == "-":
                yield sys.stdin.read(), "standard input"
            else:
                yield path.read_text(encoding="utf-8"), str(path)
        except OSError as error:
            raise InputError(
                f"can't read {path}: {error.strerror}", hint="name a YAML file, or - for standard input"
            ) from error
        except UnicodeDecodeError as error:
            raise InputError(f"{path} isn't UTF-8 text") from error
