"""The wheel's build: compiles the sidecar's loop where a compiler is there, and names the wheel accordingly.

One build serves every Python from 3.11 on (abi3). Without a compiler, or with TOUCHMARK_ENGINE=python, the wheel is
pure Python, for any machine.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_FOLDER = "sidecar/native"


class NativeEngineHook(BuildHookInterface[Any]):
    """Adds the compiled loop to a wheel."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and say what the wheel is for. An editable installation takes what `make setup` builds."""
        if self.target_name != "wheel" or version == "editable" or os.environ.get("TOUCHMARK_ENGINE") == "python":
            return
        module = _load_build(Path(self.root) / _FOLDER / "build.py")
        # Away from the clone: a build leaves nothing in it. Until the process ends, as the wheel is packed later.
        directory = tempfile.TemporaryDirectory(prefix="touchmark-wheel-")
        atexit.register(directory.cleanup)
        folder = Path(directory.name)
        try:
            made = module.build(folder)
        except module.BuildError as error:
            print(f"a wheel of pure Python: {error}", file=sys.stderr)
            return
        build_data["force_include"][str(made)] = f"{_FOLDER}/{made.name}"
        build_data["pure_python"] = False
        build_data["tag"] = f"cp311-abi3-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"


def _load_build(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("touchmark_native_build", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
