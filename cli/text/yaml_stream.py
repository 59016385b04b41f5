"""YAML streams of other people's objects: cut into documents, and written again where one has changed. Pure.

Belongs here: what keeps a stream as it was (comments, order, spelling) wherever nothing changes, and what keeps its
meaning where something does. Doesn't: Touchmark's own documents, which are read strictly
(``shared/model/policy/document_nodes.py``).

What reads the result (kubectl, by sigs.k8s.io/yaml) takes more words for booleans and numbers than PyYAML does: ``y``,
``1e3``, ``0o17``. So a string is written without quotes only where no reader could take it for anything else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import yaml

from shared.model.errors import DocumentError
from shared.model.policy.document_nodes import check_nesting

MAX_TEXT_BYTES: Final = 64 * 1024 * 1024
MAX_DEPTH: Final = 200
_PLAIN: Final = re.compile(r"[A-Za-z/][A-Za-z0-9_./@-]*(?::[A-Za-z0-9_./@-]+)*")
_RESERVED: Final = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamDocument:
    """One document of a stream.

    Attributes:
        source: the file's name.
        line: 1-based, of its first node.
        text: its original text, with the comments around it and the separator before it.
        value: what it says; None when it is empty.
    """

    source: str
    line: int
    text: str
    value: Any


def read_stream(text: str, source: str) -> list[StreamDocument]:
    """Cut a stream into its documents.

    Raises:
        DocumentError: the text isn't YAML, larger than ``MAX_TEXT_BYTES``, or nested deeper than ``MAX_DEPTH``.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_TEXT_BYTES:
        raise DocumentError(f"larger than {MAX_TEXT_BYTES} bytes", source=source)
    text = text.removeprefix("\ufeff")
    try:
        check_nesting(text, source, max_depth=MAX_DEPTH, allows_aliases=True)
        loader = yaml.SafeLoader(text)
        starts: list[int] = []
        nodes: list[yaml.Node] = []
        while loader.check_node():
            event = loader.peek_event()  # type: ignore[no-untyped-call]  # The stubs leave it out.
            starts.append(event.start_mark.index)
            node = loader.get_node()
            assert node is not None
            nodes.append(node)
        values = [loader.construct_document(node) for node in nodes]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = f"not YAML: {error.problem or error.context or 'unreadable'}"
        raise DocumentError(message, source=source, line=min(mark.line, text.count("\n")) + 1 if mark else 0) from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that no calendar has.
        raise DocumentError(f"not YAML: {str(error).splitlines()[0]}", source=source) from error
    except RecursionError as error:
        raise DocumentError("nested too deeply", source=source) from error
    if not nodes:
        return [StreamDocument(source=source, line=1, text=text, value=None)] if text else []
    bounds = [0, *starts[1:], len(text)]
    return [
        StreamDocument(
            source=source, line=node.start_mark.line + 1, text=text[bounds[index] : bounds[index + 1]], value=value
        )
        for index, (node, value) in enumerate(zip(nodes, values, strict=True))
    ]


def write_stream(documents: Sequence[tuple[StreamDocument, Any]]) -> str:
    """Write documents with their current values; one whose value is the same object keeps its text."""
    parts: list[str] = []
    for document, value in documents:
        text = document.text if value is document.value else f"---\n{write_document(value)}"
        if parts and not text.lstrip().startswith("---"):
            parts.append("---\n")
        parts.append(text if not text or text.endswith("\n") else f"{text}\n")
    return "".join(parts)


def write_document(value: Any) -> str:
    """Write one value as a YAML document, fields in their order, without anchors."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, _data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    is_plain = bool(_PLAIN.fullmatch(text)) and text.lower() not in _RESERVED
    style = None if is_plain else "|" if "\n" in text else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
