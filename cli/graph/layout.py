"""Where a graph's nodes stand: in layers, callers left of what they call. Pure; the same graph always looks the same.

Layers by the longest way from a source of calls, with circles opened where a search in the order of names finds them;
the order within a layer by the middle of the neighbours, a fixed number of sweeps (Sugiyama's method, without the
dummy nodes that would route links around others: long links run between two rows, ``svg.py``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cli.graph.graph import Graph

MAX_ROWS: Final = 20
# Where many call one another the longest way leads through most of them: a picture of as many columns shows nothing.
MAX_LAYERS: Final = 12
_SWEEPS: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A node's column and row."""

    column: int
    row: int


def lay_out(graph: Graph) -> dict[str, Place]:
    """Return each node's place, by name. A layer of more than ``MAX_ROWS`` nodes takes several columns.

    Of more than ``MAX_LAYERS`` layers neighbouring ones are put together.
    """
    names = [node.name for node in graph.nodes]
    follows = _open_circles(names, graph)
    layers = _fold(_fill_layers(names, follows))
    neighbours: dict[str, set[str]] = defaultdict(set)
    for link in graph.links:
        if link.source != link.destination:
            neighbours[link.source].add(link.destination)
            neighbours[link.destination].add(link.source)
    for sweep in range(_SWEEPS):
        order = range(len(layers)) if sweep % 2 == 0 else range(len(layers) - 1, -1, -1)
        _sweep(layers, order, neighbours)
    places = {}
    column = 0
    for layer in layers:
        for begin in range(0, len(layer), MAX_ROWS):
            for row, name in enumerate(layer[begin : begin + MAX_ROWS]):
                places[name] = Place(column=column, row=row)
            column += 1
    return places


def _open_circles(names: Sequence[str], graph: Graph) -> dict[str, list[str]]:
    """Return whom each node calls, without the calls that lead back to a node on the way to it."""
    calls: dict[str, list[str]] = {name: [] for name in names}
    for link in graph.links:
        if link.source != link.destination and link.destination not in calls[link.source]:
            calls[link.source].append(link.destination)
    called = {name for targets in calls.values() for name in targets}
    forward: dict[str, list[str]] = {name: [] for name in names}
    state: dict[str, int] = {}  # 1: on the way, 2: done.
    # Those that nobody calls first: circles are then opened where they are entered.
    for root in sorted(names, key=lambda name: (name in called, name)):
        if root in state:
            continue
        state[root] = 1
        stack = [(root, iter(sorted(calls[root])))]
        while stack:
            name, targets = stack[-1]
            target = next(targets, None)
            if target is None:
                state[name] = 2
                stack.pop()
            elif state.get(target) != 1:
                forward[name].append(target)
                if target not in state:
                    state[target] = 1
                    stack.append((target, iter(sorted(calls[target]))))
    return forward


def _fill_layers(names: Sequence[str], follows: Mapping[str, Sequence[str]]) -> list[list[str]]:
    waiting = dict.fromkeys(names, 0)
    for targets in follows.values():
        for target in targets:
            waiting[target] += 1
    depth = dict.fromkeys(names, 0)
    ready = sorted(name for name in names if waiting[name] == 0)
    while ready:
        following = []
        for name in ready:
            for target in follows[name]:
                depth[target] = max(depth[target], depth[name] + 1)
                waiting[target] -= 1
                if waiting[target] == 0:
                    following.append(target)
        ready = sorted(following)
    layers: list[list[str]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for name in sorted(names):
        layers[depth[name]].append(name)
    return layers


def _fold(layers: list[list[str]]) -> list[list[str]]:
    if len(layers) <= MAX_LAYERS:
        return layers
    folded: list[list[str]] = [[] for _ in range(MAX_LAYERS)]
    for number, layer in enumerate(layers):
        folded[number * MAX_LAYERS // len(layers)] += layer
    return folded


def _sweep(layers: list[list[str]], order: Sequence[int], neighbours: Mapping[str, set[str]]) -> None:
    """Sort each layer by the middle of its nodes' neighbours in other layers."""
    for number in order:
        middle = {name: index / max(1, len(layer) - 1) for layer in layers for index, name in enumerate(layer)}
        layer = layers[number]
        own = set(layer)

        def place(name: str, middle: Mapping[str, float] = middle, own: set[str] = own) -> float:
            there = sorted(middle[each] for each in neighbours.get(name, ()) if each not in own)
            return sum(there) / len(there) if there else middle[name]

        layers[number] = sorted(layer, key=lambda name: (place(name), name))
