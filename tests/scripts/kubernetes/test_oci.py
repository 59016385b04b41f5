"""Images as files: packed, adopted, exported, forgotten."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from scripts.kubernetes.oci import Layout


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "layout")
    layout.prepare()
    return layout


def root(directory: Path, content: str) -> Path:
    directory.mkdir()
    (directory / "program").write_text(content)
    return directory


def read(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]  # Files.


def test_an_export_holds_each_blob_once_under_its_digest(layout: Layout, tmp_path: Path) -> None:
    first = layout.pack(root(tmp_path / "one", "1"), entrypoint=["/program"])
    second = layout.pack(root(tmp_path / "two", "2"))
    target = io.BytesIO()
    layout.export({"localhost/one:1": first, "localhost/uno:1": first, "localhost/two:1": second}, target)
    files = read(target.getvalue())
    blobs = {name: content for name, content in files.items() if name.startswith("blobs/sha256/")}
    assert len(blobs) == 6, "manifest, configuration and layer of two images"
    for name, content in blobs.items():
        assert name.removeprefix("blobs/sha256/") == hashlib.sha256(content).hexdigest()
    named = [each["annotations"]["io.containerd.image.name"] for each in json.loads(files["index.json"])["manifests"]]
    assert named == ["localhost/one:1", "localhost/uno:1", "localhost/two:1"]
    assert layout.configuration(first)["config"]["Entrypoint"] == ["/program"]


def test_an_export_leaves_out_what_the_reader_has(layout: Layout, tmp_path: Path) -> None:
    digest = layout.pack(root(tmp_path / "one", "1"))
    target = io.BytesIO()
    layout.export({"localhost/one:1": digest}, target, without=set(layout.sizes([digest])))
    assert set(read(target.getvalue())) == {"oci-layout", "index.json"}


def test_an_adopted_image_is_complete_until_a_blob_is_missing(layout: Layout, tmp_path: Path) -> None:
    source = Layout(tmp_path / "source")
    source.prepare()
    digest = source.pack(root(tmp_path / "one", "1"))
    written = tmp_path / "written"
    written.mkdir()
    for blob in source.sizes([digest]):
        name = "manifest.json" if blob == digest else blob.removeprefix("sha256:")
        (source.directory / "blobs" / blob.replace(":", "/")).rename(written / name)
    assert not layout.has(digest)
    assert layout.adopt(written) == digest
    assert layout.has(digest)
    layer = max(layout.sizes([digest]).items(), key=lambda each: each[1])[0]
    (layout.directory / "blobs" / layer.replace(":", "/")).unlink()
    assert not layout.has(digest)


def test_what_is_forgotten_takes_along_only_its_own_blobs(layout: Layout, tmp_path: Path) -> None:
    kept = layout.pack(root(tmp_path / "one", "1"))
    dropped = layout.pack(root(tmp_path / "two", "2"))
    layout.name(kept, "kept")
    layout.name(dropped, "dropped")
    layout.forget([kept])
    assert layout.has(kept)
    assert not layout.has(dropped)
    index = json.loads((layout.directory / "index.json").read_text())
    assert [each["digest"] for each in index["manifests"]] == [kept]
