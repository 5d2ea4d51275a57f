"""A teacher from Hugging Face transformers: SegFormer, UPerNet, DPT, ..., Mask2Former, OneFormer, EoMT: what segments."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from kd.config import ConfigError
from kd.content import ContentPath
from kd.keywords import keywords
from kd.networks.hub import OFFLINE
from kd.networks.weight_files import weights_mark
from kd.types import Outputs
from teachers.foreign import IMAGENET_MEAN, IMAGENET_STD, Pixels, by_name, install_hint, local, measured, reason_of
from teachers.mask_classification import KINDS, LOCAL, MaskNetwork, task_tokens
from teachers.teacher import Teacher

LOSS = "criterion."
"""What tensors of the training's loss are called by, on which no answer depends."""


class HfTeacher(Teacher):
    """A network of ``AutoModelForSemanticSegmentation``, in float32, at its own stride (SegFormer: 4); or one that classifies
    masks: MaskFormer, Mask2Former, OneFormer (told that the task is semantic) or EoMT, whatever it was trained for.

    Of masks the logits are the logarithm of the classes' scores, normalised in each pixel; how, and how EoMT's fixed size is
    met, says :mod:`teachers.mask_classification`. Things and stuff of a panoptic model are classes alike.

    Normalisation and channel order come from the image processor that lies beside the weights; where there is none it is
    ImageNet's, and ``source`` says so. The processor's resizing is not used: the teacher sees what the student sees. Classes
    are matched by name with ``id2label``; a processor with ``do_reduce_labels`` (ADE20K) shifted its training labels only, so
    ``id2label`` holds for the logits as they are. The embedding is what ``decode_head.classifier`` sees, the pyramid the last
    hidden state of each stride, each only where the network has it as a map. ``HF_HUB_OFFLINE=1`` uses the cache only. Code of
    the repository is never run, from the hub comes safetensors only, and ``source`` names the commit.

    Raises:
        ConfigError: the package is missing, the model is out of reach, damaged or no segmenter, or its classes are others.
    """

    class Config(Teacher.Config):
        """``path``: a directory written by ``save_pretrained``, or a repository of the Hugging Face hub, at ``revision``, which
        should be a commit: branches move.

        ``model`` is an older name of ``path``. ``rename`` maps the teacher's names onto the data set's where they differ by
        more than case, blanks, ``-`` and ``_``.
        """

        path: ContentPath | None = None
        model: ContentPath | None = None
        revision: str | None = None
        rename: dict[str, str] = Field(default_factory=dict)

        @model_validator(mode="after")
        def _lies_at_one_place(self) -> HfTeacher.Config:
            if not self.path and not self.model:
                raise ValueError(
                    "has no path; give a directory written by save_pretrained, or a repository of the Hugging Face hub"
                )
            if self.path and self.model:
                raise ValueError(
                    f"has the path {self.path} and the model {self.model}, names of one thing; drop one: teacher.model=null"
                )
            return self

    @keywords(Config)
    def __init__(self, config: Any, classes: tuple[str, ...]) -> None:
        with _quiet():
            model, folder, source = _load(config)
            pixels, note = _pixels(folder)
            network = _network(folder, model, pixels)
        sizes, labels = measured(network), model.config.id2label
        source = f"{source}{note}"
        own = by_name([labels[number] for number in sorted(labels)], classes, config, source)
        try:
            super().__init__(config, own, classes, sizes, source)
        except ConfigError as error:
            if config.classes is not None:
                raise
            raise type(error)(f"{error}. Where only the spelling differs, set teacher.rename: {{theirs: ours}}") from None
        self.mark = weights_mark(network)
        self.network = network
        self.train(False)

    def answer(self, image: Tensor) -> Outputs:
        """The network's outputs at its own stride."""
        return self.network(image)


def _network(folder: str, model: Any, pixels: Pixels) -> nn.Module:
    kind = model.config.model_type
    if kind not in KINDS:
        return HfNetwork(model, pixels)
    length = getattr(model.config, "task_seq_len", 0)
    return MaskNetwork(model, pixels, task_tokens(folder, length) if kind == "oneformer" else None)


class HfNetwork(nn.Module):
    """uint8 images to ``Outputs``."""

    def __init__(self, model: Any, pixels: Pixels) -> None:
        super().__init__()
        self.model, self.pixels = model.eval(), pixels
        classifier = getattr(getattr(model, "decode_head", None), "classifier", None)
        self.has_embedding = isinstance(classifier, nn.Conv2d)

    def forward(self, image: Tensor) -> Outputs:
        """Logits, embedding and pyramid."""
        seen: list[Tensor] = []
        hook = None
        if self.has_embedding:
            hook = self.model.decode_head.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            found = self.model(pixel_values=self.pixels(image), output_hidden_states=True)
        finally:
            if hook is not None:
                hook.remove()
        return Outputs(found.logits, None, seen[0] if seen else None, _levels(found.hidden_states or ()))


def _levels(states: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The last hidden state of each stride, finest first; nothing where they are no maps."""
    if any(state.ndim != 4 for state in states):
        return ()
    return tuple({state.shape[-2:]: state for state in states}.values())


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' bars and warnings: what is amiss with weights is told as an error. Downloads keep their bar."""
    try:
        from huggingface_hub import utils as hub
        from transformers.utils import logging
    except ImportError as error:
        raise install_hint("hf", error) from None
    verbosity, bars, no_downloads = logging.get_verbosity(), logging.is_progress_bar_enabled(), hub.are_progress_bars_disabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.set_verbosity_error()
        logging.disable_progress_bar()  # the hub's too
        if not no_downloads:
            hub.enable_progress_bars()
        try:
            yield
        finally:
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()


def _load(config: Any) -> tuple[Any, str, str]:
    """The model, the folder that it lies in, and what to call it."""
    named = f"teacher.{'path' if config.path else 'model'}: {config.path or config.model}"
    knobs = {"dtype": torch.float32, "weights_only": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        from transformers import AutoConfig, AutoModelForSemanticSegmentation, AutoModelForUniversalSegmentation

        folder, source = local(config.path or config.model, config.revision)
        settings = AutoConfig.from_pretrained(folder, **LOCAL)
        loader = AutoModelForUniversalSegmentation if settings.model_type in KINDS else AutoModelForSemanticSegmentation
        if settings.model_type == "oneformer":
            settings.is_training = False  # else it would ask for the training's texts
        model, report = loader.from_pretrained(folder, config=settings, **LOCAL, **knobs)
    except Exception as error:  # the hub, the configuration and the weights each fail in their own ways
        raise ConfigError(
            f"{named} gives no network of AutoModelForSemanticSegmentation, MaskFormer, Mask2Former, OneFormer or EoMT "
            f"({reason_of(error)}); "
            "give a directory written by save_pretrained, or a repository of the Hugging Face hub that can be reached or is in "
            f"the cache ({OFFLINE})"
        ) from None
    if missing := sorted(key for key in report["missing_keys"] if not key.startswith(LOSS)):
        raise ConfigError(
            f"{named} lacks {len(missing)} tensors of {type(model).__name__}, first {missing[0]}, which would stay "
            "random; give a checkpoint that was trained to segment, not a backbone"
        )
    others = sorted(key if isinstance(key, str) else key[0] for key in report["mismatched_keys"])  # with shapes since version 5
    if others:
        raise ConfigError(
            f"{named} has {len(others)} tensors of other shapes than its config.json says, first {others[0]}, which would stay "
            "random; give a checkpoint with its own config.json"
        )
    return model, folder, source


def _pixels(folder: str) -> tuple[Pixels, str]:
    """The normalisation, and what to say of its origin."""
    from transformers import AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(folder, **LOCAL)
    except Exception:  # no file, or one of a processor that this version does not know
        return Pixels(IMAGENET_MEAN, IMAGENET_STD), " (no image processor: ImageNet's normalisation is assumed)"
    scale = float(processor.rescale_factor) if getattr(processor, "do_rescale", True) else 1.0
    bgr = bool(getattr(processor, "do_flip_channel_order", False))
    if not getattr(processor, "do_normalize", False):
        return Pixels((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), scale, bgr), ""
    return Pixels(processor.image_mean, processor.image_std, scale, bgr), ""
