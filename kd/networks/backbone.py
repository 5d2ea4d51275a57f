"""Backbones from timm, with the errors a user can act on."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple

from safetensors import SafetensorError
from torch import Tensor

from kd.config import ConfigError, InputError
from kd.files import at_home
from kd.networks.phases import train_by_phases
from kd.networks.timm_weights import fetched, overlay, read_into

WISHES = {"dynamic_img_size": True, "dynamic_img_pad": True, "strict_img_size": False}
"""Lets transformers take images of any size; left out where timm does not know the key."""

LEVELS: Mapping[str, Any] = {"features_only": True}
TRUNK: Mapping[str, Any] = {"num_classes": 0}
"""What timm makes of a backbone: a network that returns its levels, or the classifier without its last layer."""


class Levels(NamedTuple):
    """Channels and strides of a backbone's levels, finest first."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def at(self, stride: int) -> int:
        """The index of the last level of a stride.

        Raises:
            ConfigError: no level has it; the message names those there are.
        """
        if stride not in self.strides:
            raise ConfigError(
                f"backbone: this head needs a level of stride {stride}, but the backbone's have {self.told}; choose another "
                "backbone, or one of the heads pspnet and deeplabv3, which read only the last level"
            )
        return max(index for index, step in enumerate(self.strides) if step == stride)

    def without_stem(self) -> Levels:
        """The levels of stride 4 and coarser, as pyramids are built on; all where none is so coarse."""
        start = sum(step < 4 for step in self.strides[:-1])
        return Levels(self.channels[start:], self.strides[start:])

    @property
    def told(self) -> str:
        """The strides in words."""
        return f"stride{'s' * (len(self.strides) > 1)} {', '.join(map(str, self.strides))}"


def build_backbone(config: Any) -> Any:
    """A timm backbone that returns its levels, finest first, from the keys of a network's configuration.

    For other ``channels`` than 3 the pretrained first convolution is adapted by timm's rule: its kernels are repeated over the
    channels and scaled by 3 / ``channels``, for one channel summed.
    ``backbone`` may pin the weights: ``resnet18d.ra2_in1k``. ``options`` go to timm's constructor. ``pretrained``: true takes
    timm's weights from the Hugging Face hub, at ``revision``, a text is a weight file (.pth or .safetensors), which
    ``pretrained_bgr`` says to be for images in the order BGR. A backbone that cannot be dilated has one output stride, its own.

    Raises:
        ConfigError: timm does not know the backbone, its tag or an option, it cannot have this stride, or its weights are
            unavailable or others.
    """
    output_stride, pretrained, options = config.output_stride, config.pretrained, config.options
    name = _known(config.backbone, pretrained is True)
    if config.pretrained_bgr and pretrained is True:
        raise ConfigError(
            "pretrained_bgr: is true, but timm's weights are for images in the order RGB; give pretrained=FILE, or "
            "pretrained_bgr=false"
        )
    if config.channels != 3:
        options = {"in_chans": config.channels, **options}
    network = _weighted(name, config, {"output_stride": output_stride, **WISHES}, options)
    if network.feature_info.reduction()[-1] != output_stride:
        own = _create(name, WISHES, options).feature_info.reduction()[-1]
        raise ConfigError(
            f"output_stride: is {output_stride}, which {name} cannot have; use {own}, its own"
            f"{', or 8 or 16 if it can be dilated' if own == 32 and output_stride not in (8, 16) else ''}, or another backbone"
        )
    if isinstance(pretrained, str):
        read_into(network, name, at_home(pretrained), config.pretrained_bgr)
    train_by_phases(network)
    return network


def build_trunk(config: Any) -> Any:
    """A timm network without its classifier, for images of any size, that gives what lies between by ``forward_intermediates``.

    From the keys ``backbone``, ``options`` and ``pretrained``, see :func:`build_backbone`.

    Raises:
        ConfigError: timm does not know the backbone, its tag or an option, it gives no maps, or its weights are unavailable or
            others.
    """
    name = _known(config.backbone, config.pretrained is True)
    network = _weighted(name, config, WISHES, config.options, TRUNK)
    if not hasattr(network, "forward_intermediates") or not getattr(network, "feature_info", None):
        raise ConfigError(f"backbone: {name} gives no feature maps in this timm (forward_intermediates); choose another")
    if isinstance(config.pretrained, str):
        read_into(network, name, at_home(config.pretrained))
    return network


def levels_of(backbone: Any, image: Tensor) -> tuple[Tensor, ...]:
    """The levels ``B D h w`` of a normalised image, finest first.

    Raises:
        InputError: the backbone cannot take images of this size.
    """
    try:
        maps = backbone(image)
    except (AssertionError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "must match the size" not in str(error):
            raise
        height, width, stride = *image.shape[-2:], backbone.feature_info.reduction()[-1]
        raise InputError(
            f"the backbone cannot take images of {height} x {width} pixels ({error}); use sides that are multiples of {stride} "
            "and of its windows, set options.img_size where it has one, or use another backbone"
        ) from error
    channels_last = getattr(backbone, "output_fmt", None) == "NHWC"
    return tuple(level.permute(0, 3, 1, 2) if channels_last else level for level in maps)


def _known(name: str, pretrained: bool) -> str:
    """The name for timm; a tag that this timm does not know is dropped where no weights are to be fetched."""
    import timm  # here and below: it takes longer to import than most commands run

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(name, timm.list_models(), n=6)
        hint = f"close names: {', '.join(close)}" if close else "timm.list_models() lists them"
        raise ConfigError(f"backbone: '{name}' is unknown to timm {timm.__version__}; {hint}")
    tagged = timm.list_pretrained(f"{architecture}.*")
    if not tag or name in tagged:
        return name
    if pretrained:
        options = ", ".join(tagged) or "none"
        raise ConfigError(f"backbone: '{name}' is unknown to timm {timm.__version__}; its weights: {options}")
    return architecture


def _weighted(
    name: str, config: Any, wishes: Mapping[str, Any], options: Mapping[str, Any], form: Mapping[str, Any] = LEVELS
) -> Any:
    """The backbone, with timm's weights where they are asked for; ``fetched`` says which."""
    if config.pretrained is not True:
        if config.revision is not None and config.pretrained:
            raise ConfigError(f"revision: is of timm's weights, but pretrained is {config.pretrained}; drop one of them")
        return _create(name, wishes, options, form)
    found = fetched(name, config.revision)
    network = _create(name, wishes, options, form, overlay(found))
    network.fetched = found.source
    return network


def _create(
    name: str,
    wishes: Mapping[str, Any],
    options: Mapping[str, Any],
    form: Mapping[str, Any] = LEVELS,
    weights: Mapping[str, Any] = MappingProxyType({}),
) -> Any:
    """The backbone with as many of the wishes as it can have."""
    import timm

    try:
        with _quiet():
            return timm.create_model(name, pretrained=bool(weights), **{**form, **wishes, **options, **weights})
    except (TypeError, AssertionError, NotImplementedError, ValueError, LookupError, ArithmeticError) as error:
        refused = [key for key in wishes if f"'{key}'" in str(error)] or [key for key in wishes if key == "output_stride"]
        if not refused:
            raise _refused(name, options, error) from error
        return _create(name, {key: wishes[key] for key in wishes if key not in refused}, options, form, weights)
    except (AttributeError, OSError, RuntimeError, SafetensorError) as error:
        raise (_unfit if weights else _refused)(name, options, error) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without timm's lines on what it does."""
    logger = logging.getLogger("timm")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _refused(name: str, options: Mapping[str, Any], error: Exception) -> ConfigError:
    return ConfigError(
        f"options: {name} cannot be built with {dict(options)} ({str(error) or 'timm refuses it'}); options are the arguments "
        "of timm's constructor"
    )


def _unfit(name: str, options: Mapping[str, Any], error: Exception) -> ConfigError:
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return ConfigError(
        f"pretrained: timm's weights of {name} do not fit a backbone with {dict(options)} ({reason[:120]}); drop the options, "
        "give pretrained=FILE, or pretrained=false to train from scratch"
    )
