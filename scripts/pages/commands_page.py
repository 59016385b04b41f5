"""Writes ``docs/reference/cli.md`` from the commands themselves; `make docs` runs it.

Belongs here: the page's order, and the shapes of JSON, which no help page shows. Doesn't: what a command does (its
module). Writes the one file that it is told.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from cli.main import app
from cli.text.exit_codes import EXIT_CODES

# What ``--json`` prints on success: by command. Struct names are those of shared/model/wire/admin.py.
JSON_SHAPES: dict[str, str] = {
    "ca join-token": "`JoinTokenCreated`; with `--output`: `{token_id, file}`",
    "ca status": "`CAStatus`, and `sidecars`: a list of `SidecarView`",
    "ca rotate issuer": "`RotationStatus`, authorities by their common names",
    "ca rotate root": "`RotationStatus`, authorities by their common names",
    "ca taint": "`CAStatus`",
    "status": "`{is_well, trust_domain, versions: {command, ca, sidecars: {version: count}}, sidecars_connected,"
    " sidecars_live, bundle_sequence, rotation, namespaces: [{namespace, mode, version, live, connected, installed,"
    " injected, not_injected, versions}], problems: [{subject, is_well, observation, hint, is_optional}]}`",
    "mode": "`{namespace, mode, version, installed, total, waiting, wanted, is_observed, fault}`: `mode` is in force in"
    " the CA (null: it hasn't said), `wanted` is written (null: nothing is); a switch adds `readiness` (`Readiness` or"
    " null);"
    " `--check`: `Readiness`",
    "program approve": "`ProgramView`; nothing when nothing was chosen",
    "program list": "a list of `ProgramView`",
    "program remove": "`{removed: [text]}`",
    "policy apply": "a list of `{kind, namespace, name, version, is_confirmed}`; in Kubernetes `version` is null until"
    " the CA has put a MeshPolicy in force, and for a Program",
    "policy get": "a list of objects as in YAML: `{apiVersion, kind, metadata, spec}`",
    "policy delete": "`{deleted: [text]}`",
    "trust add": "`ForeignDomainList`",
    "trust list": "`ForeignDomainList`",
    "trust remove": "`ForeignDomainList`",
    "decisions": "a list of `DecisionView` (`{id, record}`), newest first; `--follow`: one `DecisionView` a line,"
    " oldest first; `--summary`: a list of `{connections, direction, answer, would_deny, weak, transport, verdict,"
    " reason, source, source_program, destination, destination_program, port, rule, last_seen, issuers}`",
    "identities": "a list of `IdentityView`, newest first",
    "connections": "`ConnectionList`",
    "inject": "a `List` of all documents; `--check`: `{injected: [where], not_asked: [where], refused: [{where, code,"
    " message, hint}]}`",
    "demo": "one object of what was observed: `capture`, `approved_permissive`, `intruder_permissive_would_deny`,"
    " `approved_explicit`, `intruder_explicit_refused`, `intruder_reason`, `outsider_refused`, `plaintext_on_wire`,"
    " `rotation_requests`, `rotation_failures`, `decisions`; null where this run couldn't show it",
    "doctor": "`{is_well, findings: [{subject, is_well, observation, hint, is_optional}]}`",
    "version": "`{touchmark, python}`",
}

_SHARED = ("help", "as_json", "kubernetes", "context", "kubeconfig", "system_namespace", "admin_socket")
_INTRODUCTION = """\
# The command `touchmark`

<!-- Generated from the commands by `make docs`. Don't edit. -->

The CA's admin API is a Unix socket that only the CA's user can open; `--admin-socket` or `TOUCHMARK_ADMIN_SOCKET` names
it where it isn't in its usual place (root: `/run/touchmark/admin.sock`). Results go to standard output, everything said
beside them to standard error. `touchmark --install-completion` sets up the shell's completion.

In Kubernetes, `-k` (`--kubernetes`, or the variable `TOUCHMARK_KUBERNETES=1`) uses the kubeconfig and the rights of
whoever runs the command. `--context` and `--kubeconfig` choose a cluster as they do for `kubectl`, `--system-namespace`
names the CA's namespace where it isn't `touchmark-system`; each of them means `-k`, too. Policies, programs and modes
are then read and written as Kubernetes objects; everything else is asked of the CA by a port-forward to one of its pods
(verbs `get` and `create` on `pods/portforward`, `list` on `pods` in its namespace). What is typed wins over what the
environment says, and `--admin-socket` means a CA on this machine.

With `--json` a command prints exactly one JSON value on one line of standard output. An error is one object on standard
error, `{"code", "message", "hint"}`, whose code is stable. Times are seconds since the epoch in UTC, durations seconds.
The named structs, field by field, are in `shared/model/wire/admin.py`, a decision's in
`shared/model/policy/decision.py`, its reasons in [reasons.md](reasons.md).
"""


def write_page() -> str:
    """Return the page as Markdown: exit codes, then each command with its options and JSON."""
    codes = "".join(f"| {code.value} | {meaning} |\n" for code, meaning in EXIT_CODES.items())
    parts = [_INTRODUCTION, f"\n## Exit codes\n\n| Code | Meaning |\n| --- | --- |\n{codes}\n## Commands\n"]
    parts += [_describe(name, command) for name, command in list_commands()]
    return "".join(parts)


def list_commands() -> Iterator[tuple[str, Any]]:
    """Yield each command that does something, by its full name."""
    yield from _walk("", typer.main.get_command(app))


def _walk(prefix: str, command: Any) -> Iterator[tuple[str, Any]]:
    for name, inner in command.commands.items():
        full = f"{prefix} {name}".strip()
        if hasattr(inner, "commands"):
            yield from _walk(full, inner)
        else:
            yield full, inner


def _describe(name: str, command: Any) -> str:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option" and each.name not in _SHARED]
    usage = " ".join([f"touchmark {name}", *(_write_argument(each) for each in arguments)])
    lines = [f"\n### `{usage}`\n\n{_flatten(command.help)}\n"]
    if options:
        lines.append("\n")
    lines += [f"- {_write_option(each)}\n" for each in options]
    if name in JSON_SHAPES:
        lines.append(f"\n`--json`: {JSON_SHAPES[name]}.\n")
    return "".join(lines)


def _write_argument(argument: Any) -> str:
    label = argument.metavar or argument.name.upper()
    return label if argument.required else f"[{label}]"


def _write_option(option: Any) -> str:
    return f"`{'`, `'.join(option.opts)}`: {_flatten(option.help)}"


def _flatten(text: str | None) -> str:
    return " ".join((text or "").split())


def main(arguments: list[str]) -> int:
    """Write the page to the named file, or to standard output."""
    if len(arguments) > 1:
        print("usage: python -m scripts.pages.commands_page [FILE]", file=sys.stderr)
        return 2
    if arguments:
        Path(arguments[0]).write_text(write_page(), encoding="utf-8")
    else:
        sys.stdout.write(write_page())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
