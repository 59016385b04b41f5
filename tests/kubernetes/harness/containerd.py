"""A containerd of the test's own, with the images that the node may run. Root; does I/O."""

from __future__ import annotations

import ipaddress
import json
import subprocess
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from scripts.kubernetes import packages
from scripts.kubernetes.cache import SetupError
from scripts.kubernetes.images import Image, blobs, export
from tests.kubernetes.harness import unpacked
from tests.kubernetes.harness.processes import Program

PLUGINS = Path("/usr/lib/cni")
_MAX_MISSING_BYTES = 50_000_000  # Up to this what is missing is imported at each start, in a moment.
_CONFIGURATION = """\
version = 2
root = "{directory}/root"
state = "{directory}/state"
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  disable_apparmor = true
  # Without CAP_SYS_RESOURCE the kubelet's -998 can't be set.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{directory}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"""


class Containerd:
    """Runs from `start` on; images are in its ``k8s.io`` namespace, where the kubelet looks."""

    def __init__(self, directory: Path, *, bridge: str, subnets: Mapping[str, str]) -> None:
        """``subnets`` gives pods an address of each, in this order; beside each is its gateway."""
        self.directory = directory
        self.socket = directory / "containerd.sock"
        self._network = {
            "cniVersion": "0.4.0",
            "name": "pods",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": bridge,
                    "isGateway": True,
                    "hairpinMode": True,
                    "ipMasq": False,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": str(directory / "addresses"),
                        "ranges": [[{"subnet": subnet, "gateway": gateway}] for subnet, gateway in subnets.items()],
                        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                    },
                }
            ],
        }
        self._program: Program | None = None
        self._kept: unpacked.Unpacked | None = None

    def start(self, images: Mapping[str, Image]) -> None:
        """Start it with these images, known by their name and by ``name@digest``; ``pause`` must be among them."""
        self._write_configuration(pause=images["pause"].name)
        wanted = blobs(images.values())
        kept = unpacked.find_nearest(wanted, max_missing_bytes=_MAX_MISSING_BYTES)
        if kept is None:
            self._run_program()
            self._import(images, without=())
            self.stop()
            unpacked.keep(self.directory / "root", self.directory.parent.parent.name)
            kept = unpacked.find_nearest(wanted, max_missing_bytes=0)
            assert kept is not None
        kept.mount(self.directory / "root")
        self._kept = kept
        self._run_program()
        self._import(images, without=kept.blobs())

    def stop(self) -> None:
        """Stop it; pods that it started live on until the isolated run ends."""
        program, self._program = self._program, None
        if program is not None:
            program.stop()
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.close()

    def ctr(self, *arguments: str, timeout_s: float = 60.0) -> str:
        """Standard output of ``ctr ARGUMENTS``."""
        result = self._run(*arguments, timeout_s=timeout_s)
        if result.returncode != 0:
            raise RuntimeError(f"ctr {' '.join(arguments)}: {result.stderr.strip()}")
        return result.stdout

    def hand_out_next(self, address: str) -> None:
        """Have the next pod get this address: the plugin goes on behind the one that it handed out last."""
        last = self.directory / "addresses" / str(self._network["name"]) / "last_reserved_ip.0"
        last.write_text(str(ipaddress.ip_address(address) - 1), encoding="ascii")

    # ---- Parts -------------------------------------------------------------------------------------------------------
    def _write_configuration(self, *, pause: str) -> None:
        (self.directory / "cni").mkdir(parents=True)
        (self.directory / "cni" / "10-pods.conflist").write_text(json.dumps(self._network), encoding="ascii")
        configuration = self.directory / "config.toml"
        values = {"directory": self.directory, "socket": self.socket, "pause": pause, "plugins": PLUGINS}
        configuration.write_text(_CONFIGURATION.format_map(values), encoding="ascii")

    def _run_program(self) -> None:
        command: list[str | Path] = [_find("containerd"), "--config", self.directory / "config.toml"]
        self._program = Program(command, log=self.directory / "containerd.log", directory=self.directory)
        self._program.wait_until(lambda: self._run("version").returncode == 0, timeout_s=240)

    def _import(self, images: Mapping[str, Image], *, without: Collection[str]) -> None:
        command: list[str | Path] = [_find("ctr"), "-a", self.socket, "-n", "k8s.io", "images", "import", "-"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
            assert process.stdin is not None
            export(images.values(), cast("BinaryIO", process.stdin), without=without)
            process.stdin.close()
        if process.returncode != 0:
            raise RuntimeError("ctr couldn't import the images; its message is above")

    def _run(self, *arguments: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        command: Sequence[str | Path] = [_find("ctr"), "-a", self.socket, "-n", "k8s.io", *arguments]
        return subprocess.run(
            command, text=True, capture_output=True, check=False, timeout=timeout_s, stdin=subprocess.DEVNULL
        )


def _find(program: str) -> Path:
    path = packages.which(program)
    if path is None:
        raise SetupError(f"{program} isn't there: `make test-node` installs it")
    return path
