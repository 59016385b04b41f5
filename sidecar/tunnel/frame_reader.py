"""Cuts frames out of the bytes that reads of a tunnel returned.

Belongs here: headers and frames across the boundaries of reads, and their bounds. Doesn't: reading, what a frame's
payload says (``frames.py``), whether the frame may come now (``turns.py``). Pure.
"""

from __future__ import annotations

from typing import Final

from sidecar.tunnel.frames import HEADER, HEADER_BYTES, MAX_PAYLOAD_BYTES, FrameType, check_header

_DATA: Final = int(FrameType.DATA)
_NOTHING: Final = memoryview(b"")
_unpack_header: Final = HEADER.unpack_from


class FrameReader:
    """One direction's frames. For each read:

    1. ``restore`` what the read before left over to the start of a buffer, and read behind it;
    2. ``feed`` the filled part of the buffer;
    3. call ``next_frame`` until it returns 0, or until no more frames are wanted;
    4. ``keep_rest`` before the buffer is used for anything else.

    No payload is copied: what is copied is the part of a frame whose end hasn't been read yet, and frames that weren't
    asked for.

    Attributes:
        epoch: of the frame that ``next_frame`` returned last.
        payload: its payload; a slice of what was fed, valid as long as that is.
        rest: what a read before left over: a part of a frame, or frames that weren't asked for.
    """

    __slots__ = ("_data", "_offset", "epoch", "payload", "rest")

    def __init__(self) -> None:
        self._data = _NOTHING
        self._offset = 0
        self.rest = b""
        self.epoch = 0
        self.payload = _NOTHING

    def restore(self, buffer: memoryview) -> int:
        """Write what was left over to the start of ``buffer``; return how many bytes that is.

        Raises:
            ValueError: it doesn't fit.
        """
        size = len(self.rest)
        if size:
            buffer[:size] = self.rest
            self.rest = b""
        return size

    def feed(self, data: memoryview) -> None:
        """Take the bytes from which ``next_frame`` cuts: what ``restore`` wrote and what was read behind it."""
        self._data = data
        self._offset = 0

    def next_frame(self) -> int:
        """Return the type of the next whole frame and set ``epoch`` and ``payload``; 0 when there is none yet.

        Raises:
            ProtocolError: its type is unknown, or its length is out of the type's bounds. Raised as soon as its
                header is here, whether or not its payload is.
        """
        data, start = self._data, self._offset + HEADER_BYTES
        if start > len(data):
            return 0
        header: tuple[int, int, int] = _unpack_header(data, self._offset)
        frame, self.epoch, length = header
        if frame != _DATA or not 0 < length <= MAX_PAYLOAD_BYTES:
            check_header(frame, length)
        end = start + length
        if end > len(data):
            return 0
        self._offset = end
        self.payload = data[start:end]
        return frame

    @property
    def is_at_end(self) -> bool:
        """Whether nothing of what was fed is left."""
        return self._offset == len(self._data)

    def keep_rest(self) -> None:
        """Copy what no frame was cut from, for the next read; what was fed isn't used any more."""
        if self._offset < len(self._data):
            self.rest = bytes(self._data[self._offset :])
        self._data = self.payload = _NOTHING
        self._offset = 0

    def clear(self) -> None:
        """Forget everything: the tunnel has ended."""
        self._data = self.payload = _NOTHING
        self._offset = 0
        self.rest = b""
