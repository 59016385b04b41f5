"""What differs between two generations of a namespace, in words, and a generation as its readers see it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from ca.store.history.generations import Content, Generation
from shared.model.identity.loaded_code import ApprovedCode
from shared.model.identity.program import Program
from shared.model.policy.modes import read_modes
from shared.model.policy.rules import Mode, Requirement, Rule
from shared.model.wire.admin import GenerationContent, GenerationView, PastProgram

_rules: Final = msgspec.json.Decoder(tuple[Rule, ...])
_requires: Final = msgspec.json.Decoder(tuple[Requirement, ...])
_programs: Final = msgspec.json.Decoder(tuple[Program, ...])
_code: Final = msgspec.json.Decoder(ApprovedCode | None)


def view_generations(generations: Iterable[Generation]) -> Iterator[GenerationView]:
    """Yield generations as they are listed, each with what differs from the next, which is the one before it.

    Arguments:
        generations: newest first; the last one has no changes.
    """
    newer: tuple[Generation, Content] | None = None
    for each in generations:
        content = each.content  # Two are decoded at a time.
        if newer is not None:
            yield _view(*newer, describe_changes(content, newer[1]))
        newer = each, content
    if newer is not None:
        yield _view(*newer, ())


def view_content(generation: Generation) -> GenerationContent:
    """Return all that a generation says."""
    content = generation.content
    return GenerationContent(
        namespace=generation.namespace,
        generation=generation.generation,
        mode=Mode(content.settled_mode),
        tried=Mode(content.mode) if content.back_to else None,
        workload_modes=content.settled_workload_modes,
        has_policy=content.has_policy,
        group_label=content.group_label,
        rules=_rules.decode(content.rules),
        requires=_requires.decode(content.requires),
        programs=tuple(
            PastProgram(
                name=each.name,
                service_account=each.service_account,
                programs=_programs.decode(each.programs),
                weak=each.weak,
                approved_by=each.approved_by,
                approved=each.approved,
                code=_code.decode(each.code),
            )
            for each in content.programs
        ),
    )


def describe_changes(before: Content, after: Content) -> tuple[str, ...]:
    """Say in words what differs."""
    words = []
    if before.mode != after.mode:
        words.append(f"mode {before.mode} → {after.mode}")
    if before.back_to != after.back_to:
        words.append(f"on trial, back to {after.back_to}" if after.back_to else f"{before.mode} not on trial any more")
    words += _compare_modes(before, after)
    if before.group_label != after.group_label:
        words.append(f"group {before.group_label or 'namespace'} → {after.group_label or 'namespace'}")
    if before.requires != after.requires:
        required = ", ".join(_requires.decode(after.requires)) or "nothing"
        words.append(f"requires {required}")
    if before.rules != after.rules:
        words += _compare("rule", _name_rules(before), _name_rules(after)) or ["rules in another order"]
    names = ({each.name: each for each in content.programs} for content in (before, after))
    words += _compare("program", *names)
    return tuple(words)


def _compare_modes(before: Content, after: Content) -> list[str]:
    was, is_now = read_modes(before.workload_modes), read_modes(after.workload_modes)
    words = [
        f"mode of {name} {was.get(name, 'inherited')} → {is_now.get(name, 'inherited')}"
        for name in sorted({*was, *is_now})
        if was.get(name) != is_now.get(name)
    ]
    if (after.workload_modes_back_to is None) is not (before.workload_modes_back_to is None):
        is_tried = after.workload_modes_back_to is not None
        words.append("workloads' modes on trial" if is_tried else "workloads' modes not on trial any more")
    return words


def _name_rules(content: Content) -> Mapping[str, object]:
    return {rule.name: rule for rule in _rules.decode(content.rules)}


def _compare(kind: str, before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    gone = [f"- {kind} {name}" for name in before if name not in after]
    new = [f"+ {kind} {name}" for name in after if name not in before]
    return [*gone, *new, *(f"~ {kind} {name}" for name in after if name in before and before[name] != after[name])]


def _view(generation: Generation, content: Content, changes: tuple[str, ...]) -> GenerationView:
    return GenerationView(
        generation=generation.generation,
        version=generation.version,
        time=generation.time,
        act=generation.act,
        subject=generation.subject,
        actor=generation.actor,
        mode=Mode(content.mode),
        changes=changes,
        workload_modes=content.workload_modes,
    )
