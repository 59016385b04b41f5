"""README and docs/ name only what exists: their YAML is read, their commands and options are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from textwrap import indent

import pytest
import yaml

from cli.main import run
from shared.model.policy.documents import parse_documents
from shared.model.version import VERSION
from sidecar.settings.settings import read_configuration
from tests.kubernetes.node.test_demo import RULES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
KUBERNETES = (ROOT / "docs/how-to/kubernetes.md").read_text(encoding="utf-8")
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")))
}
YAML = [(page, block) for page, text in PAGES.items() for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
COMMANDS = sorted(set(re.findall(r"(?m)^\$ touchmark (.*?)(?: +#.*)?$", "\n".join(PAGES.values()))))
VERBS_WITH_VERBS = {"ca", "sidecar", "program", "policy", "trust"}


@pytest.mark.parametrize(("page", "block"), YAML, ids=lambda text: text.splitlines()[0])
def test_the_pages_yaml_is_read(page: str, block: str) -> None:
    if "apiVersion: touchmark.dev" in block:
        assert parse_documents(block, page)
    elif block.startswith("rules:"):
        policy = (
            "apiVersion: touchmark.dev/v1alpha1\nkind: MeshPolicy\nmetadata: {name: default, namespace: shop}\nspec:\n"
        )
        assert parse_documents(policy + indent(block, "  "), page)
    elif "capture:" in block:
        file = "tokenFile: /run/touchmark/token"  # Needn't be on this machine.
        assert read_configuration(block.replace(file, "token: x"), page).ca == ("127.0.0.1", 15443)
    else:
        assert yaml.safe_load(block), "an overlay of kustomize"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_pages_commands_and_options_exist(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    words = shlex.split(command.partition(" | ")[0].partition(" > ")[0])
    path = words[: 2 if words[0] in VERBS_WITH_VERBS else 1]
    if words[:2] == ["ca", "rotate"]:
        path = words[:3]
    assert run([*path, "--help"]) == 0
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    for option in (word for word in words if word.startswith("-")):
        assert option in shown, f"{' '.join(path)} has no {option}"


def test_the_rules_that_kubernetes_md_shows_are_those_of_the_node_tests() -> None:
    [shown] = [text for text in re.findall(r"```yaml\n(.*?)```", KUBERNETES, re.DOTALL) if "MeshPolicy" in text]
    assert parse_documents(shown, "docs/how-to/kubernetes.md") == parse_documents(RULES, "test_demo.py")


def test_the_makefile_has_the_targets_that_the_pages_name() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    pages = "".join(PAGES.values()) + "".join(
        (ROOT / page).read_text(encoding="utf-8") for page in ("CONTRIBUTING.md", "CHANGELOG.md")
    )
    for target in set(re.findall(r"(?:`|^\$ )make ([a-z-]+)", pages, re.MULTILINE)):
        assert re.search(rf"(?m)^{target}:", makefile), target


def test_manifests_and_pages_name_the_images_of_this_release() -> None:
    for text in (KUBERNETES, (ROOT / "manifests/base/kustomization.yaml").read_text(encoding="utf-8")):
        assert set(re.findall(r"touchmark/(?:ca|sidecar):([0-9.]*[0-9])", text)) == {VERSION}
    assert f"newTag: {VERSION}" in text
