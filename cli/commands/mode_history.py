"""A namespace's past: what ``touchmark mode NAMESPACE history`` prints, and the steps of ``undo``.

Belongs here: showing generations, what an undo needs first. Doesn't: how a generation is restored (the backends do it).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.model.errors import ConflictError

if TYPE_CHECKING:
    from cli.backends.base import PolicyBackend
    from cli.commands.mode_switch import Consent
    from shared.model.wire.admin import GenerationContent, GenerationView, History

_MAX_CHANGES = 5


def show_history(history: History, *, target_options: str) -> None:
    """Print generations, newest first, and whether the mode is on trial."""
    from cli.backends.target import add_options
    from cli.text.duration import format_time
    from cli.text.output import print_line, print_table
    from shared.model.policy.modes import name_modes

    print_table(
        ("GENERATION", "WHEN", "WHO", "MODE", "ACT", "WHAT"),
        (
            (
                str(each.generation),
                format_time(each.time),
                describe_actor(each),
                str(each.mode),
                each.act,
                _join_changes(each.changes),
            )
            for each in history.generations
        ),
        empty=f"nothing has changed in {history.namespace} since histories are kept",
    )
    if (trial := history.trial) is not None:
        tried, back_to = str(trial.mode), str(trial.back_to)
        if trial.workload_modes is not None:
            tried, back_to = "another mode of workloads", name_modes(trial.workload_modes) or "none of their own"
        confirm = add_options(f"touchmark mode {history.namespace} confirm", target_options)
        print_line(f"{tried} is on trial: back to {back_to} at {format_time(trial.until)}, unless `{confirm}`")


def describe_actor(view: GenerationView) -> str:
    """Name who made a change, as far as the CA knows."""
    from cli.text.printable import escape

    actor = view.actor
    if actor.kind == "ca":
        return "the CA"
    return escape(actor.name or actor.origin or (f"uid {actor.uid}" if actor.uid is not None else "-"))


async def undo(
    backend: PolicyBackend, namespace: str, *, to: int, consent: Consent, since_s: float, target_options: str
) -> tuple[str, int, int, tuple[str, ...]]:
    """Give a namespace back what it said in an earlier generation.

    Where that makes it explicit, this needs what a switch to explicit needs.

    Returns:
        The namespace, the generation that was in force, the restored one, and what couldn't be given back.

    Raises:
        ConflictError: there is no earlier generation, or somebody else changed the namespace.
        BlockedError: the restored rules and approvals would refuse connections that were seen.
        RefusedError: too little was seen, and the answer is no.
        NotFoundError: there is no such generation.
    """
    from cli.backends.target import add_options
    from cli.commands.mode_switch import make_terms

    listed = (await backend.list_history(namespace, limit=2)).generations
    if not listed or (len(listed) < 2 and not to):
        raise ConflictError(f"{namespace} has no earlier generation: there is nothing to undo")
    newest, wanted = listed[0], to or listed[1].generation
    if wanted == newest.generation:
        raise ConflictError(f"generation {wanted} of {namespace} is in force already")
    content = await backend.get_generation(namespace, wanted)
    if not to and newest.act == "mode.return" and content.tried is not None:
        raise ConflictError(
            f"{content.tried} was on trial in {namespace} and has gone back: there is nothing to undo",
            hint=f"`{add_options(f'touchmark mode {namespace} history', target_options)}` lists what was before; --to"
            " goes there",
        )
    await _check_explicit(backend, content, consent, since_s, target_options=target_options)
    left = await backend.restore(content, newest=newest.generation, terms=make_terms(consent, since_s))
    return namespace, newest.generation, wanted, tuple(left)


async def _check_explicit(
    backend: PolicyBackend, content: GenerationContent, consent: Consent, since_s: float, *, target_options: str
) -> None:
    from cli.commands.mode_switch import list_newly_explicit, require_consent
    from shared.model.policy.rules import Mode
    from shared.model.wire.admin import PolicyCandidateRequest

    modes = [content.mode, *(each.mode for each in content.workload_modes)]
    if Mode.EXPLICIT not in modes or consent.to_blocked:
        return
    present = await backend.get_mode(content.namespace)
    becoming = list_newly_explicit(present, content.mode, content.workload_modes)
    # Of a namespace that is explicit already, the restored rules are judged, too.
    asked = dict.fromkeys(([""] if content.mode is Mode.EXPLICIT else []) + list(becoming))
    candidate = PolicyCandidateRequest.from_generation(content)
    for name in asked:
        workload = f"{content.namespace}/{name}" if name else ""
        readiness = await backend.assess_candidate(content.namespace, candidate, since_s=since_s, workload=workload)
        require_consent(readiness, consent, target_options=target_options)


def _join_changes(changes: tuple[str, ...]) -> str:
    rest = f", … {len(changes) - _MAX_CHANGES} more" if len(changes) > _MAX_CHANGES else ""
    return ", ".join(changes[:_MAX_CHANGES]) + rest or "-"
