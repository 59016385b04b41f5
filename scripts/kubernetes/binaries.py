"""Kubernetes' own programs: built once from their Go modules, found again by stamps. Does I/O.

`components/`, `oldest/`, `newest/` and `coredns/` are small Go modules with one main package a program; their
``go.sum`` pins everything by hash. `oldest/` and `newest/` are the API servers of the oldest release that Touchmark
supports and of the newest one: `make test-kubernetes K8S=oldest`. k8s.io/kubernetes names its staging modules by paths
that hold only in its own tree, so that ``go.mod`` replaces each by the published module of the same release. `helm/`
names Helm as its tool, since nobody can import its main package; it pins Kubernetes' libraries of that release.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from scripts.kubernetes import cache, packages

HERE = Path(__file__).parent
API = ("kube-apiserver", "kubectl")
# The API servers of other releases, by their Go modules.
OTHERS = {"oldest": "oldest-kube-apiserver", "newest": "newest-kube-apiserver"}
HELM = "helm"
NODE = (*API, "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "coredns", "pause")


def list_api() -> tuple[str, ...]:
    """The programs of the API level, by ``K8S`` in the environment: ``oldest``, ``newest``, a minor version or empty.

    Raises:
        cache.SetupError: there is no such version here.
    """
    wanted = os.environ.get("K8S", "")
    if wanted in ("", _minor("components")):
        return API
    for module, program in OTHERS.items():
        if wanted in (module, _minor(module)):
            return (program, "kubectl")
    there = (_minor("components"), *(f"{_minor(module)} ({module})" for module in OTHERS))
    raise cache.SetupError(f"K8S={wanted}: there are {', '.join(there)}")


def _minor(module: str) -> str:
    return version(module).rpartition(".")[0]


def version(module: str = "components") -> str:
    """The release that a module's ``go.mod`` pins, such as ``1.34.4``."""
    text = (HERE / module / "go.mod").read_text(encoding="utf-8")
    found = re.search(r"^\tk8s\.io/kubernetes v(\S+)$", text, re.MULTILINE)
    assert found is not None
    return found[1]


def locate(program: str) -> Path:
    """Where a program is: in ``KUBEBUILDER_ASSETS``, else in the cache; etcd also on the PATH.

    Raises `cache.SetupError` when it is missing; nothing is built here.
    """
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if program == "kube-apiserver" and not assets:
        [program] = [each for each in list_api() if each.endswith("kube-apiserver")]
    if assets and program in {"etcd", *API}:
        path: Path | None = Path(assets).absolute() / program
    elif program == "etcd":
        path = packages.which("etcd")
    else:
        path = cache.directory() / "bin" / program
    if path is None or not os.access(path, os.X_OK):
        raise cache.SetupError(f"{program} not found ({path}): `make test-kubernetes` and `make test-node` prepare it")
    return path


def build(programs: Sequence[str]) -> None:
    """Build those whose stamp doesn't match the sources, so that an old or half-finished one is never taken."""
    with cache.lock("bin"):
        stale = [program for program in programs if not _is_current(program)]
        if not stale:
            return
        go = _find_go(max(_needed_go(module) for module in map(_module, stale)))
        cache.say(f"building {', '.join(stale)} (minutes from empty caches)")
        (cache.directory() / "bin").mkdir(exist_ok=True)
        for module in dict.fromkeys(map(_module, stale)):
            _build(go, module, [program for program in stale if _module(program) == module])


def _module(program: str) -> Path:
    others = {other: module for module, other in OTHERS.items()}
    return HERE / ({"coredns": "coredns", HELM: "helm"} | others).get(program, "components")


def sources(program: str) -> list[Path]:
    """What a program is made of."""
    module = _module(program)
    pins = [module / "go.mod", module / "go.sum"]
    if program == HELM:
        return pins
    return [*pins, module / "main.go" if program == "coredns" else module / "cmd" / program]


def _stamp(program: str) -> Path:
    return cache.directory() / "bin" / f".{program}.stamp"


def _is_current(program: str) -> bool:
    binary, stamp = cache.directory() / "bin" / program, _stamp(program)
    if not binary.is_file() or not stamp.is_file():
        return False
    return stamp.read_text(encoding="ascii").split() == [key(program), str(binary.stat().st_size)]


def key(program: str) -> str:
    """What the stamp of a current program says."""
    return cache.digest(sources(program), *_linker_flags(program))


def _linker_flags(program: str) -> list[str]:
    if program == HELM:
        return ["-s", "-w"]
    module = _module(program).name
    release = version(module if module in OTHERS else "components")
    major, minor, _ = release.split(".")
    place = "k8s.io/component-base/version"
    values = {
        "gitVersion": f"v{release}",
        "gitMajor": major,
        "gitMinor": minor,
        "gitTreeState": "clean",
        "gitCommit": "module",
        "buildDate": "1970-01-01T00:00:00Z",
    }
    return ["-s", "-w", *(f"-X={place}.{name}={value}" for name, value in values.items())]


def _build(go: Path, module: Path, programs: Sequence[str]) -> None:
    directory = cache.directory() / "bin"
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=directory) as unfinished:
        command = ["nice", str(go), "build", "-mod=readonly", "-buildvcs=false", "-o", f"{unfinished}/"]
        command += [
            "-ldflags",
            " ".join(_linker_flags(programs[0])),
            *(_package(program) for program in programs),
        ]
        # Static, so that no C compiler is needed; by this machine's Go, never by one that Go would download.
        env = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "", "GOWORK": "off"}
        if subprocess.run(command, cwd=module, env=env, check=False, stdin=subprocess.DEVNULL).returncode != 0:
            raise cache.SetupError(f"go couldn't build {', '.join(programs)}; its message is above")
        for program in programs:
            (Path(unfinished) / program).replace(directory / program)
            size = (directory / program).stat().st_size
            _stamp(program).write_text(f"{key(program)} {size}\n", encoding="ascii")


def _package(program: str) -> str:
    return {"coredns": ".", HELM: "helm.sh/helm/v3/cmd/helm"}.get(program, f"./cmd/{program}")


def _needed_go(module: Path) -> tuple[int, int]:
    """The Go that a module's ``go.mod`` asks for."""
    found = re.search(r"^go (\d+)\.(\d+)", (module / "go.mod").read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    return int(found[1]), int(found[2])


def _find_go(at_least: tuple[int, int]) -> Path:
    needed = f"Go {at_least[0]}.{at_least[1]} or newer"
    for candidate in (packages.which("go"), Path("/usr/local/go/bin/go"), Path("/usr/lib/go/bin/go")):
        if candidate is not None and os.access(candidate, os.X_OK):
            break
    else:
        raise cache.SetupError(
            f"no Go here: {needed} builds Kubernetes' programs (or point KUBEBUILDER_ASSETS to envtest's)"
        )
    env = {**os.environ, "GOTOOLCHAIN": "local"}
    text = subprocess.run(
        [candidate, "env", "GOVERSION"], check=True, text=True, stdout=subprocess.PIPE, env=env
    ).stdout
    found = re.match(r"go(\d+)\.(\d+)", text)
    if found is None or (int(found[1]), int(found[2])) < at_least:
        raise cache.SetupError(f"{candidate} is {text.strip()}; Kubernetes' programs need {needed}")
    return candidate
