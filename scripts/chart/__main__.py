"""Writes what is made from manifests/: the chart, and what ``touchmark install`` renders. Needs kubectl.

``python -m scripts.chart`` writes, ``--check`` says which files differ.

``--render HELM`` has that program lint and render the chart, and compares each object with what Kustomize builds.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from scripts.chart.bundle import make_bundle
from scripts.chart.notes import make_notes
from scripts.chart.rendering import SEVERAL, SINGLE, compare, render
from scripts.chart.templates import HEAD, make_templates
from scripts.kubernetes import binaries, cache
from shared.model.version import VERSION

MANIFESTS = Path(__file__).parents[2] / "manifests"
CHART = MANIFESTS / "chart"
BUNDLE = MANIFESTS.parent / "cli" / "cluster" / "installation" / "objects"
# Written by hand, as the values are.
OWN = frozenset({"_names.tpl", "monitoring.yaml"})


def build(overlay: str) -> list[dict[str, Any]]:
    """Return what Kustomize makes of a directory below ``manifests/``."""
    command = [str(binaries.locate("kubectl")), "kustomize", str(MANIFESTS / overlay)]
    text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [each for each in yaml.safe_load_all(text) if each]


def make_files() -> dict[Path, str]:
    """Return every generated file by its path."""
    single, several = build("overlays/single"), build("overlays/ha")
    templates = make_templates(single, several, build("openshift"))
    files = {CHART / "templates" / name: text for name, text in templates.items()}
    files |= {BUNDLE / name: text for name, text in make_bundle(single, several).items()}
    files[CHART / "templates" / "NOTES.txt"] = make_notes()
    files[CHART / "Chart.yaml"] = HEAD + (
        "apiVersion: v2\nname: touchmark\ntype: application\n"
        "description: Mutual TLS in which certificates are bound to the program that opened the socket\n"
        f'version: {VERSION}\nappVersion: "{VERSION}"\nkubeVersion: ">=1.30.0-0"\n'
    )
    for name in ("rules.yaml", "dashboard.json"):
        files[CHART / "monitoring" / name] = (MANIFESTS / "monitoring" / name).read_text(encoding="utf-8")
    return files


def find_differences() -> list[str]:
    """Name the files that aren't as they should be, and those that shouldn't be there."""
    files = make_files()
    wrong = [path for path, text in files.items() if _read(path) != text]
    there = {path for path in (CHART / "templates").glob("*") if path.name not in OWN}
    return sorted(str(path.relative_to(MANIFESTS.parent)) for path in {*wrong, *(there - files.keys())})


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def write() -> None:
    """Write every generated file, and remove those of former objects."""
    files = make_files()
    for path in (CHART / "templates").glob("*"):
        if path.name not in OWN and path not in files:
            path.unlink()
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def find_rendered_differences(helm: Path) -> list[str]:
    """Name each object that Helm renders otherwise than Kustomize builds it, in our namespace and in another one."""
    found = []
    for namespace in ("touchmark-system", "mesh"):
        for overlay, options in (("overlays/single", SINGLE), ("overlays/ha", SEVERAL)):
            rendered = render(helm, CHART, namespace=namespace, options=options)
            differing = compare(rendered, build(overlay), namespace=namespace)
            found += [f"{overlay} in {namespace}: {each}" for each in differing]
            print(f"{overlay} in {namespace}: {len(rendered)} objects, {len(differing)} differ")
    return found


def main(arguments: list[str]) -> int:
    """Write, check or render; 1 when something differs."""
    try:
        if arguments == ["--check"]:
            differing = find_differences()
            print("\n".join(f"{each} isn't as the manifests say: python -m scripts.chart" for each in differing))
            return 1 if differing else 0
        if len(arguments) == 2 and arguments[0] == "--render":
            helm = Path(arguments[1])
            subprocess.run([helm, "lint", "--strict", CHART], check=True)
            differing = find_rendered_differences(helm)
            print("\n".join(differing))
            return 1 if differing else 0
        write()
    except cache.SetupError as error:
        print(f"✗ {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
