"""The frame reader: the same frames however the bytes arrive, nothing copied without need, bounds."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.model.errors import ProtocolError
from sidecar.tunnel.frame_reader import FrameReader
from sidecar.tunnel.frames import HEADER, MAX_FRAME_BYTES, MAX_PAYLOAD_BYTES, FrameType, encode_frame

Frame = tuple[int, int, bytes]

empty_types = st.sampled_from([FrameType.ACCEPT, FrameType.END, FrameType.RESET, FrameType.CLOSING, FrameType.ABORT])
frames: st.SearchStrategy[Frame] = st.one_of(
    st.tuples(empty_types, st.integers(0, 255), st.just(b"")),
    st.tuples(st.sampled_from([FrameType.OPEN, FrameType.REFUSE]), st.integers(0, 255), st.binary(max_size=64)),
    st.tuples(st.just(FrameType.DATA), st.integers(0, 255), st.binary(min_size=1, max_size=40)),
    st.tuples(
        st.just(FrameType.DATA), st.integers(0, 255), st.integers(MAX_PAYLOAD_BYTES - 2, MAX_PAYLOAD_BYTES).map(bytes)
    ),
)


def encode(sequence: list[Frame]) -> bytes:
    return b"".join(encode_frame(FrameType(frame), epoch, payload) for frame, epoch, payload in sequence)


class Shell:
    """What a tunnel does with its reader: one buffer, reads behind what was left over."""

    def __init__(self, size: int) -> None:
        self.reader = FrameReader()
        self.buffer = memoryview(bytearray(size))

    def read(self, chunk: bytes, *, most: int | None = None) -> list[Frame]:
        """One read's frames, at most ``most``; the buffer is overwritten afterwards."""
        reader = self.reader
        found: list[Frame] = []
        start = reader.restore(self.buffer)
        end = start + len(chunk)
        self.buffer[start:end] = chunk
        reader.feed(self.buffer[:end])
        while (most is None or len(found) < most) and (frame := reader.next_frame()):
            found.append((frame, reader.epoch, bytes(reader.payload)))
        reader.keep_rest()
        self.buffer[:] = b"\xff" * len(self.buffer)
        return found


@given(st.lists(frames, max_size=8), st.data())
def test_any_split_of_any_frames_gives_the_same_frames(sequence: list[Frame], data: st.DataObject) -> None:
    encoded = encode(sequence)
    # Cuts gather around headers, where a mistake would be.
    starts = [len(encode(sequence[:count])) for count in range(len(sequence) + 1)]
    near = st.builds(lambda start, by: start + by, st.sampled_from(starts), st.integers(-2, 6))
    cuts = data.draw(st.lists(near | st.integers(0, len(encoded)), max_size=20))
    edges = [0, *sorted(min(max(cut, 0), len(encoded)) for cut in cuts), len(encoded)]
    shell = Shell(len(encoded))
    found: list[Frame] = []
    for start, end in pairwise(edges):
        found += shell.read(encoded[start:end])
    assert found == sequence
    assert not shell.reader.rest


@given(st.lists(frames, max_size=8), st.lists(st.integers(0, 3), max_size=8))
def test_frames_that_were_not_asked_for_come_with_the_next_read(sequence: list[Frame], counts: list[int]) -> None:
    encoded = encode(sequence)
    shell = Shell(len(encoded))
    found = shell.read(encoded, most=0)
    assert found == []
    for most in counts:
        found += shell.read(b"", most=most)
    assert found + shell.read(b"") == sequence


def test_a_payload_is_a_slice_of_what_was_fed() -> None:
    reader, buffer = FrameReader(), bytearray(encode_frame(FrameType.DATA, 1, b"abc"))
    reader.feed(memoryview(buffer))
    assert reader.next_frame() == FrameType.DATA
    buffer[-3:] = b"xyz"
    assert bytes(reader.payload) == b"xyz"


@pytest.mark.parametrize(
    "header",
    [(0, 1, 0), (11, 1, 0), (FrameType.DATA, 1, 0), (FrameType.DATA, 1, MAX_PAYLOAD_BYTES + 1), (FrameType.END, 1, 1)],
)
def test_a_frame_out_of_bounds_is_refused_by_its_header_alone(header: tuple[int, int, int]) -> None:
    shell = Shell(2 * MAX_FRAME_BYTES)
    assert shell.read(encode_frame(FrameType.DATA, 1, b"fine") + HEADER.pack(*header)[:3]) == [
        (FrameType.DATA, 1, b"fine")
    ]
    with pytest.raises(ProtocolError):
        shell.read(HEADER.pack(*header)[3:])


def test_after_clear_nothing_is_left() -> None:
    shell = Shell(64)
    shell.read(encode_frame(FrameType.DATA, 1, b"abc")[:5])
    shell.reader.clear()
    assert not shell.reader.rest
    assert shell.read(encode_frame(FrameType.END, 1)) == [(FrameType.END, 1, b"")]
