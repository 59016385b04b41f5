"""``touchmark mode``: show a namespace's mode, say what ``explicit`` would refuse, switch, confirm, go back.

Belongs here: the verb, its options and what each word does. Doesn't: the steps of a switch (``mode_switch.py``), or the
past (``mode_history.py``).
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.commands import options
from cli.text.json_result import JsonResult, prints
from shared.model.errors import BlockedError, InputError
from shared.model.policy.rules import Mode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cli.backends.base import ModeState, PolicyBackend
    from cli.commands.mode_switch import Consent
    from cli.commands.shapes import ModeSwitch, ModeView, Undone
    from shared.model.wire.admin import History, Readiness

_MODE: JsonResult[ModeView] = JsonResult(
    note="`mode` is in force in the CA (null: not reported yet), `wanted` is set (null: none)"
)
_SWITCHED: JsonResult[ModeSwitch] = JsonResult(when="a switch or confirm")
_READINESS: JsonResult[Readiness | None] = JsonResult(when="a check or a blocked switch")
_HISTORY: JsonResult[History] = JsonResult(when="history")
_UNDONE: JsonResult[Undone] = JsonResult(when="undo")


class Word(StrEnum):
    """What is done."""

    PERMISSIVE = "permissive"
    EXPLICIT = "explicit"
    INHERIT = "inherit"
    CONFIRM = "confirm"
    HISTORY = "history"
    UNDO = "undo"


@prints(_MODE, _SWITCHED, _READINESS, _HISTORY, _UNDONE)
def mode(
    context: typer.Context,
    namespace: Annotated[str, typer.Argument(help="The namespace.")],
    word: Annotated[
        Word | None,
        typer.Argument(
            metavar="[permissive|explicit|inherit|confirm|history|undo]",
            help="The mode to switch to; inherit: a workload gives its own mode up; or confirm one that would go back"
            " by itself, list what the namespace said before, go back. Without it, show the current mode.",
        ),
    ] = None,
    workload: Annotated[
        list[str] | None,
        typer.Option(
            "--workload",
            "-w",
            help="Only the mode of this workload (its service account, or NAMESPACE/NAME); repeat it for more.",
            show_default=False,
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Only show which recorded connections explicit mode would refuse; exit code 3 if any."
        ),
    ] = False,
    since: options.Since = "24h",
    yes: Annotated[
        bool,
        typer.Option("--yes", "-y", help="Don't ask where too little was seen to say that explicit mode is safe."),
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Switch although explicit mode would refuse connections that were seen, or nobody knows the workload"
            " or the namespace.",
        ),
    ] = False,
    for_: Annotated[
        str,
        typer.Option(
            "--for",
            help="Let the CA go back by itself after 90s, 10m, 2h, unless `mode NAMESPACE confirm` comes first.",
        ),
    ] = "",
    to: Annotated[
        int, typer.Option("--to", min=0, help="With undo: to this generation.", show_default="the one before")
    ] = 0,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100, help="With history: how many.")] = 20,
    timeout_s: options.TimeoutS = 30.0,
    force_conflicts: options.ForceConflicts = False,
    as_json: options.Json = False,
) -> None:
    """Show or switch a namespace's mode. Permissive allows and marks what no rule allows; explicit refuses it.

    With --workload a workload gets a mode of its own, which counts for its side of connections in the place of the
    namespace's: so one can switch workload by workload. A switch of the namespace doesn't change it; inherit takes it
    back.

    A switch to explicit first runs `touchmark ready`: BLOCKED refuses it (error code `blocked`, with what is missing;
    --force switches anyway), UNKNOWN asks (--yes). Then it waits until every sidecar has confirmed. With --for the CA
    goes back to the mode before when the time is up, whatever has become of this command, unless
    `touchmark mode NAMESPACE confirm` comes first: a switch to try out, or a break-glass that ends.

    history lists each change of mode, rules and approvals: when, by whom, what. undo gives all three back as they were
    in the generation before (or --to), as a new generation: undo again takes it back.

    Exit code 3: --check found something, or the workload has no live sidecar; 4: nobody knows the workload, or the
    namespace (--force sets its mode all the same); 7: blocked, or you answered no (or there was no terminal to ask on);
    9: switched, but not every sidecar has confirmed.

    In Kubernetes it writes only the fields spec.mode, spec.workloadModes and spec.trial of the namespace's MeshPolicy,
    and creates one if there is none; undo writes MeshPolicy and Programs with your rights, all or none of those that
    another tool owns (--force-conflicts).

    Examples: touchmark mode shop · touchmark mode shop --check · touchmark mode shop explicit --for 10m ·
    touchmark mode shop explicit --workload db · touchmark mode shop inherit --workload db ·
    touchmark mode shop confirm · touchmark mode shop permissive --for 1h · touchmark mode shop history ·
    touchmark mode shop undo · touchmark mode shop undo --to 3
    """
    import os

    from cli.backends.session import work_on_policies
    from cli.backends.target import write_shell_options
    from cli.commands.mode_switch import Consent, make_terms, require_known, require_known_namespace
    from cli.text.duration import parse_duration
    from shared.model.identity.identity import check_namespace

    check_namespace(namespace)
    workloads = _read_workloads(namespace, workload or ())
    consent = Consent(to_unknown=yes, to_blocked=force, can_ask=not as_json)
    since_s = parse_duration(since, "--since")
    target = Mode(word) if word in (Word.PERMISSIVE, Word.EXPLICIT) else None
    _check_options(namespace, word, workloads=workloads, is_check=check, for_=for_, to=to, as_json=as_json)
    if check:
        target = Mode.EXPLICIT
    for_s = parse_duration(for_, "--for") if for_ else None
    target_options = write_shell_options(options.get_target(context), os.environ)

    async def converse(backend: PolicyBackend) -> int:
        from cli.backends.base import WorkloadSwitch
        from cli.commands.mode_history import show_history, undo

        if word is Word.HISTORY:
            history = await backend.list_history(namespace, limit=limit)
            _HISTORY.print(history) if as_json else show_history(history, target_options=target_options)
            return 0
        if word is Word.UNDO:
            undone = await undo(
                backend, namespace, to=to, consent=consent, since_s=since_s, target_options=target_options
            )
            return await _conclude_undo(backend, undone, timeout_s, target_options=target_options, as_json=as_json)
        if word is Word.CONFIRM:
            await backend.confirm_mode(namespace)
            return await _await_sidecars(
                backend, namespace, None, (), timeout_s, target_options=target_options, as_json=as_json
            )
        if target is None and word is not Word.INHERIT:
            return _show(await backend.get_mode(namespace), target_options=target_options, as_json=as_json)
        if target is not None:
            await require_known(backend, namespace, workloads, is_forced=force)
        # To permissive in a cluster: a break-glass, which waits for nobody; the API server knows its namespaces.
        is_checked = target is Mode.EXPLICIT or not options.get_target(context).in_cluster
        if not force and (check or (is_checked and not workloads)):
            await require_known_namespace(backend, namespace, is_switch=not check)
        becomes = target or (await backend.get_mode(namespace)).mode or Mode.EXPLICIT
        readiness: list[Readiness] = []
        for asked in workloads or ("",) if becomes is Mode.EXPLICIT else ():
            found = await _look_ahead(
                backend, namespace, asked, since, consent, is_check=check, target_options=target_options,
                as_json=as_json,
            )  # fmt: skip
            readiness += [found] if found is not None else []
        if check:
            return _conclude_check(readiness, as_json=as_json)
        terms = make_terms(consent, since_s, for_s=for_s, readiness=readiness[0] if readiness else None)
        if workloads:
            switch = WorkloadSwitch(service_accounts=workloads, mode=target)
            await backend.set_workload_modes(namespace, switch, terms)
        elif target is not None:
            await backend.set_mode(namespace, target, terms)
        return await _await_sidecars(
            backend, namespace, target, readiness, timeout_s, workloads=workloads, target_options=target_options,
            as_json=as_json,
        )  # fmt: skip

    code = work_on_policies(options.get_target(context), converse, is_forced=force_conflicts)
    if code:
        raise typer.Exit(code)


def _read_workloads(namespace: str, texts: Sequence[str]) -> tuple[str, ...]:
    """Return the service accounts of workloads of this namespace, each once."""
    from shared.model.identity.identity import parse_workload

    found = []
    for text in texts:
        workload = parse_workload(text if "/" in text else f"{namespace}/{text}")
        if workload.namespace != namespace:
            raise InputError(f"{workload} isn't in {namespace}", hint=f"touchmark mode {workload.namespace} …")
        found.append(workload.service_account)
    return tuple(dict.fromkeys(found))


def _check_options(
    namespace: str,
    word: Word | None,
    *,
    workloads: Sequence[str],
    is_check: bool,
    for_: str,
    to: int,
    as_json: bool,
) -> None:
    count = len(workloads)
    if word is Word.INHERIT and not count:
        raise InputError("inherit needs --workload", hint=f"such as: touchmark mode {namespace} inherit --workload db")
    if count and not is_check and word not in (Word.PERMISSIVE, Word.EXPLICIT, Word.INHERIT):
        raise InputError(
            "--workload needs a mode, inherit or --check",
            hint=f"`touchmark mode {namespace}` lists the workloads with a mode of their own;"
            f" `touchmark mode {namespace} explicit --workload {workloads[0]}` switches one",
        )
    if is_check and word not in (None, Word.EXPLICIT):
        raise InputError(
            "--check applies to explicit mode: permissive mode refuses only what a deny rule matches",
            hint=f"touchmark mode {namespace} --check",
        )
    if is_check and as_json and count > 1:
        raise InputError("--check --json answers about one workload at a time", hint="run it once for each --workload")
    if for_ and (is_check or word not in (Word.PERMISSIVE, Word.EXPLICIT, Word.INHERIT)):
        raise InputError(
            "--for needs a mode to switch to", hint=f"such as: touchmark mode {namespace} explicit --for 10m"
        )
    if to and word is not Word.UNDO:
        raise InputError(
            "--to needs undo",
            hint=f"`touchmark mode {namespace} history` lists them: touchmark mode {namespace} undo --to 3",
        )


async def _look_ahead(
    backend: PolicyBackend,
    namespace: str,
    workload: str,
    since: str,
    consent: Consent,
    *,
    is_check: bool,
    target_options: str,
    as_json: bool,
) -> Readiness | None:
    """Show what explicit mode would refuse and, unless that is all, require consent."""
    from cli.commands.mode_switch import look_ahead, require_consent
    from cli.commands.ready import show_readiness
    from cli.text.duration import parse_duration

    is_needed = is_check or not (consent.to_unknown or consent.to_blocked)
    subject = f"{namespace}/{workload}" if workload else ""
    readiness = await look_ahead(
        backend, namespace, parse_duration(since, "--since"), is_needed=is_needed, workload=subject
    )
    if readiness is None:
        return None
    if not as_json:
        show_readiness(readiness, since, target_options=target_options)
    if not is_check:
        try:
            require_consent(readiness, consent, target_options=target_options)
        except BlockedError:
            if as_json:
                _READINESS.print(readiness)
            raise
    return readiness


def _show(state: ModeState, *, target_options: str, as_json: bool) -> int:
    from cli.commands.mode_switch import describe_trial, describe_workload_modes
    from cli.commands.shapes import ModeView
    from cli.text.output import print_line, print_note

    if as_json:
        _MODE.print(ModeView(**_describe(state)))
        return 0
    if state.mode is None:
        print_line(f"{state.namespace}: {state.wanted or 'no mode'} is set; the CA hasn't reported the mode in force")
    else:
        print_line(
            f"{state.namespace} is {state.mode} (version {state.version}, in force in {state.installed} of"
            f" {state.total} sidecars)"
        )
    describe_workload_modes(state)
    if state.mode is not None and state.wanted not in (None, state.mode):
        print_line(f"set is {state.wanted}")
    describe_trial(state, target_options=target_options)
    if state.fault:
        print_line(f"✗ the CA refuses the MeshPolicy: {state.fault}")
    elif not state.is_observed:
        print_line("✗ the CA hasn't processed the MeshPolicy yet")
    for laggard in state.waiting:
        print_line(f"  ✗ {laggard} hasn't confirmed")
    if not state.version and not state.total and state.wanted is None:
        print_note("unknown namespace: no sidecar runs in it and nothing was applied to it")
    return 0


def _describe(state: ModeState) -> dict[str, Any]:
    return {
        "namespace": state.namespace,
        "mode": state.mode,
        "version": state.version,
        "installed": state.installed,
        "total": state.total,
        "waiting": state.waiting,
        "wanted": state.wanted,
        "is_observed": state.is_observed,
        "fault": state.fault,
        "back_to": state.back_to,
        "until": state.until,
        "workload_modes": state.workload_modes,
        "workload_modes_back_to": state.workload_modes_back_to,
    }


def _conclude_check(readiness: Sequence[Readiness], *, as_json: bool) -> int:
    from cli.text.exit_codes import ExitCode

    if as_json:
        for each in readiness or (None,):
            _READINESS.print(each)
    # Of a workload without a live sidecar nothing is known; a namespace's may yet come.
    is_safe = bool(readiness) and all(each.is_safe and (each.sidecars_total or not each.workload) for each in readiness)
    return ExitCode.SUCCESS if is_safe else ExitCode.CHECK_FAILED


async def _await_sidecars(
    backend: PolicyBackend,
    namespace: str,
    target: Mode | None,
    readiness: Sequence[Readiness],
    timeout_s: float,
    *,
    workloads: Sequence[str] = (),
    target_options: str,
    as_json: bool,
) -> int:
    """Wait until what is written is in force everywhere, and say so."""
    from cli.commands.mode_switch import describe_switch, wait_for_sidecars
    from cli.commands.shapes import ModeSwitch
    from cli.text.exit_codes import ExitCode

    state = await wait_for_sidecars(backend, namespace, timeout_s, quiet=as_json)
    if as_json:
        _SWITCHED.print(ModeSwitch(**_describe(state), readiness=readiness[0] if readiness else None))
    else:
        describe_switch(state, target, timeout_s, workloads=workloads, target_options=target_options)
    return ExitCode.SUCCESS if state.is_complete else ExitCode.DEADLINE


async def _conclude_undo(
    backend: PolicyBackend,
    undone: tuple[str, int, int, tuple[str, ...]],
    timeout_s: float,
    *,
    target_options: str,
    as_json: bool,
) -> int:
    from cli.backends.target import add_options
    from cli.commands.mode_switch import describe_switch, wait_for_sidecars
    from cli.commands.shapes import Undone
    from cli.text.exit_codes import ExitCode
    from cli.text.output import print_line, print_note

    namespace, newest, restored, left = undone
    state = await wait_for_sidecars(backend, namespace, timeout_s, quiet=as_json)
    if as_json:
        _UNDONE.print(Undone(**_describe(state), undone=newest, restored=restored, left=left))
    else:
        describe_switch(state, None, timeout_s, target_options=target_options)
        command = add_options(f"touchmark mode {namespace} undo --to {newest}", target_options)
        print_line(f"generation {restored} is in force again; `{command}` takes it back")
        for each in left:
            print_note(f"  ✗ {each}")
    if left:
        return ExitCode.CONFLICT
    return ExitCode.SUCCESS if state.is_complete else ExitCode.DEADLINE
