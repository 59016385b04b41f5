"""Programs built once: found where the environment says, and noticed when they aren't what the sources make."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts.kubernetes import binaries, cache


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TOUCHMARK_CACHE", str(tmp_path))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.delenv("K8S", raising=False)


def put(path: Path, content: str = "program") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(0o755)
    return path


def test_the_release_is_the_one_that_go_mod_pins() -> None:
    assert re.fullmatch(r"1\.\d+\.\d+", binaries.version())


@pytest.mark.parametrize(("wanted", "program"), [
    ("oldest", "oldest-kube-apiserver"),
    ("1.30", "oldest-kube-apiserver"),
    ("newest", "newest-kube-apiserver"),
    (binaries.version("newest").rpartition(".")[0], "newest-kube-apiserver"),
    (binaries.version().rpartition(".")[0], "kube-apiserver"),
    ("", "kube-apiserver"),
])  # fmt: skip
def test_another_releases_api_server_takes_its_place_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wanted: str, program: str
) -> None:
    path = put(tmp_path / "kubernetes/bin" / program)
    monkeypatch.setenv("K8S", wanted)
    assert binaries.list_api() == (program, "kubectl")
    assert binaries.locate("kube-apiserver") == path


def test_a_release_that_is_not_there_is_refused_with_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K8S", "1.2")
    with pytest.raises(cache.SetupError, match=r"there are 1\.\d+, 1\.30 \(oldest\), 1\.\d+ \(newest\)"):
        binaries.list_api()


def test_each_release_has_a_program_of_its_own() -> None:
    """Its sources and what the linker writes into it: nothing of one release is taken for another's."""
    programs = ("kube-apiserver", *binaries.OTHERS.values())
    assert len({binaries.key(program) for program in programs}) == len(programs)
    oldest, ours, newest = [int(binaries.version(each).split(".")[1]) for each in ("oldest", "components", "newest")]
    assert oldest < ours < newest


def test_a_program_that_is_not_there_is_said_so() -> None:
    with pytest.raises(cache.SetupError, match="kube-apiserver not found"):
        binaries.locate("kube-apiserver")


def test_assets_of_envtest_come_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    put(tmp_path / "kubernetes" / "bin" / "kubectl")
    theirs = put(tmp_path / "assets" / "kubectl")
    kubelet = put(tmp_path / "kubernetes" / "bin" / "kubelet")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "assets"))
    assert binaries.locate("kubectl") == theirs
    assert binaries.locate("kubelet") == kubelet
    with pytest.raises(cache.SetupError, match="etcd not found"):
        binaries.locate("etcd")


@pytest.mark.parametrize("change", ["no stamp", "old stamp", "half a program", "no program"])
def test_only_a_stamped_and_whole_program_is_current(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, change: str
) -> None:
    """An old or half-finished cache is built again; a current one needs no Go at all."""
    program = put(tmp_path / "kubernetes" / "bin" / "kubectl")
    stamp = put(program.with_name(".kubectl.stamp"), f"{binaries.key('kubectl')} {program.stat().st_size}")
    monkeypatch.setattr(binaries, "_find_go", _refuse)
    binaries.build(["kubectl"])
    match change:
        case "no stamp":
            stamp.unlink()
        case "old stamp":
            stamp.write_text(f"{'0' * 64} {program.stat().st_size}")
        case "half a program":
            program.write_text("prog")
        case _:
            program.unlink()
    with pytest.raises(AssertionError, match="built"):
        binaries.build(["kubectl"])


def _refuse(at_least: tuple[int, int]) -> Path:
    raise AssertionError("built")
