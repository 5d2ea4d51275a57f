"""A network: normalisation, backbone, head and auxiliary head in, ``Outputs`` out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from kd.config import ConfigError, Named
from kd.content import ContentPath
from kd.distributed import world_size
from kd.networks.backbone import Levels, build_backbone, levels_of
from kd.networks.initialisation import LastConv, initialise
from kd.networks.timm_weights import ELSEWHERE, check_options
from kd.types import Outputs, Sizes, check_image

OURS = {
    **ELSEWHERE,
    "output_stride": "set output_stride beside it",
    "in_chans": "set channels beside it",
    "num_classes": "the head has the data set's classes",
    "features_only": "a backbone always gives its levels",
}
"""Arguments of timm's that follow from other keys, and what to do."""


def conv_norm_relu(inputs: int, outputs: int, kernel: int = 3, dilation: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution without bias, batch norm, ReLU; keeps the size."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def separable(inputs: int, outputs: int, kernel: int = 3, dilation: int = 1) -> nn.Sequential:
    """The same in two steps, each with norm and ReLU: every channel by itself, then across channels."""
    return nn.Sequential(conv_norm_relu(inputs, inputs, kernel, dilation, groups=inputs), conv_norm_relu(inputs, outputs, 1))


def grid(maps: Tensor) -> tuple[int, int]:
    """The height and width of ``B D h w``."""
    return maps.shape[-2], maps.shape[-1]


def check_pooled_norm(module: nn.Module, maps: Tensor) -> None:
    """To be called where a batch norm follows a pooling to one value per channel and image.

    Raises:
        ConfigError: the module trains on a single image, whose one value has no variance.
    """
    if module.training and len(maps) == 1 and world_size() == 1:
        raise ConfigError(
            "schedule.batch: one image at a time cannot train a head with a pooled batch norm (one value per channel has "
            "no variance); use schedule.batch >= 2 x schedule.accumulate"
        )


def dropout(config: Any) -> nn.Module:
    """The dropout in front of a classifier: of single values, or of whole channels."""
    return (nn.Dropout2d if config.drop_channels else nn.Dropout)(config.dropout)


class Classifier(nn.Module):
    """Dropout and a 1x1 convolution; gives logits and the embedding, taken before or after the dropout."""

    def __init__(self, width: int, classes: int, config: Any) -> None:
        super().__init__()
        self.dropout, self.tap = dropout(config), config.tap
        self.conv = LastConv(width, classes, 1)

    def forward(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """``B D h w`` to logits ``B K h w`` and embedding."""
        dropped = self.dropout(embedding)
        return self.conv(dropped), embedding if self.tap == "before" else dropped


class AuxHead(nn.Sequential):
    """Conv 3x3, norm, ReLU, dropout, classifier, on the second to last level of the backbone."""

    def __init__(self, inputs: int, classes: int, config: Any) -> None:
        super().__init__(conv_norm_relu(inputs, config.aux), dropout(config), LastConv(config.aux, classes, 1))


class Network(nn.Module, ABC):
    """Base of the networks. Takes uint8 RGB ``B 3 H W`` (or floats in [0, 1], or other ``channels``) and normalises it itself.

    Raises:
        ConfigError: timm does not know the backbone, or cannot give it the output stride, or weights are unavailable; the head
            needs other levels.
        InputError: when called, if the backbone cannot take images of this size.
    """

    class Config(Named):
        """``aux`` is the auxiliary head's width (0: none); ``pretrained`` true (timm's weights), false, or a weight file.
        ``revision`` pins timm's weights to a commit of their repository on the hub (default: its main branch).

        ``backbone`` may pin timm's weights, e.g. ``resnet18d.ra2_in1k``; ``options`` go to timm's constructor of it, e.g.
        ``{stem_type: deep, stem_width: 64}``. ``pretrained_bgr`` says that a weight file was made for images in the order BGR,
        as CIRKD's of ResNet18 (the network's own order is RGB). ``initialisation`` is that of the heads: PyTorch's own, or
        JDTLosses' (see ``kd.networks.initialisation``). ``dropout`` stands in front of each classifier, of single values or,
        with ``drop_channels``, of whole channels (JDTLosses). ``tap`` says whether the embedding is taken before or after it
        (JML-KD: not used; CIRKD's repository: after). ``align_corners`` is how the head resamples its maps, and how its logits
        are to be resampled. ``mean`` and ``std`` are those of most of timm's weights, not of all. ``channels`` of the images:
        for other than RGB the first convolution is made of the pretrained one as timm does it, and ``mean`` and ``std`` must be
        given.
        """

        backbone: str = "resnet18d"
        options: dict[str, Any] = Field(default_factory=dict)
        pretrained: bool | ContentPath = True
        revision: str | None = None
        pretrained_bgr: bool = False
        output_stride: int = Field(default=8, ge=1)
        aux: int = Field(default=0, ge=0)
        initialisation: Literal["torch", "jdt"] = "torch"
        dropout: float = Field(default=0.1, ge=0, lt=1)
        drop_channels: bool = False
        tap: Literal["before", "after"] = "before"
        align_corners: bool = False
        mean: tuple[float, ...] = (0.485, 0.456, 0.406)
        std: tuple[Annotated[float, Field(gt=0)], ...] = (0.229, 0.224, 0.225)
        channels: int = Field(default=3, ge=1)

        @field_validator("options")
        @classmethod
        def _are_not_ours(cls, options: dict[str, Any]) -> dict[str, Any]:
            check_options(options, OURS)
            return options

        @model_validator(mode="after")
        def _normalises_each_channel(self) -> Network.Config:
            for key in ("mean", "std"):
                if (count := len(getattr(self, key))) != self.channels:
                    raise ValueError(
                        f"{key} has {count} values for images of {self.channels} channels; give one for each: `kd check-data` "
                        "measures student.mean and student.std on the training images and prints them to be pasted"
                    )
            return self

    mean: Tensor
    std: Tensor

    def __init__(self, config: Any, classes: int) -> None:
        super().__init__()
        if not isinstance(classes, int) or classes < 2:
            raise ConfigError(f"classes: is {classes!r}; give their number, 2 or more (one thing and its background are two)")
        self.config, self.classes, self.channels = config, classes, config.channels
        self.backbone = build_backbone(config)
        info = self.backbone.feature_info
        there = Levels(tuple(info.channels()), tuple(info.reduction()))
        self.head, width = self.build_head(there, classes)
        self.aux_head = self._build_aux_head(there) if config.aux else None
        if config.initialisation == "jdt":
            initialise(self.head, self.aux_head)
        self.sizes = Sizes(classes, self.logit_stride(there), width, bool(config.aux), *there)
        self.register_buffer("mean", torch.tensor(config.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, -1, 1, 1), persistent=False)

    @property
    def fetched(self) -> str:
        """Which of timm's weights it began with, ``owner/name@commit``; nothing where none were fetched."""
        return getattr(self.backbone, "fetched", "")

    @abstractmethod
    def build_head(self, levels: Levels, classes: int) -> tuple[nn.Module, int]:
        """The head, a module from the backbone's levels to (logits, embedding), and the embedding's channels.

        Raises:
            ConfigError: the backbone lacks a level that the head needs.
        """

    def logit_stride(self, levels: Levels) -> int:
        """Pixels per step of the logits' grid; the last level's unless the head refines it."""
        return levels.strides[-1]

    def _build_aux_head(self, levels: Levels) -> AuxHead:
        if len(levels.channels) == 1:
            raise ConfigError(
                f"aux: is {self.config.aux}, but the auxiliary head reads the second to last level of the backbone, which has "
                "only one; set aux=0, or options.out_indices to more levels"
            )
        return AuxHead(levels.channels[-2], self.classes, self.config)

    if TYPE_CHECKING:  # torch's own says nothing about what comes in and out

        def __call__(self, image: Tensor) -> Outputs:
            """See :meth:`forward`."""

    def forward(self, image: Tensor) -> Outputs:
        """Outputs at the network's own stride.

        Raises:
            ValueError: the image is not ``B 3 H W`` (or of its other channels), or holds floats outside [0, 1].
        """
        check_image(image, self.channels)
        scaled = image.to(self.mean.dtype)
        scaled = scaled / 255 if image.dtype == torch.uint8 else scaled
        pyramid = levels_of(self.backbone, (scaled - self.mean) / self.std)
        logits, embedding = self.head(pyramid)
        aux = self.aux_head(pyramid[-2]) if self.aux_head is not None else None
        return Outputs(logits, aux, embedding, pyramid, self.config.align_corners)
