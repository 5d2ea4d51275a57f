"""Networks of other libraries teach what their own pipelines say; ensembles and augmentation are means of probabilities."""

from __future__ import annotations

import importlib
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file, save_file
from test_teachers import OWN, WANTED, build
from tiny import STUDENT, execute, tiny
from torch import Tensor, nn

from kd.config import ConfigError
from kd.recipe.schema import build as recipe_of
from kd.recipe.schema import fingerprint, plain
from kd.types import Batch
from teachers import Teacher
from teachers.foreign import canonical, matched, measured

PARTS = Path(__file__).parent.parent / "recipes" / "_parts" / "teacher"
MEAN, STD = (0.48, 0.45, 0.40), (0.23, 0.22, 0.21)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SEGFORMER = {
    "depths": [1, 1, 1, 1],
    "hidden_sizes": [8, 16, 24, 32],
    "num_attention_heads": [1, 2, 2, 4],
    "decoder_hidden_size": 16,
    "sr_ratios": [2, 2, 1, 1],
}


def picture(height: int = 64, width: int = 96) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    coarse = torch.rand(2, 3, 7, 9, generator=generator)
    return (F.interpolate(coarse, (height, width), mode="bilinear") * 255).to(torch.uint8)


def batch(height: int = 64, width: int = 96) -> Batch:
    return Batch(picture(height, width), torch.zeros(2, height, width, dtype=torch.long), ("a", "b"))


def normal(image: Tensor, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD) -> Tensor:
    centre, width = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))
    return (image / 255 - centre) / width


def exactly(image: Tensor, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD) -> Tensor:
    """In float64, where two ways to the same number do not drift apart over a hundred layers."""
    centre, width = (torch.tensor(values).view(1, 3, 1, 1).double() for values in (mean, std))
    return (image.double() / 255 - centre) / width


@torch.no_grad()
def lively(network: nn.Module, look: Any) -> nn.Module:
    """Batch norm with random scales and the statistics of an image, so that no layer is dead and none explodes."""
    for norm in (part for part in network.modules() if isinstance(part, nn.BatchNorm2d)):
        norm.momentum = 1.0
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_(0, 0.2)
    look(network.train())
    return network.eval()


def permuted(probabilities: Tensor) -> Tensor:
    """Channels in OWN's order brought into WANTED's."""
    return probabilities[:, [OWN.index(name) for name in WANTED]]


def close(found: Tensor, wanted: Tensor) -> None:
    assert wanted.std() > 0.01  # else everything would be equal
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() < 1e-5


def behaves(teacher: Teacher) -> None:
    """What every teacher owes: true sizes, odd sizes, autocast, no gradient, no training, all its tensors on one device."""
    outputs, sizes = teacher(batch(64, 128)), teacher.sizes
    assert outputs.logits.shape == (2, sizes.classes, 64 // sizes.stride, 128 // sizes.stride)
    assert (outputs.aux_logits is not None) == sizes.aux
    assert (0 if outputs.embedding is None else outputs.embedding.shape[1]) == sizes.embedding
    assert tuple(level.shape[1] for level in outputs.pyramid) == sizes.pyramid
    assert tuple(64 // level.shape[-2] for level in outputs.pyramid) == sizes.pyramid_strides
    assert list(sizes.pyramid_strides) == sorted(sizes.pyramid_strides)
    assert teacher.probabilities(batch(61, 93)).shape == (2, sizes.classes, 61, 93)
    with torch.autocast("cpu", torch.bfloat16):
        rough = teacher.probabilities(batch())
    assert rough.dtype == torch.float32
    assert (rough - teacher.probabilities(batch())).abs().mean() < 0.05
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not any(part.training for part in teacher.train().modules())
    loose = [value for part in teacher.modules() for value in vars(part).values() if isinstance(value, Tensor)]
    assert not loose
    moved = teacher.to("meta")
    assert {value.device.type for value in (*moved.parameters(), *moved.buffers())} == {"meta"}


# ------------------------------------------------------------------------------------------------------- transformers


@pytest.fixture(scope="module")
def segformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SegFormer whose labels are spelt in its own way."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    names = dict(enumerate(("Road", "sky", "race-car", "TREE")))
    config = transformers.SegformerConfig(**SEGFORMER, id2label=names, label2id={name: key for key, name in names.items()})
    model = transformers.SegformerForSemanticSegmentation(config)
    model.decode_head.classifier.weight.data *= 30
    folder = tmp_path_factory.mktemp("segformer")
    lively(model, lambda network: network(normal(picture()))).save_pretrained(folder)
    transformers.SegformerImageProcessor(image_mean=MEAN, image_std=STD).save_pretrained(folder)
    return folder


RACE = {"race-car": "car"}


def hf(folder: Path | str, classes: tuple[str, ...] = OWN, **knobs: Any) -> Teacher:
    return build({"name": "hf", "path": str(folder), **knobs}, classes)


@pytest.mark.parametrize(("height", "width"), [(64, 96), (61, 93)])
def test_hf_is_the_librarys_own_pipeline(segformer: Path, height: int, width: int) -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.SegformerForSemanticSegmentation.from_pretrained(segformer).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(segformer)
    image = picture(height, width)
    inputs = processor(list(image), do_resize=False, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits
    wanted = F.interpolate(logits, (height, width), mode="bilinear", align_corners=False).softmax(1)
    teacher = hf(segformer, rename=RACE)
    close(teacher.probabilities(batch(height, width)), wanted)
    close(hf(segformer, WANTED, rename=RACE).probabilities(batch(height, width)), permuted(wanted))
    maps = processor.post_process_semantic_segmentation(model(**inputs), target_sizes=[(height, width)] * 2)
    assert torch.equal(teacher.probabilities(batch(height, width)).argmax(1), torch.stack(maps))


def test_hf_behaves(segformer: Path) -> None:
    teacher = hf(segformer, rename=RACE)
    assert (teacher.sizes.stride, teacher.sizes.embedding) == (4, 16)
    assert (teacher.sizes.pyramid, teacher.sizes.pyramid_strides) == ((8, 16, 24, 32), (4, 8, 16, 32))
    assert teacher.sizes.fields == {"logits", "embedding", "pyramid"}
    outputs = teacher(batch())
    classifier = teacher.network.model.decode_head.classifier
    torch.testing.assert_close(classifier(outputs.embedding), outputs.logits)
    assert not classifier._forward_pre_hooks
    assert teacher.mark == hf(segformer, rename=RACE).mark
    behaves(teacher)


def test_hf_takes_the_older_name_of_its_path(segformer: Path, tmp_path: Path) -> None:
    old = build({"name": "hf", "model": str(segformer), "rename": RACE}, OWN)
    assert (old.mark, old.source) == (hf(segformer, rename=RACE).mark, str(segformer))
    with pytest.raises(ConfigError, match=r"^teacher.model: .*gone gives no network"):
        build({"name": "hf", "model": str(tmp_path / "gone")}, OWN)
    for values, words in (({}, "has no path; give"), ({"path": "a", "model": "b"}, "has the path a and the model b, names of")):
        with pytest.raises(ConfigError, match=rf"^teacher: {words}"):
            recipe_of(tree({"name": "hf", **values}))


def copied(folder: Path, target: Path, **changed: Tensor) -> Path:
    """A teacher's files with some of its tensors replaced or added."""
    shutil.copytree(folder, target)
    save_file({**load_file(target / "model.safetensors"), **changed}, target / "model.safetensors", {"format": "pt"})
    return target


def test_hf_keeps_the_librarys_bars_and_warnings_to_itself(
    segformer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = importlib.import_module("transformers.utils.logging")
    before = (told.get_verbosity(), told.is_progress_bar_enabled())
    records: list[logging.LogRecord] = []
    listener = logging.Handler()
    listener.emit = records.append  # type: ignore[method-assign]
    library = logging.getLogger("transformers")
    library.addHandler(listener)
    hf(copied(segformer, tmp_path / "more", surplus=torch.zeros(2)), rename=RACE)
    library.removeHandler(listener)
    assert not [record.getMessage() for record in records]
    assert capsys.readouterr() == ("", "")
    assert (told.get_verbosity(), told.is_progress_bar_enabled()) == before


def test_hf_says_which_tensors_would_stay_random(segformer: Path, tmp_path: Path) -> None:
    other = copied(segformer, tmp_path / "other", **{"decode_head.classifier.bias": torch.zeros(7)})
    with pytest.raises(ConfigError, match=r"^teacher.path: .*other has 1 tensors .* says, first decode_head\.classifier\.bias"):
        hf(other, rename=RACE)


def test_hf_says_where_it_normalises_by_guess(segformer: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((segformer / name).read_bytes())
    teacher = hf(tmp_path, rename=RACE)
    assert teacher.source == f"{tmp_path} (no image processor: ImageNet's normalisation is assumed)"
    torch.testing.assert_close(teacher.network.pixels(picture()), normal(picture(), *IMAGENET))


def test_hf_follows_the_processors_switches(segformer: Path, tmp_path: Path) -> None:
    import json

    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((segformer / name).read_bytes())
    card = {"image_processor_type": "MobileViTImageProcessor", "do_rescale": True, "do_flip_channel_order": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(card))
    torch.testing.assert_close(hf(tmp_path, rename=RACE).network.pixels(picture()), picture().flip(1) / 255)


def test_hf_refuses_other_classes_and_wrong_names(segformer: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing in the teacher: car; unknown .*: race-car.* set teacher.rename"):
        hf(segformer)
    with pytest.raises(ConfigError, match=r"^teacher.rename: the teacher has no class 'lorry' .* are Road, sky, race-car"):
        hf(segformer, rename={"lorry": "car"})
    with pytest.raises(ConfigError, match=r"^teacher.rename: the data set has no class 'lorry' .* are road, sky, car, tree"):
        hf(segformer, rename={"race-car": "lorry"})


def test_hf_refuses_backbones_pickles_and_the_unreachable(segformer: Path, tmp_path: Path, monkeypatch: Any) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    backbone = tmp_path / "backbone"
    transformers.SegformerForSemanticSegmentation.from_pretrained(segformer).segformer.save_pretrained(backbone)
    with pytest.raises(ConfigError, match=r"lacks \d+ tensors of SegformerForSemanticSegmentation, first decode_head\."):
        hf(backbone)
    evil = tmp_path / "evil"
    evil.mkdir()
    (evil / "config.json").write_bytes((segformer / "config.json").read_bytes())
    torch.save({"a": Path("x")}, evil / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"^teacher.path: .*evil gives no network"):
        hf(evil)
    hub = importlib.import_module("huggingface_hub.constants")
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)  # as the variable in the environment does
    with pytest.raises(ConfigError, match=r"^teacher.path: nobody/nothing gives no network .* HF_HUB_OFFLINE=1\)$") as failure:
        hf("nobody/nothing")
    assert "\n" not in str(failure.value)
    with pytest.raises(ConfigError, match=r"^teacher.path: .*gone gives no network"):
        hf(tmp_path / "gone")


# -------------------------------------------------------------------------------------------------------- torchvision


def tv(name: str, folder: Path, **knobs: Any) -> tuple[Any, Path]:
    from torchvision.models import get_model

    torch.manual_seed(0)
    auxiliary = {} if "lraspp" in name else {"aux_loss": True}
    model = get_model(name, weights=None, weights_backbone=None, num_classes=4, **auxiliary)
    file = folder / f"{name}.pth"
    torch.save(lively(model, lambda network: network(normal(picture(), *IMAGENET))).state_dict(), file)
    return model, file


@pytest.mark.parametrize(
    ("name", "stride", "fields"),
    [
        ("deeplabv3_mobilenet_v3_large", 16, {"logits", "aux_logits", "embedding", "pyramid"}),
        ("fcn_resnet50", 8, {"logits", "aux_logits", "embedding", "pyramid"}),
        ("lraspp_mobilenet_v3_large", 8, {"logits", "pyramid"}),
    ],
)
def test_torchvision_is_the_librarys_own_pipeline(tmp_path: Path, name: str, stride: int, fields: set[str]) -> None:
    model, file = tv(name, tmp_path)
    values = {"name": "torchvision", "model": name, "path": str(file)}
    teacher = build(values, OWN)
    assert build({"name": "torchvision", "model": name, "weights": str(file)}, OWN).mark == teacher.mark  # as it was called
    with torch.no_grad():
        wanted = model.double()(exactly(picture(61, 93), *IMAGENET))
    found = teacher.double()(batch(61, 93))
    close(teacher.probabilities(batch(61, 93)), wanted["out"].softmax(1))
    if "aux" in wanted:
        close(found.at((61, 93), "aux_logits").softmax(1), wanted["aux"].softmax(1))
    other = build({**values, "classes": OWN}, WANTED).double()
    close(other.probabilities(batch(61, 93)), permuted(wanted["out"].softmax(1)))
    assert (teacher.sizes.stride, set(teacher.sizes.fields)) == (stride, fields)
    assert other.mark == teacher.mark
    behaves(teacher.float())


def test_torchvisions_own_weights_name_their_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The download is replaced; names, normalisation and the builder's arguments are torchvision's."""
    from torchvision.models import get_model_weights

    entry = get_model_weights("lraspp_mobilenet_v3_large").DEFAULT
    from torchvision.models import get_model

    torch.manual_seed(0)
    model = get_model("lraspp_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=21)
    state = lively(model, lambda network: network(normal(picture(), *IMAGENET))).state_dict()
    torch.save(state, tmp_path / "weights.pth")
    monkeypatch.setattr("teachers.torchvision._fetched", lambda url: tmp_path / "weights.pth")
    voc = ("background", *entry.meta["categories"][1:])
    turned = tuple(reversed([{"pottedplant": "potted plant", "tvmonitor": "TV"}.get(name, name) for name in voc]))
    values = {"name": "torchvision", "model": "lraspp_mobilenet_v3_large", "rename": {"tvmonitor": "TV"}}
    teacher, other = build({**values, "rename": {}}, voc), build(values, turned)
    close(other.probabilities(batch()), teacher.probabilities(batch()).flip(1))
    torch.testing.assert_close(teacher.network.pixels(picture()), normal(picture(), *IMAGENET))
    with pytest.raises(ConfigError, match="knows 21 classes, the data set has 4"):
        build({**values, "rename": {}}, OWN)


def test_torchvision_refuses_what_does_not_fit(tmp_path: Path) -> None:
    _, file = tv("lraspp_mobilenet_v3_large", tmp_path)
    for knobs, words in (
        ({"model": "deeplab"}, r"^teacher.model: 'deeplab' is no segmentation model .* fcn_resnet50"),
        ({"weights": "COCO"}, r"^teacher.weights: 'COCO' is neither a file nor weights .* COCO_WITH_VOC_LABELS_V1"),
        ({"weights": str(tmp_path / "no.pth")}, "^teacher.weights: .*no.pth does not exist"),
        ({"path": str(tmp_path / "no")}, "^teacher.path: .*no does not exist"),
        ({"path": str(file)}, "^teacher.path: .* does not hold the weights of deeplabv3_resnet101"),
        ({"classes": OWN}, r"^teacher.classes: .* names its classes itself; use teacher.rename"),
        ({"path": str(file), "rename": {"a": "b"}}, r"^teacher.rename: a file has no names of classes"),
    ):
        with pytest.raises(ConfigError, match=words):
            build({"name": "torchvision", **knobs}, OWN)
    with pytest.raises(ConfigError, match="has 4 classes, the data set has 2"):
        build({"name": "torchvision", "model": "lraspp_mobilenet_v3_large", "path": str(file)}, OWN[:2])
    with pytest.raises(ConfigError, match=r"^teacher: has the path a\.pth and the weights b\.pth; drop one"):
        recipe_of(tree({"name": "torchvision", "path": "a.pth", "weights": "b.pth"}))


# ---------------------------------------------------------------------------------------- segmentation_models_pytorch


def smp_model(folder: Path, name: str = "Unet", **knobs: Any) -> Any:
    smp = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    model = getattr(smp, name)("resnet18", encoder_weights=None, classes=4, **knobs)
    lively(model, lambda network: network(normal(picture()))).save_pretrained(folder)
    return model


def from_smp(folder: Path, wanted: tuple[str, ...] = OWN, **knobs: Any) -> Teacher:
    return build({"name": "smp", "path": str(folder), "mean": MEAN, "std": STD, **knobs}, wanted)


@pytest.mark.parametrize(("name", "sides"), [("DeepLabV3Plus", (64, 96)), ("FPN", (64, 96)), ("Unet", (61, 93))])
def test_smp_is_the_librarys_own_pipeline(tmp_path: Path, name: str, sides: tuple[int, int]) -> None:
    model = smp_model(tmp_path, name, activation="softmax2d")
    with torch.no_grad():
        wanted = model.double()(exactly(picture(*sides)))  # the library's activation makes probabilities
    teacher = from_smp(tmp_path)
    close(teacher.double().probabilities(batch(*sides)), wanted)
    close(from_smp(tmp_path, WANTED, classes=OWN).double().probabilities(batch(*sides)), permuted(wanted))
    assert teacher.sizes.stride == 1
    behaves(teacher.float())


def test_smp_is_padded_to_what_the_library_needs(tmp_path: Path) -> None:
    model = smp_model(tmp_path, "FPN")
    padded = F.pad(normal(picture(61, 93)), (0, 3, 0, 3))
    with torch.no_grad():
        wanted = model(padded)[..., :61, :93].softmax(1)
    teacher = from_smp(tmp_path)
    close(teacher.probabilities(batch(61, 93)), wanted)
    outputs = teacher(batch(61, 93))
    assert outputs.embedding.shape[-2:] == (16, 24)
    assert [tuple(level.shape[-2:]) for level in outputs.pyramid] == [(31, 47), (16, 24), (8, 12), (4, 6), (2, 3)]


def test_smp_must_know_its_normalisation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smp_model(tmp_path)
    with pytest.raises(ConfigError, match=r"^teacher.mean: how .* cannot be found out .* set teacher.mean and teacher.std"):
        from_smp(tmp_path, mean=None, std=None)
    with pytest.raises(ConfigError, match=r"^teacher.mean: mean and std belong together"):
        from_smp(tmp_path, std=None)
    encoders = importlib.import_module("segmentation_models_pytorch.encoders")
    facts = {"input_space": "BGR", "input_range": [0, 255], "mean": [104.0, 117.0, 123.0], "std": [1.0, 1.0, 1.0]}
    monkeypatch.setattr(encoders, "get_preprocessing_params", lambda name, pretrained: facts)
    pixels = from_smp(tmp_path, mean=None, std=None).network.pixels
    torch.testing.assert_close(pixels(picture()), picture().flip(1) - torch.tensor(facts["mean"]).view(1, 3, 1, 1))


def test_smp_refuses_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^teacher.path: .* gives no model of segmentation_models_pytorch"):
        from_smp(tmp_path / "gone")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"^teacher.path: .* gives no model of segmentation_models_pytorch"):
        from_smp(tmp_path)


# ------------------------------------------------------------------------------------------- ensembles, augmentation

AUX = {**STUDENT, "output_stride": 16}
MEMBERS = [{"name": "fresh", "network": AUX}, {"name": "fresh", "network": {**AUX, "width": 16, "align_corners": True}}]


def ensemble(**knobs: Any) -> Teacher:
    torch.manual_seed(0)
    return lively_teacher(build({"name": "ensemble", "members": MEMBERS, **knobs}, OWN))


def lively_teacher(teacher: Teacher) -> Teacher:
    for name, parameter in teacher.named_parameters():
        if name.endswith("conv.weight") and "classifier" in name:
            parameter.data.mul_(40)
    return teacher


@pytest.mark.parametrize(("weights", "shares"), [(None, (0.5, 0.5)), ((3.0, 1.0), (0.75, 0.25))])
def test_an_ensemble_is_the_mean_of_probabilities(weights: tuple[float, ...] | None, shares: tuple[float, float]) -> None:
    teacher = ensemble(weights=weights)
    parts = [member.probabilities(batch(61, 93)) for member in teacher.members]
    assert (parts[0] - parts[1]).abs().max() > 0.05
    close(teacher.probabilities(batch(61, 93)), shares[0] * parts[0] + shares[1] * parts[1])
    aux = [member(batch(61, 93)).at((61, 93), "aux_logits").softmax(1) for member in teacher.members]
    found = teacher(batch(61, 93)).aux_logits
    torch.testing.assert_close(found.exp(), shares[0] * aux[0] + shares[1] * aux[1])
    assert (teacher.sizes.stride, set(teacher.sizes.fields)) == (1, {"logits", "aux_logits"})
    behaves(teacher)


def test_an_ensemble_has_auxiliary_logits_only_if_all_have() -> None:
    members = [MEMBERS[0], {"name": "fresh", "network": {**AUX, "aux": 0}}]
    teacher = ensemble(members=members)
    assert teacher(batch()).aux_logits is None
    behaves(teacher)


def test_certain_members_make_no_infinity() -> None:
    teacher = ensemble()
    for member, certain in zip(teacher.members, (0, 1), strict=True):
        member.network.head.classifier.conv.weight.data.zero_()
        member.network.head.classifier.conv.bias.data = torch.tensor([1e4 * (channel == certain) for channel in range(4)])
    logits = teacher(batch()).logits
    assert torch.isfinite(logits).all()
    torch.testing.assert_close(logits.softmax(1)[0, :, 0, 0], torch.tensor([0.5, 0.5, 0.0, 0.0]))


def test_an_ensembles_mark_follows_its_members(tmp_path: Path) -> None:
    smp_model(tmp_path)
    one = {"name": "smp", "path": str(tmp_path), "mean": MEAN, "std": STD}
    marks = [build({"name": "ensemble", "members": [one, *MEMBERS[:1]]}, OWN).mark for _ in range(2)]
    other = build({"name": "ensemble", "members": [*MEMBERS[:1], one]}, OWN).mark
    assert marks[0] == marks[1] != other
    augmented = build({"name": "augmented", "teacher": one}, OWN)
    assert augmented.mark == from_smp(tmp_path).mark


@pytest.mark.parametrize(("flip", "scales"), [(True, (1.0,)), (False, (1.0,)), (True, (0.75, 1.0, 1.25))])
def test_augmentation_is_the_mean_over_views(flip: bool, scales: tuple[float, ...]) -> None:
    torch.manual_seed(0)
    values = {"name": "augmented", "teacher": MEMBERS[0], "flip": flip, "scales": scales}
    teacher = lively_teacher(build(values, OWN))
    image, parts = picture(61, 93), []
    for scale in scales:
        size = (round(61 * scale), round(93 * scale))
        seen = F.interpolate(image.float(), size, mode="bilinear", antialias=True).round().to(torch.uint8)
        for mirrored in (False, True) if flip else (False,):
            found = teacher.inner.look(seen.flip(-1) if mirrored else seen).at((61, 93)).softmax(1)
            parts.append(found.flip(-1) if mirrored else found)
    close(teacher.probabilities(batch(61, 93)), torch.stack(parts).mean(0))
    assert teacher.sizes.fields == {"logits", "aux_logits"}
    behaves(teacher)


def test_a_mirrored_image_gets_the_mirrored_answer() -> None:
    torch.manual_seed(0)
    teacher = lively_teacher(build({"name": "augmented", "teacher": MEMBERS[0]}, OWN))
    mirrored = Batch(picture().flip(-1), None)
    close(teacher.probabilities(mirrored), teacher.probabilities(batch()).flip(-1))


def tree(teacher: dict[str, Any]) -> dict[str, Any]:
    return {"data": {"name": "shapes"}, "student": STUDENT, "method": {"name": "kd"}, "weights": {"kl": 1}, "teacher": teacher}


@pytest.mark.parametrize(
    ("teacher", "words"),
    [
        ({"name": "ensemble", "members": [{"name": "run"}, MEMBERS[0]]}, "teacher.members.0.path: is required"),
        ({"name": "ensemble", "members": [MEMBERS[0], {"name": "ran"}]}, "teacher.members.1: 'ran' is no Teacher here"),
        ({"name": "ensemble", "members": [MEMBERS[0], {"path": "x"}]}, "teacher.members.1: needs a name"),
        (
            {"name": "ensemble", "members": [MEMBERS[0], {"name": "run", "path": "x", "pth": 1}]},
            "teacher.members.1.pth: there is",
        ),
        ({"name": "ensemble", "members": MEMBERS[:1]}, "teacher.members: "),
        ({"name": "ensemble", "members": [MEMBERS[0], {**MEMBERS[1], "floor": 3}]}, "teacher.members.1: has a floor, but only"),
        ({"name": "ensemble", "members": MEMBERS, "weights": [1.0]}, r"teacher: weights are \[1.0\]; give one number"),
        ({"name": "ensemble", "members": MEMBERS, "weights": [1.0, 0.0]}, r"teacher: weights are \[1.0, 0.0\]; give one"),
        ({"name": "augmented", "teacher": {"name": "run"}}, "teacher.teacher.path: is required"),
        (
            {"name": "augmented", "teacher": MEMBERS[0], "scales": [0.0]},
            r"teacher.scales: are \[0.0\]; a scale must be above 0",
        ),
    ],
)
def test_nested_teachers_are_checked_with_the_recipe(teacher: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{words}"):
        recipe_of(tree(teacher))


def test_errors_of_members_name_the_member(tmp_path: Path) -> None:
    gone = {"name": "run", "path": str(tmp_path / "gone")}
    with pytest.raises(ConfigError, match=r"^teacher.members.1.path: .*gone/student.safetensors: is missing"):
        build({"name": "ensemble", "members": [MEMBERS[0], gone]}, OWN)
    with pytest.raises(ConfigError, match=r"^teacher.teacher.path: .*gone/student.safetensors: is missing"):
        build({"name": "augmented", "teacher": gone}, OWN)
    nested = {"name": "ensemble", "members": [MEMBERS[0], {"name": "augmented", "teacher": gone}]}
    with pytest.raises(ConfigError, match=r"^teacher.members.1.teacher.path: .*gone"):
        build(nested, OWN)


# ------------------------------------------------------------------------------------------------- helpers and a run


def test_names_are_matched_by_letters_and_digits() -> None:
    assert canonical("Traffic_Light") == canonical("traffic light") == canonical("traffic-light") == "trafficlight"
    assert canonical("__background__") == "background"
    assert matched(("B_b", "aa", "x"), ("a a", "bb", "c"), {"X": "C"}, "it") == ("bb", "a a", "c")


def test_networks_for_one_size_only_are_refused() -> None:
    def picky(image: Tensor) -> Any:
        raise ValueError("Input image size (128*192) doesn't match model (224*224).")

    with pytest.raises(ConfigError, match=r"^teacher: cannot look at an image of 128 x 192 pixels \(Input image size"):
        measured(picky)


@pytest.mark.parametrize(
    "part", ["cirkd_dl3_r101_citys", "cirkd_dl3_r101_voc", "hf_segformer_b5_citys", "torchvision_dl3_r101_voc"]
)
def test_the_parts_of_recipes_are_valid(part: str) -> None:
    values = yaml.safe_load((PARTS / f"{part}.yaml").read_text())["teacher"]
    recipe = recipe_of(tree(values))
    assert recipe.teacher.floor >= 60
    assert recipe_of(plain(recipe)) == recipe


@pytest.mark.parametrize(
    ("teacher", "mark"),
    [
        ({"name": "hf", "model": "a/b"}, "40d14f9b0f7b"),
        ({"name": "torchvision", "weights": "a.pth"}, "4b1cc2822e38"),
        ({"name": "ensemble", "members": [{"name": "hf", "model": "a/b"}, {"name": "torchvision"}]}, "3285e0171cbe"),
        ({"name": "augmented", "teacher": {"name": "hf", "model": "a/b"}}, "9786744f8cd4"),
    ],
)
def test_what_was_written_before_there_was_a_path_is_the_same_run(teacher: dict[str, Any], mark: str) -> None:
    assert fingerprint(recipe_of(tree(teacher)), ["teacher"]) == mark


def test_nested_teachers_survive_being_written_down() -> None:
    recipe = recipe_of(tree({"name": "ensemble", "members": [MEMBERS[0], {"name": "augmented", "teacher": MEMBERS[1]}]}))
    assert plain(recipe)["teacher"]["members"][1]["teacher"]["network"] == MEMBERS[1]["network"]
    assert recipe_of(plain(recipe)) == recipe


@pytest.mark.parametrize("kind", ["smp", "ensemble"])
def test_a_foreign_teacher_trains_a_student(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    from kd.data.build import open_split

    classes = open_split(tiny().data, "train").classes
    smp.Unet("resnet18", encoder_weights=None, classes=len(classes)).save_pretrained(tmp_path / "teacher")
    one = {"name": "smp", "path": str(tmp_path / "teacher"), "mean": list(MEAN), "std": list(STD)}
    teacher = one if kind == "smp" else {"name": "ensemble", "members": [one, {"name": "fresh", "network": STUDENT}]}
    result = execute(tiny("kd", teacher=teacher), tmp_path / "run")
    assert result["teacher"]["mark"]
    assert f"teacher {result['teacher']['source']}: {result['teacher']['mIoU']:.2f} mIoU on val" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"^teacher.floor: .* below the floor of 99.0. Check that it was trained on these"):
        execute(tiny("kd", teacher={**teacher, "floor": 99}), tmp_path / "other")
