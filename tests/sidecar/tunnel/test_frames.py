"""The frame codec: round trips and bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.model.errors import ProtocolError
from shared.model.policy.reasons import Reason
from sidecar.tunnel.frames import (
    HEADER,
    MAX_PAYLOAD_BYTES,
    FrameType,
    Opening,
    check_header,
    decode_opening,
    decode_reason,
    encode_frame,
    encode_opening,
)

addresses = st.ip_addresses().map(str)
openings = st.builds(
    Opening,
    connection=st.binary(min_size=8, max_size=8).map(bytes.hex),
    destination=st.tuples(addresses, st.integers(1, 65535)),
    source=st.tuples(addresses, st.integers(0, 65535)),
    why=st.none() | st.sampled_from(Reason),
)


@given(openings)
def test_an_opening_round_trips(opening: Opening) -> None:
    payload = encode_opening(opening)
    check_header(FrameType.OPEN, len(payload))
    assert decode_opening(payload) == opening


@given(openings, st.data())
def test_a_truncated_or_longer_opening_is_refused(opening: Opening, data: st.DataObject) -> None:
    payload = encode_opening(opening)
    cut = data.draw(st.integers(0, len(payload) - 1))
    with pytest.raises(ProtocolError):
        decode_opening(payload[:cut])
    with pytest.raises(ProtocolError):
        decode_opening(payload + b"x")


@given(st.binary(max_size=120))
def test_arbitrary_payloads_never_raise_anything_else(payload: bytes) -> None:
    try:
        decode_opening(payload)
    except ProtocolError:
        pass


def test_port_0_is_no_destination() -> None:
    opening = Opening(connection="00" * 8, destination=("::1", 0), source=("::1", 1))
    with pytest.raises(ProtocolError):
        decode_opening(encode_opening(opening))


def test_a_frame_is_type_epoch_length_payload() -> None:
    assert encode_frame(FrameType.DATA, 7, b"abc") == b"\x04\x07\x00\x03abc"
    assert HEADER.unpack(encode_frame(FrameType.END, 255)) == (5, 255, 0)


@pytest.mark.parametrize(
    ("frame", "length"), [(0, 0), (8, 0), (FrameType.END, 1), (FrameType.DATA, 0), (FrameType.DATA, 16_381)]
)
def test_unknown_types_and_long_payloads_are_refused(frame: int, length: int) -> None:
    with pytest.raises(ProtocolError):
        check_header(frame, length)


def test_a_full_frame_fills_one_tls_record() -> None:
    assert len(encode_frame(FrameType.DATA, 1, b"x" * MAX_PAYLOAD_BYTES)) == 16_384


def test_an_unknown_reason_is_refused() -> None:
    assert decode_reason(b"no_rule") is Reason.NO_RULE
    for bad in (b"", b"because", b"\xff"):
        with pytest.raises(ProtocolError):
            decode_reason(bad)
