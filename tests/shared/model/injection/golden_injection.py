"""Golden files of injection: what goes in, and what comes out or why not.

``python -m tests.shared.model.injection.golden_injection`` shows how the files differ from what the code makes now;
with ``--write`` it writes them again.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from shared.model.injection.containers import InjectionOptions
from shared.model.injection.refusals import InjectionRefusedError
from shared.model.injection.workloads import find_templates, inject_template

FILES: Final = Path(__file__).parent / "golden"
PATH_SECRET = "0123456789abcdef" * 2
# Version and secret are fixed here, so that no golden file changes by itself.
OPTIONS: Final = InjectionOptions(
    sidecar_image="registry.example/touchmark-sidecar@sha256:" + "0" * 64,
    trust_domain="example.org",
    version="1.2.3",
    draw_path_secret=lambda: PATH_SECRET,
)


def list_cases() -> list[str]:
    """Name every golden case."""
    return sorted(path.name.removesuffix(".in.yaml") for path in FILES.glob("*.in.yaml"))


def make_output(case: str) -> str:
    """Make what the case's output file should hold."""
    document: Any = yaml.safe_load((FILES / f"{case}.in.yaml").read_text(encoding="utf-8"))
    try:
        for template in find_templates(document):
            outcome = inject_template(
                document, template, namespace="shop", is_asked_for_all=False, options=OPTIONS
            )  # fmt: skip
            if outcome is None:
                return "# not asked: it stays as it is\n"
            document = outcome[0]
    except InjectionRefusedError as error:
        return f"# refused\ncode: {error.refusal}\nmessage: {error.message!r}\nhint: {error.hint!r}\n"
    return yaml.safe_dump(document, sort_keys=False, width=110)


def compare() -> Iterator[tuple[str, str]]:
    """Give each case whose file differs, with the difference."""
    for case in list_cases():
        path = FILES / f"{case}.out.yaml"
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        after = make_output(case)
        if before != after:
            lines = difflib.unified_diff(before.splitlines(), after.splitlines(), "file", "now", lineterm="")
            yield case, "\n".join(lines)


def main() -> int:
    found = 0
    for case, difference in compare():
        found += 1
        print(f"== {case}\n{difference}\n")
        if "--write" in sys.argv[1:]:
            (FILES / f"{case}.out.yaml").write_text(make_output(case), encoding="utf-8")
    print(f"{found} of {len(list_cases())} differ" + (", written" if "--write" in sys.argv[1:] else ""))
    return 1 if found and "--write" not in sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
