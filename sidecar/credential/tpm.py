"""Keys that a TPM 2.0 made and never gives away: whoever copies their blobs has nothing on another machine.

Belongs here: making such a key, its public part, signatures. Doesn't: what the keys are for (``renewal_key.py``).
I/O: the TPM's device. The commands are those of the TPM 2.0 Library, part 3; the structures of part 2.

A key is a child of the storage primary key (ECC P-256, the template of the TCG's Provisioning Guidance) below the owner
hierarchy's seed, which ``tpm2_clear`` replaces: the blobs of before are worth nothing then. Neither has a password, as
nobody would be there to type it: whoever may use the device on this machine may sign with what stands in the file. A
sealed secret instead was rejected: it would come out over the TPM's bus, and into this process's memory.

Not verified: that the device is a real TPM, that nobody answers in its place, or which boot state the machine is in.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from shared.model.errors import InputError, MachineError, UnavailableError

_T = TypeVar("_T")

# What a blob begins with; DER, as keys without a TPM are kept in, begins with 0x30.
MARK: Final = b"TPM2"

# For all commands of one work: milliseconds each, or seconds where slow hardware makes a key.
_DEADLINE_S: Final = 20.0
_MAX_RESPONSE_BYTES: Final = 4096  # No TPM answers with more, nor does Linux pass more on.
_HEADER: Final = struct.Struct(">HII")
_PLAIN, _WITH_AUTH = 0x8001, 0x8002
_CREATE_PRIMARY, _CREATE, _LOAD, _SIGN, _FLUSH = 0x131, 0x153, 0x157, 0x15D, 0x165
_OWNER: Final = 0x40000001
_EMPTY: Final = b"\x00\x00"
# One session: TPM_RS_PW with no nonce, no attributes and an empty password.
_PASSWORD: Final = struct.pack(">IIHBH", 9, 0x40000009, 0, 0, 0)
_NO_SECRET: Final = struct.pack(">HHH", 4, 0, 0)  # TPM2B_SENSITIVE_CREATE: no password, no data.
_NO_PCRS: Final = _EMPTY + bytes(4)  # outsideInfo and creationPCR.
# TPMT_PUBLIC: fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA; then restricted and decrypt, or sign.
_PARENT: Final = (
    struct.pack(">HHIH", 0x23, 0x0B, 0x00030472, 0)
    + struct.pack(">HHHHHH", 0x06, 128, 0x43, 0x10, 0x03, 0x10)  # AES-128-CFB, no scheme, P-256, no KDF
    + 2 * (struct.pack(">H", 32) + bytes(32))
)
_SIGNER_ATTRIBUTES: Final = 0x00040472
_SIGNER: Final = (
    struct.pack(">HHIH", 0x23, 0x0B, _SIGNER_ATTRIBUTES, 0)
    + struct.pack(">HHHHH", 0x10, 0x18, 0x0B, 0x03, 0x10)  # no cipher, ECDSA with SHA-256, P-256, no KDF
)
_NO_TICKET: Final = struct.pack(">HHIH", 0x10, 0x8024, 0x40000007, 0)  # The key's own scheme; no proof of a hash.
_INTEGRITY, _BAD_AUTH, _AUTH_FAIL = 0x09F, 0x0A2, 0x08E
_FORMAT_ONE, _FORMAT_ONE_ERROR = 0x080, 0x0BF


class _TpmError(UnavailableError):
    """The TPM answers with an error."""

    def __init__(self, path: Path, response: int) -> None:
        super().__init__(f"the TPM {path} refuses: error {response:#x}", hint="`tpm2_rc_decode` explains it")
        # Without the number of the handle or parameter that it is about.
        self.response = response & _FORMAT_ONE_ERROR if response & _FORMAT_ONE else response


class Tpm:
    """A TPM's device, kept open: it may be for root alone, and the process may become somebody else.

    Arguments:
        path: ``/dev/tpmrm0``, or the Unix socket of an emulator.

    Raises:
        InputError: it is neither.
        MachineError: it can't be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._turn = threading.Lock()
        self._until = 0.0
        try:
            mode = path.stat().st_mode
            if stat.S_ISSOCK(mode):
                with socket.socket(socket.AF_UNIX) as opened:
                    opened.settimeout(_DEADLINE_S)
                    opened.connect(str(path))
                    opened.setblocking(False)
                    self._device = opened.detach()
            elif stat.S_ISCHR(mode):
                self._device = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
            else:
                raise InputError(f"{path} is no TPM", hint="Linux has it at /dev/tpmrm0")
        except OSError as error:
            raise MachineError(
                f"can't open the TPM {path}: {error.strerror or error}", hint="Linux has it at /dev/tpmrm0"
            ) from error

    def close(self) -> None:
        """Let go of the device."""
        os.close(self._device)

    def draw(self) -> bytes:
        """Have a key made, and return its blob.

        Raises:
            UnavailableError: the TPM doesn't answer, or refuses.
        """
        return self._below_parent(self._create)

    def load(self, blob: bytes) -> TpmKey:
        """Return the key of a blob, once the TPM has taken it.

        Raises:
            InputError: the blob is damaged, or this TPM didn't make it.
            UnavailableError: the TPM doesn't answer, or refuses.
        """
        key = TpmKey(self, blob)
        self._below_parent(lambda parent: self._load(parent, key, lambda _handle: None))
        return key

    def sign(self, key: TpmKey, digest: bytes) -> bytes:
        """Sign a SHA-256 digest; return the signature, DER.

        Raises:
            InputError, UnavailableError: as `load`.
        """
        return self._below_parent(lambda parent: self._load(parent, key, lambda handle: self._sign(handle, digest)))

    def _below_parent(self, work: Callable[[int], _T]) -> _T:
        with self._turn:
            self._until = time.monotonic() + _DEADLINE_S
            try:
                return self._with_object(
                    self._ask(_CREATE_PRIMARY, _OWNER, _NO_SECRET + _sized(_PARENT) + _NO_PCRS, returns_handle=True),
                    work,
                )
            except _TpmError as error:
                if error.response in (_BAD_AUTH, _AUTH_FAIL):
                    raise UnavailableError(
                        f"the owner hierarchy of the TPM {self.path} has a password",
                        hint="a sidecar has none to give: take the password away, or leave out --tpm",
                    ) from error
                raise

    def _with_object(self, answer: bytes, work: Callable[[int], _T]) -> _T:
        (handle,) = struct.unpack_from(">I", answer)
        try:
            return work(handle)
        finally:
            # A TPM has room for three objects. The kernel would take it away with the descriptor only.
            with suppress(UnavailableError):
                self._ask(_FLUSH, None, struct.pack(">I", handle))

    def _create(self, parent: int) -> bytes:
        fields = _Fields(self._ask(_CREATE, parent, _NO_SECRET + _sized(_SIGNER + 2 * _EMPTY) + _NO_PCRS))
        return MARK + _sized(fields.take()) + _sized(fields.take())

    def _load(self, parent: int, key: TpmKey, work: Callable[[int], _T]) -> _T:
        try:
            answer = self._ask(_LOAD, parent, key.blob[len(MARK) :], returns_handle=True)
        except _TpmError as error:
            if error.response == _INTEGRITY:
                raise InputError(
                    f"the TPM {self.path} doesn't know the renewal key: it was made by another one, or before this one"
                    " was cleared",
                    hint="take the file away, and start the sidecar with a new join token",
                ) from error
            raise
        return self._with_object(answer, work)

    def _sign(self, handle: int, digest: bytes) -> bytes:
        fields = _Fields(self._ask(_SIGN, handle, _sized(digest) + _NO_TICKET), at=4)
        return encode_dss_signature(int.from_bytes(fields.take()), int.from_bytes(fields.take()))

    def _ask(self, command: int, handle: int | None, parameters: bytes, *, returns_handle: bool = False) -> bytes:
        """Return the answer's parameters, behind the handle where there is one."""
        tag, body = _PLAIN, parameters
        if handle is not None:
            tag, body = _WITH_AUTH, struct.pack(">I", handle) + _PASSWORD + parameters
        try:
            answer = self._exchange(_HEADER.pack(tag, _HEADER.size + len(body), command) + body)
        except OSError as error:
            raise UnavailableError(f"the TPM {self.path} doesn't answer: {error.strerror or error}") from error
        if len(answer) < _HEADER.size or _HEADER.unpack_from(answer)[1] != len(answer):
            raise UnavailableError(f"the TPM {self.path} gives an answer that is none")
        if response := _HEADER.unpack_from(answer)[2]:
            raise _TpmError(self.path, response)
        answer = answer[_HEADER.size :]
        if handle is None:
            return answer
        begin = 4 if returns_handle else 0
        return answer[:begin] + answer[begin + 4 :]  # Between them stands the parameters' size.

    def _exchange(self, command: bytes) -> bytes:
        if self._has_answer(0.0):  # To a command that was given up.
            os.read(self._device, _MAX_RESPONSE_BYTES)
        if os.write(self._device, command) != len(command) or not self._has_answer(self._until - time.monotonic()):
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        return os.read(self._device, _MAX_RESPONSE_BYTES)

    def _has_answer(self, timeout_s: float) -> bool:
        poll = select.poll()
        poll.register(self._device, select.POLLIN)
        return bool(poll.poll(max(0.0, timeout_s) * 1000))


class TpmKey(ec.EllipticCurvePrivateKey):
    """A key that only its TPM has: it signs, and says its public part.

    Arguments:
        blob: what `Tpm.draw` returned.

    Raises:
        InputError: the blob is damaged.
    """

    def __init__(self, tpm: Tpm, blob: bytes) -> None:
        self._tpm = tpm
        self.blob = blob
        try:
            self._public = _read_public(blob)
        except (ValueError, struct.error) as error:
            raise InputError("the TPM's part of the renewal key is damaged") from error

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """Return the public part, as the blob says it; a signature by another key wouldn't verify by it."""
        return self._public

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """Sign with ECDSA and SHA-256: the key's own scheme.

        Raises:
            InputError, UnavailableError: as `Tpm.sign`.
        """
        if not isinstance(signature_algorithm, ec.ECDSA) or not isinstance(
            signature_algorithm.algorithm, hashes.SHA256
        ):
            raise ValueError("the TPM's key signs by ECDSA with SHA-256")
        return self._tpm.sign(self, sha256(data).digest())

    @property
    def curve(self) -> ec.EllipticCurve:
        """P-256."""
        return self._public.curve

    @property
    def key_size(self) -> int:
        """In bits."""
        return self._public.key_size

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> NoReturn:
        """Refuse: it is a key for signatures."""
        raise ValueError("the TPM's key only signs")

    def private_numbers(self) -> NoReturn:
        """Refuse: nobody has them."""
        raise ValueError("the key is in the TPM")

    def private_bytes(self, encoding: Any, format: Any, encryption_algorithm: Any) -> NoReturn:  # noqa: A002  # Its name.
        """Refuse: nobody has them."""
        raise ValueError("the key is in the TPM")

    def __copy__(self) -> TpmKey:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> TpmKey:
        return self


class _Fields:
    """Sized fields (TPM2B) one after another."""

    def __init__(self, content: bytes, *, at: int = 0) -> None:
        self._content = content
        self.at = at

    def take(self) -> bytes:
        (size,) = struct.unpack_from(">H", self._content, self.at)
        begin, self.at = self.at + 2, self.at + 2 + size
        if self.at > len(self._content):
            raise struct.error("cut off")
        return self._content[begin : self.at]


def _sized(content: bytes) -> bytes:
    return struct.pack(">H", len(content)) + content


def _read_public(blob: bytes) -> ec.EllipticCurvePublicKey:
    fields = _Fields(blob, at=len(MARK))
    fields.take()
    public = fields.take()
    if not blob.startswith(MARK) or fields.at != len(blob) or not public.startswith(_SIGNER):
        raise ValueError("not a blob of ours")
    point = _Fields(public, at=len(_SIGNER))
    x, y = (int.from_bytes(point.take()) for _ in range(2))
    return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
