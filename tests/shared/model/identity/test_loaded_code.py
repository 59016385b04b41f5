"""Loaded code: which values there are, and what of them an approval doesn't cover."""

from __future__ import annotations

import pytest

from shared.model.errors import IdentityError
from shared.model.identity.loaded_code import (
    MAX_OBJECTS,
    ApprovedCode,
    CodeCheck,
    LoadedCode,
    LoadedObject,
    find_foreign,
)

LIBC = LoadedObject(path="/lib/libc.so.6", digest="a" * 64)
EVIL = LoadedObject(path="/tmp/evil.so", digest="b" * 64)
UNREADABLE = LoadedObject(path="/gone.so (deleted)")


@pytest.mark.parametrize(
    ("path", "digest"),
    [("/a", "A" * 64), ("/a", "a" * 63), ("/\x1b", "a" * 64), ("/" * 257, "a" * 64), ("/ü", "a" * 64)],
)
def test_an_object_that_cannot_be_is_refused(path: str, digest: str) -> None:
    with pytest.raises(IdentityError):
        LoadedObject(path=path, digest=digest)


def test_loaded_code_is_bounded() -> None:
    with pytest.raises(IdentityError):
        LoadedCode(objects=(LIBC,) * (MAX_OBJECTS + 1))


@pytest.mark.parametrize(
    ("code", "is_jit", "said"),
    [
        (LoadedCode(objects=(LIBC,)), False, ""),
        (LoadedCode(objects=(LIBC, EVIL)), False, f"/tmp/evil.so (sha256:{'b' * 64})"),
        (LoadedCode(objects=(LIBC, UNREADABLE)), True, "/gone.so (deleted) (can't be measured)"),
        (LoadedCode(objects=(LIBC,), anonymous=True), False, "anonymous executable memory"),
        (LoadedCode(objects=(LIBC,), anonymous=True), True, ""),
        (LoadedCode(objects=(LIBC,), omitted=4), True, "4 more"),
    ],
)
def test_what_is_not_approved_is_foreign(code: LoadedCode, said: str, *, is_jit: bool) -> None:
    found = find_foreign(code, {LIBC.digest}, is_jit=is_jit)
    assert str(found or "") == (f"loaded code that isn't approved: {said}" if said else "")


def test_three_foreign_objects_are_named_and_the_others_counted() -> None:
    objects = tuple(LoadedObject(path=f"/{number}.so", digest=f"{number:0>64}") for number in range(5))
    found = find_foreign(LoadedCode(objects=objects, omitted=2), (), is_jit=False)
    assert str(found).endswith("4 more")
    assert "/2.so" in str(found)
    assert "/3.so" not in str(found)


def test_an_approval_with_objects_is_enforced_unless_it_says_otherwise() -> None:
    assert ApprovedCode().effective_check is None
    assert ApprovedCode(jit=True).effective_check is None
    assert ApprovedCode(objects=(LIBC,)).effective_check is CodeCheck.ENFORCE
    assert ApprovedCode(objects=(LIBC,), check=CodeCheck.REPORT).effective_check is CodeCheck.REPORT
    assert ApprovedCode(check=CodeCheck.ENFORCE).effective_check is CodeCheck.ENFORCE


@pytest.mark.parametrize("objects", [(UNREADABLE,), (LIBC,) * (MAX_OBJECTS + 1)])
def test_an_approval_names_bounded_objects_by_digest(objects: tuple[LoadedObject, ...]) -> None:
    with pytest.raises(IdentityError):
        ApprovedCode(objects=objects)
