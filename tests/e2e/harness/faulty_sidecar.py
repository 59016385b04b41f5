"""``python -m sidecar`` with a fault of its own: attesting the program that opens a connection crashes."""

from __future__ import annotations

import sys
from typing import NoReturn

from sidecar.__main__ import main
from sidecar.attestor import Attestor


def _crash(*_: object) -> NoReturn:
    raise ZeroDivisionError("ordered by the test")


if __name__ == "__main__":
    type.__setattr__(Attestor, "attest_early", lambda *_: None)
    type.__setattr__(Attestor, "attest", _crash)
    raise SystemExit(main(sys.argv[1:]))
