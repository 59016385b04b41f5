"""Images as files: an OCI image layout in which equal layers of several images are stored once. Does I/O.

Source: the OCI image format specification (image layout, manifest, configuration).
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

_VENDOR = "application/vnd.oci.image."
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LAYOUT = b'{"imageLayoutVersion": "1.0.0"}'
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


class Layout:
    """A directory of blobs, named by their digests. Digests read ``sha256:<hex>``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._blobs = directory / "blobs" / "sha256"

    def prepare(self) -> None:
        """Make what every layout has."""
        self._blobs.mkdir(parents=True, exist_ok=True)
        (self.directory / "oci-layout").write_bytes(_LAYOUT)
        index = self.directory / "index.json"
        if not index.exists():
            index.write_text(json.dumps({"schemaVersion": 2, "manifests": []}), encoding="ascii")

    def pack(self, root: Path, *, entrypoint: Sequence[str] = ()) -> str:
        """Store a directory as an image of one layer, not compressed; the digest of its manifest."""
        with tempfile.TemporaryFile(dir=self.directory) as file:
            with tarfile.open(fileobj=file, mode="w") as archive:
                archive.add(root, arcname=".")
            layer = self._store(cast("BinaryIO", file), "layer.v1.tar")
        configuration = {
            "architecture": _MACHINES.get(os.uname().machine, os.uname().machine),
            "os": "linux",
            "config": {"Env": [_PATH], "Entrypoint": list(entrypoint)},
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
            "history": [{"created_by": f"pack {root.name}"}],  # buildah wants one entry a layer.
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": _VENDOR + "manifest.v1+json",
            "config": self._store(_as_file(configuration), "config.v1+json"),
            "layers": [layer],
        }
        return cast("str", self._store(_as_file(manifest), "manifest.v1+json")["digest"])

    def adopt(self, directory: Path) -> str:
        """Move in an image that stands as ``manifest.json`` and blobs in a directory; the digest of its manifest."""
        content = (directory / "manifest.json").read_bytes()
        manifest = json.loads(content)
        for blob in (manifest["config"], *manifest["layers"]):
            file = directory / blob["digest"].removeprefix("sha256:")
            file.replace(self._path(blob["digest"]))
        return cast("str", self._store(io.BytesIO(content), "manifest.v1+json")["digest"])

    def name(self, digest: str, name: str) -> None:
        """Let programs that read the layout (``oci:DIRECTORY:NAME``) find a manifest by a name."""
        index = json.loads((self.directory / "index.json").read_text(encoding="utf-8"))
        others = [each for each in index["manifests"] if _name_of(each) != name]
        entry = self._describe(digest) | {"annotations": {"org.opencontainers.image.ref.name": name}}
        index["manifests"] = [*others, entry]
        (self.directory / "index.json").write_text(json.dumps(index), encoding="ascii")

    def forget(self, kept: Iterable[str]) -> None:
        """Remove every manifest but the kept ones, and all blobs that only those used."""
        kept = set(kept)
        path = self.directory / "index.json"
        index = json.loads(path.read_text(encoding="utf-8"))
        index["manifests"] = [each for each in index["manifests"] if each["digest"] in kept]
        path.write_text(json.dumps(index), encoding="ascii")
        used = {blob for digest in kept for blob in self._reach(digest)}
        for file in self._blobs.iterdir():
            if f"sha256:{file.name}" not in used:
                file.unlink()

    def has(self, digest: str) -> bool:
        """Whether the image is complete."""
        return self._path(digest).is_file() and all(self._path(blob).is_file() for blob in self._reach(digest))

    def configuration(self, digest: str) -> dict[str, Any]:
        """What the image says of itself: user, entry point, environment."""
        configuration: dict[str, Any] = self._read(self._read(digest)["config"]["digest"])
        return configuration

    def sizes(self, digests: Iterable[str]) -> dict[str, int]:
        """Every blob of these images with its size."""
        return {blob: self._path(blob).stat().st_size for digest in digests for blob in self._reach(digest)}

    def export(self, names: Mapping[str, str], file: BinaryIO, *, without: Collection[str] = ()) -> None:
        """Write one archive of several images (name → digest), each blob once, as ``ctr images import`` takes it.

        ``without`` are blobs that the reader has already.
        """
        manifests = [
            self._describe(digest)
            | {"annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}}
            for name, digest in names.items()
        ]
        index = {"schemaVersion": 2, "manifests": manifests}
        with tarfile.open(fileobj=file, mode="w|") as archive:
            for blob in self.sizes(names.values()):
                if blob in without:
                    continue
                archive.add(self._path(blob), arcname=f"blobs/{blob.replace(':', '/')}")
            for name, content in (("oci-layout", _LAYOUT), ("index.json", json.dumps(index).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))

    # ---- Blobs -------------------------------------------------------------------------------------------------------
    def _reach(self, digest: str) -> list[str]:
        manifest = self._read(digest)
        return [digest, manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"])]

    def _describe(self, digest: str) -> dict[str, Any]:
        size = self._path(digest).stat().st_size
        return {"mediaType": _VENDOR + "manifest.v1+json", "digest": digest, "size": size}

    def _store(self, file: BinaryIO, kind: str) -> dict[str, Any]:
        file.seek(0)
        total, size = hashlib.sha256(), 0
        with tempfile.NamedTemporaryFile(dir=self._blobs, prefix=".", delete=False) as copy:
            while piece := file.read(1 << 20):
                total.update(piece)
                size += copy.write(piece)
        Path(copy.name).replace(self._blobs / total.hexdigest())
        return {"mediaType": _VENDOR + kind, "digest": f"sha256:{total.hexdigest()}", "size": size}

    def _read(self, digest: str) -> Any:
        return json.loads(self._path(digest).read_bytes())

    def _path(self, digest: str) -> Path:
        return self._blobs / digest.removeprefix("sha256:")


def _as_file(content: object) -> io.BytesIO:
    return io.BytesIO(json.dumps(content).encode())


def _name_of(entry: Mapping[str, Any]) -> str | None:
    return cast("str | None", entry.get("annotations", {}).get("org.opencontainers.image.ref.name"))
