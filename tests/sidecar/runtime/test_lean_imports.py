"""What is left out stays out, and nothing is broken by it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import sidecar.__main__
from shared.runtime import interpreter

ROOT = Path(__file__).parents[3]
CODE = """
import sys
from sidecar.runtime.lean_imports import left_out
import json
with left_out("urllib.request", "importlib.metadata", "json"):
    import websockets.asyncio.client
    import json as again
assert again is json, "what is loaded already stays"
unused = ("http.client", "urllib.request", "importlib.metadata", "zipfile")
print([name for name in unused if name in sys.modules])
import importlib.metadata, urllib.request
assert urllib.request.getproxies and importlib.metadata.version("websockets")
"""


def run(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_stays_out_until_somebody_really_imports_it() -> None:
    assert run("-c", CODE).strip() == "[]"


def test_the_sidecar_starts_without_what_it_never_uses() -> None:
    """A new import of one of these costs every sidecar its memory: think before adding one."""
    code = (
        "import sys\nfrom sidecar.__main__ import import_lean\nimport_lean()\nimport sidecar.runtime.run\n"
        "print([name for name in ('http.client', 'urllib.request', 'importlib.metadata', 'yaml', 'typer', 'aiohttp') "
        "if name in sys.modules])"
    )
    assert run("-c", code).strip() == "[]"


def test_a_sidecar_that_was_built_here_and_reads_its_options_takes_no_compilers_or_archives_modules() -> None:
    code = (
        "import sys\nbefore = set(sys.modules)\nfrom sidecar.native.engine import load\nload()\n"
        "from sidecar.settings.settings import parse_arguments\n"
        "arguments = ['--ca', '127.0.0.1:1', '--state-directory', '/nowhere', '--tunnel-address', '127.0.0.2']\n"
        "parse_arguments([*arguments, '--inbound', '127.0.0.2:2=127.0.0.1:3'], {})\n"
        "import shared.model.policy.document_nodes\n"
        "unused = {'difflib', 'shlex', 'shutil', 'sysconfig'}\nprint(sorted(unused & (set(sys.modules) - before)))"
    )
    assert run("-c", code).strip() == "[]"


def test_a_sidecar_keeps_large_blocks_of_memory_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what is freed of one stays with the thread that had it: 3 MiB and more of each sidecar."""
    told: list[str] = []
    monkeypatch.setattr(sidecar.__main__, "import_lean", lambda: None)
    monkeypatch.setattr(interpreter, "keep_large_blocks_apart", lambda: told.append("large blocks"))
    assert sidecar.__main__.main(["--no-such-option"])
    assert told == ["large blocks"]
