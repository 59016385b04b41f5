"""The operator: whoever types commands of ``touchmark`` at the tests' CA, and does what they print."""

from __future__ import annotations

import contextlib
import io
import shlex
import textwrap
from collections.abc import Callable
from typing import Any
from unittest import mock

import yaml

from cli.main import run
from cli.text.exit_codes import ExitCode
from tests.e2e.harness.mesh import NAMESPACE, Mesh, wait_until

_POLICY = "add to spec.rules of MeshPolicy "


class Operator:
    """Types commands; the rest of the tests goes by the admin API alone."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    def type(self, command: str, *codes: ExitCode) -> str:
        """Run a command as it is printed, without its comment; return what it prints.

        Arguments:
            codes: with which it may end; none: with success alone.

        Raises:
            AssertionError: it ends with another one.
        """
        name, *arguments = shlex.split(command, comments=True)
        assert name == "touchmark"
        out, err = io.StringIO(), io.StringIO()
        environment = {"TOUCHMARK_ADMIN_SOCKET": str(self._mesh.directory / "admin.sock"), "TOUCHMARK_KUBERNETES": ""}
        with (
            mock.patch.dict("os.environ", environment),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = run(arguments)
        assert code in (codes or (ExitCode.SUCCESS,)), f"{command}: {code}\n{out.getvalue()}\n{err.getvalue()}"
        return out.getvalue()

    def find_fix(self, *signs: str) -> str:
        """Wait until `touchmark ready` names the change that is missing for something; return what it prints for it.

        Arguments:
            signs: what stands together in that change's paragraph alone.
        """
        found = ""

        def is_named() -> bool:
            nonlocal found
            printed = self.type(f"touchmark ready {NAMESPACE}", *ExitCode)
            found = next((part for part in printed.split("\n\n") if all(each in part for each in signs)), "")
            return bool(found)

        wait_until(is_named, f"a change with {' and '.join(signs)!r} in `touchmark ready`")
        return found

    def approve(self, sign: str) -> None:
        """Run the approval that is printed for something."""
        lines = [line.strip() for line in self.find_fix(sign).splitlines()]
        self.type(next(line for line in lines if line.startswith("touchmark program approve ")))
        self._mesh.wait_installed(NAMESPACE)

    def add_rules(self, *signs: str) -> None:
        """Add the rules that are printed for things to the policy in force, as the lines above them say."""
        printed = [self.find_fix(sign, _POLICY).partition(f"{_POLICY}{NAMESPACE}/default:\n")[2] for sign in signs]
        rules = [rule for text in printed for rule in yaml.safe_load(textwrap.dedent(text))]
        self.edit(lambda spec: spec.setdefault("rules", []).extend(rules))

    def edit(self, change: Callable[[dict[str, Any]], object]) -> None:
        """Change the policy in force as YAML, and apply that."""
        found = yaml.safe_load_all(self.type(f"touchmark policy get {NAMESPACE}"))
        policy = next(each for each in found if each["kind"] == "MeshPolicy")
        change(policy["spec"])
        file = self._mesh.directory / "policy.yaml"
        file.write_text(yaml.safe_dump(policy))
        self.type(f"touchmark policy apply -f {file}")
        self._mesh.wait_installed(NAMESPACE)
