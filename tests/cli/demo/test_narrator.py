"""With JSON, standard output belongs to the one object."""

from __future__ import annotations

import pytest

from cli.demo.narrator import Narrator


@pytest.mark.parametrize("as_json", [True, False])
def test_the_voice_leaves_standard_output_to_json(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    narrator = Narrator(as_json=as_json)
    narrator.step("First.")
    narrator.typed(["touchmark", "mode", "a b"])
    printed = capsys.readouterr()
    assert "touchmark mode 'a b'" in (printed.err if as_json else printed.out)
    assert (printed.out if as_json else printed.err) == ""
