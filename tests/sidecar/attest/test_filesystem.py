"""The two system calls behind ctypes."""

import errno
import os
from pathlib import Path

import pytest

from sidecar.attest.filesystem import has_reliable_times, open_in_root, open_without_links


def test_memory_files_have_no_reliable_times() -> None:
    descriptor = os.memfd_create("x")
    assert not has_reliable_times(descriptor)
    os.close(descriptor)
    assert not has_reliable_times(-1)


def test_an_absolute_link_stays_in_the_root(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("inside")
    (tmp_path / "link").symlink_to("/file")
    root = os.open(tmp_path, os.O_PATH)
    found = open_in_root(root, b"/link", os.O_RDONLY)
    assert os.read(found, 10) == b"inside"
    os.close(found)
    with pytest.raises(OSError) as caught:
        open_without_links(root, b"link", os.O_RDONLY)
    assert caught.value.errno == errno.ELOOP
    os.close(root)
