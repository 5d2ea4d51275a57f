"""The augmentation is a pure function of its generator, and labels stay on the pixels that they describe."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torchvision.transforms.v2 import functional as tf

from kd.data.antialiased_resize import antialiased_window
from kd.data.augment import Augmentation, augment, draw, replay
from kd.data.opencv_resize import opencv_window
from kd.seeds import generator
from kd.types import IGNORE, Geometry

SIZE = (37, 53)
CROPS = [(24, 32), (33, 64), (80, 41), (96, 120)]  # smaller and larger than the image, even and odd
PADS = ["centre", "corner"]


def config(**knobs: object) -> Augmentation:
    return Augmentation.model_validate({"crop": (32, 41), "fill": (7, 8, 9), **knobs})


def coded(axis: int, size: tuple[int, int] = SIZE, gain: int = 4) -> tuple[Tensor, Tensor]:
    """Both image and labels hold a pixel's row (axis 0) or column (axis 1); the image ``gain`` times as much."""
    position = torch.arange(size[axis], dtype=torch.uint8)
    labels = (position[:, None] if axis == 0 else position[None]).expand(size).contiguous()
    return (labels * gain).expand(3, *size).contiguous(), labels


def noise(size: tuple[int, int] = SIZE) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=source)
    return image, torch.randint(0, 11, size, dtype=torch.uint8, generator=source)


@pytest.mark.parametrize("pad", PADS)
@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("axis", [0, 1])
def test_labels_stay_on_their_pixels_and_padding_is_filled_and_ignored(axis: int, crop: tuple[int, int], pad: str) -> None:
    image, labels = coded(axis)
    offsets = []
    for seed in range(12):
        crops = augment(config(crop=crop, pad=pad), image, labels, generator(seed))
        assert crops[0].shape == (3, *crop)
        assert crops[1].shape == crop
        assert crops[0].dtype == crops[1].dtype == torch.uint8
        inside = crops[1] != IGNORE
        assert (crops[0][:, ~inside] == torch.tensor([[7], [8], [9]])).all()
        offset = crops[0][0][inside] / 4 - crops[1][inside]
        assert offset.abs().max() <= 0.8  # half a pixel of rounding, and the filter's rim
        offsets.append(offset.mean())
    assert torch.stack(offsets).abs().max() < 0.15


@pytest.mark.parametrize(("pad", "rows", "columns"), [("centre", (6, 26), (5, 35)), ("corner", (0, 20), (0, 30))])
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_where_a_small_image_lies(pad: str, rows: tuple[int, int], columns: tuple[int, int], flip: float) -> None:
    image, labels = noise((20, 30))
    crop, target, geometry = augment(config(scale=(1, 1), pad=pad, flip=flip), image, labels, generator(0))
    assert geometry == Geometry(20, 30, -rows[0], -columns[0], flip == 1, 1.0)
    if flip:
        crop, target = crop.flip(2), target.flip(1)
    expected = torch.full((32, 41), IGNORE, dtype=torch.uint8)
    expected[slice(*rows), slice(*columns)] = labels
    assert torch.equal(target, expected)
    assert torch.equal(crop[:, slice(*rows), slice(*columns)], image)


@pytest.mark.parametrize("scale", [0.37, 0.5, 0.8, 1.0, 1.3, 1.999])
@pytest.mark.parametrize("size", [(20, 30), (33, 17)])
def test_opencv_resizing_is_its_definition(scale: float, size: tuple[int, int]) -> None:
    """Bilinear between pixel centres at index / scale, labels at its floor; pixel by pixel, and the same for any window."""
    image, labels = noise(size)
    height, width = (round(side * scale) for side in size)
    geometry = Geometry(height, width, 0, 0, False, scale)
    whole, target = opencv_window(image, labels, geometry, range(height), range(width))
    for row, column in ((0, 0), (height - 1, width - 1), (height // 2, width // 3)):
        y, x = (min(max((index + 0.5) / scale - 0.5, 0), side - 1) for index, side in zip((row, column), size, strict=True))
        top, left = int(y), int(x)
        bottom, right = min(top + 1, size[0] - 1), min(left + 1, size[1] - 1)
        corners = [[image[:, i, j].double() for j in (left, right)] for i in (top, bottom)]
        lines = [a + (b - a) * (x - left) for a, b in corners]
        expected = lines[0] + (lines[1] - lines[0]) * (y - top)
        assert (whole[:, row, column].double() - expected).abs().max() <= 0.51
        nearest = (min(int(index * (1 / scale)), side - 1) for index, side in zip((row, column), size, strict=True))
        assert target[0, row, column] == labels[tuple(nearest)]
    rows, columns = range(height // 4, height - 1), range(1, width // 2 + 1)
    part, marks = opencv_window(image, labels, geometry, rows, columns)
    assert torch.equal(part, whole[:, rows.start : rows.stop, columns.start : columns.stop])
    assert torch.equal(marks, target[:, rows.start : rows.stop, columns.start : columns.stop])
    if scale == 1:
        assert torch.equal(whole, image)
        assert torch.equal(target[0], labels)


def resized_whole(geometry: Geometry, image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Without aliasing, as torchvision resizes a whole picture."""
    size = [geometry.height, geometry.width]
    image = tf.resize(image.contiguous(), size, tf.InterpolationMode.BILINEAR, antialias=True)
    return image, tf.resize(labels[None], size, tf.InterpolationMode.NEAREST_EXACT)[0]


def resized_whole_as_opencv(geometry: Geometry, image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """As cv2 does with fx = fy = scale, in float64."""
    lines, marks = image.double(), labels
    for axis, size in ((0, geometry.height), (1, geometry.width)):
        side = labels.shape[axis]
        position = ((torch.arange(size, dtype=torch.float64) + 0.5) / geometry.scale - 0.5).clamp(0, side - 1)
        before = position.long()
        after, share = (before + 1).clamp(max=side - 1), position - before
        share = share[:, None] if axis == 0 else share
        lines = lines.index_select(1 + axis, before) * (1 - share) + lines.index_select(1 + axis, after) * share
        nearest = (torch.arange(size, dtype=torch.float64) * (1 / geometry.scale)).long().clamp(max=side - 1)
        marks = marks.index_select(axis, nearest)
    return lines.round().to(torch.uint8), marks


WHOLE = {"antialiased": resized_whole, "opencv": resized_whole_as_opencv}


@pytest.mark.parametrize("side_by_side", [True, False])
@pytest.mark.parametrize("crop", [*CROPS, (8, 8)])
@pytest.mark.parametrize("resize", WHOLE)
def test_a_window_is_cut_as_out_of_the_whole_picture(resize: str, crop: tuple[int, int], side_by_side: bool) -> None:
    image, labels = noise((75, 110))
    if side_by_side:
        image = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    knobs, found = config(crop=crop, resize=resize, scale=(0.3, 2.2), fill=(1, 2, 3)), []
    for seed in range(16):
        crop_, target, geometry = augment(knobs, image, labels, generator(seed))
        whole, marks = WHOLE[resize](geometry, image, labels)
        (top, left), (height, width) = (geometry.top, geometry.left), marks.shape
        window = slice(max(top, 0), top + crop[0]), slice(max(left, 0), left + crop[1])
        sides = [max(0, -left), max(0, -top), max(0, left + crop[1] - width), max(0, top + crop[0] - height)]
        expected = tf.pad(whole[:, window[0], window[1]], sides, fill=[1.0, 2.0, 3.0])
        truth = tf.pad(marks[window][None], sides, fill=[float(IGNORE)])[0]
        if geometry.flipped:
            expected, truth = expected.flip(2), truth.flip(1)
        assert torch.equal(target, truth)
        assert crop_.is_contiguous()
        found.append((crop_.int() - expected.int()).abs())
    assert torch.stack(found).max() <= 1
    assert torch.stack(found).float().mean() < (0.01 if resize == "opencv" else 0.3)


@pytest.mark.parametrize("size", [(37, 53), (100, 64)])
def test_without_aliasing_every_size_is_as_torchvision_makes_it(size: tuple[int, int]) -> None:
    image, labels = noise(size)
    for height in range(9, 150, 7):
        geometry = Geometry(height, 2 * height + 1, 0, 0, False, height / size[0])
        whole = resized_whole(geometry, image, labels)
        window = antialiased_window(image, labels, geometry, range(height), range(2 * height + 1))
        assert torch.equal(window[1][0], whole[1])
        assert (window[0].int() - whole[0].int()).abs().max() <= 1


@pytest.mark.parametrize("scale", [0.7, 2.0])
@pytest.mark.parametrize("resize", WHOLE)
def test_a_crop_costs_no_more_of_a_picture_larger_than_memory(resize: str, scale: float) -> None:
    side = 400_000
    image = torch.full((1, 1, 1), 9, dtype=torch.uint8).expand(3, side, side)
    geometry = Geometry(round(side * scale), round(side * scale), 7777, 8888, True, scale)
    crop, target = replay(geometry, image, image[0], config(resize=resize))
    assert (crop == 9).all()
    assert (target == 9).all()


def test_every_offset_is_drawn_the_last_one_included() -> None:
    drawn = [draw(config(crop=(17, 19), scale=(1, 1)), (20, 20), generator(seed)) for seed in range(200)]
    assert {geometry.top for geometry in drawn} == {0, 1, 2, 3}
    assert {geometry.left for geometry in drawn} == {0, 1}


@pytest.mark.parametrize(
    ("step", "scale", "heights"),
    [(0.1, (0.5, 2.0), set(range(50, 201, 10))), (0.25, (0.5, 1.0), {50, 75, 100}), (0.1, (0.7, 0.7), {70})],
)
def test_scales_lie_on_the_grid_and_both_sides_share_one(step: float, scale: tuple, heights: set[int]) -> None:
    drawn = [draw(config(scale_step=step, scale=scale), (100, 200), generator(seed)) for seed in range(400)]
    assert {geometry.height for geometry in drawn} == heights
    assert all(geometry.width == 2 * geometry.height for geometry in drawn)


def test_continuous_scales_fill_their_range() -> None:
    heights = [draw(config(scale=(0.5, 2.0)), (1000, 8), generator(seed)).height for seed in range(400)]
    assert 500 <= min(heights) < 520
    assert 1980 < max(heights) <= 2000
    assert abs(sum(heights) / len(heights) - 1250) < 75


@pytest.mark.parametrize(("scale", "step"), [((0.5, 2.0), 0.4), ((0.5, 1.0), 0.3)])
def test_a_grid_that_does_not_meet_the_end_of_the_range_stays_inside(scale: tuple[float, float], step: float) -> None:
    heights = [draw(config(scale_step=step, scale=scale), (100, 100), generator(seed)).height for seed in range(100)]
    assert max(heights) <= 100 * scale[1]


@pytest.mark.parametrize(("flip", "low", "high"), [(0.0, 0, 0), (1.0, 400, 400), (0.5, 160, 240), (0.1, 15, 70)])
def test_the_share_of_flips(flip: float, low: int, high: int) -> None:
    assert low <= sum(draw(config(flip=flip), SIZE, generator(seed)).flipped for seed in range(400)) <= high


@pytest.mark.parametrize("pad", PADS)
@pytest.mark.parametrize("crop", CROPS)
def test_a_geometry_replays_and_a_flip_mirrors_the_crop(crop: tuple[int, int], pad: str) -> None:
    image, labels = noise()
    knobs = config(crop=crop, pad=pad)
    for seed in range(6):
        crop_, target, geometry = augment(knobs, image, labels, generator(seed))
        again = replay(geometry, image, labels, knobs)
        assert torch.equal(again[0], crop_)
        assert torch.equal(again[1], target)
        mirrored = replay(geometry._replace(flipped=not geometry.flipped), image, labels, knobs)
        assert torch.equal(mirrored[0], crop_.flip(2))
        assert torch.equal(mirrored[1], target.flip(1))


def test_augmentation_is_a_pure_function_of_the_generator() -> None:
    image, labels = noise()
    before, knobs = (image.clone(), labels.clone()), config(photometric=0.3)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = augment(knobs, image, labels, generator(5))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second = augment(knobs, image, labels, generator(5))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert first[2] == second[2]
    assert len({augment(knobs, image, labels, generator(seed))[2] for seed in range(20)}) > 15
    assert torch.equal(image, before[0])
    assert torch.equal(labels, before[1])


def test_labels_are_never_mixed() -> None:
    image, labels = noise()
    labels = torch.tensor([3, 200, IGNORE], dtype=torch.uint8)[(labels % 3).long()]
    for seed in range(30):
        assert set(augment(config(), image, labels, generator(seed))[1].unique().tolist()) <= {3, 200, IGNORE}


def test_photometric_changes_colours_only() -> None:
    image, labels = noise()
    for seed in range(8):
        plain = augment(config(), image, labels, generator(seed))
        coloured = augment(config(photometric=0.4), image, labels, generator(seed))
        assert torch.equal(plain[1], coloured[1])
        assert plain[2] == coloured[2]
        assert coloured[0].dtype == torch.uint8
        assert not torch.equal(plain[0], coloured[0])


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"scale": (2.0, 0.5)}, "scale is"),
        ({"scale": (0.0, 1.0)}, "scale is"),
        ({"crop": (4, 64)}, "crop is"),
        ({"flip": 1.5}, "flip"),
    ],
)
def test_senseless_knobs_are_refused(knobs: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(**knobs)
