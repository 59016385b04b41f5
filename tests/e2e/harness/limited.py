"""``python -m tests.e2e.harness.limited NAME=VALUE,… OPTION…``: the sidecar with other limits than its own.

The limits aren't configurable; reaching the real ones would take thousands of processes.
"""

from __future__ import annotations

import sys
from functools import partial

from sidecar import running
from sidecar.__main__ import main

if __name__ == "__main__":
    limits = dict(each.split("=") for each in sys.argv[1].split(","))
    numbers = {name: float(value) if "." in value else int(value) for name, value in limits.items()}
    vars(running)["Limits"] = partial(running.Limits, **numbers)  # type: ignore[arg-type]  # Checked by the dataclass.
    raise SystemExit(main(sys.argv[2:]))
