"""Approvals as a queue: which programs were seen and aren't approved, and which of those were refused. Pure.

Belongs here: what is known of a program that was seen, and which of them wait for an answer. Doesn't: storing it
(``ca/store/programs_seen``), or how a program's package is found (``sidecar/sightings``).

What is known of a program is the word of its own workload's sidecar, which speaks of its own side alone: evidence for
the people who decide. A refusal is remembered so that nothing proposes the program again. It closes nothing: what
isn't approved has no identity in explicit mode, refused or not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from shared.model.identity.loaded_code import MAX_OBJECTS, LoadedCode, LoadedObject
from shared.model.identity.program import Program

MAX_IMAGES = 16
MAX_PODS = 8
# Sidecars tell twice an hour what is loaded: what none has told for an hour isn't any more.
CODE_KEPT_S = 3_600.0

_Key = tuple[str, str, Program]


class ImageSeen(msgspec.Struct, frozen=True, kw_only=True):
    """An image in whose containers something was seen, as the kubelet names it; times in seconds since the epoch."""

    image: str
    first: float
    last: float


class Sighting(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A program of a workload that its sidecars have seen.

    Attributes:
        path: of the executable, as its process has it.
        package: name and version of the package that the file belongs to, by the database of its own root file system;
            empty: none, or it couldn't be read.
        images: of the containers it was seen in, in the order of their first sighting, at most ``MAX_IMAGES``; only in
            pods.
        pods: sidecar instances that reported it lately, at most ``MAX_PODS``.
        parents: executables of its process's ancestors when it was seen first, the nearest first.
        code: what its processes had loaded, as it was told by all pods within ``CODE_KEPT_S``; None: not known.
        told: for each of these objects, when it was told last, in whole seconds since the epoch; empty in what is told.
        anonymous_told, omitted_told: the same of anonymous memory, and of files that aren't among them; 0: never.
        accepted: when it was told last what a process had loaded that accepts connections; 0: never.
        first, last: seconds since the epoch.
    """

    namespace: str
    service_account: str
    program: Program
    path: str = ""
    package: str = ""
    images: tuple[ImageSeen, ...] = ()
    pods: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    code: LoadedCode | None = None
    told: tuple[int, ...] = ()
    anonymous_told: int = 0
    omitted_told: int = 0
    accepted: float = 0.0
    first: float = 0.0
    last: float = 0.0

    @property
    def workload(self) -> str:
        """``namespace/service-account``."""
        return f"{self.namespace}/{self.service_account}"

    @property
    def key(self) -> _Key:
        """What it is found by."""
        return self.namespace, self.service_account, self.program


class ProgramRefusal(msgspec.Struct, frozen=True, kw_only=True):
    """A program that somebody has refused for a workload: nothing proposes it again.

    Attributes:
        refused_by: who, for people; ``refused``: when, in seconds since the epoch.
        path: of the program, as it was seen; empty: it never was.
    """

    namespace: str
    service_account: str
    program: Program
    refused_by: str
    refused: float
    path: str = ""

    @property
    def workload(self) -> str:
        """``namespace/service-account``."""
        return f"{self.namespace}/{self.service_account}"

    @property
    def key(self) -> _Key:
        """What it is found by."""
        return self.namespace, self.service_account, self.program


class QueuedProgram(msgspec.Struct, frozen=True, kw_only=True):
    """A program that waits for an answer.

    Attributes:
        new_since: the image that the workload ran before the one in which the program was seen first, and in which it
            wasn't seen; empty: there was none, or images aren't known.
    """

    seen: Sighting
    new_since: str = ""


class ProgramQueue(msgspec.Struct, frozen=True, kw_only=True):
    """What waits and what was refused.

    Attributes:
        waiting: seen last first.
        refused: by workload and program.
        is_truncated: a workload had more programs than are remembered, or more wait than are listed; those that were
            seen last are there.
    """

    waiting: tuple[QueuedProgram, ...]
    refused: tuple[ProgramRefusal, ...]
    is_truncated: bool = False


class RefusalRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Refuse programs of a workload, or take refusals back.

    Attributes:
        refused_by: who, in the caller's word; the CA writes a cluster's user down by what the API server says.
        takes_back: they were refused, and aren't any more.
    """

    service_account: str
    programs: tuple[Program, ...]
    refused_by: str = ""
    takes_back: bool = False


def merge_sightings(known: Sighting | None, new: Sighting) -> Sighting:
    """Return one sighting of both; what an older release didn't say, or couldn't read this time, stays as it was."""
    if known is None:
        return _merge_code(new, new)
    if _says_nothing_new(known, new):
        return msgspec.structs.replace(known, first=min(known.first, new.first), last=max(known.last, new.last))
    images = {each.image: each for each in known.images}
    for each in new.images:
        before = images.get(each.image)
        first = each.first if before is None else min(before.first, each.first)
        images[each.image] = msgspec.structs.replace(each, first=first)
    coded = _merge_code(known, new)
    kept = sorted(sorted(images.values(), key=lambda each: -each.last)[:MAX_IMAGES], key=lambda each: each.first)
    return msgspec.structs.replace(
        coded,
        path=new.path or known.path,
        package=new.package or known.package,
        images=tuple(kept),
        pods=tuple(dict.fromkeys((*new.pods, *known.pods)))[:MAX_PODS],
        parents=known.parents or new.parents,
        first=min(known.first, new.first),
        last=max(known.last, new.last),
    )


def _merge_code(known: Sighting, new: Sighting) -> Sighting:
    """Return what is known with what is loaded by either, without what wasn't told for too long.

    Where something is forgotten, who accepts may have had it: of them nothing is known until it is told again.
    """
    if new.code is None:
        return known
    oldest = new.last - CODE_KEPT_S
    before, now = _list_told(known), _list_told(new)
    times = {each: told for each, told in before.items() if told >= oldest} | now
    newest = sorted(times, key=lambda each: -times[each])[:MAX_OBJECTS]
    objects = tuple(sorted(newest, key=lambda each: (each.path, each.digest)))
    # Another process, which has neither, may have told last.
    anonymous = max(_date_anonymous(known), _date_anonymous(new))
    omitted, cut = max(_date_omitted(known), _date_omitted(new)), len(times) - len(objects)
    counts = [each.code.omitted for each in (known, new) if each.code is not None and _date_omitted(each) >= oldest]
    accepted = max(known.accepted, new.accepted)
    is_forgotten = any(each not in times for each in before) or any(0 < each < oldest for each in (anonymous, omitted))
    return msgspec.structs.replace(
        known,
        code=LoadedCode(objects=objects, anonymous=anonymous >= max(oldest, 1), omitted=max([*counts, cut])),
        told=tuple(times[each] for each in objects),
        anonymous_told=anonymous if anonymous >= oldest else 0,
        omitted_told=int(new.last) if cut else omitted if omitted >= oldest else 0,
        accepted=0.0 if is_forgotten and accepted < oldest else accepted,
    )


def forget_code(sighting: Sighting) -> Sighting:
    """Return it as if what it has loaded had never been told."""
    return msgspec.structs.replace(sighting, code=None, told=(), anonymous_told=0, omitted_told=0, accepted=0.0)


def _list_told(sighting: Sighting) -> dict[LoadedObject, int]:
    objects = sighting.code.objects if sighting.code is not None else ()
    return dict(zip(objects, sighting.told or (int(sighting.last),) * len(objects), strict=False))


def _date_anonymous(sighting: Sighting) -> int:
    is_told = sighting.code is not None and sighting.code.anonymous
    return (sighting.anonymous_told or int(sighting.last)) if is_told else 0


def _date_omitted(sighting: Sighting) -> int:
    is_told = sighting.code is not None and sighting.code.omitted > 0
    return (sighting.omitted_told or int(sighting.last)) if is_told else 0


def _says_nothing_new(known: Sighting, new: Sighting) -> bool:
    """Tell whether only the time differs, as with most certificates that are asked for."""
    return (
        not (new.images or new.parents or new.package or new.code)
        and new.path in ("", known.path)
        and new.pods == known.pods[:1]
        and len(known.images) <= 1
    )


def find_waiting(
    sightings: Iterable[Sighting], approved: Collection[_Key], refused: Collection[_Key]
) -> tuple[QueuedProgram, ...]:
    """Return what was seen and is neither approved nor refused, seen last first."""
    all_of_them = list(sightings)
    images = _list_images(all_of_them)
    waiting = [
        QueuedProgram(seen=each, new_since=_find_before(each, images.get(each.workload, ())))
        for each in all_of_them
        if each.key not in approved and each.key not in refused
    ]
    return tuple(sorted(waiting, key=lambda each: (-each.seen.last, each.seen.key)))


def _list_images(sightings: Iterable[Sighting]) -> Mapping[str, Sequence[ImageSeen]]:
    """Return each workload's images, the one that was seen first last."""
    found: dict[str, dict[str, ImageSeen]] = {}
    for sighting in sightings:
        of_workload = found.setdefault(sighting.workload, {})
        for each in sighting.images:
            known = of_workload.get(each.image)
            if known is None or each.first < known.first:
                of_workload[each.image] = each
    return {name: sorted(each.values(), key=lambda seen: -seen.first) for name, each in found.items()}


def _find_before(sighting: Sighting, images: Sequence[ImageSeen]) -> str:
    """Return the newest image of the same repository that ran before the first one that had the program."""
    if not sighting.images:
        return ""
    own = {each.image for each in sighting.images}
    first = sighting.images[0]
    before = [each.image for each in images if each.image not in own and each.first < first.first]
    repository = name_repository(first.image)
    return next((each for each in before if name_repository(each) == repository), "")


def name_repository(image: str) -> str:
    """Return an image's name without tag and digest."""
    name = image.partition("@")[0]
    head, colon, tag = name.rpartition(":")
    return head if colon and "/" not in tag else name


def is_of_image(sighting: Sighting, image: str) -> bool:
    """Tell whether a program was seen in this image: named in full, or without its digest."""
    return any(image in (each.image, each.image.partition("@")[0]) for each in sighting.images)
