"""A strict reader of YAML nodes: each fault carries the line and the path at which it stands. Pure.

What was parsed elsewhere (an object from an API server) is read through the same nodes, without lines.

Belongs here: what any document needs (fields, sequences, plain values). Doesn't: what a policy means
(``documents.py``). Stricter than YAML 1.1: no aliases, no duplicate keys, booleans are ``true`` and ``false``,
numbers are decimal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import yaml

from shared.model.errors import DocumentError, TouchmarkError

MAX_TEXT_BYTES = 8 * 1024 * 1024
MAX_DEPTH = 64  # The deepest document of ours has 8 levels.
# libyaml where PyYAML was built with it: the parser in Python needs a minute for the largest text.
_LOADER: type[yaml.SafeLoader] | type[yaml.CSafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a value stands, for faults: source (a file's name), 1-based line, dotted path inside the document."""

    source: str
    line: int
    path: str

    def fault(self, message: str, *, hint: str = "") -> DocumentError:
        """Make the error that names this place."""
        return DocumentError(message, source=self.source, line=self.line, path=self.path, hint=hint)


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One node of a document and its place."""

    node: yaml.Node
    place: Place

    def is_null(self) -> bool:
        """Return whether the field is present but empty."""
        return self.node.tag == "tag:yaml.org,2002:null"

    def text(self) -> str:
        """Return a string.

        Raises:
            DocumentError: the value is something else.
        """
        if not isinstance(self.node, yaml.ScalarNode) or self.node.tag != "tag:yaml.org,2002:str":
            hint = "put it in quotes" if isinstance(self.node, yaml.ScalarNode) and not self.is_null() else ""
            raise self.place.fault(f"expected a string, found {self._describe()}", hint=hint)
        return str(self.node.value)

    def choice(self, choices: Sequence[str]) -> str:
        """Return one of these strings.

        Raises:
            DocumentError: the value is none of them.
        """
        text = self.text()
        if text not in choices:
            raise self.place.fault(f"{_quote(text)} is not one of: {', '.join(choices)}", hint=_suggest(text, choices))
        return text

    def flag(self) -> bool:
        """Return a boolean, written ``true`` or ``false``.

        Raises:
            DocumentError: the value is something else.
        """
        if isinstance(self.node, yaml.ScalarNode) and self.node.tag == "tag:yaml.org,2002:bool":
            if self.node.value == "true":
                return True
            if self.node.value == "false":
                return False
        raise self.place.fault(f"expected true or false, found {self._describe()}")

    def scalar(self) -> str:
        """Return a number's or a string's characters as they are written.

        Raises:
            DocumentError: the value is something else.
        """
        if isinstance(self.node, yaml.ScalarNode) and not self.is_null():
            return str(self.node.value)
        raise self.place.fault(f"expected a number or a string, found {self._describe()}")

    def items(self, *, max_items: int) -> list[Value]:
        """Return a sequence's values.

        Raises:
            DocumentError: the value isn't a sequence, or too long a one.
        """
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.place.fault(f"expected a list, found {self._describe()}", hint="write each entry as `- entry`")
        if len(self.node.value) > max_items:
            raise self.place.fault(f"{len(self.node.value)} entries; at most {max_items} are allowed")
        return [self._inner(node, f"[{index}]") for index, node in enumerate(self.node.value)]

    def fields(
        self, *, required: Sequence[str] = (), optional: Sequence[str] = (), refused: Mapping[str, str] | None = None
    ) -> dict[str, Value]:
        """Return a mapping's values by field.

        Arguments:
            refused: fields that are often expected and don't exist on purpose, with what to write instead.

        Raises:
            DocumentError: the value isn't a mapping; a field is unknown, duplicate field, or missing.
        """
        found = self.entries()
        known = [*required, *optional]
        for name, value in found.items():
            if name not in known:
                hint = (refused or {}).get(name) or _suggest(name, known) or f"known fields: {', '.join(sorted(known))}"
                raise value.place.fault("unknown field", hint=hint)
        for name in required:
            if name not in found:
                raise self.place.fault(f"missing field `{name}`")
        return found

    def entries(self) -> dict[str, Value]:
        """Return a mapping's values by key, whatever the keys are.

        Raises:
            DocumentError: the value isn't a mapping, a key isn't a string or is duplicate field.
        """
        if not isinstance(self.node, yaml.MappingNode):
            raise self.place.fault(f"expected fields, found {self._describe()}")
        found: dict[str, Value] = {}
        for key, node in self.node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                raise self._inner(key, "").place.fault("a field name must be a plain string")
            name = str(key.value)
            shown = name if _PLAIN_KEY.fullmatch(name) else f'"{name[:80]}"'
            line = _line(key)
            path = f"{self.place.path}.{shown}" if self.place.path else shown
            value = Value(node=node, place=Place(source=self.place.source, line=line, path=path))
            if name in found:
                raise value.place.fault("duplicate field")
            found[name] = value
        return found

    def build(self, make: Callable[[], _T]) -> _T:
        """Return what ``make`` builds; its fault gets this value's place.

        Raises:
            DocumentError: ``make`` raised a ``TouchmarkError``.
        """
        with self.blame():
            return make()

    @contextmanager
    def blame(self) -> Iterator[None]:
        """Give faults raised inside, that have no place yet, this value's place."""
        try:
            yield
        except DocumentError:
            raise
        except TouchmarkError as error:
            raise self.place.fault(error.message, hint=error.hint) from error

    def _inner(self, node: yaml.Node, suffix: str) -> Value:
        place = Place(source=self.place.source, line=_line(node), path=self.place.path + suffix)
        return Value(node=node, place=place)

    def _describe(self) -> str:
        if isinstance(self.node, yaml.MappingNode):
            return "fields"
        if isinstance(self.node, yaml.SequenceNode):
            return "a list"
        if self.is_null():
            return "nothing"
        return _quote(str(self.node.value))


def read_nodes(text: str, source: str) -> list[Value]:
    """Split a YAML stream into its documents, without the empty ones.

    Raises:
        DocumentError: the text isn't YAML, is larger than ``MAX_TEXT_BYTES``, nests too deeply, or uses aliases.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_TEXT_BYTES:
        raise DocumentError(f"larger than {MAX_TEXT_BYTES} bytes", source=source)
    try:
        check_nesting(text, source, max_depth=MAX_DEPTH, allows_aliases=False)
        nodes = list(yaml.compose_all(text, Loader=_LOADER))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = f"not YAML: {error.problem or error.context or 'unreadable'}"
        # The end of a text without a last newline is reported as one line more.
        line = min(mark.line + 1, text.count("\n") + 1) if mark else 0
        raise DocumentError(message, source=source, line=line) from error
    except yaml.YAMLError as error:
        raise DocumentError(f"not YAML: {str(error).splitlines()[0]}", source=source) from error
    except RecursionError as error:
        raise DocumentError("nested too deeply", source=source) from error
    values = [Value(node=node, place=Place(source=source, line=_line(node), path="")) for node in nodes]
    return [value for value in values if not value.is_null()]


def check_nesting(text: str, source: str, *, max_depth: int, allows_aliases: bool) -> None:
    """Refuse deep nesting, and aliases, before nodes are made: the parser stops there, having read no further.

    Raises:
        DocumentError: there is some.
        yaml.YAMLError: the text isn't YAML.
    """
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > max_depth:
            message = f"nested too deeply: more than {max_depth} levels"
            raise DocumentError(message, source=source, line=_event_line(event))
        if isinstance(event, yaml.AliasEvent) and not allows_aliases:
            raise DocumentError(
                "aliases (`*name`) are not allowed", source=source, line=_event_line(event), hint="repeat the value"
            )


def _event_line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0


def read_plain(plain: object, source: str) -> Value:
    """Take what a JSON reader gave (mappings, lists, strings, numbers, booleans, None); its places have no lines.

    Raises:
        DocumentError: it nests deeper than ``MAX_DEPTH``, or holds something else.
    """
    return Value(node=_make_node(plain, source, 0), place=Place(source=source, line=0, path=""))


def _make_node(plain: object, source: str, depth: int) -> yaml.Node:
    if depth > MAX_DEPTH:
        raise DocumentError("nested too deeply", source=source)
    match plain:
        case None:
            return yaml.ScalarNode("tag:yaml.org,2002:null", "")
        case bool():
            return yaml.ScalarNode("tag:yaml.org,2002:bool", "true" if plain else "false")
        case int():
            return yaml.ScalarNode("tag:yaml.org,2002:int", str(plain))
        case float():
            return yaml.ScalarNode("tag:yaml.org,2002:float", repr(plain))
        case str():
            return yaml.ScalarNode("tag:yaml.org,2002:str", plain)
        case Mapping():
            pairs = plain.items()
            nodes = [(_make_node(key, source, depth + 1), _make_node(value, source, depth + 1)) for key, value in pairs]
            return yaml.MappingNode("tag:yaml.org,2002:map", nodes)
        case list() | tuple():
            return yaml.SequenceNode("tag:yaml.org,2002:seq", [_make_node(each, source, depth + 1) for each in plain])
    raise DocumentError(f"not a JSON value: {type(plain).__name__}", source=source)


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1 if node.start_mark is not None else 0


def _quote(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _suggest(text: str, choices: Sequence[str]) -> str:
    import difflib  # Only for who has made a mistake: a sidecar reads its configuration with this module.

    close = difflib.get_close_matches(text[:80], choices, n=1)
    return f"did you mean `{close[0]}`?" if close else ""
