"""A teacher's soft labels on disk: what is kept is what it said, crops are cut where they lie, what is stale is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_tools import call
from PIL import Image
from torch import Tensor

from kd.config import ConfigError, InputError
from kd.data.build import open_split
from kd.data.loader import training_batches
from kd.recipe.schema import Recipe, build, fingerprint, plain
from kd.seeds import seed_everything
from kd.types import Batch, Geometry, resample
from students.contract.resuming import trained
from students.objective import build_objective
from teachers import Teacher
from teachers.load import load_teacher
from teachers.soft_labels.card import data_mark
from teachers.soft_labels.codes import DEPTH, decode, divergence, encode
from teachers.soft_labels.windows import window

STEP = DEPTH / 255
NETWORK = {"name": "deeplabv3", "backbone": "test_resnet", "pretrained": False, "width": 8, "rates": [1, 2], "aux": 4}
DATA = {"name": "shapes", "size": [40, 56], "train": 6, "val": 2, "test": 2, "objects": 3}
CROP = {"crop": [32, 40], "scale": [0.7, 1.6], "photometric": 0.3}


def recipe(cache: Path | None = None, views: int = 3, method: str = "kd", **teacher: Any) -> Recipe:
    terms = {"kd": ["kl"], "jml_kd": ["ce", "kl", "jaccard_hard", "jaccard_soft", "ce_aux", "kl_aux"], "fitnet": ["hint"]}[
        method
    ]
    return build(
        {
            "data": DATA,
            "augmentation": {**CROP, "views": views},
            "student": NETWORK,
            "teacher": {"name": "fresh", "network": NETWORK, "cache": None if cache is None else str(cache), **teacher},
            "method": {"name": method},
            "weights": dict.fromkeys(terms, 1.0),
            "schedule": {"steps": 4, "batch": 2},
            "run": {"device": "cpu", "workers": 0},
        }
    )


def teacher_of(one: Recipe) -> Teacher:
    seed_everything(one.seed, "teacher")
    return load_teacher(one.teacher, open_split(one.data, "train").classes)


def written(folder: Path, *words: str, method: str = "jml_kd") -> Path:
    """By the command, for the recipe above."""
    file = folder / "recipe.yaml"
    file.write_text(json.dumps(plain(recipe(method=method))))
    done = call("cache-teacher", str(file), *words, "--to", "cache", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "nats a pixel" in done.stdout
    return folder / "cache"


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("crops"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("images"), "--whole")


def batches(one: Recipe, last: int) -> list[Batch]:
    data = open_split(one.data, "train")
    return list(training_batches(data, one.augmentation, seed=one.seed, batch=2, first=0, last=last))


def test_a_byte_keeps_a_logit_to_half_a_step() -> None:
    torch.manual_seed(0)
    logits = 5 * torch.randn(2, 19, 7, 9) + 100
    kept = decode(encode(logits))
    below = logits - logits.amax(1, keepdim=True)
    assert float((kept - below.clamp(min=-DEPTH)).abs().max()) <= STEP / 2 * 1.001
    assert float(divergence(logits, encode(logits)).max()) < 1e-4
    assert kept.max() == 0


def test_the_cost_of_a_byte_is_what_the_softmax_loses() -> None:
    logits = torch.tensor([0.0, -1.03, -20.0]).view(1, 3, 1, 1)
    p, q = logits.double().softmax(1), decode(encode(logits)).double().softmax(1)
    assert divergence(logits, encode(logits))[0] == pytest.approx(float((p * (p / q).log()).sum()))


WHOLE = Geometry(64, 96, 0, 0, False, 1.0)


def of(codes: Tensor, geometry: Geometry, crop: tuple[int, int], grid: tuple[int, int], align: bool = False) -> Tensor:
    return window(codes, (64, 96), geometry, crop, grid, align)


@pytest.mark.parametrize("align", [False, True])
def test_the_whole_image_is_itself_and_its_mirror_its_mirror(align: bool) -> None:
    codes = torch.randint(0, 256, (5, 8, 12), dtype=torch.uint8)
    torch.testing.assert_close(of(codes, WHOLE, (64, 96), (8, 12), align), decode(codes), rtol=0, atol=1e-4)
    mirrored = of(codes, WHOLE._replace(flipped=True), (64, 96), (8, 12), align)
    torch.testing.assert_close(mirrored, decode(codes).flip(2), rtol=0, atol=1e-4)


def test_a_crop_on_the_grid_is_a_slice() -> None:
    codes = torch.randint(0, 256, (5, 8, 12), dtype=torch.uint8)
    cut = of(codes, WHOLE._replace(top=16, left=24), (32, 40), (4, 5))
    torch.testing.assert_close(cut, decode(codes)[:, 2:6, 3:8], rtol=0, atol=1e-4)


def test_an_enlarged_crop_is_a_slice_of_the_enlarged_map() -> None:
    codes = torch.randint(0, 256, (5, 8, 12), dtype=torch.uint8)
    geometry = Geometry(128, 192, 32, 48, False, 2.0)
    enlarged = resample(decode(codes)[None], (16, 24))[0]
    torch.testing.assert_close(of(codes, geometry, (64, 80), (8, 10)), enlarged[:, 4:12, 6:16], rtol=0, atol=1e-4)


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("flipped", [False, True])
def test_what_grows_with_the_place_grows_with_it_in_any_crop(align: bool, flipped: bool) -> None:
    """Linear maps are reproduced exactly between the outermost cells, whatever scale, offset and flip are."""
    size, grid, crop = (64, 96), (8, 12), (30, 42)
    geometry = Geometry(83, 125, 21, 37, flipped, 1.3)
    rows, columns = (_centres(side, cells, align) for side, cells in zip(size, grid, strict=True))
    codes = (rows[:, None] + 1.5 * columns).round().to(torch.uint8)[None]
    found = of(codes, geometry, crop, (5, 6), align)[0]
    down, across = (_centres(side, cells, align) for side, cells in zip(crop, (5, 6), strict=True))
    across = crop[1] - 1 - across if flipped else across
    y = (geometry.top + down + 0.5) * size[0] / geometry.height - 0.5
    x = (geometry.left + across + 0.5) * size[1] / geometry.width - 0.5
    expected = (y[:, None] + 1.5 * x - 255) * STEP
    torch.testing.assert_close(found, expected.float(), rtol=0, atol=STEP)  # codes are whole numbers


def _centres(side: int, cells: int, align: bool) -> Tensor:
    """The pixel over which a cell lies."""
    index = torch.arange(cells, dtype=torch.float64)
    return index * (side - 1) / (cells - 1) if align else (index + 0.5) * side / cells - 0.5


def test_fixed_crops_are_answered_as_they_would_be(crops: Path) -> None:
    plain_teacher, cached = teacher_of(recipe()), teacher_of(recipe(crops))
    for batch in batches(recipe(crops), 12):  # four passes over three views
        told, kept = plain_teacher(batch), cached(batch)
        for field in ("logits", "aux_logits"):
            said = getattr(told, field)
            below = (said - said.amax(1, keepdim=True)).clamp(min=-DEPTH)
            assert float((getattr(kept, field) - below).abs().max()) < STEP * 0.51 + 1e-4
        assert kept.embedding is None
        assert not kept.pyramid


def test_crops_do_not_depend_on_the_seed_and_come_back(crops: Path) -> None:
    one, other = recipe(crops), build({**plain(recipe(crops)), "seed": 7})
    seen: dict[tuple[str, int], Tensor] = {}
    for found in (one, other):
        for batch in batches(found, 18):
            for image, name, geometry in zip(batch.image, batch.ids, batch.geometry, strict=True):
                assert torch.equal(seen.setdefault((name, geometry.view), image), image)
    assert len(seen) == 6 * 3


def test_any_crop_is_cut_out_of_whole_images(images: Path) -> None:
    cached = teacher_of(recipe(images, views=0))
    batch = batches(recipe(images, views=0), 1)[0]
    outputs = cached(batch)
    assert outputs.logits.shape == (2, len(cached.classes), 4, 5)
    assert outputs.aux_logits is not None
    data, plain_teacher = open_split(recipe().data, "train"), teacher_of(recipe())
    names = [data.identity(number) for number in range(len(data))]
    for row, (name, geometry) in enumerate(zip(batch.ids, batch.geometry, strict=True)):
        image = data.read(names.index(name))[0]
        codes = encode(plain_teacher(image[None]).logits)[0]
        expected = window(codes, (40, 56), geometry, (32, 40), (4, 5), False)
        torch.testing.assert_close(outputs.logits[row], expected, rtol=0, atol=STEP * 1.01)


def test_images_alone_are_answered_by_the_teacher_itself(crops: Path) -> None:
    image = torch.randint(0, 256, (1, 3, 48, 64), dtype=torch.uint8)
    assert torch.equal(teacher_of(recipe(crops))(image).logits, teacher_of(recipe())(image).logits)


@pytest.mark.parametrize("kind", ["crops", "images"])
def test_a_run_resumes_bit_for_bit(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    tree = plain(recipe(request.getfixturevalue(kind), method="jml_kd"))
    tree["schedule"]["precision"] = "bf16"
    tree["run"]["maps"] = "blocks"
    folders = {cut: tmp_path / str(cut) for cut in (False, True)}
    for folder in folders.values():
        folder.mkdir()
    whole, again = (trained(build(tree), folder, load_teacher, cut) for cut, folder in folders.items())
    assert whole.terms == again.terms
    for name, value in whole.state["objective"].items():
        assert torch.equal(value, again.state["objective"][name])


def test_what_was_interrupted_goes_on(crops: Path, tmp_path: Path) -> None:
    shutil.copytree(crops.parent, tmp_path / "half")
    files = sorted((tmp_path / "half" / "cache").glob("*.safetensors"))
    before = [file.read_bytes() for file in files]
    stamps = [file.stat().st_mtime_ns for file in files]
    for file in files[1:4]:
        file.unlink()
    (tmp_path / "half" / "cache" / f".{files[1].name}.partial").write_bytes(b"half")
    with pytest.raises(ConfigError, match="not complete, 3 of 6 images"):
        check(recipe(tmp_path / "half" / "cache"))
    written(tmp_path / "half")
    assert [file.read_bytes() for file in files] == before
    kept = [file.stat().st_mtime_ns == stamp for file, stamp in zip(files, stamps, strict=True)]
    assert kept == [True, False, False, False, True, True]
    check(recipe(tmp_path / "half" / "cache"))


def check(one: Recipe) -> None:
    teacher_of(one).check_training(one, open_split(one.data, "train"))


def changed(tree: dict[str, Any], path: str, value: Any) -> Recipe:
    part, _, key = path.rpartition(".")
    for name in part.split(".") if part else ():
        tree = tree[name]
    tree[key] = value
    return tree  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("kind", "path", "value", "message"),
    [
        ("crops", "seed", 5, "another teacher than a fresh network"),
        ("crops", "augmentation.views", 0, "augmentation.views: is 0.*set augmentation.views=3"),
        ("crops", "augmentation.flip", 0.0, r"made otherwise \(flip\)"),
        ("crops", "data.noise", 3.0, "other images"),
        ("images", "data.train", 5, "other images"),
        ("images", "data.seed", 1, "other images"),
    ],
)
def test_what_is_stale_is_refused(kind: str, path: str, value: Any, message: str, request: pytest.FixtureRequest) -> None:
    tree = plain(recipe(request.getfixturevalue(kind)))
    changed(tree, path, value)
    with pytest.raises(ConfigError, match=message):
        check(build(tree))


def test_whole_images_serve_any_augmentation(images: Path) -> None:
    tree = plain(recipe(images, views=0))
    changed(tree, "augmentation.scale", [0.5, 0.6])
    check(build(tree))


def test_an_empty_directory_and_a_damaged_file_are_told(crops: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no soft labels.*kd cache-teacher"):
        teacher_of(recipe(tmp_path))
    shutil.copytree(crops, tmp_path / "cache")
    for file in (tmp_path / "cache").glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:40])
    one = recipe(tmp_path / "cache")
    with pytest.raises(ConfigError, match="not complete, 6 of 6 images are missing or damaged"):
        check(one)
    with pytest.raises(InputError, match=r"cannot be read.*delete it"):
        teacher_of(one)(batches(one, 1)[0])
    (tmp_path / "cache" / "cache.json").write_text('{"version": 9}')
    with pytest.raises(ConfigError, match="cannot be read"):
        teacher_of(one)


def test_a_method_that_reads_more_is_refused_by_name(crops: Path) -> None:
    from kd.networks.build import build_network

    one = recipe(crops, method="fitnet")
    with pytest.raises(ConfigError, match=r"fitnet reads the teacher's \w+.*teacher.cache=null"):
        build_objective(one, build_network(one.student, 8), teacher_of(one).sizes)


def test_the_command_refuses_what_would_be_of_no_use(crops: Path, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(plain(recipe(method="fitnet"))))
    done = call("cache-teacher", str(file), "--to", "x", folder=tmp_path)
    assert done.returncode == 2
    assert "fitnet reads the teacher's" in done.stderr
    file.write_text(json.dumps(plain(recipe())))
    done = call("cache-teacher", str(file), "--views", "2", "--to", str(crops), folder=tmp_path)
    assert done.returncode == 2
    assert "holds other soft labels" in done.stderr
    assert "views: 3 there, 2 asked" in done.stderr
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(("words", "kept"), [(["kd"], False), (["jml_kd"], True), ([], True)])
def test_auxiliary_logits_are_kept_unless_the_method_does_not_read_them(tmp_path: Path, words: list[str], kept: bool) -> None:
    file, tree = tmp_path / "pair.yaml", plain(recipe())
    del tree["method"], tree["loss"], tree["weights"]
    file.write_text(json.dumps(tree))
    done = call("cache-teacher", str(file), *words, "--views", "1", "--to", "cache", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert teacher_of(recipe(tmp_path / "cache", views=1)).sizes.aux is kept


def test_only_the_outer_teacher_has_a_cache() -> None:
    tree = plain(recipe())
    tree["teacher"] = {"name": "augmented", "teacher": {"name": "fresh", "network": NETWORK, "cache": "x"}}
    with pytest.raises(ConfigError, match="cache the outer teacher"):
        build(tree)


def test_a_cache_is_known_by_its_content_and_none_is_as_before(crops: Path, tmp_path: Path) -> None:
    shutil.copytree(crops, tmp_path / "moved")
    assert fingerprint(recipe(crops)) == fingerprint(recipe(tmp_path / "moved")) != fingerprint(recipe())
    tree = plain(recipe(views=0))
    del tree["teacher"]["cache"], tree["augmentation"]["views"], tree["teacher"]["precision"]
    assert fingerprint(build(tree)) == fingerprint(recipe(views=0))


def test_a_teacher_says_that_it_was_cached(crops: Path) -> None:
    assert teacher_of(recipe(crops)).source == "a fresh network, cached (3 crops an image)"
    assert teacher_of(recipe(crops)).cached == "3 crops an image"


def test_images_are_known_by_name_and_content_not_by_place(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for folder, colour in (("images", (1, 2, 3)), ("masks", 1)):
            (tmp_path / "one" / folder).mkdir(parents=True, exist_ok=True)
            mode = "RGB" if folder == "images" else "L"
            Image.new(mode, (16, 16), colour).save(tmp_path / "one" / folder / f"{name}.png")
    tree = plain(recipe())

    def mark(root: Path) -> str:
        tree["data"] = {"name": "folder", "root": str(root), "classes": ["x", "y"], "portions": {"train": 1}}
        one = build(tree)
        return data_mark(one, open_split(one.data, "train"))

    first = mark(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert mark(tmp_path / "two") == first
    Image.new("RGB", (16, 16), (9, 9, 9)).resize((16, 17)).save(tmp_path / "two" / "images" / "b.png")
    Image.new("L", (16, 17), 1).save(tmp_path / "two" / "masks" / "b.png")
    assert mark(tmp_path / "two") != first
    (tmp_path / "one" / "images" / "b.png").rename(tmp_path / "one" / "images" / "c.png")
    (tmp_path / "one" / "masks" / "b.png").rename(tmp_path / "one" / "masks" / "c.png")
    assert mark(tmp_path / "one") != first


def spoilt(cache: Path, images: Path, how: str) -> None:
    """Damage that leaves a file whole: flipped bits, another image's file, that of another kind of cache."""
    for file in cache.glob("*.safetensors"):
        content = bytearray(file.read_bytes())
        if how == "bit":
            for place in range(len(content) // 2, len(content), 8):
                content[place] ^= 1
            file.write_bytes(content)
        elif how == "kind":
            shutil.copy(images / file.name, file)
    if how == "swapped":
        files = sorted(cache.glob("*.safetensors"))
        contents = [file.read_bytes() for file in files]
        for file, content in zip(files, contents[1:] + contents[:1], strict=True):
            file.write_bytes(content)


@pytest.mark.parametrize("how", ["bit", "swapped", "kind"])
def test_soft_labels_of_something_else_are_noticed(crops: Path, images: Path, tmp_path: Path, how: str) -> None:
    shutil.copytree(crops, tmp_path / "cache")
    spoilt(tmp_path / "cache", images, how)
    one = recipe(tmp_path / "cache")
    with pytest.raises(InputError, match=r"safetensors: .*(damaged|cannot be read).*delete it and run the kd cache-teacher"):
        teacher_of(one)(batches(one, 1)[0])


def test_what_was_cut_off_is_written_anew(crops: Path, tmp_path: Path) -> None:
    shutil.copytree(crops.parent, tmp_path / "copy")
    files = sorted((tmp_path / "copy" / "cache").glob("*.safetensors"))
    before = [file.read_bytes() for file in files]
    files[0].write_bytes(b"")
    files[1].write_bytes(before[1][:900])
    written(tmp_path / "copy")
    assert [file.read_bytes() for file in files] == before
    assert all(file.stat().st_mode & 0o044 for file in files)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--views", "0", "--to", "x"], "--views: is 0"),
        (["--to", "recipe.yaml"], "is a file; name a directory"),
        (["--to", "."], "holds something else"),
        (
            ["teacher=null", "method=null", "loss={ce: {name: cross_entropy}}", "weights={ce: 1, kl: null}", "--to", "x"],
            "has no teacher",
        ),
    ],
)
def test_wrong_words_are_refused(tmp_path: Path, words: list[str], message: str) -> None:
    (tmp_path / "recipe.yaml").write_text(json.dumps(plain(recipe())))
    done = call("cache-teacher", "recipe.yaml", *words, folder=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_soft_labels_of_before_are_known_by_the_same_images() -> None:
    """Keys of a data set that came since say nothing at the value that all had then."""
    one = recipe()
    data = open_split(one.data, "train")
    values = one.data.model_dump(mode="json", exclude={"root", "store", "shown", "unlabelled"})
    before = {key: value for key, value in values.items() if key not in ("channels", "range", "held_out")}
    lines = [json.dumps(before, sort_keys=True), *(f"{data.identity(number)} " for number in range(len(data)))]
    assert data_mark(one, data) == hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
