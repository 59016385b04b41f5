"""Keys in memory: no core dumps, no tracing by the same user, no swapping, no key in a file.

Linux only, through ``prctl(2)``, ``mlockall(2)`` and ``memfd_create(2)``.
"""

from __future__ import annotations

import ctypes
import os
import resource
import ssl
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from shared.model.errors import MachineError

_PR_GET_DUMPABLE = 3
_PR_SET_DUMPABLE = 4
_MCL_CURRENT = 1
_MCL_FUTURE = 2
_MCL_ONFAULT = 4

_libc = ctypes.CDLL(None, use_errno=True)


def forbid_dumps() -> None:
    """Make this process undumpable: no core file, and its ``/proc`` entries and memory are closed to its own user.

    Call it after the last change of user: the kernel resets the flag then (``prctl(2)``, PR_SET_DUMPABLE).

    Raises:
        MachineError: the kernel refuses.
    """
    if _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0 or _libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise MachineError(f"this process can't be made undumpable: {os.strerror(ctypes.get_errno())}")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def lock_pages() -> bool:
    """Keep this process's pages out of the swap, where the limit on locked memory allows it; return whether it did.

    Only with an unlimited RLIMIT_MEMLOCK: with a lower one a later allocation would fail instead of being unlocked.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if hard != resource.RLIM_INFINITY:
        return False
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
    return bool(_libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) == 0)


def load_key(context: ssl.SSLContext, chain: Sequence[bytes], key: ec.EllipticCurvePrivateKey) -> None:
    """Give a standard-library TLS context a chain and its key, which it only reads from files: through a memfd.

    Arguments:
        chain: DER certificates, leaf first.

    Raises:
        ssl.SSLError: key and leaf don't belong together.
    """
    parts = [key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())]
    parts += [x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in chain]
    content = b"".join(parts)
    descriptor = os.memfd_create("key", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, content)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        os.pwrite(descriptor, bytes(len(content)), 0)
    finally:
        os.close(descriptor)
