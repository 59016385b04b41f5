"""Files of /proc as text."""

import pytest

from sidecar.attest.process_text import (
    ProcessTextError,
    parse_arguments,
    parse_in_flight,
    parse_inode,
    parse_registered_files,
    parse_stat,
    parse_tracer,
    parse_uid,
)

STATUS = b"Name:\tx\nUmask:\t0022\nPid:\t7\nTracerPid:\t42\nUid:\t1000\t0\t0\t0\n"


def test_a_command_name_with_parentheses_moves_no_field() -> None:
    fields = b" ".join(str(number).encode() for number in range(4, 53))
    image = parse_stat(b"7 (a) R (b) c) S " + fields)
    assert (image.start_time, image.code, image.stack, image.arguments) == (22, 26, 28, 48)


def test_a_short_stat_is_refused() -> None:
    with pytest.raises(ProcessTextError):
        parse_stat(b"7 (a) S 1 2")


def test_status_names_tracer_and_user() -> None:
    assert parse_tracer(STATUS) == 42
    assert parse_uid(STATUS) == 1000
    with pytest.raises(ProcessTextError):
        parse_tracer(b"Name:\tTracerPid\n")


def test_descriptors_in_flight_are_counted() -> None:
    assert parse_in_flight(b"pos:\t0\nflags:\t02\nscm_fds: 3\n") == 3
    assert parse_in_flight(b"pos:\t0\n") == 0


def test_fdinfo_tells_whose_it_is_since_linux_5_14() -> None:
    assert parse_inode(b"pos:\t0\nflags:\t02\nmnt_id:\t10\nino:\t714627\nscm_fds: 3\n") == 714627
    assert parse_inode(b"pos:\t0\nflags:\t02\nmnt_id:\t10\nscm_fds: 3\n") == 0


def test_arguments_are_split_at_their_ends() -> None:
    assert parse_arguments(b"a\0\0b\0") == [b"a", b"", b"b"]
    assert parse_arguments(b"") == []


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (b"UserFiles:\t3\n    0: socket:[7]\n    2: /a b\nUserBufs:\t0\n", (["socket:[7]", "/a b"], True)),
        (b"UserFiles:\t2\n    0: <none>\n    1: pipe:[9]\n", (["<none>", "pipe:[9]"], True)),
        (b"UserFiles:\t1\n    0: TCP\nUserBufs:\t0\n", (["TCP"], False)),  # Before Linux 5.12.
        (b"UserFiles:\t0\nUserBufs:\t0\n", ([], True)),
        (b"SqThread:\t-1\n", None),
    ],
)
def test_an_io_uring_instance_names_its_registered_files(lines: bytes, expected: tuple[list[str], bool] | None) -> None:
    assert parse_registered_files(b"pos:\t0\n" + lines, is_all_or_nothing=True) == expected


def test_where_places_are_counted_and_none_is_listed_an_older_kernel_may_have_left_them_out() -> None:
    """A program that keeps its instance's lock busy would hide each socket in it."""
    text = b"pos:\t0\nUserFiles:\t3\nUserBufs:\t0\n"
    assert parse_registered_files(text, is_all_or_nothing=True) == ([], True)
    assert parse_registered_files(text, is_all_or_nothing=False) is None
    for shown in (b"UserFiles:\t3\n    1: socket:[5]\n", b"UserFiles:\t0\n"):
        assert parse_registered_files(b"pos:\t0\n" + shown, is_all_or_nothing=False) is not None
