"""What a ``Program`` object is called when nobody names it."""

from __future__ import annotations

import itertools

import pytest

from shared.model.adoption.approval_name import choose_name
from shared.model.errors import ConflictError
from shared.model.identity.program import Program

ONE, TWO = Program(digest="11" * 32), Program(digest="22" * 32)
SCRIPTS = [Program(digest="11" * 32, main=main) for main in ("aa" * 32, "bb" * 32, "none")]


def test_no_two_sets_of_programs_share_a_name() -> None:
    programs = [ONE, TWO, *SCRIPTS]
    sets = [each for size in (1, 2, 3) for each in itertools.combinations(programs, size)]
    names = {choose_name("web", each, {}) for each in sets}
    assert len(names) == len(sets)
    assert choose_name("web", [ONE], {}) == "web-111111111111"
    assert choose_name("web", [TWO, ONE], {}) == choose_name("web", [ONE, TWO, ONE], {})
    assert len(choose_name("w" * 253, [ONE, TWO], {})) == 253


def test_an_object_that_approves_other_programs_is_left() -> None:
    """0.1 named an object after the first of its programs."""
    named = choose_name("web", [ONE], {})
    assert choose_name("web", [ONE], {named: ("web", (ONE,))}) == named, "the same is approved again"
    second = choose_name("web", [ONE], {named: ("web", (ONE, TWO))})
    assert second != named
    assert choose_name("web", [ONE], {named: ("web", (TWO,)), second: ("web", (ONE,))}) == second
    assert choose_name("web", [ONE], {named: ("another", (ONE,))}) == second
    with pytest.raises(ConflictError, match="would lose their approval"):
        choose_name("web", [ONE], {named: ("web", (TWO,)), second: ("web", (TWO,))})
