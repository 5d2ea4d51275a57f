"""Predictions of images without labels: which files, what is written, what is refused, what is gone on with."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers_tools import COLOURS, NAMES, call, saved, small
from PIL import Image
from torch import Tensor

from kd.config import InputError
from kd.data.reading import read_image
from kd.evaluate.logits import Logits, labels
from kd.evaluate.whole import Whole
from kd.types import Outputs
from students.examining.image_paths import Item, find
from students.examining.prediction_files import Writer
from students.examining.predictions import chosen_predictor, predict, server, submit

WHOLE = Whole(Whole.Config(name="whole"))
CPU = torch.device("cpu")
FACTS: dict[str, Any] = {"weights": "w", "predictor": {"name": "whole"}, "classes": list(NAMES), "colours": COLOURS}


def photo(path: Path, height: int = 40, width: int = 56, seed: int = 0, mode: str = "RGB", **options: Any) -> Path:
    """A smooth random picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).convert(mode).save(path, **options)
    return path


def channelwise(image: Tensor) -> Outputs:
    """Logits that depend on the pixel alone."""
    return Outputs(torch.cat([image, 255 - image[:, :2]], 1).float() / 32)


def names(items: list[Item]) -> list[str]:
    return [item.name for item in items]


# --- which files


def test_folders_keep_relative_paths_and_leave_out_what_is_no_image(tmp_path: Path) -> None:
    for name in ("b.jpg", "a/b.PNG", "a/deep/c.v2.jpeg", ".hidden/x.png", "a/.x.png", "out/labels/b.png"):
        photo(tmp_path / name, mode="L")
    (tmp_path / "notes.txt").write_text("no image")
    assert names(find([str(tmp_path)], tmp_path / "out")) == ["a/b", "a/deep/c.v2", "b"]


def test_globs_keep_what_lies_below_their_fixed_part(tmp_path: Path) -> None:
    for name in ("x/1/a_left.png", "x/2/a_left.png", "x/2/a_right.png", "x/odd[1].png"):
        photo(tmp_path / name)
    assert names(find([f"{tmp_path}/x/*/*_left.png"], tmp_path / "out")) == ["1/a_left", "2/a_left"]
    assert names(find([f"{tmp_path}/x/**/*_left.png"], tmp_path / "out")) == ["1/a_left", "2/a_left"]
    assert names(find([f"{tmp_path}/x/odd[1].png"], tmp_path / "out")) == ["odd[1]"]


def test_one_file_may_be_named_twice_but_two_files_may_not_share_a_name(tmp_path: Path) -> None:
    first, second = photo(tmp_path / "a.png"), photo(tmp_path / "a.jpg")
    assert names(find([str(first), str(first)], tmp_path / "out")) == ["a"]
    with pytest.raises(InputError, match=r"would both be written as 'a'; rename one"):
        find([str(first), str(second)], tmp_path / "out")
    photo(tmp_path / "A.png", seed=1)
    if len(list(tmp_path.glob("*.png"))) == 2:
        with pytest.raises(InputError, match="would both be written"):
            find([str(tmp_path / "a.png"), str(tmp_path / "A.png")], tmp_path / "out")


def test_inputs_that_are_not_there_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for text, message in {
        str(tmp_path / "nowhere"): "does not exist; give an image, a folder",
        str(tmp_path / "empty"): "holds no image; files with these suffixes",
        f"{tmp_path}/*.webp": "holds no image",
    }.items():
        with pytest.raises(InputError, match=message):
            find([text], tmp_path / "out")


# --- what is written


def test_files_hold_what_the_predictor_says(tmp_path: Path) -> None:
    path = photo(tmp_path / "in.png")
    network, image = small(), read_image(path)
    logits = WHOLE(network, image[None])[0].detach()
    writer = Writer(tmp_path / "out", FACTS, ["labels", "overlay", "probabilities"])
    report = predict(network, WHOLE, [Item(path, "deep/in")], writer, CPU)
    assert (report.written, report.finished, report.broken) == (["deep/in"], [], [])
    with Image.open(tmp_path / "out/labels/deep/in.png") as indexed:
        assert indexed.mode == "P"
        stored = np.asarray(indexed)
        colours = np.asarray(indexed.convert("RGB"))
    expected = labels(logits).numpy()
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(stored, expected)
    np.testing.assert_array_equal(colours, np.array(COLOURS, np.uint8)[expected])
    with np.load(tmp_path / "out/probabilities/deep/in.npz") as file:
        shares = file["probabilities"]
    assert (shares.dtype, shares.shape) == (np.float16, (5, 40, 56))
    np.testing.assert_allclose(shares, logits.softmax(0).numpy(), atol=1e-3)
    with Image.open(tmp_path / "out/overlay/deep/in.jpg") as drawn:
        assert drawn.size == (56, 40)
    assert (tmp_path / "out/legend.png").exists()
    card = yaml.safe_load((tmp_path / "out/predictions.yaml").read_text())
    assert card["classes"] == list(NAMES)
    assert [tuple(colour) for colour in card["colours"]] == list(COLOURS)
    assert not list((tmp_path / "out").rglob("*.partial"))


def test_one_pixel_and_an_older_card_without_colours(tmp_path: Path) -> None:
    path = photo(tmp_path / "in.png", 1, 1)
    writer = Writer(tmp_path / "out", {**FACTS, "colours": None}, ["labels", "overlay"])
    assert predict(small(), WHOLE, [Item(path, "in")], writer, CPU).written == ["in"]
    assert len(set(writer.colours)) == 5


def test_finished_images_are_skipped_unless_they_shall_be_replaced(tmp_path: Path) -> None:
    items = [Item(photo(tmp_path / f"{name}.png", seed=number), name) for number, name in enumerate("ab")]
    out = tmp_path / "out"
    predict(channelwise, WHOLE, items[:1], Writer(out, FACTS, ["labels"]), CPU)
    first = out / "labels/a.png"
    first.write_bytes(b"mine")
    report = predict(channelwise, WHOLE, items, Writer(out, FACTS, ["labels"]), CPU)
    assert (report.finished, report.written) == (["a"], ["b"])
    assert first.read_bytes() == b"mine"
    assert predict(channelwise, WHOLE, items, Writer(out, FACTS, ["labels", "overlay"]), CPU).written == ["a", "b"]
    first.write_bytes(b"mine")
    assert predict(channelwise, WHOLE, items, Writer(out, FACTS, ["labels"], replace=True), CPU).written == ["a", "b"]
    assert first.read_bytes() != b"mine"


def test_a_new_photo_of_the_same_name_is_predicted_anew(tmp_path: Path) -> None:
    item, out = Item(photo(tmp_path / "a.png", seed=0), "a"), tmp_path / "out"
    predict(channelwise, WHOLE, [item], Writer(out, FACTS, ["labels"]), CPU)
    before = (out / "labels/a.png").read_bytes()
    photo(item.path, seed=1)
    report = predict(channelwise, WHOLE, [item], Writer(out, FACTS, ["labels"]), CPU)
    assert (report.written, report.changed, report.finished) == (["a"], ["a"], [])
    assert (out / "labels/a.png").read_bytes() != before
    assert predict(channelwise, WHOLE, [item], Writer(out, FACTS, ["labels"]), CPU).finished == ["a"]
    with (out / "inputs.jsonl").open("a") as lines:
        lines.write('{"name": "a", "ima')  # killed while it wrote
    assert predict(channelwise, WHOLE, [item], Writer(out, FACTS, ["labels"]), CPU).finished == ["a"]
    (out / "inputs.jsonl").unlink()  # predictions of an older version, of which nothing is known
    assert predict(channelwise, WHOLE, [item], Writer(out, FACTS, ["labels"]), CPU).written == ["a"]


def test_linked_folders_are_searched_and_circles_end(tmp_path: Path) -> None:
    photo(tmp_path / "elsewhere/deep/b.png")
    photo(tmp_path / "in/a.png")
    (tmp_path / "in/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/circle").symlink_to(tmp_path / "elsewhere")
    assert names(find([str(tmp_path / "in")], tmp_path / "out")) == ["a", "link/deep/b"]


def test_brackets_in_the_name_of_a_folder_are_no_pattern(tmp_path: Path) -> None:
    photo(tmp_path / "photos [v2]/1/a.png")
    photo(tmp_path / "photos v/1/b.png")
    assert names(find([f"{tmp_path}/photos [v2]/*/*.png"], tmp_path / "out")) == ["1/a"]
    assert names(find([f"{tmp_path}/photos ?/*/*.png"], tmp_path / "out")) == ["photos v/1/b"]


def test_predictions_of_two_networks_are_not_mixed(tmp_path: Path) -> None:
    Writer(tmp_path, FACTS, ["labels"])
    Writer(tmp_path, {**FACTS, "model": "moved"}, ["labels"])
    for key, value in {"weights": "other", "predictor": {"name": "sliding"}}.items():
        with pytest.raises(InputError, match=rf"another network or predictor \(different: {key}\)"):
            Writer(tmp_path, {**FACTS, key: value}, ["labels"])
    Writer(tmp_path, {**FACTS, "weights": "other"}, ["labels"], replace=True)
    (tmp_path / "predictions.yaml").write_text("[")
    with pytest.raises(InputError, match="cannot be read"):
        Writer(tmp_path, FACTS, ["labels"])


def test_a_network_of_nan_is_named_with_the_image(tmp_path: Path) -> None:
    item = Item(photo(tmp_path / "in.png"), "in")
    with pytest.raises(InputError, match=r"in.png: the network's logits hold NaN"):
        predict(
            lambda image: Outputs(channelwise(image).logits * torch.nan),
            WHOLE,
            [item],
            Writer(tmp_path, FACTS, ["labels"]),
            CPU,
        )
    assert not (tmp_path / "labels").exists()


# --- the predictor


def test_the_predictor_comes_from_the_command_line_else_from_the_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert chosen_predictor(None, tmp_path).config.name == "whole"
    recipe = {"data": {"resize": [180, 240]}, "evaluation": {"predictor": {"name": "sliding", "window": [8, 8]}}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert chosen_predictor(None, tmp_path).config.model_dump()["window"] == (8, 8)
    assert "the run saw images resized to [180, 240]" in capfd.readouterr().err
    assert chosen_predictor("multi_scale", tmp_path).config.model_dump()["flip"]
    assert chosen_predictor("{name: sliding, window: [4, 6]}", tmp_path).config.model_dump()["window"] == (4, 6)
    for text, message in {
        "{name": "--predictor: cannot be read",
        "[1]": r"--predictor: is \[1\]; write a name",
        "slidin": "Did you mean 'sliding'",
        "sliding": "predictor.window: is required",
    }.items():
        with pytest.raises(InputError, match=message):
            chosen_predictor(text, tmp_path)
    (tmp_path / "recipe.yaml").write_text("data: {}\n")
    with pytest.raises(InputError, match=r"recipe\.yaml: cannot be read"):
        chosen_predictor(None, tmp_path)


# --- for an evaluation server


def test_a_submission_holds_the_servers_numbers_and_names(tmp_path: Path) -> None:
    from kd.data.cityscapes import Cityscapes

    items = [Item(tmp_path / "in/berlin/berlin_000000_000019_leftImg8bit.png", "berlin/berlin_000000_000019_leftImg8bit")]
    assert server("cityscapes", Cityscapes.classes, items) is Cityscapes
    facts = {**FACTS, "classes": list(Cityscapes.classes), "colours": None}
    writer = Writer(tmp_path / "out", facts, ["labels"])
    logits = torch.zeros(19, 1024, 2048)
    logits[13, :, 1000:] = 1  # car, whose official number is 26
    writer.write(items[0].name, "mark", torch.zeros(3, 1024, 2048, dtype=torch.uint8), Logits.of(logits))
    stale = tmp_path / "out/submission/old.png"
    stale.parent.mkdir()
    stale.touch()
    with zipfile.ZipFile(submit(Cityscapes, items, writer)) as packed:
        (name,) = packed.namelist()
        numbers = np.asarray(Image.open(packed.open(name)))
    assert name.startswith("berlin_000000_000019")
    assert (np.unique(numbers[:, :1000]), np.unique(numbers[:, 1000:])) == ([7], [26])


def test_a_server_takes_its_own_data_set_only() -> None:
    from kd.data.cityscapes import Cityscapes

    for name, classes, path, message in [
        ("cityscapes", NAMES, "x.png", "the network's classes are not those of cityscapes"),
        ("cityscapes", Cityscapes.classes, "holiday.png", "holiday"),
        ("camvid", NAMES, "x.png", "has no evaluation server"),
        ("cityscape", NAMES, "x.png", "Did you mean 'cityscapes'"),
    ]:
        with pytest.raises(InputError, match=message):
            server(name, classes, [Item(Path(path), "x")])


# --- the tool


def test_images_that_cannot_be_read_are_told_by_cause(tmp_path: Path) -> None:
    saved(tmp_path / "model")
    photo(tmp_path / "in/plain.png")
    for number in range(12):
        (tmp_path / f"in/broken{number:02d}.png").write_bytes(b"\x89PNG no more")
    pages = Image.new("RGB", (8, 8))
    pages.save(tmp_path / "in/strange.tif", save_all=True, append_images=[pages])
    done = call("predict", tmp_path / "model", tmp_path / "in", "--output", tmp_path / "out", "--device", "cpu")
    told = [line for line in done.stderr.splitlines() if line.startswith("skipped: ")]
    assert len(told) == 2
    assert re.fullmatch(rf"skipped: 12 images: cannot be decoded [^/]*; first: {tmp_path}/in/broken00\.png", told[0])
    assert told[1].startswith(f"skipped: {tmp_path}/in/strange.tif: ")
    assert "error: 13 of 14 images could not be read, see above; the rest is written" in done.stderr


def test_a_folder_from_the_command_line(tmp_path: Path) -> None:
    network = saved(tmp_path / "model")
    photo(tmp_path / "in/plain.png")
    photo(tmp_path / "in/deep/grey.jpg", mode="L")
    turned = Image.Exif()
    turned[0x0112] = 6  # stored lying on its side
    photo(tmp_path / "in/turned.jpg", 30, 50, exif=turned)
    (tmp_path / "in/broken.png").write_bytes(b"\x89PNG no more")
    words = ("predict", tmp_path / "model", tmp_path / "in", "--output", tmp_path / "out", "--no-overlay", "--device", "cpu")
    done = call(*words)
    assert done.returncode == 2
    assert "3 of 4 images predicted; predictor whole" in done.stdout
    assert "broken.png: cannot be decoded" in done.stderr
    assert "error: 1 of 4 images could not be read, see above; the rest is written" in done.stderr
    assert "Traceback" not in done.stderr
    files = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png"))
    assert files == ["labels/deep/grey.png", "labels/plain.png", "labels/turned.png"]
    for name in ("plain.png", "deep/grey.jpg", "turned.jpg"):
        image = read_image(tmp_path / "in" / name)
        with torch.no_grad():
            expected = labels(WHOLE(network, image[None])[0]).numpy()
        stored = np.asarray(Image.open((tmp_path / "out/labels" / name).with_suffix(".png")))
        assert len(np.unique(stored)) > 1
        np.testing.assert_array_equal(stored, expected)
    assert stored.shape == (50, 30)
    again = call(*words)
    assert "0 of 4 images predicted, 3 were finished before" in again.stdout
