"""Each format is one line a record."""

from __future__ import annotations

import json

import pytest

from shared.model.formats.line import LineFormat, choose_writer
from tests.shared.model.formats.examples import EVERY


@pytest.mark.parametrize("form", LineFormat)
def test_a_record_is_one_line(form: LineFormat) -> None:
    write = choose_writer(form)
    lines = write(EVERY).splitlines(keepends=True)
    assert lines == [write([record]) for record in EVERY]
    assert {(line.count(b"\n"), line[-1:]) for line in lines} == {(1, b"\n")}


def test_the_first_bytes_tell_which_it_is() -> None:
    lines = {form: choose_writer(form)(EVERY[:1]) for form in LineFormat}
    assert json.loads(lines[LineFormat.JSON])["sidecar"] == "web-1"
    assert json.loads(lines[LineFormat.OCSF])["class_uid"] == 4001
    assert lines[LineFormat.CEF].startswith(b"CEF:0|Touchmark|")
