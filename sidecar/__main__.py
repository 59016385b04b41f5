"""``python -m sidecar``: options → prepare → run. A user's mistake is one clear line, never a traceback."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence

from shared.model.errors import TouchmarkError

_INTERRUPTED = 130


def main(arguments: Sequence[str]) -> int:
    """Run the sidecar and return the process's exit code: 0, or that of the error."""
    if sys.version_info < (3, 11):  # noqa: UP036 (a clear line for users of an older one)
        print("error: Touchmark needs Python 3.11 or newer", file=sys.stderr)
        return 2
    from shared.runtime.interpreter import keep_large_blocks_apart

    keep_large_blocks_apart()
    import_lean()
    from sidecar.settings.configuration import TOKEN_VARIABLE
    from sidecar.settings.settings import parse_arguments

    try:
        configuration = parse_arguments(arguments, os.environ)
        os.environ.pop(TOKEN_VARIABLE, None)

        import uvloop

        from sidecar.runtime.prepare import prepare
        from sidecar.runtime.run import run

        prepared = prepare(configuration)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(prepared))
    except TouchmarkError as error:
        print(f"error: {error.message} [{error.code}]", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return _INTERRUPTED
    return 0


def import_lean() -> None:
    """Import the WebSocket client without what it needs for proxies alone: none is ever used."""
    from sidecar.runtime.lean_imports import left_out

    with left_out("urllib.request", "importlib.metadata"):
        import websockets.asyncio.client  # noqa: F401


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
