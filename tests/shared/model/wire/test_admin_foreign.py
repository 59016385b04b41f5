"""Values about other trust domains: requests as strict as the others, and found with them."""

from __future__ import annotations

import msgspec
import pytest

from shared.model.wire import admin, admin_foreign


@pytest.mark.parametrize("name", ["ForeignDomainRequest", "ForeignRootView", "ForeignDomainView", "ForeignDomainList"])
def test_each_value_is_frozen_and_is_one_of_the_admin_apis(name: str) -> None:
    value: type[msgspec.Struct] = getattr(admin_foreign, name)
    assert getattr(admin, name) is value
    assert value.__struct_config__.frozen
    assert value.__struct_config__.forbid_unknown_fields == name.endswith("Request")
