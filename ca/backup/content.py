"""What a backup says: messages in msgpack, each behind its length. Pure.

First a ``Manifest``, then ``Rows`` of one table after another, then the ``End`` with the number of each table's rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from shared.model.errors import InputError

# A namespace's rules may have a few MiB; more than that in one message is damage.
MAX_MESSAGE_BYTES: Final = 32 * 1024 * 1024


class Manifest(msgspec.Struct, frozen=True, kw_only=True, tag="manifest"):
    """The beginning.

    Attributes:
        revision: of the tables: the newest migration's.
        taken: seconds since the epoch.
    """

    revision: str
    trust_domain: str
    taken: float


class Rows(msgspec.Struct, frozen=True, kw_only=True, tag="rows"):
    """Some rows of one table."""

    table: str
    columns: tuple[str, ...]
    rows: list[list[Any]]


class End(msgspec.Struct, frozen=True, kw_only=True, tag="end"):
    """The end: how many rows each table has."""

    counts: dict[str, int]


Message = Manifest | Rows | End
_decoder: Final = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """Return a message behind its length."""
    data = msgspec.msgpack.encode(message)
    return len(data).to_bytes(4) + data


def decode_all(chunks: Iterable[bytes]) -> Iterator[Message]:
    """Yield the messages of a whole stream. Holds one of them.

    Raises:
        InputError: it isn't such a stream, or ends within a message.
    """
    waiting = bytearray()
    for chunk in chunks:
        waiting += chunk
        while len(waiting) >= 4:
            size = int.from_bytes(waiting[:4])
            if size > MAX_MESSAGE_BYTES:
                raise InputError("the backup's content can't be read: a message is too long")
            if len(waiting) < 4 + size:
                break
            try:
                yield _decoder.decode(bytes(waiting[4 : 4 + size]))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise InputError(
                    "the backup's content can't be read", hint="was it made by a newer version?"
                ) from error
            del waiting[: 4 + size]
    if waiting:
        raise InputError("the backup's content ends within a message")
