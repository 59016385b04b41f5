"""The one error of the bench. Pure."""

from __future__ import annotations

from typing import ClassVar

from shared.model.errors import TouchmarkError


class BenchError(TouchmarkError):
    """A subject, a tool or a load failed; what it measured is dropped."""

    code: ClassVar[str] = "bench_failed"
    exit_code: ClassVar[int] = 1
