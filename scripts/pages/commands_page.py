"""Writes ``docs/reference/cli.md`` from the commands themselves; `make docs` runs it.

Belongs here: the page's order and wording. Doesn't: what a command does or prints (its module). Writes the named file.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import typer

from cli.commands import shapes, top, version
from cli.demo import facts
from cli.export import report
from cli.graph import graph
from cli.main import app
from cli.text import findings, summary
from cli.text.exit_codes import EXIT_CODES
from cli.text.help_text import split_help
from cli.text.json_result import JsonResult, list_results
from shared.model.adoption import explain, lint, program_queue
from shared.model.wire import admin, sidecar_admin

_SHARED = ("help", "as_json", "kubernetes", "context", "kubeconfig", "system_namespace", "admin_socket")
_INTRODUCTION = """\
# The command `touchmark`

<!-- Generated from the commands by `make docs`. Don't edit. -->

The CA's admin API is a Unix socket that only the CA's user can open; if it isn't in its default place (as root:
`/run/touchmark/admin.sock`), name it by `--admin-socket` or `TOUCHMARK_ADMIN_SOCKET`. Results go to standard output,
everything else to standard error. `touchmark --install-completion` sets up shell completion.

In Kubernetes, `-k` (`--kubernetes`, or `TOUCHMARK_KUBERNETES=1`) uses your kubeconfig and your rights. `--context` and
`--kubeconfig` choose a cluster as for `kubectl`, and `--system-namespace` names the CA's namespace if it isn't
`touchmark-system`; each of them implies `-k`. Policies, programs and modes are then read and written as Kubernetes
objects; everything else goes to the CA through a port-forward to one of its pods (the Role `touchmark-connect`), which
asks the API server [what you may](../how-to/kubernetes.md#rights). Options win over the environment; `--admin-socket`
means a CA on this machine.

With `--json` a command prints exactly one JSON value on one line of standard output. An error is one object on standard
error, `{"code", "message", "hint"}`, whose code is stable. Times are seconds since the epoch in UTC, durations seconds.
The named structs, field by field, are in `shared/model/wire/admin.py`, a decision's in
`shared/model/policy/decision.py`, the queue's in `shared/model/adoption/program_queue.py`, reasons in
[reasons.md](reasons.md).
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
    paragraphs, examples = split_help(command.help)
    lines = [f"\n### `{usage}`\n", *(f"\n{each}\n" for each in paragraphs)]
    if examples:
        lines.append("\nExamples:\n\n" + "".join(f"- `{each}`\n" for each in examples) + "\nOptions:\n" * bool(options))
    if options:
        lines.append("\n")
    lines += [f"- {_write_option(each)}\n" for each in options]
    if results := list_results(command.callback):
        lines.append(f"\n`--json`: {'; '.join(describe_result(command.callback, each) for each in results)}.\n")
    return "".join(lines)


def describe_result(verb: Callable[..., object], result: JsonResult[Any]) -> str:
    """Write what a verb prints, from its declaration's annotation: admin structs by name, other types by field."""
    module = sys.modules[inspect.unwrap(verb).__module__]
    [name] = [name for name, value in vars(module).items() if value is result]
    annotation = module.__annotations__[name].removeprefix("JsonResult[").removesuffix("]")
    known = {**vars(typing), **vars(collections.abc), **_own_types(), **vars(sidecar_admin), **vars(admin)}
    shape = _describe_type(eval(annotation, known))  # Our own source's annotation.
    when = f"`{result.when}`: " if result.when.startswith("--") else f"{result.when}: " if result.when else ""
    return when + shape + (f" ({result.note})" if result.note else "")


def _own_types() -> dict[str, object]:
    modules = (shapes, summary, findings, facts, version, graph, lint, explain, report, program_queue, top)
    return {name: value for module in modules for name, value in vars(module).items() if isinstance(value, type)}


def _describe_type(kind: Any) -> str:
    origin, inner = typing.get_origin(kind), [each for each in typing.get_args(kind) if each is not Ellipsis]
    if origin in (types.UnionType, typing.Union):
        return " or ".join("null" if each is type(None) else _describe_type(each) for each in inner)
    if origin in (list, tuple, collections.abc.Sequence):
        return "a list of " + ("objects" if typing.get_origin(inner[0]) is dict else _describe_type(inner[0]))
    if isinstance(kind, type) and kind.__module__ == shapes.__name__ and issubclass(kind, msgspec.Struct):
        base = kind.__mro__[1]
        own = [name for name in _field_names(kind) if name not in _field_names(base)]
        return f"`{base.__name__}` and `{{{', '.join(own)}}}`"
    if dataclasses.is_dataclass(kind):
        return f"`{_write_fields(kind)}`"
    return f"`{kind.__name__}`" if isinstance(kind, type) and origin is None else "`object`"


def _field_names(struct: Any) -> list[str]:
    return [field.name for field in msgspec.structs.fields(struct)]


def _write_fields(kind: Any) -> str:
    """Write a dataclass's fields, nested ones with theirs."""
    hints = typing.get_type_hints(kind)
    parts = []
    for field in dataclasses.fields(kind):
        inner = typing.get_args(hints[field.name])
        if dataclasses.is_dataclass(hints[field.name]):
            parts.append(f"{field.name}: {_write_fields(hints[field.name])}")
        elif inner and dataclasses.is_dataclass(inner[0]):
            parts.append(f"{field.name}: [{_write_fields(inner[0])}]")
        else:
            parts.append(field.name)
    return f"{{{', '.join(parts)}}}"


def _write_argument(argument: Any) -> str:
    label = argument.metavar or argument.name.upper()
    return label if argument.required or label.startswith("[") else f"[{label}]"


def _write_option(option: Any) -> str:
    return f"`{'`, `'.join((*option.opts, *option.secondary_opts))}`: {_flatten(option.help)}"


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
