"""The images of the node level, built without a registry: ours, and what the tests run beside them. Does I/O.

``python -m scripts.kubernetes.images [FILE]`` builds what isn't current and prints names and digests; FILE becomes one
archive of all (``kind load image-archive FILE``, ``ctr images import FILE``). Each image is kept under a key of all
that goes into it, so that nothing is built twice and nothing stale is taken.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache as remember
from pathlib import Path
from typing import BinaryIO

from scripts.kubernetes import base, binaries, buildah, cache, packages
from scripts.kubernetes.oci import Layout

_TESTS = cache.ROOT / "tests/kubernetes/images"
_RELEASES = cache.ROOT / "tests/releases"
_KEPT_S = 14 * 24 * 3600
_KEPT_OF_EACH = 6  # States of the code; several clones share the cache.
_UNFINISHED = ".building-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image as pods name it; ``digest`` is its manifest's."""

    name: str
    digest: str

    @property
    def reference(self) -> str:
        """``name@digest``, for a pod that must get exactly this one."""
        return f"{self.name.rpartition(':')[0]}@{self.digest}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recipe:
    """How an image comes about: from ``inputs`` on top of image ``under``, by a Dockerfile or from a program alone.

    ``kept_stage`` is the Dockerfile's stage that changes seldom and takes minutes: tagged, so that pruning leaves it.
    """

    dockerfile: Path | None = None
    context: Path = cache.ROOT
    inputs: tuple[Path, ...] = ()
    under: str | None = None
    program: str | None = None
    kept_stage: str | None = None


def _ours(component: str, lock: str) -> _Recipe:
    dockerfile = cache.ROOT / f"Dockerfile.{component}"
    inputs = (cache.ROOT / ".dockerignore", cache.ROOT / lock, cache.ROOT / "shared", cache.ROOT / component)
    return _Recipe(dockerfile=dockerfile, inputs=inputs, under="python", kept_stage="packages")


def _of_tests(name: str, under: str = "python", inputs: tuple[str, ...] = ()) -> _Recipe:
    files = tuple(_TESTS / each for each in inputs)
    return _Recipe(dockerfile=_TESTS / f"{name}.Dockerfile", context=_TESTS, inputs=files, under=under)


def _previous(component: str) -> _Recipe:
    return _Recipe(
        dockerfile=_TESTS / f"{component}-previous.Dockerfile",
        context=_RELEASES,
        inputs=tuple(sorted(_RELEASES.glob("*.tar.xz"))),
        under=component,
    )


_RECIPES: Mapping[str, _Recipe] = {
    "pause": _Recipe(program="pause"),
    "coredns": _Recipe(program="coredns"),
    "python": _Recipe(),  # Debian with Python: the base of those below, and of use by itself.
    "ca": _ours("ca", "requirements.lock"),
    "sidecar": _ours("sidecar", "requirements-sidecar.lock"),
    "tools": _of_tests("tools"),
    "nginx": _of_tests("nginx"),
    "nginx-next": _of_tests("nginx-next", under="nginx"),
    "postgres": _of_tests("postgres"),
    "ca-previous": _previous("ca"),
    "sidecar-previous": _previous("sidecar"),
    "grpc": _of_tests("grpc", inputs=("grpc.lock",)),
}
_NAMES = {"ca": "localhost/touchmark-ca:1", "sidecar": "localhost/touchmark-sidecar:1"}


def current(wanted: Collection[str] = tuple(_RECIPES)) -> dict[str, Image]:
    """These images of this clone as it is now, by short name; raises `cache.SetupError` when one isn't built."""
    found = {}
    for short in wanted:
        digest = _recorded(short)
        if digest is None:
            raise cache.SetupError(f"the image {short} isn't built: `make test-node` does that")
        found[short] = Image(name=name(short), digest=digest)
    return found


def build(wanted: Collection[str] = tuple(_RECIPES)) -> dict[str, Image]:
    """Build the outdated ones of these, in order of their dependencies."""
    with cache.lock("images"):
        for left in _directory().glob(f"{_UNFINISHED}*"):  # Left by a killed run: a running build holds the lock.
            shutil.rmtree(left)
        for short in wanted:
            if _recorded(short) is None:
                started = time.monotonic()
                _build(short)
                cache.say(f"built the image {short} in {time.monotonic() - started:.0f} s")
        _forget_old()
    return current(wanted)


def blobs(images: Iterable[Image]) -> dict[str, int]:
    """The digests of all parts of these images, with their sizes."""
    return _layout().sizes(image.digest for image in images)


def export(images: Iterable[Image], file: BinaryIO, *, without: Collection[str] = ()) -> None:
    """Write one archive of these, each under its name and under ``name@digest``; not the blobs in ``without``."""
    names = {}
    for image in images:
        names[image.name] = names[image.reference] = image.digest
    _layout().export(names, file, without=without)


# ---- Records: which digest a key has ---------------------------------------------------------------------------------
@remember
def _key(short: str) -> str:
    recipe = _RECIPES[short]
    under = _key(recipe.under) if recipe.under is not None else ""
    if short == "python":
        return base.key()
    if recipe.program is not None:
        return cache.digest(binaries.sources(recipe.program), short)
    assert recipe.dockerfile is not None
    return cache.digest([recipe.dockerfile, *recipe.inputs], under)


def _record(short: str) -> Path:
    return _directory() / "records" / f"{short}-{_key(short)[:32]}"


def _recorded(short: str) -> str | None:
    record = _record(short)
    if not record.is_file():
        return None
    digest = record.read_text(encoding="ascii").strip()
    return digest if _layout().has(digest) else None


def _forget_old() -> None:
    """Drop what no clone has asked for in a while, with the blobs and layers that only that used."""
    oldest = time.time() - _KEPT_S
    old: list[Path] = []
    for short in _RECIPES:
        _record(short).touch()
        records = [each for each in (_directory() / "records").glob("*") if each.name.rpartition("-")[0] == short]
        records.sort(key=lambda record: record.stat().st_mtime, reverse=True)
        old += [each for place, each in enumerate(records) if place >= _KEPT_OF_EACH or each.stat().st_mtime < oldest]
    if not old:
        return
    for record in old:
        buildah.remove(_tag(record.name))
        record.unlink()
    buildah.prune()
    kept = [record.read_text(encoding="ascii").strip() for record in (_directory() / "records").iterdir()]
    _layout().forget(digest for digest in kept if digest)  # One whose writing was cut off names nothing.


# ---- Building --------------------------------------------------------------------------------------------------------
def _build(short: str) -> None:
    recipe, record = _RECIPES[short], _record(short)
    layout = _layout()
    layout.prepare()
    record.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_directory(), prefix=_UNFINISHED) as directory:
        if short == "python":
            digest = _pack(Path(directory) / "root", base.make)
        elif recipe.program is not None:
            program = binaries.locate(recipe.program)
            digest = _pack(Path(directory) / "root", lambda root: _copy(program, root), entrypoint=f"/{recipe.program}")
        else:
            digest = _build_dockerfile(short, recipe)
    unfinished = record.with_name(f".{record.name}")
    unfinished.write_text(f"{digest}\n", encoding="ascii")
    unfinished.replace(record)


def _pack(root: Path, fill: Callable[[Path], None], *, entrypoint: str | None = None) -> str:
    fill(root)
    return _layout().pack(root, entrypoint=[entrypoint] if entrypoint else [])


def _copy(program: Path, root: Path) -> None:
    root.mkdir()
    shutil.copy(program, root / program.name)


def _build_dockerfile(short: str, recipe: _Recipe) -> str:
    assert recipe.dockerfile is not None and recipe.under is not None
    under, tag = _tag(_record(recipe.under).name), _tag(_record(short).name)
    if not buildah.has(under):
        digest = _recorded(recipe.under)
        assert digest is not None, "recipes come after their bases"
        _layout().name(digest, _record(recipe.under).name)
        buildah.take(_layout().directory, _record(recipe.under).name, tag=under)
    arguments = {"BASE": under}
    if recipe.kept_stage is not None:
        kept = f"localhost/touchmark-build-{short}-{recipe.kept_stage}:latest"
        buildah.build(recipe.dockerfile, context=recipe.context, tag=kept, arguments=arguments, stage=recipe.kept_stage)
    buildah.build(recipe.dockerfile, context=recipe.context, tag=tag, arguments=arguments)
    with tempfile.TemporaryDirectory(dir=_directory(), prefix=_UNFINISHED) as directory:
        buildah.write(tag, Path(directory))
        return _layout().adopt(Path(directory))


def _tag(record: str) -> str:
    short, _, key = record.rpartition("-")
    return f"localhost/touchmark-build-{short}:{key}"


def name(short: str) -> str:
    """An image's name, the same whatever it is made of."""
    return _NAMES.get(short, f"localhost/{short}:1")


def _layout() -> Layout:
    return Layout(_directory() / "layout")


def _directory() -> Path:
    place = cache.directory() / "images"
    place.mkdir(parents=True, exist_ok=True)
    return place


def main(arguments: list[str]) -> int:
    """Build, print, and write the archive when one is asked for."""
    try:
        packages.ensure(packages.NODE)
        binaries.build([recipe.program for recipe in _RECIPES.values() if recipe.program is not None])
        images = build()
    except cache.SetupError as error:
        cache.say(f"✗ {error}")
        return 1
    if arguments:
        with Path(arguments[0]).open("wb") as file:
            export(images.values(), file)
    print(json.dumps({short: {"name": each.name, "digest": each.digest} for short, each in images.items()}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
