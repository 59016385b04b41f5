"""``python -m sidecar``, except that TLS keys are worn out after few records: ``RECORDS`` in the environment."""

from __future__ import annotations

import os
import sys

import sidecar.pump.tls_pump
import sidecar.tunnel.tunnel
from sidecar.__main__ import main

if __name__ == "__main__":
    for module in (sidecar.tunnel.tunnel, sidecar.pump.tls_pump):
        if not hasattr(module, "MAX_RECORDS"):
            raise SystemExit(f"{module.__name__} has no MAX_RECORDS to lower")
        vars(module)["MAX_RECORDS"] = int(os.environ["RECORDS"])
    raise SystemExit(main(sys.argv[1:]))
