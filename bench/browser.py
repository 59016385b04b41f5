"""``python -m bench.browser``: how long `touchmark ui` takes to draw 300 workloads with 3,000 edges. Needs Chromium.

The CA is the tests' own, which answers at once; counted is from the moment at which the browser has all data until the
picture and the table are there and the browser does something else again. On a busy machine the browser waits for the
processor most of that time: what the page's thread took of it is said besides.
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
from tests.cli.ui.browser import Tab, find_chromium, running_browser
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


async def measure(url: str, directory: Path, rounds: int) -> list[tuple[float, float]]:
    """Return the milliseconds of each round, and the page's thread's of processor time in it; each page is loaded anew.

    The processor time is that from the link being followed, so asking for the data is in it.
    """
    spent = []
    async with running_browser(directory) as tab:
        await tab.call("Performance.enable", timeDomain="threadTicks")
        await tab.show_as(width=1440, height=900, scheme="light")
        for _ in range(rounds):
            await tab.open(f"{url}#token={TOKEN}", "document.querySelector('tbody')")
            before = await _read_busy_ms(tab)
            drawn = float(await tab.run(_MEASURE))
            spent.append((drawn, await _read_busy_ms(tab) - before))
    return spent


async def _read_busy_ms(tab: Tab) -> float:
    found = (await tab.call("Performance.getMetrics"))["metrics"]
    return 1000.0 * next(float(each["value"]) for each in found if each["name"] == "TaskDuration")


def main(arguments: Sequence[str]) -> int:
    """Print the median and the longest time, and the median of processor time."""
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
    drawn, busy = zip(*spent, strict=True)
    figures = {"drawn_p50_ms": median(drawn), "drawn_worst_ms": max(drawn), "thread_p50_ms": median(busy)}
    print(json.dumps({"rounds": len(spent), **{name: round(each) for name, each in figures.items()}}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
