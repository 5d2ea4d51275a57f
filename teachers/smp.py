"""A teacher from segmentation_models_pytorch (https://github.com/qubvel-org/segmentation_models.pytorch)."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from kd.config import ConfigError
from kd.content import ContentPath
from kd.keywords import keywords
from kd.networks.hub import OFFLINE
from kd.networks.weight_files import weights_mark
from kd.types import Outputs
from teachers.class_groups import Groups
from teachers.foreign import Pixels, by_number, install_hint, local, measured, reason_of
from teachers.teacher import Teacher

Triple = tuple[float, float, float]


class SmpTeacher(Teacher):
    """What ``model.save_pretrained(path)`` wrote, loaded by ``smp.from_pretrained``.

    The library's models bring their logits to the images' resolution themselves, so these have stride 1. Most of them need
    sides that their encoder's stride (mostly 32) divides: images are padded at the bottom and right, with the mean colour
    after normalisation, and the outputs are cut back. A final activation is left out. The embedding is the decoder's output,
    the pyramid the encoder's levels without the image itself.

    Raises:
        ConfigError: the package or the model is missing, its normalisation is unknown, or its classes are not the data set's.
    """

    class Config(Teacher.Config):
        """``path``: a directory, or a repository of the Hugging Face hub, at ``revision``, which should be a commit
        (``HF_HUB_OFFLINE=1`` uses the cache only).

        ``classes`` names the channels in the teacher's own order (default: the data set's order), or says which, by number,
        make each of the data set's. ``mean`` and ``std``, RGB in [0, 1], replace what
        ``smp.encoders.get_preprocessing_params`` says of the encoder's weights.
        """

        path: ContentPath
        revision: str | None = None
        classes: Groups | tuple[str, ...] | None = None
        mean: Triple | None = None
        std: Triple | None = None

    @keywords(Config)
    def __init__(self, config: Any, classes: tuple[str, ...]) -> None:
        model, source = _load(config)
        network = SmpNetwork(model, _pixels(config, model))
        sizes = measured(network)
        own = by_number(sizes.classes, classes, config.classes, source)
        super().__init__(config, own, classes, sizes, source)
        self.mark = weights_mark(network)
        self.network = network
        self.train(False)

    def answer(self, image: Tensor) -> Outputs:
        """The network's outputs; logits at the images' resolution."""
        return self.network(image)


class SmpNetwork(nn.Module):
    """uint8 images to ``Outputs``, by the parts of a model of the library."""

    def __init__(self, model: Any, pixels: Pixels) -> None:
        super().__init__()
        self.model, self.pixels = model.eval(), pixels
        self.model.segmentation_head[-1] = nn.Identity()  # the activation
        self.divisor = model.encoder.output_stride if model.requires_divisible_input_shape else 1

    def forward(self, image: Tensor) -> Outputs:
        """Logits ``B K H W``, the decoder's output, the encoder's levels."""
        height, width = image.shape[-2:]
        padded = F.pad(self.pixels(image), (0, -width % self.divisor, 0, -height % self.divisor))
        features = self.model.encoder(padded)
        if isinstance(features, tuple):  # DPT: levels and prefix tokens
            levels, decoded = features[0], self.model.decoder(*features)
        else:
            levels, decoded = features, self.model.decoder(features)
        logits = self.model.segmentation_head(decoded)[..., :height, :width]

        def cut(level: Tensor) -> Tensor:
            stride = padded.shape[-1] // level.shape[-1]
            return level[..., : -(-height // stride), : -(-width // stride)]

        maps = [level for level in levels if level.ndim == 4 and level.shape[1] > 0 and level.shape[-1] < padded.shape[-1]]
        return Outputs(logits, None, cut(decoded), tuple(cut(level) for level in maps))


def _load(config: Any) -> tuple[Any, str]:
    """The model, and what to call it."""
    try:
        import segmentation_models_pytorch as smp
    except ImportError as error:
        raise install_hint("smp", error) from None
    try:
        with redirect_stdout(sys.stderr):  # the hub prints what it does, but stdout is for results
            folder, source = local(config.path, config.revision)
            model = smp.from_pretrained(folder, encoder_weights=None)
    except Exception as error:  # the hub, the configuration and the weights each fail in their own ways
        raise ConfigError(
            f"teacher.path: {config.path} gives no model of segmentation_models_pytorch ({reason_of(error)}); "
            "give a directory written by model.save_pretrained, or a repository of the Hugging Face hub that can be reached "
            f"or is in the cache ({OFFLINE})"
        ) from None
    return model, source


def _pixels(config: Any, model: Any) -> Pixels:
    """The normalisation: as configured, or the one of the encoder's weights."""
    if (config.mean is None) != (config.std is None):
        raise ConfigError("teacher.mean: mean and std belong together; set both or neither")
    if config.mean is not None:
        return Pixels(config.mean, config.std)
    import segmentation_models_pytorch as smp

    name, weights = model.config.get("encoder_name"), model.config.get("encoder_weights")
    try:
        found = smp.encoders.get_preprocessing_params(name, pretrained=weights)
    except Exception as error:  # unknown weights, or the hub cannot be reached
        reason = next(iter(str(error).splitlines()), "")
        raise ConfigError(
            f"teacher.mean: how {config.path} was normalised cannot be found out (encoder {name}, weights {weights}: "
            f"{reason[:160]}); set teacher.mean and teacher.std to what it was trained with, RGB in [0, 1] (ImageNet: "
            "[0.485, 0.456, 0.406] and [0.229, 0.224, 0.225])"
        ) from None
    return Pixels(found["mean"], found["std"], max(found["input_range"]) / 255, found["input_space"] == "BGR")
