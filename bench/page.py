"""A page's part between two marks, which a command replaces by its report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page of the docs and the name of its marks: ``<!-- name: begin -->`` and ``<!-- name: end -->``."""

    path: Path
    name: str

    @property
    def begin(self) -> str:
        """The mark before the report."""
        return f"<!-- {self.name}: begin -->"

    @property
    def end(self) -> str:
        """The mark after it."""
        return f"<!-- {self.name}: end -->"

    def split(self) -> tuple[str, str]:
        """Return what stands before and after the report's marks.

        Raises:
            BenchError: the page can't be read, or has no such marks.
        """
        try:
            text = self.path.read_text(encoding="utf-8")
        except OSError as error:
            message = f"can't read {self.path}: {error.strerror}"
            raise BenchError(message, hint="--report takes a page that exists") from error
        before, begin, rest = text.partition(self.begin)
        _, end, after = rest.partition(self.end)
        if not begin or not end:
            raise BenchError(f"{self.path} has no marks for the report", hint=f"put {self.begin} and {self.end} there")
        return before, after

    def put(self, report: str) -> None:
        """Replace what stands between the marks.

        Raises:
            BenchError: as ``split``.
        """
        before, after = self.split()
        self.path.write_text(f"{before}{self.begin}\n\n{report}\n{self.end}{after}", encoding="utf-8")
