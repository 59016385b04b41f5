"""Keys and memory, in a process of its own where the process changes for good."""

from __future__ import annotations

import gc
import os
import ssl
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from shared.runtime.memory import load_key
from tests.sidecar.little_ca import make_authority, sign_leaf

DUMPABLE = """
import ctypes, resource
from shared.runtime.memory import forbid_dumps
forbid_dumps()
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE))
"""


def test_a_process_becomes_undumpable() -> None:
    done = subprocess.run([sys.executable, "-c", DUMPABLE], capture_output=True, text=True, check=True)
    assert done.stdout == "0 (0, 0)\n"


def test_a_key_is_loaded_without_a_file_and_leaves_no_descriptor() -> None:
    issuer = make_authority("issuer", make_authority("root"))
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = sign_leaf(issuer, key.public_key(), "spiffe://a/b").public_bytes(Encoding.DER)
    gc.collect()  # What tests before have left isn't closed in between.
    before = len(os.listdir("/proc/self/fd"))
    load_key(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), (leaf, issuer.der), key)
    assert len(os.listdir("/proc/self/fd")) == before
    other = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(ssl.SSLError):
        load_key(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), (leaf, issuer.der), other)
