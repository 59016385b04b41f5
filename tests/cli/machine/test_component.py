"""Becoming a component that isn't there is an error of this machine."""

from __future__ import annotations

import pytest

from cli.machine.component import become_component
from shared.model.errors import MachineError


def test_a_component_that_isn_t_installed_is_named() -> None:
    with pytest.raises(MachineError, match="no_such_component"):
        become_component("no_such_component", [])
