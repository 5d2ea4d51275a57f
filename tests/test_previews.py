"""Pictures hold what they promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from students.previews import WIDTH, colour_map, sheet

COLOURS = tuple((40 * k, 250 - 40 * k, 90) for k in range(5))
SHOWN = (201, 33, 77)
NAMES = tuple(f"class {k}" for k in range(5))


def sample(height: int, width: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    image = torch.tensor(SHOWN, dtype=torch.uint8).view(3, 1, 1).expand(3, height, width)
    target = torch.zeros(height, width, dtype=torch.uint8)
    target[: height // 2], target[-1] = 3, 255
    return image, {"target": target, "student": target.long()}


def test_colours_and_ignored_pixels() -> None:
    picture = colour_map(sample(8, 12)[1]["target"], COLOURS)
    assert tuple(picture[0, 0]) == COLOURS[3]
    assert tuple(picture[5, 5]) == COLOURS[0]
    assert set(np.unique(picture[-1])) == {0, 70}


@pytest.mark.parametrize(("height", "width", "factor"), [(20, 30, 8), (300, 400, 1), (31, 241, 1)])
def test_columns_are_wide_enough_and_hold_the_maps(height: int, width: int, factor: int) -> None:
    picture = np.asarray(sheet([sample(height, width)] * 2, NAMES, COLOURS))
    assert width * factor >= WIDTH
    assert picture.shape[1] == 3 * (width * factor + 8) + 8
    assert (picture == COLOURS[3]).all(2).sum() >= 4 * (height // 2) * width * factor**2
    assert (picture == SHOWN).all(2).sum() == 2 * height * width * factor**2


@pytest.mark.parametrize("classes", [1, 40])
def test_the_legend_holds_every_class(classes: int) -> None:
    colours = tuple((k + 1, 255 - k, 77) for k in range(classes))
    image, maps = sample(20, 30)
    blank = {name: torch.full_like(values, 255) for name, values in maps.items()}
    picture = np.asarray(sheet([(image, blank)], tuple(f"class {k}" for k in range(classes)), colours))
    assert all((picture == colour).all(2).sum() > 100 for colour in colours)
