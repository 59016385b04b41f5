"""Frames between the CA and its signing process: whole however they come in pieces, and never endless."""

from __future__ import annotations

import msgspec
import pytest

from ca.signing.orders import MAX_FRAME_BYTES, MAX_ORDERS, FrameReader, Handover, Orders, write_frame
from shared.model.errors import ProtocolError
from tests.ca.signing.given import CSR, make_order


def test_frames_are_whole_however_they_come() -> None:
    sent = [Orders(None, [make_order(number) for number in range(count)]) for count in (0, 1, 3)]
    stream = b"".join(write_frame(each) for each in sent)
    for size in (1, 5, len(stream)):
        reader = FrameReader()
        pieces = [stream[begin : begin + size] for begin in range(0, len(stream), size)]
        frames = [frame for piece in pieces for frame in reader.take(piece)]
        assert [msgspec.msgpack.decode(frame, type=Orders) for frame in frames] == sent


def test_a_frame_of_the_largest_orders_is_taken_and_a_longer_one_isnt() -> None:
    largest = msgspec.structs.replace(
        make_order(csr=bytes(8192), identity="x" * 2048), path="é" * 256, approved_by="é" * 128, instance="i" * 253
    )
    assert len(write_frame(Orders(None, [largest] * MAX_ORDERS))) <= MAX_FRAME_BYTES
    with pytest.raises(ProtocolError):
        list(FrameReader().take((MAX_FRAME_BYTES + 1).to_bytes(4, "big")))


def test_a_key_is_in_no_text() -> None:
    assert "secret" not in repr(Orders(Handover("a", CSR, b"secret", 0.0, 1.0), []))
