"""A teacher from torchvision.models.segmentation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from kd.config import ConfigError
from kd.content import ContentPath, file_mark
from kd.files import at_home
from kd.keywords import keywords
from kd.networks.weight_files import read_state_dict, weights_mark
from kd.reachability import reachable
from kd.types import Outputs
from teachers.class_groups import Groups
from teachers.foreign import IMAGENET_MEAN, IMAGENET_STD, Pixels, by_name, by_number, install_hint, measured
from teachers.teacher import Teacher

RESNET_LEVELS = ("layer1", "layer2", "layer3")
OWN_WEIGHTS = "COCO_WITH_VOC_LABELS_V1"
DIGEST = re.compile(r"-([0-9a-f]{8,16})\.")
CLASSIFIERS = ("classifier.4.weight", "classifier.low_classifier.weight")


class TorchvisionTeacher(Teacher):
    """DeepLabV3, FCN or LR-ASPP of torchvision; its logits before the library brings them to the images' resolution.

    torchvision's own weights know the classes of Pascal VOC; its ``__background__`` is the data set's ``background``, and
    their transforms give the normalisation. A state dict of your own is taken to have ImageNet's normalisation, as in
    torchvision's reference scripts. The embedding is what the last convolution sees (LR-ASPP has two: none).

    Raises:
        ConfigError: the model or the weights are unknown, out of reach or damaged, or the classes are not the data set's.
    """

    class Config(Teacher.Config):
        """``path``: a file with a state dict; without one ``weights``, a name of torchvision's, or (as before) a file too.

        ``rename`` maps names of torchvision's weights onto the data set's; ``classes`` names the channels of a file in the
        teacher's own order (default: the data set's order), or says which make each of the data set's (a file's by number).
        """

        model: str = "deeplabv3_resnet101"
        path: ContentPath | None = None
        weights: ContentPath = OWN_WEIGHTS
        rename: dict[str, str] = Field(default_factory=dict)
        classes: Groups | tuple[str, ...] | None = None

        @model_validator(mode="after")
        def _has_one_file(self) -> TorchvisionTeacher.Config:
            if self.path and self.weights != OWN_WEIGHTS:
                raise ValueError(
                    f"has the path {self.path} and the weights {self.weights}; drop one, e.g. teacher.weights=null"
                )
            return self

    @keywords(Config)
    def __init__(self, config: Any, classes: tuple[str, ...]) -> None:
        source = f"{config.model} ({config.path or config.weights})"
        builder, enum = _builder(config.model)
        if not config.path and config.weights in enum.__members__:
            if isinstance(config.classes, tuple):
                raise ConfigError(f"teacher.classes: {config.weights} names its classes itself; use teacher.rename")
            model, entry = _download(builder, enum[config.weights])
            preset = entry.transforms()
            pixels = Pixels(preset.mean, preset.std)
            own = by_name(entry.meta["categories"], classes, config, source)
        else:
            model, pixels = _from_file(builder, config, list(enum.__members__)), Pixels(IMAGENET_MEAN, IMAGENET_STD)
            own = by_number(_channels(model), classes, config.classes, source)
        network = TorchvisionNetwork(model, pixels)
        super().__init__(config, own, classes, measured(network), source)
        self.mark = weights_mark(network)
        self.network = network
        self.train(False)

    def answer(self, image: Tensor) -> Outputs:
        """The network's outputs at its own stride."""
        return self.network(image)


class TorchvisionNetwork(nn.Module):
    """uint8 images to ``Outputs``, by the parts of a segmentation model of torchvision."""

    def __init__(self, model: Any, pixels: Pixels) -> None:
        super().__init__()
        self.model, self.pixels = model.eval(), pixels
        taken = model.backbone.return_layers
        taken.update({name: name for name in RESNET_LEVELS if name in model.backbone and name not in taken})

    def forward(self, image: Tensor) -> Outputs:
        """Logits, auxiliary logits, embedding and the backbone's levels, finest first."""
        features = self.model.backbone(self.pixels(image))
        pyramid, embedding = tuple(features.values()), None
        if isinstance(self.model.classifier, nn.Sequential):
            *neck, classifier = self.model.classifier
            embedding = nn.Sequential(*neck)(features["out"])
            logits = classifier(embedding)
        else:
            logits = self.model.classifier(features)
        auxiliary = getattr(self.model, "aux_classifier", None)
        aux = auxiliary(features["aux"]) if auxiliary is not None else None
        return Outputs(logits, aux, embedding, pyramid)


def _builder(name: str) -> tuple[Any, Any]:
    """torchvision's builder of a model, and the enumeration of its weights."""
    try:
        from torchvision import models
    except ImportError as error:
        raise install_hint("all", error) from None
    known = models.list_models(module=models.segmentation)
    if name not in known:
        raise ConfigError(f"teacher.model: '{name}' is no segmentation model of torchvision; options: {', '.join(known)}")
    return models.get_model_builder(name), models.get_model_weights(name)


def _download(builder: Any, entry: Any) -> tuple[Any, Any]:
    """A model with torchvision's weights, which are read here: torchvision would run what code the file holds."""
    try:
        weights = read_state_dict(_fetched(entry.url), "teacher.weights")
        return _filled(builder, weights, len(entry.meta["categories"])), entry
    except (OSError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), "")
        raise ConfigError(
            f"teacher.weights: {entry.url} cannot be loaded ({type(error).__name__}: {reason[:160]}); put the file into the "
            "cache (TORCH_HOME/hub/checkpoints) on a machine with network, or give its path as teacher.path"
        ) from None


def _fetched(url: str) -> Path:
    """The file in the cache, whose name ends in the beginning of its SHA-256."""
    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    told = DIGEST.search(path.name)
    if not path.is_file():
        if not reachable(url):
            raise OSError("the server does not answer within seconds")
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), told and told[1])
    if told and not file_mark(path).startswith(told[1]):
        raise OSError(f"by the digest in its name it is damaged, or another file: remove {path}")
    return path


def _filled(builder: Any, weights: Mapping[str, Tensor], classes: int) -> Any:
    aux = {} if "lraspp" in builder.__name__ else {"aux_loss": any(key.startswith("aux_classifier.") for key in weights)}
    model = builder(weights=None, weights_backbone=None, num_classes=classes, **aux)
    model.load_state_dict(weights)
    return model


def _from_file(builder: Any, config: Any, names: list[str]) -> Any:
    key, path = "path" if config.path else "weights", at_home(config.path or config.weights)
    if not config.path and not path.suffix and not path.exists():
        raise ConfigError(
            f"teacher.weights: '{config.weights}' is neither a file nor weights of {config.model}; options: {', '.join(names)}"
        )
    if config.rename:
        raise ConfigError("teacher.rename: a file has no names of classes; list them in teacher.classes")
    weights = read_state_dict(path, f"teacher.{key}")
    last = next((weights[key] for key in CLASSIFIERS if key in weights), None)
    if last is not None:
        try:
            return _filled(builder, weights, len(last))
        except RuntimeError as error:
            problem = " ".join(str(error).split())[:200]
    else:
        problem = f"it has no {' or '.join(CLASSIFIERS)}"
    raise ConfigError(
        f"teacher.{key}: {path} does not hold the weights of {config.model} ({problem}); choose the model it is of"
    )


def _channels(model: Any) -> int:
    head = model.classifier
    last: Any = list(head)[-1] if isinstance(head, nn.Sequential) else head.low_classifier
    return last.out_channels
