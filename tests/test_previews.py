"""Pictures of samples: sizes, colours, ignored pixels, legend, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from students.examining.previews import Colour, legend, overlay, panel, sheet

NAMES = ("road", "car", "tree")
COLOURS: tuple[Colour, ...] = ((200, 30, 30), (30, 200, 30), (30, 30, 200))


def sample(height: int = 40, width: int = 60) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    image = torch.full((3, height, width), 120, dtype=torch.uint8)
    target = torch.zeros(height, width, dtype=torch.uint8)
    target[:, width // 2 :] = 1
    target[: height // 2, : width // 2] = 255
    return image, {"target": target, "student": torch.full((height, width), 2)}


def census(picture: Image.Image) -> dict[Colour, int]:
    colours, counts = np.unique(np.asarray(picture).reshape(-1, 3), axis=0, return_counts=True)
    return {tuple(colour): number for colour, number in zip(colours.tolist(), counts.tolist(), strict=True)}


def count(picture: Image.Image, colour: Colour) -> int:
    return int((np.asarray(picture) == colour).all(-1).sum())


def test_known_pixels_have_their_colours_at_a_whole_factor() -> None:
    picture = panel(*sample(), NAMES, COLOURS)
    assert picture.width >= 3 * 240
    assert count(picture, (120, 120, 120)) == 40 * 60 * 16
    assert count(picture, COLOURS[0]) == 20 * 30 * 16
    assert count(picture, COLOURS[1]) == 40 * 30 * 16
    assert count(picture, COLOURS[2]) == 40 * 60 * 16


def test_ignored_pixels_are_black_with_hatching() -> None:
    picture = panel(*sample(), NAMES, COLOURS)
    black, grey = count(picture, (0, 0, 0)), count(picture, (96, 96, 96))
    assert black == pytest.approx(20 * 30 * 16 * 0.75, rel=0.02)
    assert grey == pytest.approx(20 * 30 * 16 * 0.25, rel=0.1)


def test_large_images_shrink_by_a_whole_divisor() -> None:
    image, columns = sample(512, 1024)
    picture = panel(image, columns, NAMES, COLOURS)
    assert count(picture, COLOURS[2]) == 256 * 512
    assert picture.width < 3 * 560


def test_thin_images_make_no_endless_picture() -> None:
    for size in ((4000, 3), (200, 1), (3, 4000)):
        picture = panel(torch.zeros(3, *size, dtype=torch.uint8), {"t": torch.zeros(size, dtype=torch.uint8)}, NAMES, COLOURS)
        assert max(picture.size) < 1400


def test_a_sheet_stacks_rows_under_one_header() -> None:
    one, three = (sheet([sample()] * n, NAMES, COLOURS) for n in (1, 3))
    assert one.width == three.width == panel(*sample(), NAMES, COLOURS).width
    assert 2 * 160 < three.height - one.height < 2 * 200
    assert count(three, (120, 120, 120)) == 3 * 40 * 60 * 16


def test_rows_may_differ_in_size() -> None:
    picture = sheet([sample(40, 60), sample(90, 50)], NAMES, COLOURS)
    assert count(picture, (120, 120, 120)) == 16 * 40 * 60 + 25 * 90 * 50


@pytest.mark.parametrize("classes", [1, 3, 8, 40, 255])
def test_the_legend_holds_every_class(classes: int) -> None:
    image = torch.zeros(3, 33, 47, dtype=torch.uint8)
    columns = {"target": torch.full((33, 47), 255)}
    names, colours = [f"class {i}" for i in range(classes)], [(i, 255 - i, 77) for i in range(classes)]
    picture = sheet([(image, columns)], names, colours)
    found = census(picture)
    assert all(found.get(colour, 0) >= 14 * 14 for colour in colours)


def test_a_long_name_is_cut_and_not_drawn_outside() -> None:
    image, columns = sample()
    picture = sheet([(image, {"x" * 300: columns["target"]})], ["y" * 300, "car", "tree"], COLOURS)
    edges = np.asarray(picture)[:, [0, -1]]
    assert (edges == 255).all()


def test_the_image_alone() -> None:
    image, _ = sample()
    assert panel(image, {}, NAMES, COLOURS).width < 300


def test_refusals_name_what_is_wrong() -> None:
    image, columns = sample()
    wrong = {
        "column 'student' holds label 3": (image, {"student": torch.full((40, 60), 3)}),
        "column 'student' holds label -1": (image, {"student": torch.full((40, 60), -1)}),
        "column 'student' is torch.int64": (image, {"student": torch.zeros(20, 30, dtype=torch.long)}),
        "column 'student' is torch.float32": (image, {"student": torch.zeros(40, 60)}),
        "the image is torch.float32": (image.float(), columns),
    }
    for message, row in wrong.items():
        with pytest.raises(ValueError, match=message):
            panel(*row, NAMES, COLOURS)


def test_a_sheet_refuses_what_does_not_fit() -> None:
    image, columns = sample()
    with pytest.raises(ValueError, match="no sample"):
        sheet([], NAMES, COLOURS)
    with pytest.raises(ValueError, match="row 1 has columns"):
        sheet([(image, columns), (image, {"target": columns["target"]})], NAMES, COLOURS)
    with pytest.raises(ValueError, match="3 classes and 2 colours"):
        sheet([(image, columns)], NAMES, COLOURS[:2])


def test_an_overlay_blends_and_leaves_ignored_pixels_alone() -> None:
    image, columns = sample()
    picture = overlay(image, columns["target"], COLOURS, opacity=0.25)
    assert picture.size == (60, 40)
    pixels = np.asarray(picture)
    assert (pixels[:20, :30] == 120).all()
    np.testing.assert_allclose(pixels[20:, :30], np.broadcast_to([140, 97.5, 97.5], (20, 30, 3)), atol=1)
    np.testing.assert_allclose(pixels[:, 30:], np.broadcast_to([97.5, 140, 97.5], (40, 30, 3)), atol=1)
    with pytest.raises(ValueError, match="'labels' holds label 3"):
        overlay(image, torch.full((40, 60), 3), COLOURS)


def test_a_legend_alone_may_leave_out_the_ignored() -> None:
    assert count(legend(NAMES, COLOURS), (0, 0, 0)) > 0
    without = legend(NAMES, COLOURS, ignored=False)
    assert count(without, (0, 0, 0)) == 0
    assert all(count(without, colour) >= 14 * 14 for colour in COLOURS)
