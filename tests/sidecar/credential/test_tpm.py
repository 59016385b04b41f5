"""A renewal key that a TPM made signs on that TPM alone. It is swtpm, an emulator, where that is installed."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from shared.model.errors import InputError, MachineError, UnavailableError
from shared.model.trust.renewal import describe_renewal
from shared.model.wire.messages import Renew
from sidecar.credential import tpm as module
from sidecar.credential.renewal_key import RenewalKey, begin_renewal_key, load_renewal_key
from sidecar.credential.state_directory import FILE, StateDirectory
from sidecar.credential.tpm import MARK, Tpm
from tests.sidecar.credential.test_renewal_key import ROOT, TOKEN, renew
from tests.sidecar.emulated_tpm import NEEDS_SWTPM, Emulator

pytestmark = NEEDS_SWTPM

_ECDSA = ec.ECDSA(hashes.SHA256())


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tm-") as name:  # A socket's path is short.
        yield Path(name)


@pytest.fixture
def switch_on(folder: Path) -> Iterator[Callable[[str], Tpm]]:
    """Switch a TPM on, by its name, the one before being switched off; return it opened."""
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(contextlib.ExitStack())

        def switch_on(name: str) -> Tpm:
            running.close()
            emulator = Emulator(folder / name)
            running.callback(emulator.stop)
            tpm = Tpm(emulator.path)
            running.callback(tpm.close)
            return tpm

        yield switch_on


def begin(directory: StateDirectory, tpm: Tpm | None) -> RenewalKey:
    return begin_renewal_key(TOKEN, instance="web-1", directory=directory, tpm=tpm)


def check(message: Renew) -> None:
    """As the CA does: the key has signed what it says of this stream, and each request is signed by its own key."""
    statement = describe_renewal(
        nonce=bytes(32), server_certificate=b"server", trust_domain="touchmark.test", instance="web-1",
        csr=message.csr, following=message.following,
    )  # fmt: skip
    key = load_der_public_key(message.key)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(message.signature, statement, _ECDSA)
    with pytest.raises(InvalidSignature):
        key.verify(message.signature, statement + b"!", _ECDSA)
    assert x509.load_der_x509_csr(message.following).is_signature_valid


async def test_the_file_comes_back_on_its_own_machine_and_on_no_other(
    folder: Path, switch_on: Callable[[str], Tpm]
) -> None:
    """Joined, switched off and on, renewed twice; a copy of the file meets another TPM, and none."""
    directory, tpm = StateDirectory(folder / "state"), switch_on("own")
    key = begin(directory, tpm)
    request = x509.load_der_x509_csr(await key.offer())
    assert request.is_signature_valid
    await key.keep(grace_s=60, roots=(ROOT,))
    assert key.kept.key.startswith(MARK) and key.place == f"{folder}/state, bound to the TPM {tpm.path}"

    loaded = load_renewal_key(directory, tpm=switch_on("own"))
    assert loaded is not None and loaded.kept == key.kept
    first = await renew(loaded)
    check(first)
    assert load_der_public_key(first.key) == request.public_key()
    await loaded.keep(grace_s=60, roots=(ROOT,))
    second = await renew(loaded)
    check(second)
    assert load_der_public_key(second.key) == x509.load_der_x509_csr(first.following).public_key()

    with pytest.raises(InputError, match="bound to a TPM"):
        load_renewal_key(directory)
    with pytest.raises(InputError, match="doesn't know the renewal key"):
        load_renewal_key(directory, tpm=switch_on("other"))
    assert load_renewal_key(directory, tpm=switch_on("own")) is not None
    directory.close()


async def test_a_key_of_before_is_followed_by_one_of_the_tpm(folder: Path, switch_on: Callable[[str], Tpm]) -> None:
    directory = StateDirectory(folder / "state")
    before = begin(directory, None)
    await before.offer()
    await before.keep(grace_s=60, roots=(ROOT,))
    loaded = load_renewal_key(directory, tpm=switch_on("own"))
    assert loaded is not None and loaded.place == f"{folder}/state"
    check(await renew(loaded))
    await loaded.keep(grace_s=60, roots=(ROOT,))
    assert loaded.kept.key.startswith(MARK) and "bound to the TPM" in loaded.place
    directory.close()


async def test_a_tpm_that_is_gone_or_silent_is_an_outage_and_none_is_filled(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator = Emulator(folder / "own")
    tpm = Tpm(emulator.path)
    blobs = [tpm.draw() for _ in range(5)]  # More than have room in it at once.
    keys = [tpm.load(blob) for blob in blobs]
    assert keys[0].curve.name == "secp256r1" and keys[0].key_size == 256 and keys[0].__deepcopy__({}) is keys[0]
    for key in keys:
        key.public_key().verify(key.sign(b"data", _ECDSA), b"data", _ECDSA)
        with pytest.raises(ValueError, match="SHA-256"):
            key.sign(b"data", ec.ECDSA(hashes.SHA384()))
    directory = StateDirectory(folder / "state")
    renewal = begin(directory, tpm)
    emulator.stop()
    for work in (tpm.draw, lambda: tpm.load(blobs[0]), lambda: keys[0].sign(b"data", _ECDSA)):
        with pytest.raises(UnavailableError):
            work()
    with pytest.raises(UnavailableError):
        await renewal.offer()
    directory.close()
    tpm.close()
    # One that takes commands and answers none, then one that answers nonsense.
    monkeypatch.setattr(module, "_DEADLINE_S", 0.01)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "silent"))
    listener.listen()
    with listener:
        silent = Tpm(folder / "silent")
        taken, _ = listener.accept()
        with pytest.raises(UnavailableError, match="timed out"):
            silent.draw()
        taken.recv(4096)
        monkeypatch.setattr(module, "_DEADLINE_S", 60.0)

        def answer() -> None:
            taken.recv(4096)
            taken.sendall(b"nonsense")

        answering = threading.Thread(target=answer)
        answering.start()
        with pytest.raises(UnavailableError, match="an answer that is none"):
            silent.draw()
        answering.join()
        silent.close()
        taken.close()


async def test_what_is_no_tpm_or_no_blob_is_refused(folder: Path, switch_on: Callable[[str], Tpm]) -> None:
    for path, error in ((folder / "none", MachineError), (Path(os.devnull).parent, InputError)):
        with pytest.raises(error):
            Tpm(path)
    tpm = switch_on("own")
    blob = tpm.draw()
    for damaged in (blob[:-1], blob + b"!", MARK, blob[:20] + bytes([blob[20] ^ 1]) + blob[21:]):
        with pytest.raises(InputError):
            tpm.load(damaged)
    directory = StateDirectory(folder / "state")
    key = begin(directory, tpm)
    await key.offer()
    await key.keep(grace_s=60, roots=(ROOT,))
    written = msgspec.json.decode((folder / "state" / FILE).read_bytes())
    assert "key" in written and b"PRIVATE" not in (folder / "state" / FILE).read_bytes()
    directory.close()
