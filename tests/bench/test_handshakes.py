"""What is measured are whole handshakes: both ends end up with a tunnel, or with an established connection."""

from __future__ import annotations

import pytest

from bench.handshakes import (
    main,
    make_ends,
    measure_memory,
    measure_resting_memory,
    measure_steps,
    shake_hands,
    shake_hands_in_memory,
)


async def test_both_kinds_are_made_to_the_end() -> None:
    ends = make_ends()
    await shake_hands(ends)
    shake_hands_in_memory(ends)


def test_a_connection_keeps_more_after_its_handshake_than_before() -> None:
    ends = make_ends()
    made, kept = measure_memory(ends, 4)
    assert 0 < made < kept
    assert made < measure_resting_memory(ends, 4) < kept


def test_a_handshake_that_rests_on_an_earlier_one_has_four_steps() -> None:
    steps = measure_steps(make_ends(), 3)
    assert len(steps) == 4
    assert min(steps) > 0


def test_it_prints_both_and_their_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rounds", "1", "--count", "2"]) == 0
    assert "tunnel / tls:" in capsys.readouterr().out
