"""The main script of a real interpreter."""

import os
import subprocess
import sys
from pathlib import Path

from sidecar.attest.process import Process
from sidecar.attest.script_file import open_main_script


def test_a_relative_script_behind_a_link_is_opened(tmp_path: Path) -> None:
    (tmp_path / "real.py").write_text("print('ready', flush=True); input()")
    (tmp_path / "link.py").symlink_to(tmp_path / "real.py")
    command = [os.path.realpath(sys.executable), "link.py"]
    with subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        process = Process(child.pid)
        found = open_main_script(process)
        assert found is not None
        assert os.read(found, 100).startswith(b"print")
        os.close(found)
        process.close()
        child.kill()
