"""What networks of other libraries need to become teachers: names matched, pixels normalised, outputs measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kd.config import ConfigError
from kd.files import at_home
from kd.networks.hub import snapshot
from kd.types import Outputs, Sizes, check_image, grey_levels

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ClassesError(ConfigError):
    """A network's classes are not the data set's, which is of no matter where only its features are asked for."""


def install_hint(extra: str, error: ImportError) -> ConfigError:
    """The error that says how to get an optional package."""
    return ConfigError(f"teacher: needs an optional package ({error}); install it with pip install 'segmentation-kd[{extra}]'")


def local(path: str, revision: str | None) -> tuple[str, str]:
    """The folder of a model that lies at a path, or in a repository of the Hugging Face hub, and what to call it.

    Raises:
        ConfigError: the path is no directory, and what it names cannot be fetched.
    """
    folder = at_home(path)
    if folder.is_dir():
        return str(folder), path
    found = snapshot(path, revision)
    return str(found.folder), found.source


def reason_of(error: Exception) -> str:
    """In a line why a library of networks does not load one."""
    line = next(iter(str(error).splitlines()), "")[:200]
    return line if isinstance(error, ConfigError) else f"{type(error).__name__}: {line}"


def canonical(name: str) -> str:
    """A class name without case, blanks, hyphens, underscores and slashes: ``traffic_light`` and ``Traffic Light`` agree."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def matched(theirs: Sequence[str], wanted: Sequence[str], rename: Mapping[str, str], source: str) -> tuple[str, ...]:
    """A foreign network's classes, in its own order, spelt as the data set spells them.

    Names agree when they are :func:`canonical`-ly equal; ``rename`` (theirs to ours) serves the rest. What agrees with nothing
    keeps its spelling.

    Raises:
        ConfigError: ``rename`` names a class that is not there, on either side.
    """
    ours = {canonical(name): name for name in wanted}
    known = {canonical(name) for name in theirs}
    for their, our in rename.items():
        for name, names, whose in ((their, known, "teacher"), (our, set(ours), "data set")):
            if canonical(name) not in names:
                options = ", ".join(theirs if whose == "teacher" else wanted)
                raise ConfigError(f"teacher.rename: the {whose} has no class '{name}' ({source}); its classes are {options}")
    renamed = {canonical(their): ours[canonical(our)] for their, our in rename.items()}
    return tuple(renamed.get(canonical(name)) or ours.get(canonical(name), name) for name in theirs)


def by_name(theirs: Sequence[str], wanted: Sequence[str], config: Any, source: str) -> tuple[str, ...]:
    """The classes of a network that names them: :func:`matched`, or as it spells them where ``config.classes`` says which of
    them make each of the data set's.

    Raises:
        ConfigError: ``config.rename`` names a class that is not there, or stands beside such ``classes``.
    """
    if not isinstance(config.classes, Mapping):
        return matched(theirs, wanted, config.rename, source)
    if config.rename:
        their, our = next(iter(config.rename.items()))
        raise ConfigError(
            f"teacher.rename: teacher.classes says already what each class is made of; write {our}: [{their}] there, and drop "
            "teacher.rename"
        )
    return tuple(theirs)


def by_number(
    channels: int, classes: tuple[str, ...], given: Sequence[str] | Mapping[str, Any] | None, source: str
) -> tuple[str, ...]:
    """The classes of a network that has only numbers: ``given`` in its order, or the data set's order if the number fits; their
    numbers from 0, where ``given`` says which of them make each of the data set's.

    Raises:
        ClassesError: the number of names is not that of the channels.
    """
    if isinstance(given, Mapping):
        return tuple(map(str, range(channels)))
    names = (classes or tuple(map(str, range(channels)))) if given is None else given
    if len(names) != channels:
        whose = "the data set has" if given is None else "teacher.classes lists"
        raise ClassesError(
            f"teacher: {source} has {channels} classes, {whose} {len(names)}; choose a checkpoint trained on this data set, "
            + ("" if given is None else "name every channel, in the teacher's own order, ")
            + f"or say by their numbers which make each class: 'teacher.classes={{{classes[0]}: [0, 7], ...}}'"
        )
    return tuple(names)


class Pixels(nn.Module):
    """RGB ``B 3 H W``, uint8 or floats in [0, 1], to what a network was trained on.

    That is ``(x * scale - mean) / std`` of grey levels, in RGB or BGR order; ``mean`` and ``std`` are per channel, in the
    network's own order and units.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], scale: float = 1 / 255, bgr: bool = False) -> None:
        super().__init__()
        self.scale, self.bgr = scale, bgr
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(list(std), dtype=torch.float32).view(1, -1, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """float32 ``B 3 H W``.

        Raises:
            ValueError: the image is not ``B 3 H W``, or holds floats outside [0, 1].
        """
        check_image(image)
        ordered = image.flip(1) if self.bgr else image
        return (grey_levels(ordered).to(self.mean.dtype) * self.scale - self.mean) / self.std


@torch.no_grad()
def measured(look: Callable[[Tensor], Outputs], side: int = 128) -> Sizes:
    """What a network in eval mode gives, found by showing it one black image of ``side`` x ``1.5 side`` pixels.

    Raises:
        ConfigError: the network cannot look at it, mostly because it was built for one size only.
    """
    try:
        outputs = look(torch.zeros(1, 3, side, side * 3 // 2, dtype=torch.uint8))
    except Exception as error:  # each library's networks fail in their own ways
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(
            f"teacher: cannot look at an image of {side} x {side * 3 // 2} pixels ({reason}); choose a network that takes "
            "images of any size"
        ) from error
    embedding = 0 if outputs.embedding is None else outputs.embedding.shape[1]
    channels = tuple(level.shape[1] for level in outputs.pyramid)
    strides = tuple(side // level.shape[-2] for level in outputs.pyramid)
    classes, stride = outputs.logits.shape[1], side // outputs.logits.shape[-2]
    return Sizes(classes, stride, embedding, outputs.aux_logits is not None, channels, strides)
