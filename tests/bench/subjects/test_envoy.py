"""Envoy's configuration: both sides demand TLS 1.3, the post-quantum group and the other's certificate."""

from __future__ import annotations

from pathlib import Path

from bench.material import write_material
from bench.subjects.envoy import _downstream, _upstream


def test_both_sides_verify_each_other_over_tls_1_3_with_the_products_group(tmp_path: Path) -> None:
    material = write_material(tmp_path)
    for side in (_downstream(material), _upstream(material)):
        common = side["typed_config"]["common_tls_context"]
        assert common["tls_params"]["tls_minimum_protocol_version"] == "TLSv1_3"
        assert common["tls_params"]["ecdh_curves"] == ["X25519MLKEM768"]
        assert common["validation_context"]["trusted_ca"]["filename"] == str(material.root)
        assert common["tls_certificates"]
    assert _downstream(material)["typed_config"]["require_client_certificate"] is True
