"""A graph in the languages of other drawing programs: Graphviz' dot, and mermaid. Pure.

Every name comes from a peer: it is quoted as each language quotes text, and nodes have numbers for names.
Source: the DOT language (graphviz.org/doc/info/lang.html); mermaid's flowcharts (mermaid.js.org/syntax/flowchart.html).
"""

from __future__ import annotations

import re
from typing import Final

from cli.graph.graph import Graph, Link, describe_count
from cli.text.printable import escape

_DOT_STYLES: Final = {"allow": "solid", "would deny": "dashed", "deny": "dotted"}
_COLOURS: Final = {"allow": "#2e7d32", "would deny": "#b26a00", "deny": "#c62828"}
_MERMAID_ARROWS: Final = {"allow": "-->", "would deny": "-.->", "deny": "--x"}


def write_dot(graph: Graph) -> str:
    """Write a graph in Graphviz' language."""
    numbers = {node.name: f"n{number}" for number, node in enumerate(graph.nodes)}
    lines = [f"digraph {_quote_dot(graph.namespace)} {{", "  rankdir=LR;", "  node [shape=box];"]
    for node in graph.nodes:
        style = "rounded" if node.is_proven else "dashed"
        lines.append(f"  {numbers[node.name]} [label={_quote_dot(node.name)}, style={style}];")
    for link in graph.links:
        lines.append(
            f"  {numbers[link.source]} -> {numbers[link.destination]} [label={_quote_dot(_describe(link))}, "
            f'style={_DOT_STYLES[link.verdict]}, color="{_COLOURS[link.verdict]}"];'
        )
    return "\n".join([*lines, "}", ""])


def write_mermaid(graph: Graph) -> str:
    """Write a graph as a mermaid flowchart."""
    numbers = {node.name: f"n{number}" for number, node in enumerate(graph.nodes)}
    lines = ["flowchart LR"]
    for node in graph.nodes:
        suffix = "" if node.is_proven else " (not proven)"
        lines.append(f'  {numbers[node.name]}["{_quote_mermaid(node.name + suffix)}"]')
    for link in graph.links:
        arrow = _MERMAID_ARROWS[link.verdict]
        lines.append(
            f'  {numbers[link.source]} {arrow}|"{_quote_mermaid(_describe(link))}"| {numbers[link.destination]}'
        )
    return "\n".join([*lines, ""])


def _describe(link: Link) -> str:
    return f":{link.port} {link.verdict} ×{describe_count(link)}"


def _quote_dot(text: str) -> str:
    # In a quoted string only \" is an escape of the language; a label has its own, such as \l.
    return '"' + escape(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _quote_mermaid(text: str) -> str:
    """Write what isn't plain as mermaid's entity codes: ``#38;`` is an ampersand."""
    return re.sub(r"[^A-Za-z0-9 /.:_()×+-]", lambda match: f"#{ord(match[0])};", escape(text))
