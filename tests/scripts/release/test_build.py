"""A release's quick parts: what the wheel holds, and the sums. (Images: `make test-node` builds and runs the same.)"""

from __future__ import annotations

import re
import subprocess
import zipfile
from pathlib import Path

import pytest

from scripts.release.build import LOCKS, ROOT, build_packages, main, write_sboms, write_sums
from shared.model.version import VERSION
from sidecar.native.engine import load


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with wheels and source distribution."""
    target = tmp_path_factory.mktemp("dist")
    build_packages(target)
    assert (target / f"touchmark-{VERSION}.tar.gz").is_file()
    return target


@pytest.fixture(scope="module")
def wheel(built: Path) -> list[str]:
    """The names in the wheel."""
    return zipfile.ZipFile(built / f"touchmark-{VERSION}-py3-none-any.whl").namelist()


def test_a_second_wheel_holds_the_compiled_loop_beside_the_same_files(built: Path, wheel: list[str]) -> None:
    if load() is None:
        pytest.skip("the native engine isn't built: it takes a C compiler and Python's headers")
    (native,) = built.glob(f"touchmark-{VERSION}-cp311-abi3-linux_*.whl")
    names = zipfile.ZipFile(native).namelist()
    assert set(names) - set(wheel) == {"sidecar/native/_loop.abi3.so"}
    assert set(wheel) <= set(names)


def test_the_wheel_holds_the_four_packages_typed_and_nothing_else(wheel: list[str]) -> None:
    packages = {"ca", "cli", "shared", "sidecar"}
    assert {name.partition("/")[0] for name in wheel} == {*packages, f"touchmark-{VERSION}.dist-info"}
    assert {f"{package}/py.typed" for package in packages} <= set(wheel)
    assert not [
        name for name in wheel if Path(name).name.startswith(("test_", "conftest")) or "tests" in Path(name).parts
    ]


def test_the_wheel_holds_every_module(wheel: list[str]) -> None:
    there = {
        str(path.relative_to(ROOT))
        for package in ("ca", "cli", "shared", "sidecar")
        for path in (ROOT / package).rglob("*.py")
    }
    assert there <= set(wheel)


@pytest.mark.parametrize("image", LOCKS)
def test_the_locks_are_those_that_the_dockerfiles_install(image: str) -> None:
    dockerfile = (ROOT / f"Dockerfile.{image}").read_text(encoding="utf-8")
    assert set(re.findall(r"requirements[a-z-]*\.lock", dockerfile)) == {LOCKS[image]}


def test_the_sums_are_checked_by_sha256sum(tmp_path: Path) -> None:
    write_sboms(tmp_path, made_at=0)
    write_sums(tmp_path)
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.count(": OK") == len(LOCKS)


def test_an_unknown_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--images"]) == 2
    assert "usage" in capsys.readouterr().err
