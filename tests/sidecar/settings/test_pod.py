"""What the downward API and injection say: whole, or refused with the variable's name."""

from __future__ import annotations

import json

import pytest

from shared.model.errors import InputError
from sidecar.settings.pod import read_pod, read_probes

POD = {
    "TOUCHMARK_POD_NAME": "web-5d4",
    "TOUCHMARK_POD_NAMESPACE": "shop",
    "TOUCHMARK_POD_UID": "01234567-89ab-cdef-0123-456789abcdef",
    "TOUCHMARK_POD_IPS": "198.18.0.7, FD00::7,198.18.0.7",
    "TOUCHMARK_SERVICE_ACCOUNT": "web",
}


def test_a_pods_addresses_have_one_form_and_stand_once() -> None:
    assert read_pod(POD).addresses == ("198.18.0.7", "fd00::7")


@pytest.mark.parametrize("name", POD)
def test_a_missing_variable_is_named(name: str) -> None:
    with pytest.raises(InputError, match=name):
        read_pod({key: value for key, value in POD.items() if key != name})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOUCHMARK_POD_NAMESPACE", "a/b"),
        ("TOUCHMARK_SERVICE_ACCOUNT", "a b"),
        ("TOUCHMARK_POD_UID", "7"),
        ("TOUCHMARK_POD_IPS", "host"),
        ("TOUCHMARK_POD_IPS", ",".join(f"198.18.0.{number}" for number in range(9))),
    ],
)
def test_a_wrong_value_is_refused(name: str, value: str) -> None:
    with pytest.raises(InputError):
        read_pod({**POD, name: value})


def probe(**changes: object) -> dict[str, object]:
    return {"container": "app", "kind": "liveness", "handler": "http", "port": 80, **changes}


def test_probes_are_read_and_none_is_none() -> None:
    text = json.dumps([probe(), probe(kind="startup", handler="grpc", service="x")])
    assert [each.request_path for each in read_probes({"TOUCHMARK_PROBES": text})] == [
        "/probe/app/liveness", "/probe/app/startup",
    ]  # fmt: skip
    assert read_probes({}) == ()


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "{}",
        json.dumps([probe(port=0)]),
        json.dumps([probe(more=1)]),
        json.dumps([probe(), probe()]),
        json.dumps([probe(container=f"c{number}") for number in range(257)]),
        " " * (1024 * 1024 + 1),
    ],
)
def test_what_is_no_list_of_probes_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="TOUCHMARK_PROBES"):
        read_probes({"TOUCHMARK_PROBES": text})
