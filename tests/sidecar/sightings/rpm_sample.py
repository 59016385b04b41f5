"""A database that rpm itself has made, and how: ``python -m tests.sidecar.sightings.rpm_sample`` makes it again.

That needs rpm and rpmbuild 4.16 or newer, with SQLite; the tests read what is kept beside this module.
"""

from __future__ import annotations

import lzma
import subprocess
import tempfile
from pathlib import Path

KEPT = Path(__file__).with_name("rpmdb.sqlite.xz")
PACKAGES = 12
LARGE = 9  # The package whose header takes several pages.
MANY_FILES = 90
FOLDER = "usr/lib/sysimage/rpm"
_SPEC = """\
Name: sample-{number}
Version: {number}.0
Release: 1
{epoch}
Summary: A sample
License: Apache-2.0
BuildArch: noarch
%description
A sample.
%install
mkdir -p %{{buildroot}}/usr/share/sample-{number} %{{buildroot}}/usr/bin
echo {number} > %{{buildroot}}/usr/bin/sample-{number}
echo {number} > %{{buildroot}}/usr/bin/shared-{shared}
for each in $(seq {files}); do echo $each > %{{buildroot}}/usr/share/sample-{number}/file-$each; done
%files
/usr/share/sample-{number}
/usr/bin/sample-{number}
/usr/bin/shared-{shared}
"""


def read_sample() -> bytes:
    """Return the database: packages ``sample-1`` to ``sample-12``.

    Each has ``/usr/bin/sample-N`` and in ``/usr/share/sample-N`` files from ``file-1`` on, the ninth 90 and the others
    two; the seventh has the epoch 3; ``/usr/bin/shared-1`` was the first's, and the second's has replaced it.
    """
    return lzma.decompress(KEPT.read_bytes())


def _make() -> bytes:
    with tempfile.TemporaryDirectory() as place:
        top = Path(place)
        for number in range(1, PACKAGES + 1):
            spec = top / f"{number}.spec"
            spec.write_text(
                _SPEC.format(
                    number=number,
                    epoch="Epoch: 3" if number == 7 else "",
                    shared=1 if number == 2 else number,
                    files=MANY_FILES if number == LARGE else 2,
                )
            )
            built = ["--define", f"_topdir {top}/top", "--define", "_buildhost build.example"]
            subprocess.run(["rpmbuild", "-bb", *built, str(spec)], check=True, capture_output=True)
            package = top / "top/RPMS/noarch" / f"sample-{number}-{number}.0-1.noarch.rpm"
            where = ["--root", f"{top}/root", "--dbpath", f"/{FOLDER}", "--define", "_db_backend sqlite"]
            subprocess.run(["rpm", *where, "--nodeps", "--replacefiles", "-i", str(package)], check=True)
        return (top / "root" / FOLDER / "rpmdb.sqlite").read_bytes()


if __name__ == "__main__":
    KEPT.write_bytes(lzma.compress(_make(), preset=9 | lzma.PRESET_EXTREME))
