"""The documentation's pictures of the page are what it looks like."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.ui.browser import Tab, running_browser
from tests.cli.ui.conftest import Served, served_page
from tests.cli.ui.photograph import photograph, world

PICTURES = Path(__file__).parents[3] / "docs/pictures"
NAMES = ("ui-light.png", "ui-dark.png", "ui-draft.png")
# Pictures are compared by the mean colour of squares, so that other fonts' edges and the time of day don't count.
SQUARE_PX = 40
# Of 255, in any of red, green and blue. A link that isn't drawn changes its squares by more.
MOST = 8
# Of all squares: the time of day is in two of 608. A row that is missing in the table changes more.
MOST_OTHERS = 0.012
_MEANS = """
(async () => {
  const image = new Image();
  image.src = 'data:image/png;base64,%s';
  await image.decode();
  const {width, height} = image;
  const canvas = Object.assign(document.createElement('canvas'), {width, height});
  const drawing = canvas.getContext('2d');
  drawing.drawImage(image, 0, 0);
  const {data} = drawing.getImageData(0, 0, width, height);
  const across = Math.ceil(width / %d), sums = [];
  for (let at = 0; at < data.length; at += 4) {
    const row = Math.floor(at / 4 / width), column = at / 4 %% width;
    const square = Math.floor(row / %d) * across + Math.floor(column / %d);
    const sum = sums[square] ??= [0, 0, 0, 0];
    for (let colour = 0; colour < 3; colour++) sum[colour] += data[at + colour];
    sum[3] += 1;
  }
  return [width, height, ...sums.map(([red, green, blue, count]) => [red / count, green / count, blue / count])];
})()
"""


async def measure(tab: Tab, picture: bytes) -> tuple[int, int, list[tuple[float, float, float]]]:
    """Return width, height and each square's mean colour."""
    script = _MEANS % (base64.b64encode(picture).decode(), SQUARE_PX, SQUARE_PX, SQUARE_PX)
    width, height, *squares = await tab.run(script)
    return width, height, squares


async def count_others(tab: Tab, one: bytes, other: bytes) -> float:
    """Return the share of squares whose colours differ; 1 where the sizes do."""
    *size, squares = await measure(tab, one)
    *other_size, other_squares = await measure(tab, other)
    if size != other_size:
        return 1.0
    differ = [
        max(abs(a - b) for a, b in zip(mine, theirs, strict=True)) > MOST
        for mine, theirs in zip(squares, other_squares, strict=True)
    ]
    return sum(differ) / len(differ)


@pytest.fixture
def shown(tmp_path: Path) -> Iterator[Served]:
    """The page with the mesh that the pictures show."""
    with world(tmp_path) as ca, served_page(ca) as served:
        yield served


async def test_the_pictures_show_the_page_as_it_is(shown: Served, tmp_path: Path) -> None:
    await photograph(shown.url, tmp_path, tmp_path)
    (tmp_path / "compare").mkdir()
    async with running_browser(tmp_path / "compare") as tab:
        shots = {name: (tmp_path / name).read_bytes() for name in NAMES}
        for name in NAMES:
            share = await count_others(tab, shots[name], (PICTURES / name).read_bytes())
            hint = "`python -m tests.cli.ui.photograph docs/pictures` takes it anew"
            assert share <= MOST_OTHERS, f"{name}: {share:.1%} of it looks otherwise; {hint}"
        # What compares tells pictures apart.
        assert await count_others(tab, shots["ui-light.png"], shots["ui-dark.png"]) > 0.5
        assert await count_others(tab, shots["ui-light.png"], shots["ui-draft.png"]) == 1.0
