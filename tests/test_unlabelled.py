"""Images without labels: how batches mix, what each term sees of them, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers_forked import on_ranks
from helpers_results import load, write_run
from helpers_tools import call
from PIL import Image
from safetensors.torch import load_file
from test_data import told
from test_folder import config as folder_config
from test_folder import photo, pictures, put
from tiny import execute, tiny
from torch import Tensor

from kd.config import ConfigError
from kd.data.audit.report import lines as report
from kd.data.audit.scan import audit
from kd.data.build import open_split, open_training
from kd.data.joined import Joined
from kd.data.loader import Blend, Order, Portions, training_batches
from kd.data.store.writing import store
from kd.losses.loss import maps
from kd.methods import DIST, KD, JmlKd
from kd.methods.build import build_method
from kd.methods.cards import names
from kd.methods.method import Method
from kd.networks.build import build_network
from kd.recipe.loading import draft
from kd.recipe.loading import load as load_recipe
from kd.recipe.schema import Recipe, build, fingerprint, plain
from kd.recipe.unlabelled import Unlabelled
from kd.report.summary import summary
from kd.results.groups import Choices
from kd.results.rows import summarise
from kd.types import IGNORE, UNLABELLED, Batch, Outputs, Sizes
from students.contract.resuming import trained
from students.objective import build_objective
from students.separation import confidence, separated
from teachers.load import load_teacher

CLASSES = 4
SIZES = Sizes(CLASSES, 4, 0, True)
HALF = Unlabelled(splits=("val",))


# -------------------------------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize(("batch", "share", "number"), [(4, 0.5, 2), (16, 0.25, 4), (6, 1 / 3, 2), (5, 0.8, 4), (4, 1.0, 4)])
def test_each_batch_holds_its_share_and_each_stream_goes_through_its_images(batch: int, share: float, number: int) -> None:
    order = Blend(7, 5, batch, share, seed=1)
    steps = [order.step(step) for step in range(35)]
    assert {sum(draw.number >= 7 for draw in draws) for draws in steps} == {number}
    known = [draw for draws in steps for draw in draws if draw.number < 7]
    free = [draw._replace(number=draw.number - 7) for draws in steps for draw in draws if draw.number >= 7]
    for draws, length in ((known, 7), (free, 5)):
        passes = [draws[start : start + length] for start in range(0, len(draws) - length + 1, length)]
        assert all(sorted(draw.number for draw in one) == list(range(length)) for one in passes)
        assert [{draw.epoch for draw in one} for one in passes] == [{epoch} for epoch in range(len(passes))]
    if number < batch:
        assert known == [draw for step in range(35) for draw in Order(7, batch - number, seed=1).step(step)]


@pytest.mark.parametrize(("accumulate", "world"), [(1, 2), (2, 2), (4, 1), (1, 4)])
def test_every_part_gets_as_many_of_both(accumulate: int, world: int) -> None:
    order = Blend(9, 9, 8, 0.5, seed=0)
    parts = [part for rank in range(world) for part in Portions(order, 0, 3, accumulate, rank, world)]
    assert {sum(draw.number >= 9 for draw in part) * 2 == len(part) for part in parts} == {True}


def test_labels_of_images_without_are_not_even_read(tmp_path: Path) -> None:
    root = pictures(tmp_path, ["train/a", "train/b", "val/c", "test/d"])
    (root / "masks" / "val" / "c.png").write_text("no picture")
    data = open_training(folder_config(root), HALF)
    assert [data.identity(index) for index in range(len(data))] == ["a", "b", "val__c"]
    assert [data.labelled(index) for index in range(3)] == [True, True, False]
    assert data.read(2)[1].unique().tolist() == [UNLABELLED]
    assert data.read(2)[0].tolist() == data.image(2).tolist()
    assert (data.files(2).image, data.files(2).mask) == (root / "images" / "val" / "c.png", None)
    recipe = tiny("kd", unlabelled={"splits": ["val"]}, evaluation={"select": "test"})
    crop = recipe.augmentation.model_copy(update={"crop": (24, 24)})
    for batch in training_batches(data, crop, seed=0, batch=2, first=0, last=4):
        free = [name.startswith("val__") for name in batch.ids]
        assert sorted(free) == [False, True]
        for target, without in zip(batch.target, free, strict=True):
            assert set(target.unique().tolist()) <= ({UNLABELLED, IGNORE} if without else {0, 1, 2, IGNORE})
            assert (target == UNLABELLED).any() == without


def test_a_label_that_is_no_class_is_still_refused_where_there_are_labels(tmp_path: Path) -> None:
    root = pictures(tmp_path, ["train/a", "val/b", "test/c"])
    data = open_training(folder_config(root), HALF)
    assert isinstance(data, Joined)
    data.labels.read = lambda _: (data.image(0), torch.full((12, 16), UNLABELLED, dtype=torch.uint8))  # type: ignore
    crop = tiny().augmentation
    message = str(told(lambda: list(training_batches(data, crop, seed=0, batch=2, first=0, last=1))))
    assert f"pixels hold label {UNLABELLED}" in message


# ---------------------------------------------------------------------------------------------------------------- terms


def outputs(seed: int, images: int = 4, size: tuple[int, int] = (6, 7)) -> Outputs:
    source = torch.Generator().manual_seed(seed)
    main, aux = (3 * torch.randn(images, CLASSES, *size, dtype=torch.float64, generator=source) for _ in range(2))
    return Outputs(main, aux)


def batch_of(free: list[int]) -> Batch:
    """Four images, some without labels; each has ignored pixels, too."""
    target = torch.randint(0, CLASSES, (4, 24, 28), generator=torch.Generator().manual_seed(9))
    target[free] = UNLABELLED
    target[:, :5] = IGNORE
    return Batch(torch.zeros(4, 3, 24, 28, dtype=torch.uint8), target)


def part(outputs: Outputs, images: list[int]) -> Outputs:
    aux = None if outputs.aux_logits is None else outputs.aux_logits[images]
    return replace(outputs, logits=outputs.logits[images], aux_logits=aux)


def seen(method: Method, free: list[int], config: Unlabelled = HALF, labels: Tensor | None = None) -> dict[str, Tensor]:
    batch, teacher = separated(batch_of(free), outputs(1), config)
    assert teacher is not None
    return method(outputs(2), teacher, batch.target if labels is None else labels)


@pytest.mark.parametrize("way", ["whole", "blocks"])
def test_hard_terms_see_labelled_images_alone_and_soft_terms_all(way: Any) -> None:
    method, labelled = JmlKd(SIZES, SIZES), [0, 2]
    with maps(way):
        found = seen(method, [1, 3])
        alone = method(part(outputs(2), labelled), part(outputs(1), labelled), batch_of([]).target[labelled])
        every = method(outputs(2), outputs(1), batch_of([]).target)
    for term in ("ce", "ce_aux", "jaccard_hard"):
        torch.testing.assert_close(found[term], alone[term])
        assert not torch.allclose(found[term], every[term])
    for term in ("kl", "kl_aux", "jaccard_soft"):
        torch.testing.assert_close(found[term], every[term])
        assert not torch.allclose(found[term], alone[term])


RICH = Sizes(CLASSES, 4, 16, True, (16,), (4,), grid=(6, 7))


@pytest.mark.parametrize("name", [name for name in names() if name != "several"])
def test_terms_that_read_labels_are_declared_and_no_others_are_0_without(name: str) -> None:
    torch.manual_seed(0)
    method = build_method({"name": name}, RICH, RICH).double()
    student, teacher = (
        replace(outputs(seed), embedding=maps[:, :16].relu(), pyramid=(maps[:, 16:].relu(),))
        for seed, maps in enumerate(torch.randn(2, 4, 32, 6, 7, dtype=torch.float64), 1)
    )
    batch, heard = separated(batch_of([0, 1, 2, 3]), teacher, HALF)
    assert heard is not None
    terms: dict[str, Tensor] = {}
    for stage in method.stages:
        method.enter(stage)
        terms |= method(student if stage.trains_student else None, heard, batch.target)
    assert {term for term, value in terms.items() if value == 0} == method.hard & terms.keys()


def test_gradients_by_blocks_are_those_of_whole_maps() -> None:
    method, config, found = JmlKd(SIZES, SIZES), Unlabelled(splits=("val",), confidence=0.6, temperature=0.7), {}
    for way in ("whole", "blocks"):
        student = outputs(2)
        leaf = student.logits.requires_grad_()
        batch, teacher = separated(batch_of([1]), outputs(1), config)
        assert teacher is not None
        with maps(way):  # type: ignore[arg-type]
            terms = method(student, teacher, batch.target)
        found[way] = torch.stack(list(terms.values())), torch.autograd.grad(sum(terms.values()), leaf)[0]
    for mine, theirs in zip(*found.values(), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("mask", ["all", "valid"])
def test_pixels_in_doubt_take_no_part(mask: Any) -> None:
    method, config = KD(SIZES, SIZES, kd_mask=mask), Unlabelled(splits=("val",), confidence=0.8)
    target = batch_of([3]).target[:, ::4, ::4]  # what each pixel of the grid reads
    sure = torch.ones(4, 6, 7, dtype=torch.bool)
    sure[3] = outputs(1).logits[3].softmax(0).amax(0) >= 0.8
    keep = sure if mask == "all" else sure & (target != IGNORE)
    assert 0 < int(sure[3].sum()) < 42
    mine, theirs = (part.logits.log_softmax(1) for part in (outputs(2), outputs(1)))
    expected = (theirs.exp() * (theirs - mine)).sum(1)[keep].mean()
    torch.testing.assert_close(seen(method, [3], config)["kl"], expected)


def test_soft_labels_of_images_without_labels_are_sharpened_and_no_others() -> None:
    batch, teacher = separated(batch_of([1, 2]), outputs(1), Unlabelled(splits=("val",), temperature=0.5))
    assert teacher is not None
    assert teacher.aux_logits is not None
    for field in ("logits", "aux_logits"):
        before, after = getattr(outputs(1), field), getattr(teacher, field)
        assert torch.equal(after[[0, 3]], before[[0, 3]])
        assert torch.equal(after[[1, 2]], before[[1, 2]] / 0.5)
    assert not (batch.target == UNLABELLED).any()


def test_confidence_is_the_first_class_probability() -> None:
    logits = torch.tensor([0.0, 2.0, 1.0]).view(1, 3, 1, 1)
    assert float(confidence(logits)) == pytest.approx(float(logits.softmax(1).max()))


@pytest.mark.parametrize("method", [KD(SIZES, SIZES), DIST(SIZES, SIZES), KD(SIZES, SIZES, kd_mask="valid")], ids=str)
def test_without_doubts_soft_terms_are_as_if_there_were_labels(method: Method) -> None:
    for term, value in seen(method, [0, 1, 2, 3]).items():
        torch.testing.assert_close(value, method(outputs(2), outputs(1), batch_of([]).target)[term])


# ----------------------------------------------------------------------------------------------------------------- runs


def mixed(kind: str = "kd", **changes: Any) -> Recipe:
    changes.setdefault("unlabelled", {"splits": ["val"], "confidence": 0.3})
    return tiny(kind, **{"evaluation": {"select": "test", "every": 0}, **changes})


@pytest.mark.parametrize("kind", ["kd", "jml_kd"])
def test_a_resumed_run_is_the_same_to_the_last_bit(kind: str, tmp_path: Path) -> None:
    recipe = mixed(kind, schedule={"steps": 3})
    (tmp_path / "cut").mkdir()
    whole, again = (trained(recipe, tmp_path / "cut", load_teacher, cut=cut) for cut in (False, True))
    assert whole.terms == again.terms
    for name, value in whole.state["objective"].items():
        assert torch.equal(value, again.state["objective"][name]), name


def test_two_processes_take_the_step_of_one(tmp_path: Path) -> None:
    still = {"student": {"dropout": 0.0, "output_stride": 8}, "data": {"size": [64, 64]}, "augmentation": {"crop": [64, 64]}}
    recipe = mixed("jml_kd", seed=3, **still, schedule={"steps": 1, "optimizer": {"kind": "sgd", "lr": 1.0}})
    (tmp_path / "recipe.yaml").write_text(json.dumps(plain(recipe)))
    for code, _, errors in on_ranks(tmp_path, 2, "train", tmp_path / "recipe.yaml", "--output", tmp_path / "two"):
        assert code == 0, errors
    execute(recipe, tmp_path / "one")
    one, two = (json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0]) for name in ("one", "two"))
    assert one["terms"] == pytest.approx(two["terms"], rel=1e-4)


def alone(**changes: Any) -> Recipe:
    """No term on hard labels."""
    tree = plain(tiny("kd", student={"aux": 0}, teacher={"network": {"aux": 0}}))
    return build({**tree, "loss": None, "weights": {"kl": 1.0}, **changes})


def test_labels_change_nothing_where_none_is_used(tmp_path: Path) -> None:
    free = {"splits": ["train"], "share": 1.0}
    found = []
    for name in ("right", "spoiled"):
        root = pictures(tmp_path / name, ["train/a", "train/b", "val/c", "test/d"])
        if name == "spoiled":
            put(root / "masks" / "train" / "a.png", np.full((12, 16), 77, np.uint8))
        data = {"name": "folder", "root": str(root), "classes": ["background", "road", "car"]}
        execute(alone(unlabelled=free, data=data), tmp_path / f"run_{name}")
        found.append(load_file(tmp_path / f"run_{name}" / "student.safetensors"))
    assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())


def test_a_folder_of_images_and_a_teacher_are_enough(tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b/c")):
        put(tmp_path / "photos" / f"{name}.png", photo(40 + number, (40, 48)))
    changes = {"data": {"name": "folder", "root": str(tmp_path), "unlabelled": "photos", "classes": ["sky", "road"]}}
    recipe = alone(**changes, unlabelled={"share": 1.0}, evaluation={"select": "none", "report": "none"})
    result = execute(recipe.model_copy(update={"run": recipe.run.model_copy(update={"previews": 1})}), tmp_path / "run")
    assert (result["reported_on"], result["last"], result["agreement"]) == (None, {}, None)
    assert (tmp_path / "run" / "student.safetensors").is_file()
    assert Image.open(tmp_path / "run" / "previews" / "final.png").size[0] > 0
    again = call("train", str(tmp_path / "run" / "recipe.yaml"), "--output", str(tmp_path / "run"), folder=tmp_path)
    assert "not measured, since evaluation.report is none" in again.stdout
    asked = call("evaluate", str(tmp_path / "run"), folder=tmp_path)
    assert "names no split to measure on (evaluation.report is none); give --split SPLIT" in asked.stderr
    table = call("table", str(tmp_path / "run"), folder=tmp_path)
    assert "finished, but nothing was measured, since evaluation.report is none" in table.stderr


@pytest.mark.parametrize("words", ["shapes/tiny kd unlabelled.splits=[train]", "shapes/tiny dist unlabelled.share=1"])
def test_smoke_runs_need_no_images(words: str, tmp_path: Path) -> None:
    done = call("train", *words.split(), "--smoke", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "mIoU" in done.stdout


# -------------------------------------------------------------------------------------------------------------- refused


def wrong(**changes: Any) -> str:
    kind = changes.pop("kind", "kd")
    return str(told(lambda: tiny(kind, **{"evaluation": {"select": "test"}, "unlabelled": {"splits": ["val"]}, **changes})))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "ce"}, "there is no method, and a loss on hard labels learns nothing from images without any"),
        ({"unlabelled": {"share": 1.0}}, r"no pixel has a label, but loss (ce, ce_aux) reads labels"),
        (
            {"unlabelled": {"share": 0.3}},
            "1.2 images of a batch of 4; set it so that their number is whole, e.g. 0.25, 0.5",
        ),
        ({"unlabelled": {"share": 0.01}}, "e.g. 0.25"),
        ({"unlabelled": {"share": 0}}, "unlabelled.share"),
        ({"unlabelled": {"splits": []}}, "unlabelled.splits"),
        ({"unlabelled": {"splits": ["val", "val"]}}, "names val twice"),
        ({"unlabelled": {"confidence": 1}}, "unlabelled.confidence"),
        ({"unlabelled": {"temperature": 0}}, "unlabelled.temperature"),
        ({"unlabelled": {"splits": ["test"]}}, "holds test, on which evaluation.select measures"),
        ({"evaluation": {"select": "train", "report": "val"}}, "holds val, on which evaluation.report measures"),
        ({"evaluation": {"select": "none", "report": "test"}}, "select is none and report test; name a split for both"),
        ({"evaluation": {"select": "none", "report": "none", "every": 2}}, "every is 2, but select is none"),
    ],
)
def test_what_cannot_be_learnt_or_measured_is_refused(changes: dict[str, Any], message: str) -> None:
    assert message in wrong(**changes)


FREE = "unlabelled={splits: [train], share: 1}"


def without_labels(*words: str) -> None:
    recipe, _ = load_recipe("shapes/tiny", [*words, FREE])
    student = build_network(recipe.student, 4)
    build_objective(recipe, student, student.sizes)


@pytest.mark.parametrize(
    ("words", "lost"),
    [
        (["ifvd@cirkd", "student.aux=0"], "variation read labels and will be 0"),
        (["jml_kd"], "ce, jaccard_hard, ce_aux read labels and will be 0"),
        (["ce_jml+kd", "student.aux=0"], "no pixel has a label: there is no loss on labels"),
        (["kd+nfd", "student.aux=0"], "there is no loss on labels"),
        (["fitnet", "student.aux=0"], "there is no loss on labels"),
    ],
)
def test_terms_that_read_labels_are_told_where_there_are_none(
    words: list[str], lost: str, capsys: pytest.CaptureFixture[str]
) -> None:
    without_labels(*words)
    assert lost in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["kd"], r"and kd does not reach the student's auxiliary head; set student\.aux=0, or lower the share"),
        (
            ["nfd"],
            r"reach the student's classifier and auxiliary head; stack it with kd .* and set student\.aux=0",
        ),
        (
            ["fitnet@alone", "student.aux=0"],
            r"fitnet does not reach the student's classifier; stack it with kd \(kd\+nfd; f",
        ),
    ],
)
def test_heads_that_nothing_teaches_without_labels_are_told_before_the_teacher_is_asked(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        without_labels(*words)


def test_terms_on_labels_alone_teach_nothing_without() -> None:
    soft = [f"weights.{term}=0" for term in ("kl", "kl_aux", "jaccard_soft")]
    with pytest.raises(ConfigError, match=r"unlabelled\.share: is 1, .* add a method that reads soft labels, e\.g\. kd"):
        without_labels("jml_kd", *soft)


def test_a_baseline_has_nothing_to_learn_without_labels() -> None:
    error = told(lambda: load_recipe("shapes/tiny", ["ce_jml", "unlabelled={splits: [train], share: 1}"]))
    assert "unlabelled has splits, but there is no method" in str(error)


def test_a_floor_needs_a_split_to_measure_the_teacher_on() -> None:
    message = wrong(teacher={"floor": 20}, evaluation={"select": "none", "report": "none", "every": 0})
    assert "teacher.floor is 20, but evaluation.select is none" in message


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: open_training(folder_config(root), Unlabelled()), "data.unlabelled=DIR makes one of a folder of images"),
        (lambda root: open_training(tiny().data, Unlabelled()), "shapes has no split 'unlabelled'; its splits are train, val"),
        (lambda root: open_split(folder_config(root, unlabelled="more"), "unlabelled"), "has no labels, or secret ones"),
        (lambda root: free_names(root, "nowhere"), "nowhere is no directory; name a folder of images"),
        (lambda root: free_names(root, "images"), "the 4 images in it have masks"),
        (lambda root: free_names(root, "empty"), "pictures end in .png"),
    ],
)
def test_images_that_are_not_there_are_refused(make: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    root = pictures(tmp_path, ["train/a", "train/b", "val/c", "test/d"])
    error = told(lambda: make(root))
    assert isinstance(error, ConfigError)
    assert message in str(error)


def free_names(root: Path, folder: str) -> list[str]:
    data = open_training(folder_config(root, unlabelled=folder), Unlabelled(share=1.0))
    return [data.identity(index) for index in range(len(data))]


def test_images_with_masks_are_no_images_without(tmp_path: Path) -> None:
    """So that nothing is measured on what was trained on."""
    root = pictures(tmp_path, [f"{number}" for number in range(20)])
    for name in ("lonely", "inner/lonely"):
        put(root / "images" / f"{name}.png", photo(7))
    data = open_training(folder_config(root, unlabelled="images", orphans="skip"), Unlabelled(share=1.0))
    assert [data.identity(index) for index in range(len(data))] == ["unlabelled__inner__lonely", "unlabelled__lonely"]
    lists = {"train": "some.txt", "val": "some.txt"}
    (root / "some.txt").write_text("0\n1\n")
    whole = open_training(folder_config(root, unlabelled=".", lists=lists), Unlabelled(share=1.0))
    assert not [name for name in map(whole.identity, range(len(whole))) if "masks" in name]


def test_images_without_labels_are_looked_at_and_stored_like_others(tmp_path: Path) -> None:
    root = pictures(tmp_path / "mine", ["train/a", "train/b", "val/c", "test/d"])
    for name, image in (("e", photo(7)), ("f", photo(8)), ("g", photo(8))):
        put(root / "photos" / f"{name}.png", image)
    shutil.copy(root / "images" / "train" / "a.png", root / "photos" / "seen.png")
    config = folder_config(root, unlabelled="photos")
    found = audit(config, crop=(99, 99))
    assert (len(found.samples["unlabelled"]), found.offences) == (4, [])
    text = "\n".join(report(found))
    assert "unlabelled: 4 readable images, no labels" in text
    for note in (
        "seen is the same image as a of train",
        "g is the same image as f",
        "4 images are smaller than the crop 99x99",
    ):
        assert f"unlabelled: {note}" in text
    shutil.copy(root / "images" / "val" / "c.png", root / "photos" / "cheat.png")
    (root / "photos" / "broken.png").write_text("no picture")
    offences = audit(config, splits=["val", "unlabelled"]).offences
    assert {offence.name for offence in offences} == {"cheat", "broken"}
    assert any("is the same image as c of val; leave it in one split" in offence.message for offence in offences)
    shutil.copy(root / "masks" / "train" / "a.png", root / "photos" / "mask.png")
    assert any(
        "unlabelled: 1 images are no PNG RGB as most are, first mask, PNG" in note
        for note in audit(config, splits=["unlabelled"]).notes
    )
    (root / "photos" / "mask.png").unlink()
    (root / "photos" / "broken.png").unlink()
    store(config, tmp_path / "store")
    stored = open_training(config.model_copy(update={"store": str(tmp_path / "store")}), Unlabelled(share=0.5))
    plain = open_training(config, Unlabelled(share=0.5))
    assert len(list((tmp_path / "store" / "unlabelled").iterdir())) == 5
    for index in range(len(plain)):
        assert all(torch.equal(*pair) for pair in zip(stored.read(index), plain.read(index), strict=True))


def test_images_that_nothing_is_learnt_from_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = pictures(tmp_path / "mine", ["train/a", "train/b", "val/c", "test/d"])
    put(root / "photos" / "e.png", photo(7))
    data = {"name": "folder", "root": str(root), "classes": ["background", "road", "car"], "unlabelled": "photos"}
    execute(build({**plain(tiny("kd")), "data": data}), tmp_path / "run")
    assert "nothing is learnt from the images of data.unlabelled; unlabelled.share=0.5" in capsys.readouterr().err


def test_further_images_are_no_other_data(tmp_path: Path) -> None:
    """So that the baseline stands beside a student that learnt from more."""
    assert fingerprint(folder_recipe(tmp_path, None), ["data"]) == fingerprint(folder_recipe(tmp_path, "photos"), ["data"])


def folder_recipe(root: Path, unlabelled: str | None) -> Recipe:
    data = {"name": "folder", "root": str(root), "classes": ["a", "b"], "unlabelled": unlabelled}
    return build({**plain(tiny("ce")), "data": data})


# ----------------------------------------------------------------------------------------------------------------- rows


def test_rows_say_what_they_learnt_from(tmp_path: Path) -> None:
    where = {"evaluation": {"select": "test", "report": "test"}}
    asked = {"splits": ["val"]}
    none = build({**plain(tiny("kd", **where)), "loss": None, "weights": {"kl": 1.0}, "unlabelled": {**asked, "share": 1.0}})
    recipes = {
        "ce": (tiny("ce", **where), 50.0),
        "kd": (tiny("kd", **where), 53.0),
        "kd, + unlabelled val": (tiny("kd", **where, unlabelled=asked), 54.5),
        "kd, no labels (val)": (none, 48.0),
    }
    for name, (recipe, miou) in recipes.items():
        write_run(tmp_path / name / "seed0", recipe, miou)
    (block,) = summarise(load(tmp_path), Choices())
    assert {row.label for row in block.rows} == set(recipes)
    (line,) = block.gains
    assert line in summary(block)
    assert line == "`kd, + unlabelled val`: +1.50 points over `kd`, the same on labelled images alone (95 %: +1.50 to +1.50)"


def test_runs_from_before_compare_with_runs_of_today(tmp_path: Path) -> None:
    where = {"evaluation": {"select": "test", "report": "test"}}
    old = write_run(tmp_path / "ce" / "seed0", tiny("ce", **where), 50.0)
    write_run(tmp_path / "kd" / "seed0", tiny("kd", **where), 51.0)
    result = json.loads((old / "result.json").read_text())
    del result["parts"]["unlabelled"]
    (old / "result.json").write_text(json.dumps(result))
    (block,) = summarise(load(tmp_path), Choices())
    assert [row.label for row in block.rows] == ["ce", "kd"]


def test_a_recipe_without_is_what_it_was() -> None:
    tree = plain(tiny("kd"))
    assert tree.pop("unlabelled") is None
    assert fingerprint(build(tree)) == fingerprint(tiny("kd"))
    assert fingerprint(mixed()) != fingerprint(mixed(unlabelled=None))


def test_the_baseline_of_such_a_pair_learns_from_labels_alone() -> None:
    recipe, _ = load_recipe("camvid_small/r18_unlabelled", ["ce"])
    assert (recipe.unlabelled, recipe.teacher) == (None, None)
    assert load_recipe("camvid_small/r18_unlabelled", ["kd"])[0].unlabelled is not None
    assert draft("camvid_small/r18_unlabelled", "ce").lacks("unlabelled.share")
    assert not draft("camvid_small/r18_unlabelled", "kd").lacks("unlabelled.share")


# ------------------------------------------------------------------------------------------------------------ data sets


def test_a_sequence_that_is_held_out_of_camvid_is_a_split(tmp_path: Path) -> None:
    names = {"train": ["0001TP_1", "0006R0_f1", "0006R0_f2"], "val": ["0016E5_1"], "test": ["Seq05VD_f0"]}
    for split, stems in names.items():
        (tmp_path / f"{split}.txt").write_text("\n".join(stems))
        for stem in stems:
            put(tmp_path / split / f"{stem}.png", photo(3))
            put(tmp_path / f"{split}annot" / f"{stem}.png", np.zeros((12, 16), np.uint8))
    own = {"name": "camvid", "root": str(tmp_path)}
    held = build({**plain(tiny("ce")), "data": {**own, "held_out": ["0006R0"]}}).data
    found = {split: open_split(held, split) for split in ("train", "held", "val")}
    stems = {split: [data.identity(index) for index in range(len(data))] for split, data in found.items()}
    assert stems == {"train": ["0001TP_1"], "held": ["0006R0_f1", "0006R0_f2"], "val": ["0016E5_1"]}
    assert torch.equal(found["held"].image(0), found["held"].read(0)[0])
    with pytest.raises(ConfigError, match="no split 'held'; its splits are train, val, test"):
        open_split(build({**plain(tiny("ce")), "data": own}).data, "held")
    with pytest.raises(ConfigError, match="no training image is of 0042; the sequences are 0001TP, 0006R0"):
        open_split(build({**plain(tiny("ce")), "data": {**own, "held_out": ["0042"]}}).data, "train")


def test_soft_labels_of_images_without_labels_can_be_kept(tmp_path: Path) -> None:
    recipe = mixed(augmentation={"views": 2})
    (tmp_path / "recipe.yaml").write_text(json.dumps(plain(recipe)))
    done = call("cache-teacher", "recipe.yaml", "--to", "cache", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "soft labels of 13 images" in done.stdout
    assert execute(mixed(augmentation={"views": 2}, teacher={"cache": str(tmp_path / "cache")}), tmp_path / "run")["steps"] == 6
    with pytest.raises(ConfigError, match="was written for other images"):
        execute(mixed(augmentation={"views": 2}, teacher={"cache": str(tmp_path / "cache")}, unlabelled=None), tmp_path / "no")


def test_a_teacher_without_classes_has_no_confidence() -> None:
    features = {"name": "features", "backbone": "test_resnet", "pretrained": False}
    changes = {"teacher": features, "method": {"name": "fitnet"}, "evaluation": {"select": "test", "every": 0}}
    recipe = tiny("kd", **changes, unlabelled={"splits": ["val"], "confidence": 0.5})
    teacher = load_teacher(recipe.teacher, ("a", "b"))
    message = str(told(lambda: build_objective(recipe, build_network(recipe.student, 2), teacher.sizes)))
    assert "unlabelled.confidence: is 0.5, but this teacher gives features" in message
    free = recipe.model_copy(update={"unlabelled": Unlabelled(splits=("val",))})
    assert build_objective(free, build_network(recipe.student, 2), teacher.sizes).unlabelled is not None
