"""``python -m bench``: run the comparison, print the table, write the figures as JSON or into a page."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console

from bench.errors import BenchError
from bench.figures import summarise
from bench.interpreter import Interpreter
from bench.markdown import write_markdown
from bench.namespaces import enter_network
from bench.page import Page
from bench.run import IN_NAMESPACES, SUBJECTS, run_rounds
from bench.table import print_table
from bench.works import Scale, Work

_TABLE_WIDTH: Final = 130


def _words(choices: Sequence[str], text: str) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    unknown = [word for word in words if word not in choices]
    if unknown or not words:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown) or 'nothing'}: choose from {', '.join(choices)}")
    return list(dict.fromkeys(words))


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} isn't a whole number from 1 on")
    return int(text)


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options; ends the process with status 2 and a message when they are at fault."""
    scale = Scale()
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Compare Touchmark with other proxies, in turn."
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there, as a list of objects")
    parser.add_argument("--report", metavar="FILE", type=Path, help="page whose marked part the figures replace")
    parser.add_argument(
        "--works",
        type=lambda text: _words(list(Work), text),
        default=list(Work),
        help=f"comma-separated, of {', '.join(Work)}; default: all",
    )
    parser.add_argument(
        "--subjects",
        type=lambda text: _words(list(SUBJECTS), text),
        help=f"comma-separated, of {', '.join(SUBJECTS)}; "
        "default: all but rust-floor and ztunnel, ghostunnel if it or Go is there",
    )
    parser.add_argument("--rounds", type=_positive, default=3, help="each starts every subject afresh (default: 3)")
    parser.add_argument(
        "--duration",
        type=_positive,
        default=scale.duration_s,
        help=f"seconds a request work runs (default: {scale.duration_s})",
    )
    parser.add_argument(
        "--bulk-mib",
        type=_positive,
        default=scale.bulk_mib,
        help=f"MiB sent in a bulk work (default: {scale.bulk_mib})",
    )
    parser.add_argument(
        "--keep", type=Path, metavar="DIRECTORY", help="keep configurations and logs in a new directory"
    )
    parser.add_argument(
        "--namespaces",
        action="store_true",
        help=f"server sides and backends in a network namespace of their own (root), for {', '.join(IN_NAMESPACES)}",
    )
    options = parser.parse_args(arguments)
    if options.subjects is None:
        # No package has ghostunnel; rust-floor is no proxy, and takes minutes to build, as ztunnel does.
        has_ghostunnel = shutil.which("ghostunnel") or shutil.which("go")
        left_out = {"rust-floor", "ztunnel"} | (set() if has_ghostunnel else {"ghostunnel"})
        choices = IN_NAMESPACES if options.namespaces else SUBJECTS
        options.subjects = [name for name in choices if name not in left_out]
    if options.namespaces and (others := [name for name in options.subjects if name not in IN_NAMESPACES]):
        parser.error(f"--namespaces is for {', '.join(IN_NAMESPACES)}, not for {', '.join(others)}")
    if "ztunnel" in options.subjects and not options.namespaces:
        parser.error("ztunnel takes part only with --namespaces")
    return options


def _without_files(arguments: Sequence[str]) -> list[str]:
    """Leave out where the figures are written: it changes none of them."""
    kept, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
        elif argument in {"--json", "--report", "--keep"}:
            skip = True
        elif not argument.startswith(("--json=", "--report=", "--keep=")):
            kept.append(argument)
    return kept


def main(arguments: Sequence[str]) -> int:
    """Run and return the exit status: 1 when a subject that was asked for couldn't be measured."""
    options = parse_arguments(arguments)
    console, notes = Console(), Console(stderr=True)
    if console.width < _TABLE_WIDTH:
        # A pipe has no width, and a cut table can't be read.
        console = Console(width=_TABLE_WIDTH)
    page = None if options.report is None else Page(path=options.report, name="bench")
    interpreter = Interpreter.own()
    try:
        if page is not None:
            page.split()  # Before, not after all the time that it takes.
        network = enter_network() if options.namespaces else None
        if options.keep is not None:
            options.keep.mkdir(parents=True)
        outcome = run_rounds(
            options.subjects,
            [Work(work) for work in options.works],
            rounds=options.rounds,
            scale=Scale(duration_s=options.duration, bulk_mib=options.bulk_mib),
            say=lambda text: notes.print(text, highlight=False, markup=False, soft_wrap=True),
            keep_logs=options.keep,
            network=network,
        )
        figures = summarise(outcome.samples)
        if options.json is not None:
            options.json.write_bytes(msgspec.json.format(msgspec.json.encode(figures)) + b"\n")
        if page is not None:
            command = shlex.join(["python", "-m", "bench", *_without_files(arguments)])
            when = f"{datetime.now(UTC):%-d %B %Y}"
            page.put(write_markdown(figures, command=command, when=when, interpreter=str(interpreter)))
    except BenchError as error:
        notes.print(f"✗ {error.message} {error.hint}", highlight=False, markup=False)
        return error.exit_code
    except OSError as error:
        notes.print(f"✗ {error}", highlight=False, markup=False)
        return 1
    print_table(console, figures, rounds=options.rounds)
    notes.print(str(interpreter), highlight=False, markup=False)
    if interpreter.warning:
        notes.print(f"⚠ {interpreter.warning}", highlight=False, markup=False)
    for name, reason in outcome.failures.items():
        notes.print(f"✗ {name} wasn't measured: {reason}", highlight=False, markup=False, soft_wrap=True)
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
