"""``python -m sidecar.administration dump|connections|log-level``: asks the sidecar of this container, prints JSON.

For the sidecar's image, which has no ``touchmark`` command: ``kubectl exec POD -c touchmark-sidecar -- …``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import msgspec

from shared.model.errors import TouchmarkError
from shared.model.wire.sidecar_admin import (
    ConnectionsQuestion,
    Dump,
    DumpQuestion,
    Level,
    LevelQuestion,
    SidecarConnections,
)
from shared.runtime.sidecar_socket import ask_sidecar, choose_sidecar


def main(arguments: Sequence[str]) -> int:
    """Ask, print the answer and return the exit code: 0, or that of the error."""
    parser = argparse.ArgumentParser(prog="python -m sidecar.administration", description="Ask a running sidecar.")
    parser.add_argument("what", choices=("dump", "connections", "log-level"))
    parser.add_argument("level", nargs="?", default="", help="for log-level: the one to set")
    parser.add_argument("--instance", default="", help="where several sidecars listen")
    given = parser.parse_args(arguments)
    answer: Dump | SidecarConnections | Level
    try:
        instance = choose_sidecar(given.instance)
        if given.what == "dump":
            answer = ask_sidecar(instance, DumpQuestion(), expect=Dump)
        elif given.what == "connections":
            answer = ask_sidecar(instance, ConnectionsQuestion(), expect=SidecarConnections)
        else:
            answer = ask_sidecar(instance, LevelQuestion(level=given.level), expect=Level)
    except TouchmarkError as error:
        print(f"error: {error.message} [{error.code}]", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return error.exit_code
    print(msgspec.json.format(msgspec.json.encode(answer)).decode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
