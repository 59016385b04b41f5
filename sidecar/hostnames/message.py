"""DNS messages: a query for a name's addresses, and what an answer says. Pure.

Belongs here: RFC 1035's notation, as far as a stub needs it. Doesn't: whom to ask (``nameservers.py``), sending
(``resolver.py``). DNSSEC isn't verified: the nameserver is trusted, and so is the way to it.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

_HEADER: Final = struct.Struct("!HHHHHH")
_FIXED: Final = struct.Struct("!HHIH")  # Of a record: type, class, TTL, length.
_IN: Final = 1
_CNAME: Final = 5
_RECURSION_DESIRED: Final = 0x0100
_ANSWER: Final = 0x8000
_TRUNCATED: Final = 0x0200
_NO_SUCH_NAME: Final = 3
_CODES: Final = {1: "FORMERR", 2: "SERVFAIL", 4: "NOTIMP", 5: "REFUSED"}
_MAX_RECORDS: Final = 256
_MAX_LABELS: Final = 128
_MAX_ALIASES: Final = 16
# RFC 2181, section 8: 31 bits; more counts as 0.
_MAX_TTL_S: Final = 2**31 - 1


class RecordType(IntEnum):
    """What is asked for."""

    A = 1
    AAAA = 28


class MessageError(Exception):
    """The answer says that there is none, or can't be read."""


class NotTheAnswerError(MessageError):
    """The message isn't the answer to this query; that may still come."""


class TruncatedError(MessageError):
    """There is more than fits: ask again by TCP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressAnswer:
    """What a nameserver says; no address where the name doesn't exist or has none of this kind.

    Attributes:
        addresses: canonical text, v4-mapped ones as IPv4.
        ttl_s: the least of all records that led to them; 0 without addresses.
    """

    addresses: tuple[str, ...]
    ttl_s: int


def write_query(identifier: int, name: str, kind: RecordType) -> bytes:
    """Write a recursive query (RFC 1035, section 4.1).

    Arguments:
        identifier: 16 bits, hard to guess.
        name: as ``shared.model.policy.host_name`` has checked it.
    """
    labels = b"".join(bytes((len(label),)) + label.encode("ascii") for label in name.split("."))
    header = _HEADER.pack(identifier, _RECURSION_DESIRED, 1, 0, 0, 0)
    return header + labels + b"\0" + struct.pack("!HH", kind, _IN)


def read_answer(data: bytes, identifier: int, name: str, kind: RecordType) -> AddressAnswer:
    """Read the answer to a query.

    Raises:
        NotTheAnswerError: it answers something else.
        TruncatedError: it isn't whole.
        MessageError: the nameserver refuses or has failed, or the message is malformed.
    """
    try:
        return _read_answer(data, identifier, name, kind)
    except (struct.error, IndexError, ipaddress.AddressValueError) as error:
        raise MessageError("its answer is malformed") from error


def _read_answer(data: bytes, identifier: int, name: str, kind: RecordType) -> AddressAnswer:
    if len(data) < _HEADER.size:
        raise NotTheAnswerError
    found, flags, questions, answers, _, _ = _HEADER.unpack_from(data)
    if found != identifier or not flags & _ANSWER or questions != 1:
        raise NotTheAnswerError
    wanted = tuple(label.encode("ascii") for label in name.split("."))
    asked, place = _read_name(data, _HEADER.size)
    if asked != wanted or struct.unpack_from("!HH", data, place) != (kind, _IN):
        raise NotTheAnswerError
    place += 4
    if flags & _TRUNCATED:
        raise TruncatedError
    code = flags & 0xF
    if code not in (0, _NO_SUCH_NAME):
        raise MessageError(f"it answers {_CODES.get(code, str(code))}")
    if answers > _MAX_RECORDS:
        raise MessageError(f"its answer has more than {_MAX_RECORDS} records")
    aliases: dict[tuple[bytes, ...], tuple[tuple[bytes, ...], int]] = {}
    addresses: dict[tuple[bytes, ...], dict[str, int]] = {}
    for _ in range(answers):
        owner, place = _read_name(data, place)
        type_, class_, ttl_s, length = _FIXED.unpack_from(data, place)
        place += _FIXED.size
        if place + length > len(data):
            raise MessageError("its answer is malformed")
        if class_ == _IN and type_ == _CNAME:
            aliases[owner] = _read_name(data, place)[0], ttl_s
        elif class_ == _IN and type_ == kind:
            addresses.setdefault(owner, {})[_read_address(data[place : place + length], kind)] = ttl_s
        place += length
    return _follow(wanted, aliases, addresses)


def _follow(
    name: tuple[bytes, ...],
    aliases: dict[tuple[bytes, ...], tuple[tuple[bytes, ...], int]],
    addresses: dict[tuple[bytes, ...], dict[str, int]],
) -> AddressAnswer:
    """Return the addresses of a name or of what it is an alias of; those of other names in the answer don't count."""
    ttls: list[int] = []
    for _ in range(_MAX_ALIASES):
        if (found := addresses.get(name)) is not None:
            ttls += found.values()
            return AddressAnswer(addresses=tuple(found), ttl_s=min(each if each <= _MAX_TTL_S else 0 for each in ttls))
        if name not in aliases:
            break
        name, ttl_s = aliases[name]
        ttls.append(ttl_s)
    return AddressAnswer(addresses=(), ttl_s=0)


def _read_address(data: bytes, kind: RecordType) -> str:
    if kind is RecordType.A:
        return str(ipaddress.IPv4Address(data))
    address = ipaddress.IPv6Address(data)
    return str(address.ipv4_mapped or address)


def _read_name(data: bytes, place: int) -> tuple[tuple[bytes, ...], int]:
    """Return a name's labels in lower case and where it ends; compressed as RFC 1035, section 4.1.4, allows."""
    labels: list[bytes] = []
    end = -1
    while (length := data[place]) != 0:
        if length & 0xC0 == 0xC0:
            target = (length & 0x3F) << 8 | data[place + 1]
            if end < 0:
                end = place + 2
            if target >= place:  # What points backwards only comes to an end.
                raise MessageError("its answer is malformed")
            place = target
        elif length & 0xC0 or len(labels) >= _MAX_LABELS or place + 1 + length > len(data):
            raise MessageError("its answer is malformed")
        else:
            labels.append(data[place + 1 : place + 1 + length].lower())
            place += 1 + length
    return tuple(labels), place + 1 if end < 0 else end
