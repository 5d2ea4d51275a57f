"""Losses, methods, networks and evaluation in somebody else's loop: what would be silently wrong is refused in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kd.config import ConfigError, InputError
from kd.evaluate import Whole, evaluate
from kd.losses import KL, CrossEntropy, JaccardMetricLoss, LabelSmoothing, Loss, Mixture, soften, weighted_sum
from kd.methods import AT, CWD, DIST, IFVD, KD, SKD, JmlKd, MasKD
from kd.networks import DeepLabV3, load_network, save_network
from kd.types import IGNORE, Batch, Outputs, Sizes

SIZES = Sizes(3, 8, 4, True, (4, 8), (4, 8))
LOSSES: list[Loss] = [CrossEntropy(), KL(), JaccardMetricLoss()]


def outputs(images: int = 2, seed: int = 0, size: tuple[int, int] = (8, 12)) -> Outputs:
    source = torch.Generator().manual_seed(seed)

    def maps(channels: int, stride: int = 8) -> Tensor:
        return torch.randn(images, channels, size[0] * 8 // stride, size[1] * 8 // stride, generator=source)

    return Outputs(maps(3), maps(3), maps(4), (maps(4, 4), maps(8, 8)))


def labels(images: int = 2, size: tuple[int, int] = (64, 96)) -> Tensor:
    return torch.randint(0, 3, (images, *size), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def network() -> DeepLabV3:
    return DeepLabV3(3, backbone="test_resnet", pretrained=False, output_stride=8, width=8).eval()


def test_stages_must_be_entered() -> None:
    method = MasKD(SIZES, SIZES)
    with pytest.raises(ValueError, match=r"stages tokens \(0\.25\), then distil \(1\).*call method\.enter\(stage\)"):
        method(outputs(), outputs(seed=1), labels())
    reached = {}
    for stage in method.stages:
        method.enter(stage)
        student = outputs()
        student.logits.requires_grad_()
        sum(method(student, outputs(seed=1), labels()).values()).backward()  # type: ignore[union-attr]
        reached[stage.name] = student.logits.grad is not None
    assert reached == {"tokens": False, "distil": True}


def test_a_weight_without_a_term_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"weights\.feature: nothing computes 'feature' \(terms: logit\)"):
        weighted_sum(CWD(SIZES, SIZES)(outputs(), outputs(seed=1), labels()), {"logit": 3, "feature": 50})


def test_an_evaluation_changes_no_network(network: DeepLabV3) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    batch = Batch(torch.zeros(1, 3, 64, 96, dtype=torch.uint8), labels(1), ids=("a",))
    with pytest.raises(ValueError, match=r"in train mode.*call \.eval\(\) first"):
        evaluate(network.train(), [batch], 3, Whole())
    with pytest.raises(ValueError, match="in train mode"):
        evaluate(network.eval(), [batch], 3, Whole(), teacher=nn.Sequential().train())
    evaluate(network, [batch], 3, Whole())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    for words, error, call in (
        ("thresholds: part two classes", ValueError, lambda: evaluate(network, [batch], 3, Whole(), thresholds=True)),
        (r"a batch is a tuple; give kd\.types\.Batch", TypeError, lambda: evaluate(network, [(1, 2)], 3, Whole())),  # type: ignore[list-item]
        ("gives a Tensor; wrap its logits", TypeError, lambda: evaluate(lambda image: image, [batch], 3, Whole())),  # type: ignore[arg-type,return-value]
    ):
        with pytest.raises(error, match=words):
            call()


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_soft_labels_are_probabilities(loss: Loss) -> None:
    logits = torch.randn(2, 3, 8, 9, generator=torch.Generator().manual_seed(0))
    for wrong in (logits, logits.softmax(1) * 0.3, torch.full_like(logits, float("nan"))):
        with pytest.raises(ValueError, match=r"soft labels are probabilities.*Give logits\.softmax\(1\)"):
            loss(logits, wrong)
    nowhere = torch.zeros(2, 8, 9, dtype=torch.bool)
    assert float(loss(logits, logits, nowhere)) == 0
    loss(logits, logits.softmax(1).bfloat16())


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_one_channel_is_refused_and_no_image_is_0(loss: Loss) -> None:
    one = torch.randn(2, 1, 8, 9, requires_grad=True)
    for target in (torch.rand(2, 1, 8, 9), torch.zeros(2, 8, 9, dtype=torch.long)):
        with pytest.raises(ValueError, match=r"of one class.*two channels, background and foreground"):
            loss(one, target)
    none = torch.randn(0, 3, 8, 9, requires_grad=True)
    value = loss(none, torch.zeros(0, 8, 9, dtype=torch.long))
    assert float(value) == 0
    value.backward()
    mixture = Mixture({"it": loss}).terms(Outputs(none), torch.zeros(0, 16, 18, dtype=torch.long))
    assert float(mixture["it"]) == 0


def test_no_term_is_called_like_a_word_of_torch() -> None:
    with pytest.raises(ConfigError, match="loss has a term 'half', which is a word of torch's own"):
        Mixture({"half": CrossEntropy()})


def test_no_class_weight_is_negative() -> None:
    for kind in (CrossEntropy, JaccardMetricLoss):
        with pytest.raises(ConfigError, match=r"class_weights\.1: is -2\.0"):
            kind(class_weights=(1.0, -2.0, 1.0))


@pytest.mark.parametrize("method", [KD(SIZES, SIZES), DIST(SIZES, SIZES), AT(SIZES, SIZES), JmlKd(SIZES, SIZES)], ids=str)
def test_what_a_method_is_given_belongs_together(method: Any) -> None:
    with pytest.raises(ValueError, match="looked at 2 and 1 images"):
        method(outputs(2), outputs(1), labels(2))
    with pytest.raises(ValueError, match=r"labels are \(3, 64, 96\)"):
        method(outputs(), outputs(seed=1), labels(3))
    with pytest.raises(TypeError, match=r"teacher is a Tensor; .*kd\.types\.Outputs\(logits\)"):
        method(outputs(), outputs().logits, labels())
    with pytest.raises(TypeError, match=r"labels are torch\.float32"):
        method(outputs(), outputs(seed=1), labels().float())
    with pytest.raises(ValueError, match="hold label 77"):
        method(outputs(), outputs(seed=1), labels().index_fill(1, torch.tensor([40]), 77))


def test_labels_of_any_integer_type_do() -> None:
    method = IFVD(SIZES, SIZES, adversary=None)
    wanted = method(outputs(), outputs(seed=1), labels())
    for kind in (torch.uint8, torch.int32):
        assert method(outputs(), outputs(seed=1), labels().to(kind)) == wanted


def test_networks_of_other_classes_are_no_pair() -> None:
    with pytest.raises(ConfigError, match="the student has 3 classes, the teacher 4"):
        KD(SIZES, Sizes(4, 8, 4, True))


def test_a_players_parameters_are_its_own() -> None:
    method = SKD(SIZES, SIZES.on_crop(64, 96))
    joint, whole = {id(p) for p in method.joint_parameters()}, {id(p) for p in method.parameters()}
    critic = {id(parameter) for module, _ in method.players().values() for parameter in module.parameters()}
    assert critic
    assert joint == whole - critic
    with pytest.raises(ValueError, match=r"teacher\.sizes\.on_crop\(H, W\)"):
        SKD(SIZES, SIZES)(outputs(), outputs(seed=1), labels())
    assert all(value.isfinite() for value in method(outputs(), outputs(seed=1), labels()).values())


def test_what_is_saved_can_be_loaded(network: DeepLabV3, tmp_path: Path) -> None:
    facts = {"classes": ("a", "b", "c")}
    for number, wrapped in enumerate((network, torch.compile(network), nn.DataParallel(network))):
        save_network(wrapped, tmp_path / str(number), "student", facts)  # type: ignore[arg-type]
        loaded, card = load_network(tmp_path / str(number))
        assert all(torch.equal(value, network.state_dict()[name]) for name, value in loaded.state_dict().items())
        assert card["classes"] == ["a", "b", "c"]
    for wrong, told in (
        ({}, "classes is None"),
        ({"classes": "abc"}, "classes is 'abc'"),
        ({"classes": ["a", "b"]}, "the network has 3"),
        ({"classes": ["a", "a", "b"]}, "the network has 3, each with a name of its own"),
        ({**facts, "network": 1}, "has the key network"),
        ({**facts, "score": np.float64(3)}, "cannot be written as YAML"),
    ):
        with pytest.raises(InputError, match=told):
            save_network(network, tmp_path / "no", "student", wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="is a Conv2d"):
        save_network(nn.Conv2d(3, 3, 1), tmp_path / "no", "student", facts)  # type: ignore[arg-type]
    assert not (tmp_path / "no").exists()


def test_images_of_any_float_type_do_and_what_is_none_is_refused(network: DeepLabV3) -> None:
    image = torch.rand(1, 3, 64, 96)
    wanted = network(image).logits
    torch.testing.assert_close(network(image.double()).logits, wanted)
    with pytest.raises(ValueError, match="channels first"):
        network(image.movedim(1, -1))
    with pytest.raises(TypeError, match="image is a ndarray; it must be a tensor"):
        network(image.numpy())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="of a Batch its image"):
        network(Batch(image, labels(1)))  # type: ignore[arg-type]
    for classes in (0, 1, ("a", "b")):
        with pytest.raises(ConfigError, match=r"classes: is .*; give their number, 2 or more"):
            DeepLabV3(classes, backbone="test_resnet", pretrained=False)  # type: ignore[arg-type]


def test_labels_are_smoothed_by_hand() -> None:
    target = labels()
    target[:, :8] = IGNORE
    soft, keep = soften(target, 3, LabelSmoothing(where="everywhere", epsilon=0.3))
    assert float(CrossEntropy()(torch.zeros(2, 3, 64, 96), soft, keep)) == pytest.approx(np.log(3))
