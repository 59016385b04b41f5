"""``python -m bench.browser``: how long `touchmark ui` takes to draw 300 workloads with 3,000 edges. Needs Chromium.

The CA is the tests' own, which answers at once; counted is from the moment at which the browser has all data until the
picture and the table are there and the browser does something else again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final

from tests.cli.fake_ca import running_ca
from tests.cli.ui.browser import find_chromium, running_browser
from tests.cli.ui.conftest import TOKEN, served_page
from tests.cli.ui.world import fill, make_many

# Two frames after the picture is there, and when nothing is left to be done, the page answers to what one does.
_MEASURE: Final = """
new Promise((done) => {
  const look = () => {
    if (document.querySelectorAll('[data-box]').length !== 300) return requestAnimationFrame(look);
    requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(() => {
      const data = performance.getEntriesByType('resource').filter(({name}) => name.includes('/edges'));
      done(performance.now() - data.at(-1).responseEnd);
    }, 0)));
  };
  location.hash = '#/ns/shop?show=all';
  look();
})
"""


async def measure(url: str, directory: Path, rounds: int) -> list[float]:
    """Return the milliseconds of each round, each in a page that was loaded anew."""
    spent = []
    async with running_browser(directory) as tab:
        await tab.show_as(width=1440, height=900, scheme="light")
        for _ in range(rounds):
            await tab.open(f"{url}#token={TOKEN}", "document.querySelector('tbody')")
            spent.append(float(await tab.run(_MEASURE)))
    return spent


def main(arguments: Sequence[str]) -> int:
    """Print the median and the longest time."""
    parser = argparse.ArgumentParser(prog="python -m bench.browser", description=__doc__.partition(":")[0])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args(arguments)
    if find_chromium() is None:
        print("error: Chromium isn't here: `make browser` installs it", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        directory = Path(name)
        with running_ca(directory) as ca:
            fill(ca, *make_many())
            with served_page(ca) as served:
                spent = asyncio.run(measure(served.url, directory, options.rounds))
    print(json.dumps({"rounds": len(spent), "drawn_p50_ms": round(median(spent)), "drawn_worst_ms": round(max(spent))}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
