"""The images' base without a registry: Debian (or Ubuntu) and its Python by debootstrap, from apt's own mirrors. I/O.

It stands in for ``docker.io/library/python:3.11-slim-bookworm``, which the Dockerfiles name otherwise.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from scripts.kubernetes import cache, packages

_PACKAGES = ("ca-certificates", "python3", "python3-venv")
_UNWANTED = ("e2fsprogs", "tzdata")
_RECIPE = 2  # Counted up when what is done below changes.
_EMPTIED = ("var/cache/apt", "var/lib/apt/lists", "var/log", "usr/share/doc", "usr/share/info", "usr/share/locale")


def key() -> str:
    """What the base is made of: this distribution, these packages, this recipe."""
    return cache.digest([], _codename(), os.uname().machine, *_PACKAGES, str(_RECIPE))


def make(root: Path) -> None:
    """Fill the directory ``root``, which mustn't be there yet."""
    cache.say(f"making a base of {_codename()} with debootstrap (a minute)")
    debs = cache.directory() / "debs"
    debs.mkdir(parents=True, exist_ok=True)
    sources = _sources()
    mirror = next(line.split()[1] for line in sources if line.split()[2] == _codename())
    with tempfile.TemporaryDirectory(dir=root.parent) as directory:
        made = Path(directory) / "root"
        program = packages.which("debootstrap")
        assert program is not None, "packages.ensure comes first"
        options = ["--variant=minbase", f"--cache-dir={debs}", f"--include={','.join(_PACKAGES)}"]
        options += [f"--exclude={','.join(_UNWANTED)}"]
        result = subprocess.run(
            ["nice", program, *options, _codename(), made, mirror],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if result.returncode != 0:
            raise cache.SetupError(f"debootstrap failed:\n{result.stdout[-2000:]}")
        for place in _EMPTIED:
            for each in (made / place).iterdir():
                shutil.rmtree(each) if each.is_dir() and not each.is_symlink() else each.unlink()
        (made / "etc/apt/sources.list").write_text("\n".join(sources) + "\n", encoding="ascii")
        # As in the public images: nothing that is installed in an image starts while it is built.
        policy = made / "usr/sbin/policy-rc.d"
        policy.write_text("#!/bin/sh\nexit 101\n", encoding="ascii")
        policy.chmod(0o755)
        (made / "etc/apt/apt.conf.d/90small").write_text(
            'APT::Install-Recommends "false";\nAcquire::Languages "none";\n', encoding="ascii"
        )
        made.rename(root)


def _codename() -> str:
    for line in Path("/etc/os-release").read_text(encoding="utf-8").splitlines():
        if line.startswith("VERSION_CODENAME="):
            return line.partition("=")[2].strip('"')
    raise cache.SetupError("/etc/os-release names no VERSION_CODENAME: images are built on Debian or Ubuntu")


def _sources() -> list[str]:
    """This machine's own mirrors of the distribution, as lines of a sources.list."""
    form = "$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)"
    text = subprocess.run(
        ["apt-get", "indextargets", "--format", form, "Created-By: Packages"],
        check=True,
        text=True,
        capture_output=True,
    ).stdout
    lines: dict[str, None] = {}
    for line in text.splitlines():
        uri, suite, component, origin = line.split(maxsplit=3)
        if origin in {"Debian", "Ubuntu"} and suite.startswith(_codename()) and component in {"main", "universe"}:
            lines[f"deb {uri} {suite} {component}"] = None
    if not any(line.split()[2] == _codename() for line in lines):
        raise cache.SetupError("apt knows no mirror of this distribution (run `apt-get update` once)")
    return sorted(lines)
