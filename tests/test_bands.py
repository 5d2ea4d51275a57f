"""Images of other channels than RGB, or of more than 8 bits: read, resampled, trained on, taught, predicted, exported."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import timm
import torch
import yaml
from helpers_tools import call, small
from PIL import Image
from test_folder import opened, refused, whole
from tiny import STUDENT, execute, tiny
from torch import Tensor

from kd.config import ConfigError
from kd.data import band_files
from kd.data.augment import Augmentation, augment, recolour, replay
from kd.data.bands import RGB, Bands
from kd.data.build import open_split, open_training
from kd.data.reading import BrokenFileError, read_image
from kd.data.store.writing import store
from kd.evaluate import MultiScale, Sliding, Tiled
from kd.networks import build_network, load_network
from kd.networks.cost import measure
from kd.recipe.loading import load
from kd.recipe.schema import fingerprint
from kd.recipe.unlabelled import Unlabelled
from kd.seeds import generator
from kd.types import Batch, Geometry, Outputs
from teachers import load_teacher

SIZE = (40, 56)
SPAN = [[0, 2000], [0, 2000], [0, 2000], [0, 5000]]
FOUR = {"channels": 4, "mean": [0.4, 0.4, 0.4, 0.3], "std": [0.2, 0.2, 0.2, 0.3]}


def scene(number: int) -> tuple[np.ndarray, np.ndarray]:
    """16 bits of four bands, the last of which tells the class; and labels."""
    draw = np.random.default_rng(number)
    labels = np.zeros(SIZE, np.uint8)
    labels[8:30, 4 + number : 30 + number] = 1
    bands = draw.normal(900, 60, (*SIZE, 4))
    bands[..., 3] += 3000.0 * labels
    return bands.round().astype(np.uint16), labels


def fields(root: Path, count: int = 8, write: Callable[[Path, np.ndarray], Any] | None = None) -> Path:
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number in range(count):
        bands, labels = scene(number)
        (write or tiff)(root / "images" / f"{number}", bands)
        Image.fromarray(labels).save(root / "masks" / f"{number}.png")
    return root


def tiff(stem: Path, bands: np.ndarray, **how: Any) -> Path:
    path = stem.with_suffix(".tif")
    tifffile.imwrite(path, bands, photometric="minisblack", **{"planarconfig": "contig", **how})
    return path


def planar(stem: Path, bands: np.ndarray) -> Path:
    return tiff(stem, np.moveaxis(bands, 2, 0), planarconfig="separate", compression="zlib")


def array(stem: Path, bands: np.ndarray) -> Path:
    np.save(path := stem.with_suffix(".npy"), bands)
    return path


def array_first(stem: Path, bands: np.ndarray) -> Path:
    return array(stem, np.moveaxis(bands, 2, 0))


def four(**more: Any) -> dict[str, Any]:
    return {"classes": ["field", "tree"], "channels": 4, "range": SPAN, **more}


# --- files


@pytest.mark.parametrize("write", [tiff, planar, array, array_first])
def test_sixteen_bits_are_mapped_by_the_range_wherever_channels_lie(tmp_path: Path, write: Any) -> None:
    bands, _ = scene(0)
    bands[0, 0] = 60000
    path = write(tmp_path / "a", bands)
    image = band_files.read(path, Bands(4, ((0, 2000), (100, 2000), (0, 2000), (0, 5000))))
    low, high = np.array([0, 100, 0, 0]), np.array([2000, 2000, 2000, 5000])
    expected = ((bands.astype(np.float64) - low) / (high - low)).clip(0, 1)
    assert image.dtype == torch.float32
    np.testing.assert_allclose(image.permute(1, 2, 0).numpy(), expected, atol=1e-6)
    assert image[:, 0, 0].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("write", [tiff, array])
def test_eight_bits_stay_as_they_are(tmp_path: Path, write: Any) -> None:
    bands = (scene(0)[0] % 256).astype(np.uint8)
    image = band_files.read(write(tmp_path / "a", bands), Bands(4))
    assert image.dtype == torch.uint8
    assert (image.permute(1, 2, 0).numpy() == bands).all()


def test_floats_of_any_byte_order_and_grey_pictures_of_16_bits(tmp_path: Path) -> None:
    heights = scene(0)[0][..., :1].astype(">f8") / 3000
    image = band_files.read(array(tmp_path / "a", heights[..., 0]), Bands(1, ((0.0, 1.0),)))
    np.testing.assert_allclose(image[0].numpy(), heights[..., 0].clip(0, 1), atol=1e-7)
    Image.fromarray(scene(0)[0][..., 3]).save(tmp_path / "b.png")
    grey = band_files.read(tmp_path / "b.png", Bands(1, ((0.0, 65535.0),)))
    np.testing.assert_allclose(grey[0].numpy() * 65535, scene(0)[0][..., 3], rtol=1e-6)


def test_rgb_pictures_are_read_as_ever(tmp_path: Path) -> None:
    Image.fromarray((scene(0)[0][..., :3] % 256).astype(np.uint8)).save(tmp_path / "a.png")
    assert torch.equal(band_files.read(tmp_path / "a.png", RGB), read_image(tmp_path / "a.png"))


def test_what_does_not_fit_is_told_with_what_it_is_and_the_keys(tmp_path: Path) -> None:
    deep, bands = tiff(tmp_path / "deep", scene(0)[0]), Bands(4, ((0.0, 1.0),))
    eight = tiff(tmp_path / "eight", np.zeros((*SIZE, 4), np.uint8))
    cases = [
        (
            deep,
            RGB,
            r"deep\.tif: is TIFF 4 channels, uint16; say data\.channels=4 .*, and data\.range=\[low, high\].*check-data",
        ),
        (deep, Bands(4), r"is TIFF 4 channels, uint16; say data\.range=\[low, high\].*kd check-data"),
        (deep, Bands(5, ((0.0, 1.0),)), r"say data\.channels=4 where all have so many \(it is 5\), or convert"),
        (eight, bands, r"is TIFF 4 channels, uint8; say data\.range=null"),
        (eight, RGB, r"is TIFF 4 channels, uint8; say data\.channels=4"),
    ]
    for path, wanted, words in cases:
        with pytest.raises(BrokenFileError, match=words):
            band_files.read(path, wanted)
    with pytest.raises(BrokenFileError, match=r"the network has learned 4 channels of more than 8 bits"):
        band_files.read(eight, bands, trained=True)


def test_a_file_whose_first_band_alone_pillow_reads_is_no_grey_picture(tmp_path: Path) -> None:
    path = planar(tmp_path / "a", (scene(0)[0] % 256).astype(np.uint8))
    with pytest.raises(BrokenFileError, match=r"is TIFF 4 channels, uint8; say data\.channels=4"):
        band_files.read(path, RGB)
    assert band_files.read(path, Bands(4)).shape == (4, *SIZE)


def test_nan_and_damage_are_told_with_the_files_name(tmp_path: Path) -> None:
    holes = scene(0)[0].astype(np.float32)
    holes[3, 4, 1] = np.nan
    for hole in (np.inf, np.nan):
        holes[3, 4, 1] = hole
        with pytest.raises(BrokenFileError, match=r"a\.tif: 1 pixels hold NaN or infinity"):
            band_files.read(tiff(tmp_path / "a", holes), Bands(4, ((0.0, 1.0),)))
    (tmp_path / "b.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:3000])
    (tmp_path / "c.npy").write_bytes(b"no array")
    np.save(tmp_path / "d.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "e.npy", np.zeros((2, 3, 4, 5)))
    for name, words in (
        ("b.tif", "cannot be decoded"),
        ("c.npy", "cannot be decoded"),
        ("d.npy", "Python objects"),
        ("e.npy", "shape"),
    ):
        with pytest.raises(BrokenFileError, match=rf"{name}.*{words}"):
            band_files.read(tmp_path / name, Bands(4, ((0.0, 1.0),)))
    with pytest.raises(BrokenFileError, match=r"f\.tif: does not exist"):
        band_files.read(tmp_path / "f.tif", Bands(4))


@pytest.mark.parametrize("write", [tiff, array])
def test_a_mask_of_another_size_is_told(tmp_path: Path, write: Any) -> None:
    root = fields(tmp_path, 1, write)
    Image.fromarray(scene(0)[1].T.copy()).save(root / "masks" / "0.png")
    with pytest.raises(BrokenFileError, match=r"0\.png: is 56x40, its image 40x56; label and image must have one size"):
        whole(root, **four()).read(0)


def test_a_tiff_that_tells_of_more_strips_than_it_has_is_told_at_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tiff(tmp_path / "a", np.ones((4, 6, 8), np.uint8), planarconfig="separate")
    content = bytearray(path.read_bytes())
    place = content.index(struct.pack("<HHI", 257, 4, 1)) + 8  # the height
    content[place : place + 4] = struct.pack("<I", 5_000_000)
    path.write_bytes(content)
    message = refused(lambda: band_files.read(path, Bands(4)), BrokenFileError)
    assert "strips or tiles that its header tells of; fetch it again" in message
    path.write_bytes(bytes(content[:8]) + bytes(len(content)))
    assert str(path) in refused(lambda: band_files.read(path, Bands(4)), BrokenFileError)
    assert not capfd.readouterr().err


def test_a_tiff_whose_pages_lead_back_to_each_other_has_an_end(tmp_path: Path) -> None:
    path, content = tmp_path / "a.tif", bytearray(182)
    content[:12] = struct.pack("<2sHIHH", b"II", 42, 8, 14, 0)  # a page at 8, of 14 tags, then one at 12, of 4, then that at 8
    content[12], content[62], content[178] = 4, 8, 12
    path.write_bytes(content)
    assert str(path) in refused(lambda: band_files.read(path, Bands(4)), BrokenFileError)
    assert band_files.size(path, 4) in (None, (0, 0))


def test_without_tifffile_the_command_that_installs_it_is_told(tmp_path: Path, monkeypatch: Any) -> None:
    path = tiff(tmp_path / "a", scene(0)[0])
    monkeypatch.setitem(__import__("sys").modules, "tifffile", None)
    for bands in (RGB, Bands(4, ((0.0, 1.0),))):
        with pytest.raises(BrokenFileError, match=r"pip install 'segmentation-kd\[tiff\]'"):
            band_files.read(path, bands)


def test_arrays_are_images_where_there_are_no_pictures(tmp_path: Path) -> None:
    root = fields(tmp_path / "a", 3, array)
    assert len(whole(root, **four())) == 3
    (root / "train.txt").write_text("0.npy\n2\n", encoding="utf-8")
    assert [opened(root, **four()).identity(number) for number in range(2)] == ["0", "2"]
    pictures = fields(tmp_path / "b", 3)
    array(pictures / "images" / "statistics", np.zeros(4))
    assert len(whole(pictures, **four())) == 3
    assert "arrays beside pictures are not read (1, first statistics.npy)" in opened(pictures, **four()).notes[0]
    array(pictures / "images" / "3", scene(3)[0])
    Image.fromarray(scene(3)[1]).save(pictures / "masks" / "3.png")
    told = refused(lambda: whole(pictures, **four()))
    assert "1 masks without an image, first 3.png; arrays beside pictures are no images: 2, first 3.npy" in told


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"range": [5, 5]}, r"data: range is \[5\.0, 5\.0\]; the first value becomes 0"),
        ({"range": [[0, 1], [0, 1]]}, "range has 2 pairs for 4 channels"),
        ({"shown": [0, 1, 4]}, r"shown is \[0, 1, 4\]; name three channels.* of 0 to 3"),
        ({"shown": [0, 1]}, "name three channels"),
    ],
)
def test_ranges_and_channels_that_make_no_sense_are_refused(tmp_path: Path, knobs: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        whole(tmp_path, **four(**knobs))


# --- crops


@pytest.mark.parametrize("resize", ["antialiased", "opencv"])
@pytest.mark.parametrize("channels", [1, 4, 7])
def test_a_window_of_floats_is_that_of_the_whole_image(resize: str, channels: int) -> None:
    source = torch.Generator().manual_seed(channels)
    image = torch.rand(channels, 61, 83, generator=source)
    labels = torch.randint(0, 3, (61, 83), generator=source).to(torch.uint8)
    for scale in (0.6, 1.7):
        height, width = round(61 * scale), round(83 * scale)
        config = Augmentation.model_validate({"crop": [height, width], "resize": resize})
        one, _ = replay(Geometry(height, width, 0, 0, False, scale), image, labels, config)
        part = Augmentation.model_validate({"crop": [16, 24], "resize": resize})
        cut, _ = replay(Geometry(height, width, 9, 5, False, scale), image, labels, part)
        torch.testing.assert_close(cut, one[:, 9:25, 5:29], atol=2e-6, rtol=0)
        planes = [
            replay(Geometry(height, width, 9, 5, False, scale), image[c : c + 1], labels, part)[0] for c in range(channels)
        ]
        torch.testing.assert_close(cut, torch.cat(planes), atol=2e-6, rtol=0)


def test_bytes_and_floats_of_one_image_are_resampled_alike() -> None:
    image = torch.randint(0, 256, (5, 50, 70), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    labels, config = torch.zeros(50, 70, dtype=torch.uint8), Augmentation.model_validate({"crop": [64, 64], "flip": 0.5})
    for step in range(6):
        whole, _, _ = augment(config, image, labels, generator(0, step))
        real, _, _ = augment(config, image / 255, labels, generator(0, step))
        assert whole.dtype == torch.uint8
        assert (whole - real * 255).abs().max() < 1.01


def test_padding_of_other_channels_is_the_images_own_mean_or_what_is_given() -> None:
    image, labels = torch.rand(4, 16, 16), torch.zeros(16, 16, dtype=torch.uint8)
    geometry = Geometry(16, 16, 0, 0, False, 1.0)
    for given, expected in (({}, image.mean((1, 2))), ({"fill": [0, 51, 102, 255]}, torch.tensor([0, 0.2, 0.4, 1]))):
        config = Augmentation.model_validate({"crop": [24, 24], "pad": "corner", **given})
        crop, target = replay(geometry, image, labels, config)
        torch.testing.assert_close(crop[:, 20, 20], expected)
        assert target[20, 20] == 255
    window = Sliding(window=(24, 24))
    seen: list[Tensor] = []

    def look(images: Tensor) -> Outputs:
        seen.append(images)
        return Outputs(images[:, :2])

    window(look, image[None])
    torch.testing.assert_close(seen[0][0, :, 20, 20], image.mean((1, 2)))


def test_jitter_of_other_channels_changes_brightness_and_contrast_within_bounds() -> None:
    image = torch.rand(4, 20, 20)
    changed = recolour(image, 0.4, generator(0, "jitter"))
    assert changed.shape == image.shape
    assert 0 <= changed.min() <= changed.max() <= 1
    assert not torch.equal(changed, image)
    order = image[2].flatten().argsort()
    assert (changed[2].flatten()[order].diff() >= -1e-6).all()  # neither is more than a line


# --- networks


@pytest.mark.parametrize("channels", [1, 4])
def test_pretrained_stems_are_adapted_as_timm_does_it(tmp_path: Path, channels: int) -> None:
    weights = timm.create_model("test_resnet", pretrained=False).state_dict()
    torch.save(weights, tmp_path / "weights.pth")
    knobs = {"channels": channels, "mean": [0.5] * channels, "std": [0.2] * channels}
    values = {**STUDENT, **knobs, "pretrained": str(tmp_path / "weights.pth")}
    first = next(key for key, value in weights.items() if value.ndim == 4)
    expected = timm.models.adapt_input_conv(channels, weights[first])
    stem = next(value for value in build_network(values, 3).backbone.state_dict().values() if value.ndim == 4)
    torch.testing.assert_close(stem, expected)
    stem = next(v for v in build_network({**values, "pretrained_bgr": True}, 3).backbone.state_dict().values() if v.ndim == 4)
    torch.testing.assert_close(stem, timm.models.adapt_input_conv(channels, weights[first].flip(1)))


def test_mean_and_deviation_are_wanted_for_each_channel() -> None:
    with pytest.raises(ConfigError, match=r"mean has 3 values for images of 4 channels.*kd check-data"):
        build_network({**STUDENT, "channels": 4}, 2)
    network = small(**FOUR)
    with pytest.raises(ValueError, match="must be B 4 H W"):
        network(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    image = torch.randint(0, 256, (1, 4, 64, 64), dtype=torch.uint8)
    torch.testing.assert_close(network(image).logits, network(image / 255).logits)
    assert measure(network, network, network.sizes, (64, 64), channels=4)["macs"] > 0


def test_multi_scale_sees_floats_as_floats() -> None:
    seen: list[Tensor] = []

    def look(images: Tensor) -> Outputs:
        seen.append(images)
        return Outputs(images[:, :2].float())

    image = torch.rand(1, 4, 64, 96)
    MultiScale(scales=(0.75, 1.0), flip=False)(look, image)
    assert seen[0].dtype == torch.float32
    assert abs(float(seen[0].mean() - image.mean())) < 0.02


# --- recipes


def test_a_student_takes_the_images_that_there_are(tmp_path: Path) -> None:
    given = ["data.channels=4", "data.range=[0, 5000]", f"student.mean={FOUR['mean']}", f"student.std={FOUR['std']}"]
    recipe, origins = load("folder/r18", [*given, "data.classes=[field, tree]"], default="ce")
    assert (recipe.student.channels, origins["student.channels"]) == (4, "data.channels")
    with pytest.raises(ConfigError, match=r"data\.channels is 4 and student\.channels 3; set student\.channels=4"):
        load("folder/r18", [*given[:2], "student.channels=3"], default="ce")
    with pytest.raises(ConfigError, match=r"student: mean has 3 values for images of 4 channels.*kd check-data"):
        load("folder/r18", given[:2], default="ce")
    with pytest.raises(ConfigError, match=r"augmentation\.fill has 2 values; give 4"):
        load("folder/r18", [*given, "augmentation.fill=[0, 0]"], default="ce")


def test_what_is_shown_is_no_part_of_a_fingerprint_but_channels_are() -> None:
    given = ["data.classes=[field, tree]", "data.range=[0, 5000]"]
    first = fingerprint(load("folder/r18", given, default="ce")[0])
    assert fingerprint(load("folder/r18", [*given, "data.shown=[2, 1, 0]"], default="ce")[0]) == first
    assert fingerprint(load("folder/r18", given[:1], default="ce")[0]) != first


# --- a run from end to end


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16-bit fields; a run on RGB (``teacher``), and a student of four bands that learned from it (``student``)."""
    root = tmp_path_factory.mktemp("bands")
    fields(root / "tiff")
    fields(root / "rgb", write=lambda stem, bands: Image.fromarray((bands[..., 1:] >> 4).astype(np.uint8)).save(f"{stem}.png"))
    common = {"data": {"name": "folder", "root": str(root / "rgb"), "classes": ["field", "tree"]}}
    execute(tiny("ce", **common, schedule={"steps": 2}, evaluation={"every": 0}), root / "teacher")
    execute(distilled(root), root / "student")
    return root


def distilled(root: Path, **changes: Any) -> Any:
    teacher = {"name": "run", "path": str(root / "teacher"), "channels": [1, 2, 3], **changes.pop("teacher", {})}
    data = {"name": "folder", "root": str(root / "tiff"), **four(shown=[3, 1, 0]), **changes.pop("data", {})}
    return tiny("kd", data=data, student=FOUR, teacher=teacher, run={"previews": 1}, **changes)


def test_the_saved_network_says_what_it_takes(place: Path) -> None:
    network, card = load_network(place / "student")
    assert network.channels == 4
    assert (card["range"], card["shown"]) == (SPAN, [3, 1, 0])
    assert Bands.of(card) == open_split(distilled(place).data, "val").bands
    _, usual = load_network(place / "teacher")
    assert not {"range", "shown"} & usual.keys()


def test_a_picture_shows_the_chosen_channels(place: Path) -> None:
    data = open_split(distilled(place).data, "val")
    image = data.read(0)[0]
    (file,) = (place / "student" / "previews" / "final").glob("*/image.jpg")
    shown = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float()
    assert (shown - 255 * image[[3, 1, 0]]).abs().mean() < 6
    assert torch.equal(Bands(4, ((0, 1),)).visible(image), (image[:3] * 255).round().to(torch.uint8))
    assert torch.equal(Bands(4, None, (2,)).visible(image)[0], Bands(4).visible(image)[2])
    assert Bands(2).visible(image[:2]).shape == (3, *image.shape[1:])


def test_a_teacher_sees_the_channels_that_it_is_shown(place: Path) -> None:
    recipe = distilled(place)
    teacher, images = load_teacher(recipe.teacher, ("field", "tree"), channels=4), torch.rand(2, 4, 32, 32)
    expected = load_network(place / "teacher")[0](images[:, [1, 2, 3]]).logits
    assert torch.equal(teacher(images).logits, expected)
    asked = teacher.for_steps(torch.float32)(Batch(images, torch.zeros(2, 32, 32)))
    torch.testing.assert_close(asked.logits, expected, atol=1e-4, rtol=1e-4)
    part = {"name": "run", "path": str(place / "teacher"), "channels": [1, 2, 3]}
    both = load_teacher({"name": "ensemble", "members": [part, part]}, ("field", "tree"), channels=4)
    again = load_teacher({"name": "augmented", "teacher": part, "flip": False}, ("field", "tree"), channels=4)
    probabilities = teacher.probabilities(images)
    for other in (both, again):
        torch.testing.assert_close(other.probabilities(images), probabilities, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("channels", "words"),
    [
        (None, r"teacher: .* takes images of 3 channels and is shown 4; say which with teacher\.channels=\[0, 1, 2\]"),
        ([0, 1], "takes images of 3 channels and is shown 2"),
        ([0, 1, 4], r"teacher\.channels: is \[0, 1, 4\]; the images have 4, which are 0 to 3"),
    ],
)
def test_a_teacher_of_other_channels_is_refused_before_training(place: Path, channels: Any, words: str) -> None:
    recipe = distilled(place, teacher={"channels": channels})
    with pytest.raises(ConfigError, match=words):
        execute(recipe, place / "refused")
    assert not (place / "refused").exists()


def test_each_member_of_several_teachers_is_asked_what_it_takes(place: Path) -> None:
    fits, all_of_them = ({"name": "run", "path": str(place / "teacher"), **more} for more in ({"channels": [1, 2, 3]}, {}))
    for several, key in (
        ({"name": "ensemble", "members": [fits, all_of_them]}, r"teacher\.members\.1"),
        ({"name": "augmented", "teacher": {**fits, "channels": [0]}}, r"teacher\.teacher"),
        ({"name": "augmented", "teacher": all_of_them}, r"teacher"),
        ({"name": "pair", "logits": fits, "features": all_of_them}, r"teacher\.features"),
    ):
        with pytest.raises(ConfigError, match=rf"^{key}: .* takes images of 3 channels and is shown .*{key}\.channels"):
            load_teacher(several, ("field", "tree"), channels=4)


def test_images_read_by_another_range_than_the_network_has_learned_are_told(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alike = {"name": "run", "path": str(place / "student")}
    other = {"data": {"range": [[0, 9]]}, "evaluation": {"every": 0}}
    execute(distilled(place, teacher={**alike, "channels": None}, **other), place / "other")
    said = capsys.readouterr().err
    assert (
        f"note: teacher {place / 'student'} has learned images read with data.range={[[float(v) for v in p] for p in SPAN]}"
        in said
    )
    assert "and is shown images read with data.range=[[0.0, 9.0]]" in said
    done = call("evaluate", place / "student", "data.range=[[0, 9]]")
    assert f"note: {place / 'student'} has learned images read with data.range" in done.stderr
    assert "note: " not in call("evaluate", place / "student").stderr
    both = {"name": "pair", "logits": alike, "features": {**alike, "channels": [0, 1, 2, 3]}}
    pair = load_teacher(both, ("field", "tree"), channels=4)
    assert len(list(pair.remarks(Bands(4, ((0, 9),))))) == 2
    assert not list(pair.remarks(Bands.of({"network": {"channels": 4}, "range": SPAN})))
    assert len(list(load_teacher(distilled(place).teacher, ("field", "tree"), channels=4).remarks(Bands(4, ((0, 9),))))) == 1
    one = ((0.0, 2000.0),)
    assert not Bands(4, one).strange(Bands(4, one * 4))
    assert "has learned images of 8 bits: data.range=[[0.0, 2000.0]] is 0 to 255 to it" in Bands(4).strange(Bands(4, one))
    assert "as 8 bits" in Bands(4, one).strange(Bands(4))


def test_a_store_gives_the_same_pixels(place: Path, tmp_path: Path) -> None:
    config = distilled(place).data
    store(config, tmp_path / "store")
    stored = open_split(config.model_copy(update={"store": str(tmp_path / "store")}), "train")
    plain = open_split(config, "train")
    assert (stored.channels, stored.bands) == (4, plain.bands)
    for index in range(len(plain)):
        assert all(torch.equal(*pair) for pair in zip(stored.read(index), plain.read(index), strict=True))
    other = config.model_copy(update={"store": str(tmp_path / "store"), "range": ((0.0, 1.0),)})
    assert "data.range" in refused(lambda: open_split(other, "train"))


def test_predict_and_export_take_what_the_network_has_learned(place: Path, tmp_path: Path) -> None:
    done = call("predict", place / "student", place / "tiff" / "images", "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    found = np.array(Image.open(tmp_path / "out" / "labels" / "0.png"))
    image = open_split(distilled(place, data={"portions": {"train": 1}}).data, "train").read(0)[0]
    network, _ = load_network(place / "student")
    assert (found == network(image[None]).at(SIZE)[0].argmax(0).numpy()).mean() > 0.999
    done = call("predict", place / "student", place / "rgb" / "images", "--output", tmp_path / "other")
    assert done.returncode == 2
    assert "PNG 3 channels, uint8; the network has learned 4 channels" in done.stderr
    done = call("export", place / "student", "--onnx", tmp_path / "a.onnx", "--size", 32, 64)
    assert done.returncode == 0, done.stderr
    assert "1x4x32x64" in done.stdout
    import onnx

    props = {prop.key: prop.value for prop in onnx.load(tmp_path / "a.onnx").metadata_props}
    assert "float32 B 4 H W, values 0 to 1 made by 'range'" in props["input"]
    assert yaml.safe_load(props["range"]) == SPAN


def test_a_smoke_run_has_as_many_channels(place: Path, tmp_path: Path) -> None:
    text = {
        "extends": ["shapes/tiny"],
        "data": {"name": "folder", **four()},
        "student": FOUR,
        "teacher": {"channels": [0, 1, 2]},
    }
    (tmp_path / "four.yaml").write_text(yaml.safe_dump(text), encoding="utf-8")
    done = call("train", tmp_path / "four.yaml", "kd", "data.root=elsewhere", "--smoke")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("write", [tiff, array])
def test_images_without_labels_are_read_alike(tmp_path: Path, write: Any) -> None:
    root = fields(tmp_path / "mine", 3, write)
    (root / "more").mkdir()
    write(root / "more" / "a", scene(7)[0])
    config = {"name": "folder", "root": str(root), "unlabelled": "more", "portions": {"train": 1}, **four()}
    more = {"splits": ["unlabelled"], "share": 0.5}
    data = open_training(config, Unlabelled.model_validate(more))
    assert (len(data), data.channels, data.bands.range is not None) == (4, 4, True)
    assert data.read(3)[0].dtype == data.read(0)[0].dtype == torch.float32
    assert data.read(3)[0].shape == (4, *SIZE)


def test_soft_labels_are_kept_of_bands(place: Path, tmp_path: Path) -> None:
    recipe = distilled(place)
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"extends": [str(place / "student" / "recipe.yaml")]}), encoding="utf-8")
    words = ["teacher.floor=0", "--to", tmp_path / "cache", "--views", 1]
    done = call("cache-teacher", place / "student" / "recipe.yaml", *words)
    assert done.returncode == 0, done.stderr
    changed = {"teacher": {"cache": str(tmp_path / "cache")}, "augmentation": {"views": 1}}
    assert execute(distilled(place, **changed), tmp_path / "run")["steps"] == recipe.schedule.steps


# --- check-data and init


def test_check_data_measures_what_the_recipe_must_say(tmp_path: Path) -> None:
    root = fields(tmp_path / "mine")
    words = [f"data.root={root}", "data.classes=[field, tree]", "--workers", 0, "--samples", 0]
    done = call("check-data", "folder/r18", *words, folder=tmp_path)
    assert done.returncode == 2
    line = next(line for line in done.stdout.splitlines() if line.startswith("  data.channels=4"))
    given = [word.strip("'") for word in line.replace("' '", "'\n'").replace("=4 ", "=4\n").strip().splitlines()]
    recipe, _ = load("folder/r18", [*given, "data.classes=[field, tree]"], default="ce")
    train = open_split(recipe.data.model_copy(update={"root": str(root)}), "train")
    pixels = torch.cat([train.read(number)[0].flatten(1) for number in range(len(train))], 1)
    torch.testing.assert_close(pixels.mean(1), torch.tensor(recipe.student.mean), atol=2e-3, rtol=0)
    torch.testing.assert_close(pixels.std(1), torch.tensor(recipe.student.std), atol=2e-3, rtol=0)
    far = call("check-data", "folder/r18", *words, given[0], "data.range=[-100, -50]", folder=tmp_path)
    assert "100% of the values lie outside data.range, and become its ends" in far.stdout
    done = call("check-data", "folder/r18", *words, *given[:2], folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lie outside" not in done.stdout
    assert "8 TIFF 4 channels, uint16" in done.stdout
    assert "data.range" not in done.stdout


@pytest.mark.parametrize("write", [tiff, array])
def test_init_writes_what_it_has_measured(tmp_path: Path, write: Any) -> None:
    root = fields(tmp_path / "mine", write=write)
    done = call("init", root, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    recipe, _ = load(tmp_path / "recipes" / "mine" / "r18.yaml", default="ce")
    assert (recipe.data.channels, recipe.student.channels, len(recipe.student.mean)) == (4, 4, 4)
    assert recipe.data.range is not None
    assert recipe.augmentation.crop == (32, 32)


# --- tiles


def test_tiles_are_windows_and_far_from_their_edges_the_whole_image() -> None:
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(3, 5, 9, padding=4)
    image = torch.randint(0, 256, (2, 3, 130, 203), dtype=torch.uint8)

    def look(images: Tensor) -> Outputs:
        return Outputs(conv(images.float() / 255))

    with torch.no_grad():
        tiles = Tiled(tile=64)(look, image)
        torch.testing.assert_close(tiles, Sliding(window=(64, 64), stride=(48, 48))(look, image))
        apart = (tiles - look(image).logits).abs().amax((0, 1))
    edges = torch.zeros(130, 203, dtype=torch.bool)
    for side, length in ((0, 130), (1, 203)):
        for start in (*range(0, length - 64, 48), length - 64):
            for edge in (start, start + 64):
                rows = slice(max(0, edge - 4), edge + 4)
                edges[(rows, slice(None)) if side == 0 else (slice(None), rows)] = True
    assert apart[~edges].max() < 1e-5
    assert apart[edges].max() > 1e-3


def test_a_row_of_tiles_is_looked_at_when_it_is_read() -> None:
    seen: list[int] = []

    def look(images: Tensor) -> Outputs:
        seen.append(int(images[0, 0, 0, 0]))
        return Outputs(images.float())

    image = (torch.arange(96)[:, None] // 32 * torch.ones(96)).expand(1, 3, -1, -1).to(torch.uint8)
    (logits,) = Tiled(tile=32, overlap=0).read(look, image)
    parts = [(len(seen), logits.at(slice(row, row + 16))) for row in range(0, 96, 16)]
    assert [count for count, _ in parts] == [3, 3, 3, 6, 6, 9]
    assert torch.equal(torch.cat([part for _, part in parts], 1), image[0].float())
    logits.at(slice(0, 16))
    assert len(seen) == 12  # the first row was forgotten


def test_predict_by_tiles_from_the_command_line(place: Path, tmp_path: Path) -> None:
    done = call("predict", place / "student", place / "tiff" / "images" / "0.tif", "--tile", 32, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load((tmp_path / "out" / "predictions.yaml").read_text())["predictor"] == {
        "name": "tiled",
        "tile": 32,
        "overlap": 0.25,
    }
    done = call("predict", place / "student", place / "tiff", "--tile", 32, "--predictor", "whole")
    assert done.returncode == 2
    assert "--tile and --predictor" in done.stderr


def test_headers_that_lie_are_a_line_with_the_files_name(tmp_path: Path) -> None:
    """They claim more than any memory holds, or what is no shape at all."""
    huge = tmp_path / "huge.tif"
    tifffile.imwrite(huge, np.zeros((8, 8, 4), np.uint16), photometric="minisblack", planarconfig="contig")
    with tifffile.TiffFile(huge, mode="r+b") as file:
        for tag in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            file.pages[0].tags[tag].overwrite(10**6)
    array_file = tmp_path / "negative.npy"
    np.save(array_file, np.zeros((5, 6, 4), np.uint16))
    array_file.write_bytes(array_file.read_bytes().replace(b"(5, 6, 4), ", b"(-5, 6, 4),"))
    broken = tmp_path / "broken.npy"
    broken.write_bytes(array_file.read_bytes().replace(b"(-5, 6, 4),", b"((((((((((("))
    for path in (huge, array_file, broken):
        with pytest.raises(BrokenFileError, match=str(path)):
            band_files.read(path, Bands(4, ((0.0, 1.0),)))


def test_a_deviation_is_above_0() -> None:
    with pytest.raises(ConfigError, match=r"std.* greater than 0"):
        build_network({**STUDENT, "std": [1.0, 0.0, 1.0]}, 3)


def test_a_channel_without_any_number_is_named(tmp_path: Path) -> None:
    def hollow(stem: Path, bands: np.ndarray) -> Path:
        bands = bands.astype(np.float32)
        bands[..., 2] = np.nan
        return array(stem, bands)

    done = call("init", str(fields(tmp_path, write=hollow)), folder=tmp_path)
    assert done.returncode == 2
    assert "channel 2 holds no number (NaN)" in done.stderr
