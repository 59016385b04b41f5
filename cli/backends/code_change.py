"""A change of what a workload's programs may load, as people review it: by library, whatever its version. Pure.

Belongs here: what changes in which ``Program`` objects. Doesn't: asking, and writing (``cli/commands/program.py``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from shared.model.identity.loaded_code import ApprovedCode, LoadedObject
from shared.model.wire.admin import ProgramRequest, ProgramView

# `libssl.so.3.0.17` and `libssl.so.3.0.18`, `libm-2.36.so` and `libm-2.37.so` are the same library.
_VERSION: Final = re.compile(r"(?:-[0-9]+(?:\.[0-9]+)+)?(\.so)(?:\.[0-9]+)*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectChange:
    """One library or other file that may be loaded from now on.

    Attributes:
        others: what is approved under the same name now, of any version.
        objects: names of the ``Program`` objects that name it then.
    """

    new: LoadedObject
    others: tuple[LoadedObject, ...]
    objects: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeChange:
    """What changes, and the requests that make it so: one for each ``Program`` object that is concerned.

    Attributes:
        removed: what mayn't be loaded any more.
    """

    changes: tuple[ObjectChange, ...] = ()
    removed: tuple[LoadedObject, ...] = ()
    requests: tuple[ProgramRequest, ...] = field(default=(), repr=False)


def name_of(each: LoadedObject) -> str:
    """Return the object's path without its version."""
    return _VERSION.sub(r"\1", each.path)


def plan_change(views: Sequence[ProgramView], found: Sequence[LoadedObject], *, replaces: bool) -> CodeChange:
    """Plan that a workload's programs may load these objects.

    A new version goes to every ``Program`` object that names the library; what is new altogether goes to the first.

    Arguments:
        views: the workload's ``Program`` objects that say something of loaded code; not empty.
        replaces: whether versions of the same libraries that aren't among ``found`` go.
    """
    measured = {each.digest: each for each in found if each.digest}
    approved = {each.digest for view in views for each in _objects(view)}
    changes: list[ObjectChange] = []
    added: dict[str, list[LoadedObject]] = {}
    for new in sorted(measured.values(), key=lambda each: (each.path, each.digest)):
        if new.digest in approved:
            continue
        holders = [view for view in views if any(name_of(each) == name_of(new) for each in _objects(view))]
        for view in holders or views[:1]:
            added.setdefault(view.name, []).append(new)
        others = {each.digest: each for view in holders for each in _objects(view) if name_of(each) == name_of(new)}
        holding = tuple(view.name for view in holders or views[:1])
        changes.append(ObjectChange(new=new, others=tuple(others.values()), objects=holding))
    names = {name_of(each) for each in measured.values()} if replaces else set()
    removed: dict[str, LoadedObject] = {}
    requests = []
    for view in views:
        gone = [each for each in _objects(view) if name_of(each) in names and each.digest not in measured]
        removed.update({each.digest: each for each in gone})
        if gone or view.name in added:
            kept = (*(each for each in _objects(view) if each not in gone), *added.get(view.name, ()))
            requests.append(_rewrite(view, kept))
    return CodeChange(changes=tuple(changes), removed=tuple(removed.values()), requests=tuple(requests))


def _rewrite(view: ProgramView, objects: tuple[LoadedObject, ...]) -> ProgramRequest:
    return ProgramRequest(
        namespace=view.namespace,
        service_account=view.service_account,
        programs=view.programs,
        name=view.name,
        weak=view.weak,
        approved_by=view.approved_by,
        code=msgspec.structs.replace(view.code or ApprovedCode(), objects=objects),
    )


def _objects(view: ProgramView) -> tuple[LoadedObject, ...]:
    return view.code.objects if view.code is not None else ()
