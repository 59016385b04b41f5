"""An image that was taken out of the list is remembered for a grace, and no longer."""

from __future__ import annotations

from ca.evidence.former_images import MAX_FORMER, FormerImages, note_images

NOON = 1_795_694_400.0  # 2026-11-26T12:00:00Z


def test_what_leaves_the_list_is_remembered_since_then_and_forgotten_after_its_grace() -> None:
    known = note_images({}, ("a:1",), now=10.0, grace_s=100.0)
    assert known == {"a:1": 0.0}
    known = note_images(known, ("a:2",), now=20.0, grace_s=100.0)
    assert known == {"a:2": 0.0, "a:1": 20.0}
    assert note_images(known, ("a:2",), now=119.0, grace_s=100.0) == known, "a restart doesn't lengthen it"
    assert note_images(known, ("a:2",), now=120.0, grace_s=100.0) == {"a:2": 0.0}
    assert note_images(known, ("a:2", "a:1"), now=30.0, grace_s=100.0) == {"a:2": 0.0, "a:1": 0.0}
    assert note_images(known, ("a:3",), now=30.0, grace_s=0.0) == {"a:3": 0.0}


def test_an_image_that_came_back_into_the_list_has_its_grace_anew_when_it_goes() -> None:
    """Also when it was a replica with the former list that started again: pods may have been made by it meanwhile."""
    known = note_images({"a:2": 0.0, "a:1": 20.0}, ("a:1", "a:2"), now=60.0, grace_s=100.0)
    assert note_images(known, ("a:2",), now=70.0, grace_s=100.0) == {"a:2": 0.0, "a:1": 70.0}


def test_of_too_many_the_oldest_are_forgotten() -> None:
    known = {f"a:{number}": float(number + 1) for number in range(MAX_FORMER + 5)}
    kept = note_images(known, ("b",), now=80.0, grace_s=1000.0)
    assert len(kept) == MAX_FORMER + 1
    assert "a:0" not in kept and f"a:{MAX_FORMER + 4}" in kept


def test_only_pods_that_were_made_before_stay() -> None:
    former = FormerImages(removed={"a:1": NOON}, grace_s=60.0)
    assert former.list_for("2026-11-26T11:59:59Z") == ("a:1",)
    assert former.list_for("2026-11-26T12:00:01Z") == ()
    assert former.list_for("") == ()
    assert FormerImages(removed={"a:1": NOON}).list_for("2026-11-26T11:59:59Z") == (), "no grace"
    assert (former.end_of("a:1"), former.end_of("a:2")) == (NOON + 60.0, 0.0)
