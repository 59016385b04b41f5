from __future__ import annotations

from fractions import Fraction

import pytest

from shared.model.errors import InputError
from shared.model.kubernetes.quantity import parse_quantity


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("50m", Fraction(1, 20)), ("0.5", Fraction(1, 2)), ("1000m", 1), ("64Mi", 64 * 1024**2),
        ("1.5Gi", 1536 * 1024**2), ("1k", 1000), ("1M", 10**6), ("1e3", 1000), ("2E2", 200), ("3Ti", 3 * 1024**4),
        ("1G", 10**9), ("1Ki", 1024),
    ],
)  # fmt: skip
def test_quantities_have_kubernetes_values(text: str, value: Fraction | int) -> None:
    assert parse_quantity(text) == value


@pytest.mark.parametrize("text", ["", "lots", "-1", "+1", "1 Mi", "1mi", "Mi", ".5", "1.", "1n", "1e999", "١"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="quantity"):
        parse_quantity(text)
