"""Certificates for the peers: one root and one leaf a side, P-256 as the product's own, valid for the run's directory.

Belongs here: making them and writing them as PEM. The product's certificates come from its own CA, never from here.
Does I/O; the keys protect nothing and end with the temporary directory.
"""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SERVER_NAME: Final = "server.bench.invalid"
CLIENT_NAME: Final = "client.bench.invalid"
_LIFETIME: Final = datetime.timedelta(days=1)
_SKEW: Final = datetime.timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """Where the PEM files lie."""

    root: Path
    server_chain: Path
    server_key: Path
    client_chain: Path
    client_key: Path


def write_material(directory: Path) -> Material:
    """Make a root and two leaves, write them into ``directory`` and return where they are."""
    root_key = ec.generate_private_key(ec.SECP256R1())
    root_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Touchmark bench root")])
    root = (
        _builder(root_name, root_name, root_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .sign(root_key, hashes.SHA256())
    )
    material = Material(
        root=directory / "root.pem",
        server_chain=directory / "server.pem",
        server_key=directory / "server.key",
        client_chain=directory / "client.pem",
        client_key=directory / "client.key",
    )
    material.root.write_bytes(root.public_bytes(serialization.Encoding.PEM))
    for name, chain, key_path in (
        (SERVER_NAME, material.server_chain, material.server_key),
        (CLIENT_NAME, material.client_chain, material.client_key),
    ):
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = (
            _builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), root_name, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(
                x509.SubjectAlternativeName(
                    [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))],
                ),
                critical=False,
            )
            .sign(root_key, hashes.SHA256())
        )
        chain.write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
        key_path.touch(mode=0o600)
        key_path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    return material


def write_combined(path: Path, chain: Path, key: Path) -> Path:
    """Write a chain and its key into one new file, as HAProxy wants them, and return its path."""
    path.touch(mode=0o600)
    path.write_bytes(chain.read_bytes() + key.read_bytes())
    return path


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + _LIFETIME)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
