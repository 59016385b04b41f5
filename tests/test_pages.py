"""README and docs/ name only what exists: their YAML is read, their commands and options are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from textwrap import indent

import pytest
import yaml

from cli.main import run
from shared.model.errors import ProtocolError
from shared.model.policy.documents import parse_documents
from shared.model.policy.reasons import Reason
from shared.model.version import VERSION
from sidecar.settings.settings import read_configuration
from sidecar.tls.contexts import ALPN
from sidecar.tls.kept_secrets import MAX_OF_PEER, MAX_OFFERS, MAX_SECRETS
from sidecar.tls.resumption import PER_RESUMED, PER_WHOLE
from sidecar.tunnel.frames import (
    MAX_EARLY_BYTES,
    MAX_PAYLOAD_BYTES,
    FrameType,
    Opening,
    check_header,
    encode_frame,
    encode_opening,
)
from sidecar.tunnel.pool import PoolLimits
from sidecar.tunnel.turns import INITIATOR_TRANSITIONS, RESPONDER_TRANSITIONS, SideState

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
KUBERNETES = (ROOT / "docs/how-to/kubernetes.md").read_text(encoding="utf-8")
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")))
}
YAML = [(page, block) for page, text in PAGES.items() for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
COMMANDS = sorted(set(re.findall(r"(?m)^\$ touchmark (.*?)(?: +#.*)?$", "\n".join(PAGES.values()))))
VERBS_WITH_VERBS = {"audit", "ca", "sidecar", "program", "policy", "trust"}


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
        assert read_configuration(block.replace(file, "token: x"), page).ca in {None, ("127.0.0.1", 15443)}
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
    if words[:2] == ["ca", "join-token"]:
        path = words[:3] if words[2] in ("list", "revoke") else [*path, "create"]
    assert run([*path, "--help"]) == 0
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    for option in (word for word in words if word.startswith("-")):
        assert option in shown, f"{' '.join(path)} has no {option}"


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


def test_troubleshooting_says_something_about_each_reason() -> None:
    page = PAGES["docs/how-to/troubleshooting.md"]
    for reason in Reason:
        assert f"[`{reason.value}`](../reference/reasons.md#{reason.value})" in page, reason.value


class TestTheTunnelsProtocol:
    """docs/explanation/tunnel-protocol.md is a specification: what it says is what the code does."""

    PAGE = PAGES["docs/explanation/tunnel-protocol.md"]

    @pytest.mark.parametrize("frame", FrameType, ids=lambda frame: frame.name)
    def test_its_frames_have_their_types_and_bounds(self, frame: FrameType) -> None:
        def is_accepted(length: int) -> bool:
            try:
                check_header(frame, length)
            except ProtocolError:
                return False
            return True

        most = max(length for length in range(MAX_PAYLOAD_BYTES + 2) if is_accepted(length))
        [row] = re.findall(rf"(?m)^\| {frame.name} \| {frame.value} \|.*\| ([^|]*) \|$", self.PAGE)
        assert row.rpartition(" ")[2] == f"{most:,}"

    def test_its_example_of_open_is_the_codes(self) -> None:
        opening = Opening(connection="0123456789abcdef", destination=("198.18.0.9", 5432), source=("198.18.0.2", 40312))
        assert encode_frame(FrameType.OPEN, 1, encode_opening(opening)).hex(" ") in self.PAGE

    @pytest.mark.parametrize("transitions", [INITIATOR_TRANSITIONS, RESPONDER_TRANSITIONS])
    def test_its_transitions_are_the_codes(self, transitions: dict[tuple[SideState, int], SideState]) -> None:
        rows = re.findall(r"(?m)^\| ([A-Z, ]+?)(?: \([^)]*\))? \| ([A-Z]+) \| ([A-Z]+) \|$", self.PAGE)
        told = {(state, frame, after) for states, frame, after in rows for state in states.split(", ")}
        for (state, frame), after in transitions.items():
            assert (state.name, FrameType(frame).name, after.name) in told
        everything = INITIATOR_TRANSITIONS.items() | RESPONDER_TRANSITIONS.items()
        assert len(told) == len({(state, frame, after) for (state, frame), after in everything})

    def test_its_numbers_are_the_codes(self) -> None:
        limits = PoolLimits()
        assert f"`{ALPN.decode()}`" in self.PAGE
        assert f"up to {MAX_EARLY_BYTES // 1024} KiB of DATA before ACCEPT" in self.PAGE
        assert f"closed after {limits.idle_s:.0f} seconds" in self.PAGE
        assert f"older than {limits.age_s / 60:.0f} minutes" in self.PAGE
        assert f"at most {limits.max_idle} idle tunnels, {limits.max_idle_per_key} per key" in self.PAGE
        assert f"{PER_WHOLE * 48:,} bytes after a whole one, which are {PER_WHOLE} times" in self.PAGE
        assert f"and {PER_RESUMED * 48} bytes,\ntwice" in self.PAGE
        assert f"at most {MAX_SECRETS:,} for either role; the initiator {MAX_OFFERS} for one peer" in self.PAGE
        assert f"the responder {MAX_OF_PEER} of\n  one" in self.PAGE
