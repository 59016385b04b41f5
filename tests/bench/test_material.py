"""The peers' certificates are ones that a verifier accepts, and lie where they should."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509

from bench.material import SERVER_NAME, write_material


def test_one_root_signs_both_and_the_server_has_its_name(tmp_path: Path) -> None:
    material = write_material(tmp_path)
    root = x509.load_pem_x509_certificate(material.root.read_bytes())
    server = x509.load_pem_x509_certificate(material.server_chain.read_bytes())
    client = x509.load_pem_x509_certificate(material.client_chain.read_bytes())
    assert server.issuer == client.issuer == root.subject
    server.verify_directly_issued_by(root)
    client.verify_directly_issued_by(root)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [SERVER_NAME]


def test_keys_are_the_owners_alone(tmp_path: Path) -> None:
    material = write_material(tmp_path)
    assert {path.stat().st_mode & 0o777 for path in (material.server_key, material.client_key)} == {0o600}
