"""What `kd benchmark data` compares are the same crops, whichever way they come."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from helpers_tools import call

from kd.benchmark import data
from kd.benchmark.data import DEVIATION, DRAWS, MEAN, SEED, usual, ways, with_torch
from kd.benchmark.setting import Setting
from kd.data.augment import Augmentation, draw
from kd.seeds import generator


@pytest.mark.parametrize("crop", [(64, 96), (100, 40)])
def test_the_ways_are_the_same_crops(crop: tuple[int, int]) -> None:
    found, folder = ways(Setting(crop, 1, 5), "opencv")
    names = list(found)
    assert names[2:] == ["PNG", "JPG", "store"]
    for number in range(DRAWS):
        crops = {name: way(number) for name, way in found.items()}
        for kind, name in (("PNG", names[0]), ("JPG", names[1])):
            image = crops[name][0] * torch.from_numpy(DEVIATION)[:, None, None] + torch.from_numpy(MEAN)[:, None, None]
            assert (image - crops[kind][0]).abs().max() < 1.01
            assert (crops[name][1] != crops[kind][1]).float().mean() < 0.02  # torch's nearest pixel is computed in float32
        assert all(torch.equal(*pair) for pair in zip(crops["PNG"], crops["store"], strict=True))
    place = Path(folder.name)
    assert place.is_dir()
    del found, folder, crops
    assert not place.exists()


def test_without_opencv_the_usual_way_is_the_same(tmp_path: Path) -> None:
    picture = data.frame(tmp_path, (128, 192), 5, ".png")
    config = Augmentation.model_validate({"crop": (64, 96), "resize": "opencv", "fill": MEAN.astype(int).tolist()})
    cv2 = pytest.importorskip("cv2")
    assert cv2
    for number in range(DRAWS):
        geometry = draw(config, (128, 192), generator(SEED, number))
        looks = (data.with_opencv, with_torch)
        one, other = (partial(usual, picture, tmp_path / "masks" / "frame.png", geometry, config)(look) for look in looks)
        assert (one[0] - other[0]).abs().max() < 0.02


def test_the_command_names_the_ways(tmp_path: Path) -> None:
    words = ["--crop", "64", "96", "--classes", "5", "--repeats", "2", "--device", "cpu", "--only", "OpenCV"]
    done = call("benchmark", "data", *words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line.split(" | ") for line in done.stdout.splitlines()[2:]]
    assert [line[1] for line in lines if len(line) > 1][2:5] == ["PNG", "JPG", "store"]
    assert lines[0][1].startswith("usual, PNG (")
