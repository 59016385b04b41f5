"""A backup's messages (``ca.backup.content``)."""

from __future__ import annotations

import pytest

from ca.backup.content import MAX_MESSAGE_BYTES, End, Manifest, Rows, decode_all, encode
from shared.model.errors import InputError

MESSAGES = (
    Manifest(revision="0001", trust_domain="a.test", taken=1.0),
    Rows(table="t", columns=("a", "b"), rows=[[1, b"\0"], [None, 2.5]]),
    End(counts={"t": 2}),
)


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_messages_are_read_from_any_pieces(step: int) -> None:
    data = b"".join(encode(message) for message in MESSAGES)
    assert tuple(decode_all(data[n : n + step] for n in range(0, len(data), step))) == MESSAGES


@pytest.mark.parametrize(
    "data", [b"\0", encode(MESSAGES[0])[:-1], (MAX_MESSAGE_BYTES + 1).to_bytes(4), (1).to_bytes(4) + b"\xc1"]
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(InputError):
        list(decode_all([data]))
