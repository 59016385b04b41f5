"""What is to be done after an installation is the same whoever installs, and each command is there."""

from __future__ import annotations

import shlex
from pathlib import Path

from cli.cluster.installation.next_steps import list_next_steps
from scripts.chart.notes import make_notes
from scripts.pages.commands_page import list_commands

NOTES = Path(__file__).parents[4] / "manifests/chart/templates/NOTES.txt"


def test_each_step_is_a_command_that_is_there_with_its_options() -> None:
    commands = dict(list_commands())
    asked = []
    for step in list_next_steps("-k --system-namespace mesh"):
        program, verb, *words = shlex.split(step, comments=True)
        if program == "touchmark":
            known = {option for each in commands[verb].params for option in each.opts}
            assert {word for word in words if word.startswith("-")} <= known, step
            assert words[-3:] == ["-k", "--system-namespace", "mesh"], "the CA that was installed is asked"
            asked.append(verb)
    assert asked == ["doctor", "status", "decisions", "ready"]


def test_the_charts_notes_are_made_of_them() -> None:
    """The Kubernetes level has Helm print them; this holds where there is no Kustomize to make the other files."""
    assert NOTES.read_text(encoding="utf-8") == make_notes(), "python -m scripts.chart"
    assert "touchmark ready NAMESPACE -k" in make_notes()
