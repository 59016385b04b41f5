"""``python -m sidecar``, except that a tunnel of any age is too old to be used again. For comparison only.

The product has no such option: reuse never skips a decision. Here the age limit of its own pool is set to nothing, and
everything else is the code that users run.
"""

from __future__ import annotations

import sys
from functools import partial

import sidecar.runtime.prepare
from sidecar.__main__ import main
from sidecar.parts import Limits

if __name__ == "__main__":
    vars(sidecar.runtime.prepare)["Limits"] = partial(Limits, tunnel_age_s=0.0)
    raise SystemExit(main(sys.argv[1:]))
