"""One thing on a background: its own scores, thresholds on its probability, masks of 0 and 255, thin things in pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_tools import call
from PIL import Image
from test_folder import put

from kd.evaluate.evaluator import evaluate
from kd.evaluate.whole import Whole
from kd.metrics.counts import count
from kd.metrics.foreground import Levels, at_thresholds, levels, of_counts
from kd.metrics.scores import summarise
from kd.types import IGNORE, Batch, Outputs
from students.examining.prediction_files import above
from students.examining.previews import bold, overlay, shrunk
from students.examining.thresholds import best

NAMES = ("background", "crack")
SIZE = (48, 64)


def noise(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits ``2 H W`` that know a little of their labels ``H W``, some of which are ignored."""
    source = torch.Generator().manual_seed(seed)
    target = (torch.rand(SIZE, generator=source) < 0.2).long()
    logits = torch.randn((2, *SIZE), generator=source) + torch.stack([1 - target, 1.5 * target])
    target[:4] = IGNORE
    return logits, target


def test_scores_of_the_foreground_by_hand() -> None:
    prediction = torch.tensor([[1, 1, 1, 0, 0, 0]])
    target = torch.tensor([[1, 1, 0, 1, 0, IGNORE]])
    counts = count(prediction, target, 2, "a")
    assert of_counts(counts) == pytest.approx({"IoU": 50, "F1": 200 / 3, "precision": 200 / 3, "recall": 200 / 3})
    scores = summarise(counts, None, NAMES)
    assert (scores["foreground_IoU"], scores["foreground_F1"]) == (pytest.approx(50), pytest.approx(200 / 3))
    assert scores["foreground_IoU"] == scores["iou"]["crack"]
    assert "foreground_IoU" not in summarise(count(prediction, target, 3, "a"), None, "abc")
    with pytest.raises(ValueError, match="3 classes"):
        of_counts(count(prediction, target, 3, "a"))


def test_thresholds_are_those_of_pixels_counted_one_by_one() -> None:
    pairs = [noise(seed) for seed in range(3)]
    table = at_thresholds(Levels.concat([levels(*pair, str(number)) for number, pair in enumerate(pairs)]))
    for percent in (1, 29, 50, 58, 99):
        parts = [
            count((logits.softmax(0)[1] >= percent / 100).long(), target, 2, str(number))
            for number, (logits, target) in enumerate(pairs)
        ]
        wanted = of_counts(type(parts[0]).concat(parts))
        found = {name: column[percent - 1] for name, column in table.items()}
        assert found == pytest.approx({"threshold": percent / 100, **wanted}, nan_ok=True)


def test_a_pixel_at_the_threshold_is_foreground() -> None:
    """As ``kd predict --threshold`` has it."""
    table = at_thresholds(levels(torch.zeros(2, 3, 4), torch.ones(3, 4, dtype=torch.long), "a"))
    assert [table["recall"][percent - 1] for percent in (49, 50, 51)] == [100, 100, 0]
    assert above(torch.zeros(2, 3, 4), 0.5).all()
    assert not above(torch.zeros(2, 3, 4), 0.51).any()


def test_levels_come_with_an_evaluation_and_count_an_image_once() -> None:
    logits, target = noise(0)
    batch = Batch(torch.zeros(1, 3, *SIZE, dtype=torch.uint8), target[None], ids=("a",))
    whole = Whole(Whole.Config(name="whole"))
    found = evaluate(lambda _: Outputs(logits[None]), [batch, batch], 2, whole, thresholds=True)
    assert found.levels is not None
    assert (found.levels.foreground == levels(logits, target, "a").foreground).all()
    chosen = best(found.levels)
    assert at_thresholds(found.levels)["IoU"][chosen - 1] == np.nanmax(at_thresholds(found.levels)["IoU"])
    assert chosen != 50


@pytest.fixture(scope="module")
def cracks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with bright lines on dark images, and a run that has learnt a little of them."""
    root = tmp_path_factory.mktemp("cracks")
    source = np.random.default_rng(0)
    for number in range(12):
        mask = np.zeros(SIZE, np.uint8)
        mask[:, 8 * (number % 7) + 3 : 8 * (number % 7) + 9] = 255
        image = np.clip(source.normal(60, 30, (*SIZE, 3)) + 90 * (mask[..., None] > 0), 0, 255).astype(np.uint8)
        put(root / "data" / "images" / f"{number}.png", image)
        put(root / "data" / "masks" / f"{number}.png", mask)
    words = ["data.root=data", "data.classes={0: background, 255: crack}", "student.pretrained=false", "schedule.steps=12"]
    words += ["student={name: deeplabv3, backbone: test_resnet, pretrained: false, output_stride: 8, width: 8, aux: 8}"]
    words += ["augmentation.crop=[32, 32]", "schedule.batch=4", "schedule.optimizer.lr=0.003", "evaluation.every=0"]
    done = call("train", "folder/r18", "ce", *words, "run.workers=0", "run.device=cpu", "--output", "run", folder=root)
    assert done.returncode == 0, done.stderr
    assert "  crack " in done.stdout
    assert "F1 of crack: " in done.stdout
    table = call("table", "run", folder=root).stdout
    scores = json.loads((root / "run" / "result.json").read_text())["last"]["test"]
    assert "| row | mIoU, test | IoU, crack | n |" in table
    assert f"| {scores['foreground_IoU']:.2f} | 1 |" in table
    return root


def test_a_threshold_is_chosen_on_val_and_predicted_with(cracks: Path) -> None:
    done = call("evaluate", "run", "--thresholds", "--json", "val.json", folder=cracks)
    assert done.returncode == 0, done.stderr
    assert "crack on val, where it is predicted from a probability on:" in done.stdout
    told = json.loads((cracks / "val.json").read_text())
    assert told["split"] == "val"
    assert len(told["thresholds"]["IoU"]) == 99
    assert "best IoU and F1" in done.stdout
    best_line = next(line for line in done.stdout.splitlines() if line.startswith("predict with it: "))
    threshold = best_line.split()[-2]
    assert best_line == f"predict with it: kd predict run --threshold {threshold} PHOTOS"

    done = call("evaluate", "run", "--threshold", threshold, "--json", "test.json", folder=cracks)
    assert done.returncode == 0, done.stderr
    assert f"crack on test from probability {threshold} on: IoU " in done.stdout
    measured = json.loads((cracks / "test.json").read_text())["at_threshold"]
    done = call("predict", "run", "data/images", "--threshold", threshold, "--output", "seen", folder=cracks)
    assert done.returncode == 0, done.stderr
    names = [json.loads(line)["name"] for line in (cracks / "seen" / "inputs.jsonl").read_text().splitlines()]
    with np.load(cracks / "run" / "counts.npz") as kept:
        tested = [name for name in names if name in kept["ids"]]
    hits = total = 0
    for name in tested:
        seen, there = (np.array(Image.open(cracks / part / f"{name}.png")) for part in ("seen/masks", "data/masks"))
        assert set(np.unique(seen)) <= {0, 255}
        hits, total = hits + ((seen > 0) & (there > 0)).sum(), total + ((seen > 0) | (there > 0)).sum()
        labels = np.array(Image.open(cracks / "seen" / "labels" / f"{name}.png"))
        assert (labels * 255 == seen).all()
    assert 100 * hits / total == pytest.approx(measured["IoU"])


def test_another_threshold_is_another_prediction(cracks: Path) -> None:
    words = ["predict", "run", "data/images/1.png", "--output", "one"]
    assert call(*words, "--threshold", "0.4", folder=cracks).returncode == 0
    done = call(*words, folder=cracks)
    assert done.returncode == 2
    assert "(different: threshold)" in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["evaluate", "run", "--threshold", "0.123"], "--threshold: is 0.123; give a multiple of 0.01"),
        (["evaluate", "run", "--threshold", "1"], "--threshold: is 1; give a multiple of 0.01"),
        (["predict", "run", "data/images", "--threshold", "40"], "--threshold: is 40; it is a probability between 0 and 1"),
    ],
)
def test_thresholds_that_make_no_sense(cracks: Path, words: list[str], told: str) -> None:
    done = call(*words, folder=cracks)
    assert (done.returncode, told in done.stderr) == (2, True), done.stderr


def test_thin_things_stay_whole_where_pictures_shrink() -> None:
    labels = np.zeros((90, 120), np.uint8)
    labels[:, 60:] = 2
    line = np.arange(90)
    labels[line, line] = 1
    small = shrunk(labels, (24, 18))
    assert (small == 1).any(1).all()
    assert (small[:, 13:] != 0).all()
    assert (shrunk(np.zeros((90, 120), np.uint8), (24, 18)) == 0).all()


def test_rare_things_are_wider_in_overlays_of_large_images() -> None:
    labels = torch.zeros(200, 3300, dtype=torch.uint8)
    labels[100] = 1
    drawn = np.array(overlay(torch.zeros(3, 200, 3300, dtype=torch.uint8), labels, [(0, 0, 0), (200, 0, 0)], 1.0))
    assert (drawn[..., 0] > 0).any(1).sum() == 5
    assert (bold(labels[:, :1000].numpy()) == labels[:, :1000].numpy()).all()
    wide = torch.zeros(200, 3300, dtype=torch.uint8)
    wide[:100] = 1
    assert (bold(wide.numpy()) == wide.numpy()).all()


def test_a_folder_of_runs_is_no_run(cracks: Path) -> None:
    done = call("evaluate", ".", folder=cracks)
    assert (done.returncode, "is no run; did you mean run?" in done.stderr) == (2, True), done.stderr
