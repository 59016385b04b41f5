"""The variable that switches the trace of frames on."""

from __future__ import annotations

import pytest

from shared.model.errors import InputError
from sidecar.settings.trace import is_tracing_frames


@pytest.mark.parametrize(
    ("environment", "is_on"), [({}, False), ({"TOUCHMARK_TRACE": ""}, False), ({"TOUCHMARK_TRACE": "frames"}, True)]
)
def test_frames_are_traced_where_the_variable_says_so(environment: dict[str, str], is_on: bool) -> None:
    assert is_tracing_frames(environment) is is_on


@pytest.mark.parametrize("value", ["1", "Frames", "frames,bytes", "frame"])
def test_a_value_that_isnt_known_is_refused_with_the_one_that_is(value: str) -> None:
    with pytest.raises(InputError, match="TOUCHMARK_TRACE") as caught:
        is_tracing_frames({"TOUCHMARK_TRACE": value})
    assert caught.value.code == "bad_input"
    assert "'frames'" in caught.value.hint
