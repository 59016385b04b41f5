"""Touchmark's version, read by the components and by the build (``[tool.hatch.version]``). Pure."""

from __future__ import annotations

# Without an annotation: the build finds it by hatchling's own pattern, which knows none but ``str``.
VERSION = "0.2.0"
