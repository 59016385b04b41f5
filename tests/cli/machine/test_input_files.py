"""Files are read in order, standard input among them; what can't be read is the user's mistake."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from cli.machine.input_files import read_texts
from shared.model.errors import InputError


def test_texts_come_in_order_with_the_names_that_errors_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("kind: A")
    monkeypatch.setattr("sys.stdin", io.StringIO("kind: B"))
    texts = list(read_texts([tmp_path / "a", Path("-")]))
    assert texts == [("kind: A", str(tmp_path / "a")), ("kind: B", "standard input")]


def test_a_missing_file_and_one_that_is_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't read"):
        list(read_texts([tmp_path / "gone"]))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(InputError, match="isn't UTF-8"):
        list(read_texts([tmp_path / "binary"]))
