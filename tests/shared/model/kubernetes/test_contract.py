"""Names in Kubernetes: an instance names its pod, and a probe's target can't be nonsense."""

from __future__ import annotations

import msgspec
import pytest

from shared.model.errors import InputError
from shared.model.kubernetes.contract import ProbeTarget, name_instance

UID = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"


def test_an_instance_is_readable_and_differs_between_pods_of_one_name() -> None:
    assert name_instance("web-7c5", UID) == "web-7c5.3f2504e0"
    assert name_instance("web-7c5", "a" + UID[1:]) != name_instance("web-7c5", UID)


def test_an_instance_fits_a_registration_however_long_the_pods_name_is() -> None:
    assert len(name_instance("w" * 253, UID)) == 64


@pytest.mark.parametrize("uid", ["", "x", UID.upper(), UID + "0", UID + "\n"])
def test_what_is_no_uid_is_refused(uid: str) -> None:
    with pytest.raises(InputError):
        name_instance("web", uid)


def test_a_probe_is_asked_by_its_container_and_kind() -> None:
    target = ProbeTarget(container="web", kind="readiness", handler="tcp", port=80)  # As release 0.1 wrote it.
    assert (target.request_path, target.path_secret, target.container_name) == ("/probe/web/readiness", "", "web")
    target = ProbeTarget(container="s3cret/web", kind="readiness", handler="tcp", port=80)
    assert target.request_path == "/probe/s3cret/web/readiness"
    assert (target.path_secret, target.container_name) == ("s3cret", "web")


@pytest.mark.parametrize(
    "fault",
    [{"kind": "deadness"}, {"handler": "exec"}, {"scheme": "FTP"}, {"port": 0}, {"port": 65536}, {"timeout_s": 0}],
)
def test_a_probe_that_cannot_be_is_refused(fault: dict[str, object]) -> None:
    plain = {"container": "web", "kind": "liveness", "handler": "http", "port": 80} | fault
    with pytest.raises((InputError, msgspec.ValidationError)):
        msgspec.convert(plain, ProbeTarget)
