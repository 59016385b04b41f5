"""The strict reader of YAML: what it takes, and where it says a fault stands."""

from __future__ import annotations

import contextlib

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from shared.model.errors import DocumentError, InputError
from shared.model.policy.document_nodes import MAX_TEXT_BYTES, Value, read_nodes, read_plain


def only(text: str) -> Value:
    (value,) = read_nodes(text, "f.yaml")
    return value


def fault(text: str) -> DocumentError:
    with pytest.raises(DocumentError) as caught:
        read_nodes(text, "f.yaml")
    return caught.value


def test_places_are_lines_and_paths() -> None:
    items = (
        only("a:\n  b:\n  - x\n  - y\n").fields(optional=("a",))["a"].fields(optional=("b",))["b"].items(max_items=2)
    )
    assert [(item.text(), item.place.line, item.place.path) for item in items] == [
        ("x", 3, "a.b[0]"),
        ("y", 4, "a.b[1]"),
    ]


def test_empty_documents_are_passed_over() -> None:
    assert len(read_nodes("---\n---\na: 1\n---\n# nothing\n", "")) == 1
    assert read_nodes("", "") == []


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("a: 1\nb: [", 2, "not YAML"),
        ("a: &x 1\nb: *x\n", 2, "aliases"),
        ("a: !!python/name:os.system x: y\n", 1, "not YAML"),
        ("\tx: 1", 1, "not YAML"),
        ("a: \x00", 0, "not YAML"),
        ("[" * 3000 + "]" * 3000, 1, "deeply"),
        ("[" * 100_000, 1, "deeply"),
        ("x: " + "{a: " * 20_000, 1, "deeply"),
        ("\n" + "- " * 50_000, 2, "deeply"),
        ("# " + "x" * MAX_TEXT_BYTES, 0, "larger"),
    ],
    ids=["unfinished", "alias", "tag", "tab", "control character", "depth", "lists", "fields", "entries", "size"],
)
def test_what_isnt_plain_yaml_is_refused_at_its_line(text: str, line: int, word: str) -> None:
    error = fault(text)
    assert word in error.message
    assert (error.source, error.line) == ("f.yaml", line)


def test_the_parser_in_python_has_the_same_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyYAML may have been built without libyaml."""
    monkeypatch.setattr("shared.model.policy.document_nodes._LOADER", yaml.SafeLoader)
    for text in ("[" * 100_000, "- " * 50_000):
        assert "deeply" in fault(text).message
    assert fault("a: &x 1\nb: *x\n").line == 2


def test_an_unknown_field_is_a_fault_with_a_guess() -> None:
    with pytest.raises(DocumentError, match=r"f\.yaml:2 mod: unknown field") as caught:
        only("a: 1\nmod: x\n").fields(optional=("a", "mode"))
    assert caught.value.hint == "did you mean `mode`?"
    with pytest.raises(DocumentError) as caught:
        only("zzz: x\n").fields(optional=("a", "mode"))
    assert "a, mode" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "2 a: duplicate field"),
        ("b: 1\n", "1: missing field `a`"),
        ("- a\n", "expected fields, found a list"),
        ("a\n", "expected fields, found 'a'"),
        ("1: x\n", "a field name must be a plain string"),
        ("[a]: x\n", "a field name must be a plain string"),
    ],
)
def test_fields_are_strict(text: str, message: str) -> None:
    with pytest.raises(DocumentError) as caught:
        only(text).fields(required=("a",), optional=("b",))
    assert message in caught.value.message


@pytest.mark.parametrize("text", ["1", "true", "2026-01-01", "1.5", "~", "[a]", "{a: 1}", ""])
def test_a_string_is_a_string(text: str) -> None:
    value = only(f"a: {text}\n").fields(optional=("a",))["a"]
    with pytest.raises(DocumentError, match="expected a string"):
        value.text()


@pytest.mark.parametrize("text", ["yes", "on", "True", "1", '"true"', "~", "[]"])
def test_a_flag_is_true_or_false(text: str) -> None:
    with pytest.raises(DocumentError, match="expected true or false"):
        only(f"a: {text}\n").fields(optional=("a",))["a"].flag()


def test_flags_choices_and_scalars_are_read() -> None:
    fields = only('a: true\nb: false\nc: red\nd: 010\ne: "010"\n').fields(optional=tuple("abcde"))
    assert fields["a"].flag() is True
    assert fields["b"].flag() is False
    assert fields["c"].choice(("red", "blue")) == "red"
    assert fields["d"].scalar() == fields["e"].scalar() == "010"
    with pytest.raises(DocumentError, match="'red' is not one of: green"):
        fields["c"].choice(("green",))


def test_lists_are_lists_and_bounded() -> None:
    fields = only("a: x\nb: [1, 2, 3]\n").fields(optional=("a", "b"))
    with pytest.raises(DocumentError, match="expected a list"):
        fields["a"].items(max_items=9)
    with pytest.raises(DocumentError, match="at most 2"):
        fields["b"].items(max_items=2)
    with pytest.raises(DocumentError, match="a number or a string"):
        fields["b"].scalar()


def test_a_values_own_fault_gets_its_place() -> None:
    def make() -> int:
        raise InputError("too small", hint="more")

    value = only("a: x\n").fields(optional=("a",))["a"]
    with pytest.raises(DocumentError) as caught:
        value.build(make)
    assert (caught.value.message, caught.value.hint) == ("f.yaml:1 a: too small", "more")
    with pytest.raises(DocumentError, match="elsewhere"), value.blame():
        raise DocumentError("elsewhere")


@given(st.text(alphabet=st.sampled_from("abc:-[]{}&*!|>'\"#%@` \n\t0~?,"), max_size=60))
def test_arbitrary_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(DocumentError):
        for value in read_nodes(text, ""):
            value.entries()


def test_what_was_parsed_elsewhere_is_read_the_same_way() -> None:
    value = read_plain({"a": [True, 1, 1.5, "x", None], "b": {"c": ("y",)}}, "o")
    fields = value.fields(required=("a", "b"))
    flag, number, real, text, nothing = fields["a"].items(max_items=5)
    assert (flag.flag(), number.scalar(), real.scalar(), text.text(), nothing.is_null()) == (
        True,
        "1",
        "1.5",
        "x",
        True,
    )
    with pytest.raises(DocumentError, match=r"^o a\[1\]: expected a string, found '1'$"):
        number.text()
    with pytest.raises(DocumentError, match=r"^o b\.d: unknown field$"):
        read_plain({"b": {"d": 1}}, "o").fields(required=("b",))["b"].fields(required=("c",))


def test_what_no_json_reader_gives_or_nests_too_deeply_is_refused() -> None:
    with pytest.raises(DocumentError, match="not a JSON value: bytes"):
        read_plain({"a": b""}, "")
    deep: list[object] = []
    for _ in range(100):
        deep = [deep]
    with pytest.raises(DocumentError, match="too deeply"):
        read_plain(deep, "")
    with pytest.raises(DocumentError, match="plain string"):
        read_plain({1: 2}, "").entries()
