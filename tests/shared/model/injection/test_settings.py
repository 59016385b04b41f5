from __future__ import annotations

import pytest

from shared.model.injection.refusals import InjectionRefusal, InjectionRefusedError
from shared.model.injection.settings import Settings, read_settings

P = "touchmark.dev/"


def test_without_annotations_everything_has_a_sane_default() -> None:
    assert read_settings({"example.com/other": "x", "touchmark.developer.example/x": "y"}) == Settings()


def test_each_annotation_is_read() -> None:
    annotations = {
        P + "inject": "true",
        P + "injected": "1",
        P + "exclude-inbound-ports": "9090, 80,9090",
        P + "exclude-outbound-ports": " ",
        P + "exclude-outbound-cidrs": "10.0.0.0/8,2001:DB8::/32, 192.0.2.1",
        P + "drain-seconds": "60",
        P + "log-level": "debug",
        P + "log-format": "ocsf",
        P + "workers": "2",
        P + "sidecar-cpu": "0.2",
        P + "sidecar-cpu-limit": "1",
        P + "sidecar-memory": "80Mi",
        P + "sidecar-memory-limit": "1Gi",
    }
    assert read_settings(annotations) == Settings(
        exclude_inbound_ports=(80, 9090),
        exclude_outbound_cidrs=("10.0.0.0/8", "2001:db8::/32", "192.0.2.1/32"),
        drain_s=60,
        log_level="debug",
        log_format="ocsf",
        workers=2,
        cpu_request="0.2",
        cpu_limit="1",
        memory_request="80Mi",
        memory_limit="1Gi",
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("exclude-inbound-ports", "0"), ("exclude-inbound-ports", "65536"), ("exclude-outbound-ports", "http"),
        ("exclude-outbound-ports", "80,,81"), ("exclude-outbound-ports", "80-90"), ("exclude-outbound-ports", "¹"),
        ("exclude-inbound-ports", ",".join(map(str, range(1, 66)))), ("exclude-outbound-cidrs", "10.0.0.1/8"),
        ("exclude-outbound-cidrs", "example.org"), ("exclude-outbound-cidrs", "fe80::1%eth0/64"),
        ("log-level", "loud"), ("log-format", "xml"), ("sidecar-cpu", "much"), ("sidecar-cpu", "0"),
        ("sidecar-cpu-limit", "65"),
        ("sidecar-memory", "1Pi"), ("sidecar-memory-limit", "1Mi"), ("sidecar-memory-limit", ""),
        ("drain-seconds", "-1"), ("drain-seconds", "3601"), ("drain-seconds", "1.5"), ("drain-seconds", ""),
        ("workers", "0"), ("workers", "65"), ("workers", "auto"), ("workers", ""), ("workers", "²"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_used_is_refused_with_the_annotations_name(name: str, value: str) -> None:
    with pytest.raises(InjectionRefusedError, match=name) as caught:
        read_settings({P + name: value})
    assert caught.value.refusal is InjectionRefusal.BAD_ANNOTATION


def test_a_request_above_its_limit_is_refused() -> None:
    with pytest.raises(InjectionRefusedError, match="more than the limit"):
        read_settings({P + "sidecar-memory": "1Gi", P + "sidecar-memory-limit": "512Mi"})


def test_what_is_not_given_follows_what_is() -> None:
    assert read_settings({P + "sidecar-memory": "1Gi"}).memory_limit == "1Gi"
    assert read_settings({P + "sidecar-cpu-limit": "10m"}).cpu_request == "10m"
    assert read_settings({P + "sidecar-cpu": "1"}).cpu_limit == ""
    assert read_settings({P + "sidecar-memory-limit": "1Gi"}).memory_request == "64Mi"


def test_an_unknown_annotation_of_ours_is_refused_with_a_guess() -> None:
    with pytest.raises(InjectionRefusedError) as caught:
        read_settings({P + "exclude-outbound-port": "53"})
    assert caught.value.refusal is InjectionRefusal.UNKNOWN_ANNOTATION
    assert "exclude-outbound-ports" in caught.value.hint


def test_mtls_ports_are_read() -> None:
    settings = read_settings({P + "mtls-ports": "8443, 443", P + "mtls-destination-ports": "8443"})
    assert (settings.mtls_ports, settings.mtls_destination_ports) == ((443, 8443), (8443,))


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        ({"mtls-ports": "x"}, "not a port"),
        ({"mtls-ports": "15008"}, "port 15008 is reserved for the sidecar"),
        ({"mtls-destination-ports": "14970"}, "port 14970 is reserved for the sidecar"),
        ({"mtls-ports": "1,8443", "exclude-inbound-ports": "8443"}, "port 8443 is also in"),
        ({"mtls-destination-ports": "443", "exclude-outbound-ports": "443"}, "port 443 is also in"),
    ],
)
def test_an_mtls_port_that_no_sidecar_would_see_is_refused(annotations: dict[str, str], message: str) -> None:
    with pytest.raises(InjectionRefusedError, match=message) as caught:
        read_settings({P + name: value for name, value in annotations.items()})
    assert caught.value.refusal is InjectionRefusal.BAD_ANNOTATION


def test_each_direction_has_its_own_exclusions() -> None:
    read_settings({P + "mtls-ports": "8443", P + "exclude-outbound-ports": "8443"})
