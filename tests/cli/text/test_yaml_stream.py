from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cli.text.yaml_stream import read_stream, write_document, write_stream
from shared.model.errors import DocumentError

STREAM = """\
# before
a: 1   # beside
---
# of the second
b: [x, 'y']
...
---
c: {d: 0644}
"""

# Whatever YAML of one version or another takes for something that isn't a string.
TRICKY = [
    "y", "N", "on", "Off", "yes", "~", "null", "1e3", "0o17", "0x1f", "1_000", "12:30:00", ".inf", "-", "", " x", "x ",
    "a: b", "a #b", "2026-01-01", "=", "<<", "é", "a\nb", "\t", "'", '"', "{}", "*a", "&a", "!x", "%x", "@x",
]  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12) | st.sampled_from(TRICKY),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=10,
)


def test_what_does_not_change_keeps_its_text() -> None:
    documents = read_stream(STREAM, "f")
    assert [(each.line, each.value) for each in documents] == [
        (2, {"a": 1}),
        (5, {"b": ["x", "y"]}),
        (8, {"c": {"d": 420}}),
    ]
    assert write_stream([(each, each.value) for each in documents]) == STREAM


def test_what_changes_is_written_anew_and_its_neighbours_stay() -> None:
    first, second, third = read_stream(STREAM, "f")
    text = write_stream([(first, first.value), (second, {"b": "y"}), (third, third.value)])
    assert text == '# before\na: 1   # beside\n---\nb: "y"\n---\nc: {d: 0644}\n'
    text = write_stream([(first, {"z": 1}), (second, second.value), (third, third.value)])
    assert list(yaml.safe_load_all(text)) == [{"z": 1}, {"b": ["x", "y"]}, {"c": {"d": 420}}]


def test_several_files_become_one_stream() -> None:
    documents = [*read_stream("a: 1", "f"), *read_stream("b: 2\n", "g")]
    assert write_stream([(each, each.value) for each in documents]) == "a: 1\n---\nb: 2\n"


@given(value=VALUES)
def test_what_is_written_says_the_same(value: Any) -> None:
    assert yaml.safe_load(write_document(value)) == value


@pytest.mark.parametrize("text", [text for text in TRICKY if text != "\t"])
def test_an_ambiguous_string_is_quoted(text: str) -> None:
    written = write_document({"v": text})
    assert written[3:].startswith(('"', "|")), written


def test_plain_words_need_no_quotes_and_there_are_no_anchors() -> None:
    shared = {"image": "registry.example/web:1", "path": "/healthz"}
    assert write_document({"a": shared, "b": shared}).count("image: registry.example/web:1") == 2


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n"])
def test_an_empty_stream_stays_empty(text: str) -> None:
    documents = read_stream(text, "f")
    assert all(each.value is None for each in documents)
    assert write_stream([(each, each.value) for each in documents]) == text


@pytest.mark.parametrize(
    ("text", "place"),
    [("a: [", "f:1"), ("a: 1\n b: 2\n", "f:2"), ("a: !!python/object:os.system x\n", "f:1"), ("a: 2026-99-99\n", "f"),
     ("[" * 3000, "f"), ("[" * 100_000, "f:1: nested too deeply"), ("a: \x01", "f")],
)  # fmt: skip
def test_what_is_no_yaml_is_refused_with_its_place(text: str, place: str) -> None:
    with pytest.raises(DocumentError) as caught:
        read_stream(text, "f")
    assert caught.value.message.startswith(place)


def test_a_stream_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.text.yaml_stream.MAX_TEXT_BYTES", 3)
    with pytest.raises(DocumentError, match="larger"):
        read_stream("a: 1", "f")


def test_a_byte_order_mark_is_passed_over() -> None:
    assert read_stream("\ufeffa: 1", "f")[0].value == {"a": 1}
