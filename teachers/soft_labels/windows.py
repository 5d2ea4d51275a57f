"""A crop's soft labels out of those of the whole image: one bilinear look at the crop's own scale, window and flip."""

from __future__ import annotations

import torch
from torch import Tensor

from kd.types import Geometry
from teachers.soft_labels.codes import decode


def window(
    codes: Tensor, image: tuple[int, int], geometry: Geometry, crop: tuple[int, int], grid: tuple[int, int], align_corners: bool
) -> Tensor:
    """Logits float32 ``K h w`` at the cells that a network's ``grid`` (h, w) has on the ``crop`` (H, W).

    Linear between the cells of ``codes`` (uint8 ``K h' w'``, of an ``image`` of H x W pixels), where the image ends its last
    cells go on. Resampled to the crop's pixels it is what the enlarged whole map shows there, up to the crop's coarser grid.
    """
    starts, scaled = (geometry.top, geometry.left), (geometry.height, geometry.width)
    rows, columns = (
        _cells(starts[axis], scaled[axis], crop[axis], grid[axis], image[axis], codes.shape[axis + 1], align_corners, mirrored)
        for axis, mirrored in ((0, False), (1, geometry.flipped))
    )
    return _mixed(_mixed(codes, rows, 1), columns, 2)


def _cells(
    start: int, scaled: int, crop: int, cells: int, image: int, there: int, align_corners: bool, mirrored: bool
) -> Tensor:
    """Where the crop's cells lie along an axis, counted in cells of the whole image; float64."""
    index = torch.arange(cells, dtype=torch.float64)
    pixel = index * (crop - 1) / max(cells - 1, 1) if align_corners else (index + 0.5) * crop / cells - 0.5
    if mirrored:
        pixel = crop - 1 - pixel
    source = (start + pixel + 0.5) * image / scaled - 0.5
    place = source * (there - 1) / max(image - 1, 1) if align_corners else (source + 0.5) * there / image - 0.5
    return place.clamp(0, there - 1)


def _mixed(maps: Tensor, places: Tensor, axis: int) -> Tensor:
    before = places.floor().long()
    after = (before + 1).clamp(max=maps.shape[axis] - 1)
    shape = [-1 if axis == one else 1 for one in range(3)]
    share = (places - before).float().view(shape)
    near, far = (maps.index_select(axis, index) for index in (before, after))
    if maps.dtype == torch.uint8:
        near, far = decode(near), decode(far)
    return torch.lerp(near, far, share)
