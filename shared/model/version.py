"""Touchmark's version: said here once, read by the components and by the build (``[tool.hatch.version]``). Pure."""

from __future__ import annotations

from typing import Final

VERSION: Final = "0.1.0"
