"""A change of what may be loaded: grouped by library, whatever its version, in every object that names it."""

from __future__ import annotations

import pytest

from cli.backends.code_change import name_of, plan_change
from shared.model.identity.loaded_code import ApprovedCode, CodeCheck, LoadedObject
from shared.model.identity.program import Program
from shared.model.wire.admin import ProgramView


def an_object(path: str, letter: str) -> LoadedObject:
    return LoadedObject(path=path, digest=letter * 64)


OLD = an_object("/lib/libssl.so.3.0.17", "1")
NEW = an_object("/lib/libssl.so.3.0.18", "2")
LIBC = an_object("/lib/libc.so.6", "3")
PLUGIN = an_object("/srv/plugin.so", "4")


def view(name: str, *objects: LoadedObject, check: CodeCheck | None = None) -> ProgramView:
    return ProgramView(
        namespace="shop", name=name, service_account="web", programs=(Program(digest="a" * 64),), weak=True,
        approved_by="ann", approved=1.0, code=ApprovedCode(objects=objects, check=check, jit=True),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/lib/libssl.so.3.0.17", "/lib/libssl.so"),
        ("/lib/libm-2.36.so", "/lib/libm.so"),
        ("/lib/ld-linux-x86-64.so.2", "/lib/ld-linux-x86-64.so"),
        ("/srv/plugin.so", "/srv/plugin.so"),
        ("/srv/tool", "/srv/tool"),
    ],
)
def test_versions_of_one_library_have_one_name(path: str, name: str) -> None:
    assert name_of(an_object(path, "1")) == name


def test_a_new_version_goes_to_every_object_that_names_the_library() -> None:
    views = [view("one", OLD, LIBC), view("two", LIBC), view("three", OLD, check=CodeCheck.REPORT)]
    change = plan_change(views, [NEW, LIBC], replaces=False)
    [only] = change.changes
    assert (only.new, only.others, only.objects) == (NEW, (OLD,), ("one", "three"))
    by_name = {request.name: request for request in change.requests}
    assert {name: request.code and request.code.objects for name, request in by_name.items()} == {
        "one": (OLD, LIBC, NEW),
        "three": (OLD, NEW),
    }
    assert by_name["three"].code == ApprovedCode(objects=(OLD, NEW), check=CodeCheck.REPORT, jit=True)
    assert (by_name["one"].weak, by_name["one"].approved_by, by_name["one"].programs) == (
        True,
        "ann",
        views[0].programs,
    )


def test_the_former_version_goes_where_that_is_asked_for() -> None:
    change = plan_change([view("one", OLD, LIBC)], [NEW], replaces=True)
    [request] = change.requests
    assert request.code is not None
    assert request.code.objects == (LIBC, NEW)
    assert change.removed == (OLD,)


def test_the_former_version_goes_later_as_well_when_both_are_approved() -> None:
    change = plan_change([view("one", OLD, NEW, LIBC), view("two", LIBC)], [NEW], replaces=True)
    [request] = change.requests
    assert request.code is not None
    assert (request.name, request.code.objects, change.removed) == ("one", (NEW, LIBC), (OLD,))
    assert plan_change([view("one", OLD, NEW)], [OLD, NEW], replaces=True).requests == ()


def test_what_is_new_altogether_goes_to_the_first_object() -> None:
    change = plan_change([view("one", OLD), view("two", LIBC)], [PLUGIN], replaces=True)
    assert [request.name for request in change.requests] == ["one"]
    assert change.requests[0].code == ApprovedCode(objects=(OLD, PLUGIN), jit=True)


def test_what_is_approved_or_could_not_be_measured_changes_nothing() -> None:
    change = plan_change([view("one", OLD)], [OLD, LoadedObject(path="/gone (deleted)")], replaces=True)
    assert (change.changes, change.removed, change.requests) == ((), (), ())
