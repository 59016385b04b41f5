"""Questions and answers of the admin socket: one line each, and nothing that isn't one of them."""

from __future__ import annotations

import msgspec
import pytest

from shared.model.wire.sidecar_admin import (
    ConnectionsQuestion,
    DumpQuestion,
    Failure,
    Level,
    LevelQuestion,
    Question,
    decode_answer,
    decode_question,
    encode_line,
)


@pytest.mark.parametrize(
    "question", [DumpQuestion(limit=3), ConnectionsQuestion(), LevelQuestion(), LevelQuestion(level="debug")]
)
def test_a_question_is_one_line_and_read_as_it_was_written(question: Question) -> None:
    line = encode_line(question)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode_question(line) == question


def test_an_answer_is_no_question_and_unknown_fields_are_refused() -> None:
    assert decode_answer(encode_line(Failure(message="no"))) == Failure(message="no")
    for line in (encode_line(Level(instance="a", level="info")), b'{"type":"dump","more":1}', b"", b"[]"):
        with pytest.raises(msgspec.DecodeError):
            decode_question(line)
