"""What a sidecar says of itself is bounded and in canonical form."""

from __future__ import annotations

import pytest

from shared.model.errors import InputError, RefusedError
from shared.model.wire.messages import Registration
from shared.model.wire.registration import (
    MAX_ADDRESSES,
    MAX_LABELS,
    check_instance,
    check_labels,
    check_registration,
    normalise_address,
    normalise_addresses,
)


def said(
    instance: str = "one",
    *,
    port: int = 15008,
    version: str = "0",
    addresses: tuple[str, ...] = (),
    time_ms: int = 0,
) -> Registration:
    return Registration(
        instance=instance,
        version=version,
        addresses=addresses,
        tunnel_port=port,
        capture="listeners",
        time_ms=time_ms,
    )


@pytest.mark.parametrize("name", ["web-0.1a2b", "A", "a" * 64])
def test_an_instances_name_is_returned_unchanged(name: str) -> None:
    assert check_instance(name) == name


@pytest.mark.parametrize("name", ["", "-a", "a" * 65, "a b", "a\n", "ä"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(InputError):
        check_instance(name)


def test_addresses_are_in_canonical_form_each_once() -> None:
    assert normalise_address("::ffff:198.18.0.2") == "198.18.0.2"
    assert normalise_addresses(["2001:DB8::0001", "198.18.0.2", "2001:db8::1"]) == ("2001:db8::1", "198.18.0.2")
    with pytest.raises(InputError):
        normalise_address("198.18.0.2/32")
    with pytest.raises(InputError):
        normalise_addresses(f"2001:db8::{number:x}" for number in range(MAX_ADDRESSES + 1))


def test_only_granted_addresses_are_registered() -> None:
    assert check_registration(said(addresses=("::ffff:198.18.0.2",)), ("198.18.0.2",)) == ("198.18.0.2",)
    with pytest.raises(RefusedError, match=r"198\.18\.0\.3"):
        check_registration(said(addresses=("198.18.0.3",)), ("198.18.0.2",))


@pytest.mark.parametrize(
    "wrong",
    [said("a b"), said(port=65536), said(port=-1), said(version="v" * 65), said(time_ms=-1), said(time_ms=2**60)],
)
def test_values_that_cant_be_are_refused(wrong: Registration) -> None:
    with pytest.raises(InputError):
        check_registration(wrong, ())


@pytest.mark.parametrize("labels", [{"": "x"}, {"a": "x" * 257}, {str(n): "x" for n in range(MAX_LABELS + 1)}])
def test_labels_are_bounded(labels: dict[str, str]) -> None:
    with pytest.raises(InputError):
        check_labels(labels)
    assert check_labels({"a": "b"}) == {"a": "b"}
