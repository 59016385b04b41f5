"""A file's package, by databases that anybody may have written: found, bounded, never outside the root."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sidecar.sightings import packages
from sidecar.sightings.packages import find_package
from tests.sidecar.sightings.rpm_sample import FOLDER, LARGE, MANY_FILES, PACKAGES, read_sample

STATUS = "Package: other\nVersion: 9\n\nPackage: curl\nStatus: install ok installed\nVersion: 7.88.1-10+deb12u8\n"
APK = "C:Q1x=\nP:busybox\nV:1.36.1-r2\nF:bin\nR:busybox\n\nP:curl\nV:8.5.0-r0\nF:usr\nF:usr/bin\nR:curl\na:0:0:755\n\n"


def write(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@contextmanager
def opened(root: Path) -> Iterator[int]:
    descriptor = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def find(root: Path, path: str) -> str:
    with opened(root) as descriptor:
        return find_package(descriptor, path)


@pytest.mark.parametrize(
    ("files", "path", "package"),
    [
        (
            {"var/lib/dpkg/info/curl:amd64.list": "/.\n/usr/bin/curl\n", "var/lib/dpkg/status": STATUS},
            "/usr/bin/curl", "curl 7.88.1-10+deb12u8 (dpkg)",
        ),
        (
            {"var/lib/dpkg/info/curl.list": "/.\n/bin/curl\n", "var/lib/dpkg/status": STATUS},
            "/usr/bin/curl", "curl 7.88.1-10+deb12u8 (dpkg)",
        ),
        ({"var/lib/dpkg/info/curl.list": "/usr/bin/curl\n"}, "/bin/curl", "curl (dpkg)"),
        ({"var/lib/dpkg/info/curl.list": "/usr/bin/curl2\n/usr/usr/bin/curl\n"}, "/usr/bin/curl", ""),
        (
            {"var/lib/dpkg/status.d/curl.md5sums": "0123  usr/bin/curl\n", "var/lib/dpkg/status.d/curl": STATUS},
            "/usr/bin/curl", "curl 7.88.1-10+deb12u8 (dpkg)",
        ),
        ({"lib/apk/db/installed": APK}, "/usr/bin/curl", "curl 8.5.0-r0 (apk)"),
        ({"usr/lib/apk/db/installed": APK}, "/bin/busybox", "busybox 1.36.1-r2 (apk)"),
        ({"lib/apk/db/installed": APK}, "/usr/sbin/curl", ""),
        ({}, "/usr/bin/curl", ""),
    ],
    ids=["dpkg", "usrmerge", "no version", "another file", "distroless", "apk", "apk 3", "another folder", "nothing"],
)  # fmt: skip
def test_the_package_that_names_the_file_is_found(
    tmp_path: Path, files: dict[str, str], path: str, package: str
) -> None:
    for name, text in files.items():
        write(tmp_path, name, text)
    assert find(tmp_path, path) == package


def test_databases_that_lie_in_wait_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe would block, a link could lead to the sidecar's own files, a huge file would fill its memory."""
    outside, root = tmp_path / "outside", tmp_path / "root"
    write(outside, "curl.list", "/usr/bin/curl\n")
    (root / "var/lib/dpkg").mkdir(parents=True)
    (root / "var/lib/dpkg/info").symlink_to(outside)
    assert find(root, "/usr/bin/curl") == ""
    (root / "var/lib/dpkg/info").unlink()
    (root / "var/lib/dpkg/info").mkdir()
    os.mkfifo(root / "var/lib/dpkg/info/curl.list")
    assert find(root, "/usr/bin/curl") == ""
    monkeypatch.setattr(packages, "MAX_FILE_BYTES", 10)
    write(root, "var/lib/dpkg/info/big.list", "/usr/bin/curl\n")
    assert find(root, "/usr/bin/curl") == ""
    monkeypatch.setattr(packages, "MAX_FILE_BYTES", 100)
    write(root, "var/lib/dpkg/info/big.list", "/usr/bin/curl\n")
    assert find(root, "/usr/bin/curl") == "big (dpkg)"
    monkeypatch.setattr(packages, "MAX_LISTS", 0)
    assert find(root, "/usr/bin/curl") == ""


def test_a_terminal_in_a_databases_place_isnt_opened() -> None:
    """It would become the terminal of a sidecar that has none, and its other end could have the kernel signal it."""
    main, terminal = os.openpty()
    name = os.path.basename(os.ttyname(terminal))
    code = (
        "import os, sys\n"
        "from sidecar.sightings.packages import _Budget\n"
        "print(_Budget().read(os.open('/dev/pts', os.O_PATH | os.O_DIRECTORY), sys.argv[1]))\n"
        "os.open('/dev/tty', os.O_RDONLY)\n"
    )
    try:
        arguments = [sys.executable, "-c", code, name]
        done = subprocess.run(arguments, start_new_session=True, capture_output=True, text=True, check=False)
    finally:
        os.close(main)
        os.close(terminal)
    assert done.stdout == "b''\n"
    assert "No such device or address: '/dev/tty'" in done.stderr


def test_a_database_of_one_line_many_times_takes_one_pass(tmp_path: Path) -> None:
    """A search back to the beginning for each line would hold the interpreter's lock for days."""
    write(tmp_path, "lib/apk/db/installed", "P:web\nV:1\nF:srv\n" + "R:a\n" * 200_000 + "\nP:b\nF:\nR:a\n")
    assert find(tmp_path, "/a") == "b (apk)"


def test_a_name_that_would_write_on_a_terminal_isnt_told(tmp_path: Path) -> None:
    write(tmp_path, "var/lib/dpkg/info/\x1b[2J.list", "/usr/bin/curl\n")
    assert find(tmp_path, "/usr/bin/curl") == ""


def write_rpm(root: Path, content: bytes, *, folder: str = FOLDER) -> Path:
    file = root / folder / "rpmdb.sqlite"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


@pytest.mark.parametrize("folder", [FOLDER, "var/lib/rpm"])
def test_what_rpm_has_installed_is_found(tmp_path: Path, folder: str) -> None:
    """In a database that rpm has made, of one page and of several for a header (``rpm_sample.py``)."""
    write_rpm(tmp_path, read_sample(), folder=folder)
    for number in range(1, PACKAGES + 1):
        version = f"sample-{number} {'3:' if number == 7 else ''}{number}.0-1 (rpm)"
        for path in (f"/usr/bin/sample-{number}", f"/bin/sample-{number}", f"/usr/share/sample-{number}/file-2"):
            assert find(tmp_path, path) == version
        assert find(tmp_path, f"/usr/share/sample-{number}/file-{MANY_FILES}") == (version if number == LARGE else "")
    assert find(tmp_path, "/usr/bin/shared-1") == "sample-2 2.0-1 (rpm)"
    assert find(tmp_path, "/usr/bin/file-1") == ""


@pytest.mark.parametrize(("name", "kind"), [("Packages", "Berkeley DB"), ("Packages.db", "ndb")])
def test_a_database_of_rpm_that_isnt_read_is_told(tmp_path: Path, name: str, kind: str) -> None:
    write(tmp_path, f"var/lib/rpm/{name}", "content")
    assert find(tmp_path, "/usr/bin/curl") == f"unknown: rpm's database is {kind}, which isn't read"
    write(tmp_path, "var/lib/dpkg/info/curl.list", "/usr/bin/curl\n")
    assert find(tmp_path, "/usr/bin/curl") == "curl (dpkg)"


@pytest.mark.parametrize("beside", ["-wal", "-journal"])
def test_a_database_that_rpm_has_not_finished_writing_is_told(tmp_path: Path, beside: str) -> None:
    file = write_rpm(tmp_path, read_sample())
    other = file.with_name(file.name + beside)
    other.touch()
    assert find(tmp_path, "/usr/bin/sample-1") == "sample-1 1.0-1 (rpm)"
    other.write_bytes(b"more")
    assert find(tmp_path, "/usr/bin/sample-1") == "unknown: rpm's database is being written"


def test_a_database_of_rpm_that_lies_in_wait_is_told_or_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is in its place: other bytes, a database without rpm's table, more than is read, a pipe."""
    unreadable = "unknown: rpm's database can't be read"
    sample = read_sample()
    for content in (b"other", sample.replace(b"Packages", b"Luggages"), sample[:8_192]):
        file = write_rpm(tmp_path, content)
        assert find(tmp_path, "/usr/bin/sample-1") == unreadable
    write_rpm(tmp_path, sample)
    monkeypatch.setattr(packages, "MAX_TOTAL_BYTES", 20_000)
    assert find(tmp_path, "/usr/bin/sample-12") == unreadable
    file.unlink()
    os.mkfifo(file)
    assert find(tmp_path, "/usr/bin/sample-1") == ""
