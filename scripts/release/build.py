"""Builds a release into ``dist/``: ``python -m scripts.release.build [--no-images]``. Does I/O.

Belongs here: which files a release has, and their sums. Doesn't: what is in them (pyproject.toml, ``sbom.py``, the
Dockerfiles). RELEASING.md is the checklist around it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from scripts.release.lockfile import read_lock
from scripts.release.sbom import write_sbom
from shared.model.version import VERSION

ROOT = Path(__file__).parents[2]
# Image → the lock that it is made from (Dockerfile.ca, Dockerfile.sidecar).
LOCKS = {"ca": "requirements.lock", "sidecar": "requirements-sidecar.lock"}
_CHUNK = 1 << 20


def build_packages(target: Path) -> None:
    """Build the wheel for any machine, the one with the compiled loop where a compiler is, and the source."""
    for kinds, engine in ((("wheel", "sdist"), "python"), (("wheel",), "native")):
        options = [option for kind in kinds for option in ("-t", kind)]
        command = [sys.executable, "-m", "hatchling", "build", *options, "-d", str(target)]
        variables = {**os.environ, "TOUCHMARK_ENGINE": engine}  # hatch_build.py
        subprocess.run(command, cwd=ROOT, env=variables, check=True, stdout=subprocess.DEVNULL, timeout=600)


def write_sboms(target: Path, *, made_at: float) -> None:
    """Write one bill of materials for each image."""
    for image, lock in LOCKS.items():
        name = f"touchmark-{image}"
        locked = read_lock((ROOT / lock).read_text(encoding="utf-8"))
        text = write_sbom(name=name, version=VERSION, locked=locked, made_at=made_at)
        (target / f"{name}-{VERSION}.cdx.json").write_text(text, encoding="utf-8")


def export_images(target: Path) -> None:
    """Build both images without a registry (root, buildah, debootstrap) and write them as one OCI archive.

    Raises:
        SetupError: this machine can't build them.
    """
    from scripts.kubernetes import images, packages

    packages.ensure(packages.NODE)
    built = images.build(("python", *LOCKS))
    # As containerd understands the names in manifests/, so that what is imported is what the pods name.
    named = [images.Image(name=f"docker.io/touchmark/{each}:{VERSION}", digest=built[each].digest) for each in LOCKS]
    with (target / f"touchmark-images-{VERSION}.tar").open("wb") as file:
        images.export(named, file)


def write_sums(target: Path) -> None:
    """Write ``SHA256SUMS`` of all other files, as `sha256sum -c` reads it."""
    lines = [f"{_digest(path)}  {path.name}\n" for path in sorted(target.iterdir()) if path.name != "SHA256SUMS"]
    (target / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Build everything into ``dist/``, whose old content is removed."""
    if arguments not in ([], ["--no-images"]):
        print("usage: python -m scripts.release.build [--no-images]", file=sys.stderr)
        return 2
    target = ROOT / "dist"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    build_packages(target)
    # As reproducible builds have it: the time of the source, where it is given.
    write_sboms(target, made_at=float(os.environ.get("SOURCE_DATE_EPOCH") or time.time()))
    if not arguments:
        export_images(target)
    write_sums(target)
    print((target / "SHA256SUMS").read_text(encoding="utf-8"), end="")
    return 0


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
