"""Dockerfiles built by buildah, with this machine's way to the package registries. Root; does I/O."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from scripts.kubernetes import cache, packages

_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def build(dockerfile: Path, *, context: Path, tag: str, arguments: Mapping[str, str], stage: str | None = None) -> None:
    """Build an image, or one stage of it, into buildah's own store; layers of the same input are taken from there.

    ``chroot`` isolation needs no control groups and uses the machine's network. pip's and apt's own configuration and
    the machine's CA bundle are mounted for the build and not kept in the image.
    """
    with tempfile.TemporaryDirectory() as directory:
        mounts = [f"--volume={source}:{target}:ro" for source, target in _mounts(Path(directory))]
        options = ["--isolation=chroot", "--network=host", "--pull-never", "--layers", "--format=oci", "--quiet"]
        options += [f"--build-arg={name}={value}" for name, value in arguments.items()]
        options += [f"--target={stage}"] if stage is not None else []
        _run("bud", *options, *mounts, f"--file={dockerfile}", f"--tag={tag}", str(context))


def take(layout: Path, name: str, *, tag: str) -> None:
    """Bring an image of an OCI layout into buildah's store."""
    # A relative path: buildah makes a name of it, and `.cache` can't be a part of one.
    pulled = _run("pull", "--quiet", f"oci:{layout.name}:{name}", directory=layout.parent)
    _run("tag", pulled.split()[-1], tag)


def write(tag: str, directory: Path) -> None:
    """Write an image as ``manifest.json`` and blobs, not compressed: ``oci:`` targets always compress."""
    _run("push", "--quiet", "--format=oci", "--disable-compression", tag, f"dir:{directory}")


def has(tag: str) -> bool:
    """Whether buildah's store has this image."""
    return _call(["inspect", "--type=image", tag]).returncode == 0


def remove(tag: str) -> None:
    """Take an image out of buildah's store; layers that others use stay."""
    _call(["rmi", tag])


def prune() -> None:
    """Drop layers that no tagged image uses; what builds the next state of the code faster needs a tag of its own."""
    _call(["rmi", "--prune"])


def _mounts(directory: Path) -> Iterator[tuple[Path, str]]:
    if _CERTIFICATES.is_file():
        yield _CERTIFICATES, str(_CERTIFICATES)
    pip = directory / "pip.conf"
    pip.write_text("\n".join(["[global]", *_pip_settings()]) + "\n", encoding="utf-8")
    yield pip, "/etc/pip.conf"
    apt = directory / "99machine"
    apt.write_text("\n".join(_apt_settings()) + "\n", encoding="utf-8")
    yield apt, "/etc/apt/apt.conf.d/99machine"


def _pip_settings() -> list[str]:
    """``pip config list`` prints ``global.timeout='60'`` and ``:env:.timeout='60'``; places on this disk don't hold."""
    text = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=True, text=True, capture_output=True
    ).stdout
    settings: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition("=")
        section, _, name = name.rpartition(".")
        if section in {"global", ":env:"} and name not in {"find-links", "cache-dir"}:
            settings[name] = value.strip("'")
    return [f"{name} = {value}" for name, value in settings.items()]


def _apt_settings() -> list[str]:
    """How this machine's apt reaches its mirrors, when that is through a proxy."""
    text = subprocess.run(["apt-config", "dump"], check=True, text=True, capture_output=True).stdout
    return [line for line in text.splitlines() if line.startswith("Acquire::http") and "proxy" in line.lower()]


def _run(*arguments: str, directory: Path | None = None) -> str:
    result = _call(arguments, directory=directory)
    if result.returncode != 0:
        raise cache.SetupError(f"buildah {arguments[0]} failed:\n{(result.stdout + result.stderr)[-4000:]}")
    return result.stdout


def _call(arguments: Sequence[str], *, directory: Path | None = None) -> subprocess.CompletedProcess[str]:
    program = packages.which("buildah")
    if program is None:
        raise cache.SetupError("buildah not found")
    place = cache.directory() / "buildah"
    # A store of our own: the machine's other images are neither seen nor touched.
    options = ["--root", str(place / "root"), "--runroot", str(place / "run"), "--storage-driver", _driver()]
    return subprocess.run(
        ["nice", program, *options, *arguments],
        cwd=directory,
        stdin=subprocess.DEVNULL,
        text=True,
        capture_output=True,
        check=False,
        env={**os.environ, "REGISTRY_AUTH_FILE": os.devnull},
    )


def _driver() -> str:
    """Overlay where the kernel has it: the other one copies everything for each layer."""
    return "overlay" if "\toverlay\n" in Path("/proc/filesystems").read_text(encoding="ascii") else "vfs"
