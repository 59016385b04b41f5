"""The pictures: those in docs/ are drawn by the scripts, are well-formed and load nothing."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from scripts.pages import picture, terminal_picture
from scripts.pages.svg import arrow, document, line
from shared.model.policy.reasons import Reason

FOLDER = Path(__file__).parents[3] / "docs" / "pictures"
PRINTED = """\
6. Explicit mode: the approved program still works, the modified one is refused.
   $ /run/demo/intruder -sS --max-time 10 http://127.0.0.1:1234/
     curl: (56) Recv failure: Connection reset by peer
   ✓ the modified program was refused, reason program_not_approved
   $ touchmark decisions --denied --program 94ab
     TIME   VERDICT  REASON
     11:00  DENY     program_not_approved
     not approved at that time; review, then run:
       touchmark program approve shop/client sha256:94ab  # /run/demo/intruder

7. A plaintext connection
"""


def show(svg: str) -> list[str]:
    """The lines of text in a picture."""
    return ["".join(element.itertext()) for element in ET.fromstring(svg).iter() if element.tag.endswith("}text")]


@pytest.mark.parametrize("name", picture.PICTURES)
def test_the_pictures_in_docs_are_the_drawn_ones(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == picture.PICTURES[name](), "run `make docs`"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.svg")), ids=lambda path: path.name)
def test_a_picture_has_a_title_and_loads_nothing(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert ET.fromstring(text).tag.endswith("}svg")
    assert "<title" in text
    assert not re.search(r"href|url\(|@import|@font-face", text)
    assert set(re.findall(r"[a-z]+=\"(https?://[^\"]*)", text)) == {"http://www.w3.org/2000/svg"}


def test_the_pictures_are_written_into_the_named_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert picture.main([str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(picture.PICTURES)
    assert picture.main([]) == 2
    assert "usage" in capsys.readouterr().err


def test_shapes_keep_their_text_as_it_is_and_their_ends() -> None:
    svg = document(width=10, height=10, title="a < b & c", shapes=[line((0, 0), (9, 9)), arrow((0, 5), (10, 5))])
    assert "a &lt; b &amp; c" in svg
    assert 'points="10.0,5.0' in svg


def test_the_terminal_shows_the_refusal_that_the_demo_printed_without_its_folder() -> None:
    lines = terminal_picture.take_refusal(PRINTED)
    assert lines == [
        "$ ./intruder http://127.0.0.1:1234/",
        "curl: (56) Recv failure: Connection reset by peer",
        "$ touchmark decisions --denied --program 94ab",
        "TIME   VERDICT  REASON",
        "11:00  DENY     program_not_approved",
        "not approved at that time; review, then run:",
        "  touchmark program approve shop/client sha256:94ab  # ./intruder",
    ]
    assert show(terminal_picture.draw_terminal(lines, title="refused")) == lines


def test_a_long_line_is_wrapped_as_a_terminal_does() -> None:
    assert show(terminal_picture.draw_terminal(["x" * 140], title="long")) == ["x" * 132, "x" * 8]


def test_a_demo_without_a_refusal_is_no_picture() -> None:
    with pytest.raises(ValueError, match="no refusal"):
        terminal_picture.take_refusal("1. nothing\n")


def test_the_refusal_in_docs_is_one_with_its_reason_and_its_fix() -> None:
    shown = "\n".join(show((FOLDER / "refusal.svg").read_text(encoding="utf-8")))
    assert Reason.PROGRAM_NOT_APPROVED.value in shown
    assert "$ touchmark decisions --denied" in shown
    assert "touchmark program approve" in shown
    assert "Connection reset by peer" in shown
