"""``touchmark ui``: who talks to whom, is explicit safe, what is missing, as a page in this user's browser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands import options

if TYPE_CHECKING:
    from cli.backends.base import PolicyBackend
    from cli.backends.target import Target
    from cli.ui.actions import Actions
    from cli.ui.answers import Answers
    from cli.ui.connection import Connection
    from shared.model.wire.admin import DraftView

_OPENING = """<!doctype html>
<meta charset="utf-8">
<meta name="referrer" content="no-referrer">
<meta http-equiv="refresh" content="0; url={url}">
<title>Touchmark</title>
"""


def ui(
    context: typer.Context,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0: any free one.")] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the URL.")] = False,
) -> None:
    """Open a page in your browser: namespaces, who talks to whom, what explicit mode would refuse, and each fix.

    This command serves it on 127.0.0.1 until Ctrl-C, and asks the CA with your rights. The printed URL holds the
    session's secret: on this machine, who has it sees what you see, and may do what you may. The page approves and
    refuses programs, switches modes, and puts a draft in force or drops it, each after a confirmation that shows the
    command; other fixes are YAML to copy.

    Examples: touchmark ui · touchmark ui -k · touchmark ui --no-browser --port 8123
    """
    import asyncio

    asyncio.run(_serve(options.get_target(context), port=port, opens_browser=not no_browser))


async def _serve(target: Target, *, port: int, opens_browser: bool) -> None:
    import asyncio
    import contextlib
    import secrets
    import signal

    from cli.admin.client import AdminClient
    from cli.backends.session import open_admin
    from cli.text.output import print_line, print_note
    from cli.ui.connection import Connection
    from cli.ui.files import load_files
    from cli.ui.guard import TOKEN_BYTES
    from cli.ui.server import Page, serving
    from shared.model.errors import NotAllowedError

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    token = secrets.token_urlsafe(TOKEN_BYTES)
    async with Connection(lambda: open_admin(target)) as connection:
        with contextlib.suppress(NotAllowedError):  # Who reads one namespace only may use the page for it.
            await connection.ask(AdminClient.get_status)  # What is wrong is said here, not in the browser.
        answers = make_answers(connection, target)
        actions = make_actions(target)
        routes = {**answers.routes(), **actions.questions()}
        async with serving(Page(load_files(), routes, token=token, act=actions.act), port=port) as base:
            url = f"{base}#token={token}"
            print_line(url)
            print_note("open it in your browser; it is for you alone, and ends with Ctrl-C")
            if not (opens_browser and _has_display()):
                await stop.wait()
                return
            with written_opening(url) as file:
                if not await asyncio.to_thread(_open_browser, file.as_uri()):
                    print_note("no browser could be started")
                await stop.wait()


def describe_target(target: Target) -> str:
    """Say where the CA is."""
    if not target.in_cluster:
        return "CA on this machine"
    return f"CA in the cluster of context {target.context}" if target.context else "CA in the current context's cluster"


@contextmanager
def written_opening(url: str) -> Iterator[Path]:
    """Write a file that leads to the URL, for this user alone: a browser's command line is seen by every user."""
    import tempfile
    from html import escape

    with tempfile.TemporaryDirectory(prefix="touchmark-") as directory:  # Of mode 0700.
        file = Path(directory) / "open.html"
        file.write_text(_OPENING.format(url=escape(url, quote=True)), encoding="utf-8")
        yield file


def _has_display() -> bool:
    """Tell whether a browser could show itself: without a display it would be one in this terminal."""
    import os

    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _open_browser(url: str) -> bool:
    import webbrowser

    return webbrowser.open(url)


def make_actions(target: Target) -> Actions:
    """Return what the page may change, by the same steps as the commands."""
    from cli.backends.rights import find_rights
    from cli.backends.session import open_policies
    from cli.backends.target import add_options, write_options
    from cli.cluster.draft_object import make_document
    from cli.commands.applying import check_explicit, lint_documents, require_sound
    from cli.commands.mode_switch import Consent, require_consent
    from cli.ui.actions import Actions

    where = write_options(target)

    async def check_draft(backend: PolicyBackend, view: DraftView) -> None:
        document = make_document(view)
        draft = add_options(f"touchmark policy draft {view.namespace} --yaml", where)
        command = f"{draft} | {add_options('touchmark policy lint -', where)}"
        require_sound(await lint_documents(backend, [document]), f"`{command}` lists them")
        await check_explicit(backend, [document], is_forced=False, target_options=where)

    return Actions(
        lambda: open_policies(target),
        lambda namespace: find_rights(target, namespace),
        lambda readiness, accepts: require_consent(
            readiness, Consent(to_unknown=accepts, to_blocked=False, can_ask=False), target_options=where
        ),
        check_draft,
        options=where,
        in_cluster=target.in_cluster,
    )


def make_answers(connection: Connection, target: Target) -> Answers:
    """Return what the page may ask, in the words of the commands."""
    from cli.backends.session import find_gaps
    from cli.backends.target import write_options
    from cli.cluster.draft_object import make_document
    from cli.commands.decisions import find_fixes
    from cli.commands.draft import describe_limits
    from cli.commands.ready import describe_cause, describe_fix
    from cli.ui.answers import Answers, Words

    options = write_options(target)
    words = Words(
        cause=describe_cause,
        fix=lambda fix, reason, path: describe_fix(fix, reason, path=path, target_options=options),
        notes=lambda view: describe_limits(make_document(view)),
        gaps=lambda namespace, since: find_gaps(target, namespace, since=since),
        fixes=find_fixes,
    )
    return Answers(connection, words, target=describe_target(target), options=options)
