"""Kubernetes' quantities, such as ``50m`` and ``64Mi``: read and compared by value. Pure.

Source: k8s.io/apimachinery, ``pkg/api/resource/quantity.go``.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

from shared.model.errors import InputError

_SHAPE: Final = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi|e[0-9]{1,2}|E[0-9]{1,2})?")
_FACTORS: Final = {
    "": Fraction(1),
    "m": Fraction(1, 1000),
    **{unit: Fraction(1000) ** (power + 1) for power, unit in enumerate("kMGTP")},
    **{f"{unit}i": Fraction(1024) ** (power + 1) for power, unit in enumerate("KMGTP")},
}


def parse_quantity(text: str) -> Fraction:
    """Return a quantity's value: of CPU in cores, of memory in bytes.

    Signs, nano- and microcores and exabytes are left out: containers don't have them.

    Raises:
        InputError: the text isn't a quantity.
    """
    match = _SHAPE.fullmatch(text)
    if match is None:
        raise InputError(f"not a quantity: {text[:80]!r}", hint="write CPU as 50m or 0.5, memory as 64Mi or 1Gi")
    number, unit = match[1], match[2] or ""
    factor = Fraction(10) ** int(unit[1:]) if unit[:1] in {"e", "E"} else _FACTORS[unit]
    return Fraction(number) * factor
