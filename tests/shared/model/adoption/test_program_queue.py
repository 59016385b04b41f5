"""What waits for an approval, what doesn't, and which image a program is new since."""

from __future__ import annotations

import msgspec
import pytest

from shared.model.adoption.program_queue import (
    CODE_KEPT_S,
    MAX_IMAGES,
    MAX_PODS,
    ImageSeen,
    Sighting,
    find_waiting,
    is_of_image,
    merge_sightings,
    name_repository,
)
from shared.model.identity.loaded_code import MAX_OBJECTS, LoadedCode, LoadedObject
from shared.model.identity.program import Program

WEB, CURL = Program(digest="aa" * 32), Program(digest="bb" * 32)
OLD, NEW = "registry.example:5000/shop/web:1@sha256:" + "1" * 64, "registry.example:5000/shop/web:2@sha256:" + "2" * 64


def see(program: Program = WEB, *images: ImageSeen, **changes: object) -> Sighting:
    seen = Sighting(namespace="shop", service_account="web", program=program, images=images, first=1.0, last=2.0)
    return msgspec.structs.replace(seen, **changes)


def in_image(image: str, first: float) -> ImageSeen:
    return ImageSeen(image=image, first=first, last=first + 1)


def test_what_is_approved_or_refused_doesnt_wait_and_the_newest_comes_first() -> None:
    seen = [see(WEB), see(CURL, last=5.0), see(CURL, service_account="db")]
    waiting = find_waiting(seen, approved=set(), refused=set())
    assert [(each.seen.workload, each.seen.program) for each in waiting] == [
        ("shop/web", CURL), ("shop/db", CURL), ("shop/web", WEB),
    ]  # fmt: skip
    key = ("shop", "web", CURL)
    for known in ({"approved": {key}, "refused": set()}, {"approved": set(), "refused": {key}}):
        assert {each.seen.key for each in find_waiting(seen, **known)} == {("shop", "web", WEB), ("shop", "db", CURL)}


def test_a_program_is_new_since_the_image_that_ran_before_and_lacked_it() -> None:
    seen = [see(WEB, in_image(OLD, 1), in_image(NEW, 9)), see(CURL, in_image(NEW, 9)), see(Program(digest="cc" * 32))]
    new_since = {each.seen.program: each.new_since for each in find_waiting(seen, approved=set(), refused=set())}
    assert new_since == {WEB: "", CURL: OLD, Program(digest="cc" * 32): ""}
    # Another container of the pod is no earlier version; nor is another workload's image.
    others = [
        see(WEB, in_image("registry.example/log/agent:1", 1)),
        see(WEB, in_image(OLD, 1), service_account="db"),
        see(CURL, in_image(NEW, 9)),
    ]
    assert {each.new_since for each in find_waiting(others, approved=set(), refused=set())} == {""}


def test_what_is_loaded_adds_up_over_the_pods_and_goes_when_none_tells_it_any_more() -> None:
    a, b, c = (LoadedObject(path=f"/lib/{name}", digest=name * 64) for name in "abc")
    hour = int(CODE_KEPT_S)
    known = merge_sightings(None, see(code=LoadedCode(objects=(a, b), omitted=1), accepted=2.0))
    known = merge_sightings(known, see(last=hour - 1.0))  # Its certificate was asked for.
    known = merge_sightings(known, see(code=LoadedCode(objects=(b, c)), pods=("other",), last=hour + 1.0))
    assert (known.code, known.accepted) == (LoadedCode(objects=(a, b, c), omitted=1), 2.0)
    assert merge_sightings(known, see(last=9.0 * hour)).code == known.code, "nothing was said of it"
    later = merge_sightings(known, see(code=LoadedCode(objects=(c,)), last=hour + 10.0, accepted=hour + 10.0))
    assert (later.code, later.accepted) == (LoadedCode(objects=(b, c)), hour + 10.0)
    many = tuple(LoadedObject(path="/x", digest=f"{number:064x}") for number in range(MAX_OBJECTS))
    full = merge_sightings(later, see(code=LoadedCode(objects=many), last=hour + 11.0)).code
    assert full == LoadedCode(objects=many, omitted=2), "the ones told last stay"


def test_what_one_process_has_beyond_files_stands_though_another_that_lacks_it_tells_last() -> None:
    """Who listens is told again half a minute after who accepts."""
    more, none = LoadedCode(anonymous=True, omitted=2), LoadedCode()
    for first, second in ((more, none), (none, more)):
        known = merge_sightings(merge_sightings(None, see(code=first)), see(code=second))
        assert known.code == more
    known = merge_sightings(known, see(code=none, last=CODE_KEPT_S + 2.0))
    assert known.code == more
    known = merge_sightings(known, see(code=none, last=CODE_KEPT_S + 3.0))
    assert (known.code, known.anonymous_told, known.omitted_told) == (none, 0, 0)


@pytest.mark.parametrize(
    "accepted",
    [
        LoadedCode(objects=(LoadedObject(path="/a", digest="a" * 64),)),
        LoadedCode(anonymous=True),
        LoadedCode(omitted=1),
    ],
    ids=["a file", "memory", "files that aren't told"],
)
def test_of_who_accepts_nothing_is_known_once_what_it_had_is_forgotten(accepted: LoadedCode) -> None:
    known, later = merge_sightings(None, see(code=accepted, accepted=2.0)), CODE_KEPT_S + 3.0
    assert merge_sightings(known, see(code=accepted, last=later)).accepted == 2.0, "the same is told still"
    assert merge_sightings(known, see(code=LoadedCode(), last=later)).accepted == 0.0
    assert merge_sightings(known, see(code=LoadedCode(), last=later, accepted=later)).accepted == later


def test_sightings_add_up_and_what_an_older_release_doesnt_say_stays_known() -> None:
    code = LoadedCode(anonymous=True)
    full = see(
        WEB, in_image(OLD, 1), path="/srv/web", package="web 1 (dpkg)", pods=("a",), parents=("/init",), code=code
    )
    merged = merge_sightings(full, see(WEB, pods=("b",), first=0.5, last=7.0))
    assert (merged.path, merged.package, merged.parents, merged.code) == ("/srv/web", "web 1 (dpkg)", ("/init",), code)
    assert (merged.pods, merged.first, merged.last) == (("b", "a"), 0.5, 7.0)
    again = merge_sightings(merged, see(WEB, in_image(OLD, 9), in_image(NEW, 8)))
    assert [(each.image, each.first, each.last) for each in again.images] == [(OLD, 1, 10), (NEW, 8, 9)]


def test_a_repeated_sighting_changes_nothing_but_its_time() -> None:
    """Where it comes from another pod, has another path or is of an image, that counts as well."""
    known = see(WEB, in_image(OLD, 1), path="/srv/web", package="web 1", pods=("a", "b"), parents=("/init",))
    for path in ("", "/srv/web"):
        again = merge_sightings(known, see(WEB, path=path, pods=("a",), first=0.5, last=7.0))
        assert again == msgspec.structs.replace(known, first=0.5, last=7.0)
    assert merge_sightings(known, see(WEB, pods=("a",), first=1.5, last=1.5)) == known
    assert merge_sightings(known, see(WEB, pods=("b",))).pods == ("b", "a")
    assert merge_sightings(known, see(WEB, path="/srv/other", pods=("a",))).path == "/srv/other"
    assert merge_sightings(known, see(WEB, package="web 2", pods=("a",))).package == "web 2"
    assert [each.image for each in merge_sightings(known, see(WEB, in_image(NEW, 3), pods=("a",))).images] == [OLD, NEW]


def test_images_and_pods_are_bounded_the_latest_stay() -> None:
    known = None
    for number in range(40):
        known = merge_sightings(known, see(WEB, in_image(f"web:{number}", number), pods=(f"pod-{number}",)))
    assert known is not None
    assert [each.image for each in known.images] == [f"web:{number}" for number in range(40 - MAX_IMAGES, 40)]
    assert known.pods == tuple(f"pod-{number}" for number in range(39, 39 - MAX_PODS, -1))


@pytest.mark.parametrize(
    ("image", "repository"),
    [(OLD, "registry.example:5000/shop/web"), ("web", "web"), ("localhost:5000/web", "localhost:5000/web")],
)
def test_a_repository_is_the_name_without_tag_and_digest(image: str, repository: str) -> None:
    assert name_repository(image) == repository


def test_an_image_is_named_in_full_or_without_its_digest() -> None:
    seen = see(WEB, in_image(OLD, 1))
    assert is_of_image(seen, OLD) and is_of_image(seen, OLD.partition("@")[0])
    assert not is_of_image(seen, "registry.example:5000/shop/web")
