"""The frame codec: round trips and bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.model.errors import ProtocolError
from shared.model.policy.reasons import ALLOWING, Reason, express_in_first_codes
from sidecar.tunnel.frames import (
    HEADER,
    MAX_PAYLOAD_BYTES,
    FrameType,
    Opening,
    Refusal,
    check_header,
    decode_opening,
    decode_refusal,
    encode_frame,
    encode_opening,
    encode_reason,
)

addresses = st.ip_addresses().map(str)
openings = st.builds(
    Opening,
    connection=st.binary(min_size=8, max_size=8).map(bytes.hex),
    destination=st.tuples(addresses, st.integers(1, 65535)),
    source=st.tuples(addresses, st.integers(0, 65535)),
    why=st.none() | st.sampled_from(sorted({express_in_first_codes(each) for each in Reason})),
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
    ("frame", "length"), [(0, 0), (11, 0), (FrameType.END, 1), (FrameType.DATA, 0), (FrameType.DATA, 16_381)]
)
def test_unknown_types_and_long_payloads_are_refused(frame: int, length: int) -> None:
    with pytest.raises(ProtocolError):
        check_header(frame, length)


def test_a_full_frame_fills_one_tls_record() -> None:
    assert len(encode_frame(FrameType.DATA, 1, b"x" * MAX_PAYLOAD_BYTES)) == 16_384


def test_a_refusal_is_read_and_what_is_no_code_is_a_protocol_error() -> None:
    assert decode_refusal(b"no_rule") == Refusal(reason=Reason.NO_RULE)
    for bad in (b"", b"no rule", b"No_rule", b"x" * 65, b"\xff", b"\x1b[31m"):
        with pytest.raises(ProtocolError):
            decode_refusal(bad)


def test_a_refusal_of_a_newer_release_refuses_and_its_code_is_kept_for_people() -> None:
    refusal = decode_refusal(b"moon_is_full")
    assert refusal.reason is Reason.PROTOCOL_ERROR
    assert "moon_is_full" in refusal.detail


def test_an_unknown_why_in_open_opens_all_the_same() -> None:
    opening = Opening(connection="00" * 8, destination=("198.18.0.2", 5432), source=("198.18.0.1", 1))
    payload = encode_opening(opening)
    why = b"moon_is_full"
    assert decode_opening(payload[:-1] + bytes((len(why),)) + why).why is None
    with pytest.raises(ProtocolError):
        decode_opening(payload[:-1] + b"\x02\xff\xff")


@pytest.mark.parametrize("reason", sorted(ALLOWING))
def test_a_peer_that_refuses_with_a_reason_that_allows_broke_the_protocol(reason: Reason) -> None:
    refusal = decode_refusal(reason.value.encode())
    assert refusal.reason is Reason.PROTOCOL_ERROR
    assert reason.value in refusal.detail


@pytest.mark.parametrize("reason", sorted(set(Reason) - ALLOWING), ids=str)
def test_every_reason_is_written_in_the_first_releases_codes(reason: Reason) -> None:
    assert decode_refusal(encode_reason(reason)) == Refusal(reason=express_in_first_codes(reason))
