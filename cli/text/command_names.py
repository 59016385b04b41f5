"""Which commands people mean who type a name that none has. Pure.

Belongs here: words that other tools use, and commands that are looked for in the wrong place. Doesn't: misspelt names,
which typer compares itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

OTHER_WORDS: Final[Mapping[str, str]] = {
    "allow": "policy suggest",
    "certificates": "identities",
    "certs": "identities",
    "check": "doctor",
    "dashboard": "ui",
    "denied": "decisions",
    "denials": "decisions",
    "diagnose": "doctor",
    "enforce": "mode",
    "events": "decisions",
    "explicit": "mode",
    "flows": "edges",
    "health": "doctor",
    "history": "audit list",
    "init": "install",
    "join": "ca join-token",
    "log": "decisions",
    "logs": "decisions",
    "map": "graph",
    "namespaces": "status",
    "permissive": "mode",
    "preflight": "ready",
    "program add": "program approve",
    "program deny": "program refuse",
    "program reject": "program refuse",
    "program revoke": "program remove",
    "ps": "status",
    "remove": "uninstall",
    "setup": "install",
    "token": "ca join-token",
    "traffic": "edges",
    "undo": "mode",
    "web": "ui",
    "why": "explain",
    "workloads": "status",
}
_MAX_NAMED: Final = 4


def find_meant(asked: str, commands: Iterable[str]) -> tuple[str, ...]:
    """Return commands that may be meant; none where nothing is known.

    Arguments:
        asked: what was typed, without ``touchmark``, such as ``why`` or ``program add``.
        commands: all there are, such as ``program approve``.
    """
    last = asked.rpartition(" ")[2]
    meant = [OTHER_WORDS[asked]] if asked in OTHER_WORDS else []
    meant += [each for each in commands if each.rpartition(" ")[2] == last]
    return tuple(dict.fromkeys(meant))[:_MAX_NAMED]
