"""DNS messages: what a stub writes and reads."""

from __future__ import annotations

import struct

import pytest

from sidecar.hostnames.message import (
    MessageError,
    NotTheAnswerError,
    RecordType,
    TruncatedError,
    read_answer,
    write_query,
)
from tests.sidecar.hostnames.little_dns import LittleDns, write_name

NAME = "api.example.com"
QUERY = write_query(0x1234, NAME, RecordType.A)


def make_answer(*records: bytes, flags: int = 0x8180, identifier: int = 0x1234, question: bytes = QUERY[12:]) -> bytes:
    """An answer to ``QUERY``."""
    return struct.pack("!HHHHHH", identifier, flags, 1, len(records), 0, 0) + question + b"".join(records)


def make_record(owner: bytes, data: bytes, kind: int = 1, *, ttl_s: int = 60) -> bytes:
    return owner + struct.pack("!HHIH", kind, 1, ttl_s, len(data)) + data


def read(data: bytes) -> tuple[str, ...]:
    return read_answer(data, 0x1234, NAME, RecordType.A).addresses


def test_a_query_asks_recursively_for_one_name() -> None:
    assert QUERY == b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03api\x07example\x03com\x00\x00\x01\x00\x01"


def test_addresses_of_both_kinds_are_read() -> None:
    dns = LittleDns(addresses={NAME: ["192.0.2.7", "2001:db8::7", "192.0.2.8"]}, ttl_s=30)
    assert read(dns.answer(QUERY)) == ("192.0.2.7", "192.0.2.8")
    query = write_query(7, NAME, RecordType.AAAA)
    answer = read_answer(dns.answer(query), 7, NAME, RecordType.AAAA)
    assert (answer.addresses, answer.ttl_s) == (("2001:db8::7",), 30)


def test_a_mapped_address_counts_as_the_ipv4_one_that_is_dialled() -> None:
    query = write_query(7, NAME, RecordType.AAAA)
    dns = LittleDns(addresses={NAME: ["::ffff:192.0.2.7"]})
    assert read_answer(dns.answer(query), 7, NAME, RecordType.AAAA).addresses == ("192.0.2.7",)


def test_aliases_are_followed_and_the_least_ttl_of_the_way_counts() -> None:
    records = (
        make_record(write_name(NAME), write_name("edge.cdn.example"), 5, ttl_s=20),
        make_record(write_name("edge.cdn.example"), bytes((192, 0, 2, 7)), ttl_s=300),
    )
    answer = read_answer(make_answer(*records), 0x1234, NAME, RecordType.A)
    assert (answer.addresses, answer.ttl_s) == (("192.0.2.7",), 20)


def test_addresses_of_names_that_werent_asked_for_dont_count() -> None:
    other = make_record(write_name("other.example"), bytes((192, 0, 2, 9)))
    assert read(make_answer(other)) == ()
    assert read(make_answer(other, make_record(b"\xc0\x0c", bytes((192, 0, 2, 7))))) == ("192.0.2.7",)


def test_names_are_compared_without_regard_to_case() -> None:
    assert read(make_answer(make_record(write_name("API.Example.COM"), bytes((192, 0, 2, 7))))) == ("192.0.2.7",)


def test_a_name_that_doesnt_exist_has_no_address() -> None:
    assert read(LittleDns().answer(QUERY)) == ()
    assert read(LittleDns(addresses={NAME: ["2001:db8::7"]}).answer(QUERY)) == ()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        make_answer(identifier=0x1235),
        make_answer(flags=0x0100),
        make_answer(question=write_query(1, "other.example", RecordType.A)[12:]),
        make_answer(question=write_query(1, NAME, RecordType.AAAA)[12:]),
    ],
)
def test_what_answers_another_query_is_told_apart(data: bytes) -> None:
    with pytest.raises(NotTheAnswerError):
        read(data)


def test_a_truncated_answer_is_told_apart() -> None:
    with pytest.raises(TruncatedError):
        read(make_answer(flags=0x8380))


def test_a_refusal_is_named() -> None:
    with pytest.raises(MessageError, match="SERVFAIL"):
        read(LittleDns(code=2).answer(QUERY))


GOOD = make_answer(make_record(b"\xc0\x0c", bytes((192, 0, 2, 7))))


@pytest.mark.parametrize("length", range(len(GOOD)))
def test_a_part_of_an_answer_is_never_read_as_an_answer(length: int) -> None:
    with pytest.raises(MessageError):
        read(GOOD[:length])


@pytest.mark.parametrize(
    "record",
    [
        make_record(b"\xc0\xff", b"\x01\x02\x03\x04"),  # Points forwards.
        make_record(bytes((0xC0, len(QUERY))), b"\x01\x02\x03\x04"),  # Points at itself.
        make_record(b"\xc0\x0c", b"\x01\x02\x03"),  # No IPv4 address.
        make_record(b"\x80", b"\x01\x02\x03\x04"),  # No kind of label.
        make_record(b"\xc0\x0c", b"\xc0\x0c\xc0", 5)[:-1],
    ],
)
def test_a_malformed_record_is_a_fault_and_no_endless_loop(record: bytes) -> None:
    with pytest.raises(MessageError):
        read(make_answer(record))


def test_aliases_in_a_circle_come_to_an_end() -> None:
    records = (
        make_record(write_name(NAME), write_name("b.example"), 5),
        make_record(write_name("b.example"), write_name(NAME), 5),
    )
    assert read(make_answer(*records)) == ()
