"""``python -m sidecar``, except that a TLS key is renewed after few bytes: ``KEY_BYTES`` in the environment."""

from __future__ import annotations

import os
import sys
from functools import partial

import sidecar.runtime.prepare
from sidecar.__main__ import main
from sidecar.parts import Limits

if __name__ == "__main__":
    vars(sidecar.runtime.prepare)["Limits"] = partial(Limits, key_bytes=int(os.environ["KEY_BYTES"]))
    raise SystemExit(main(sys.argv[1:]))
