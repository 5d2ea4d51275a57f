"""Networks that classify masks, not pixels (MaskFormer, Mask2Former, OneFormer, EoMT), as networks that classify pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd.types import Outputs, full_precision
from teachers.foreign import Pixels

KINDS = ("eomt", "eomt_dinov3", "mask2former", "maskformer", "oneformer")
"""The families, as ``model_type`` in a ``config.json`` calls them."""
NOTHING = 1e-7
"""What every class has everywhere: a pixel in which all queries see "no object" is undecided, not divided by 0."""
TASK = "the task is semantic"
TASK_TOKENS = (49406, 518, 10549, 533, 29119, 1550, 49407)
"""``TASK`` in CLIP's vocabulary, with its first and last token; zeros follow."""
LOCAL: Mapping[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""How transformers reads a folder: it asks no server, nor the user, whether code that lies there shall be run."""


def class_scores(classes: Tensor, masks: Tensor) -> Tensor:
    """``sum_q softmax(classes_q)_k sigmoid(masks_q)``, float32 ``B K h w``, of logits ``B Q K+1`` and ``B Q h w``.

    The last class, "no object", is left out. Cheng et al., arXiv 2107.06278, section 3.3, which all four families follow.
    """
    with torch.autocast(masks.device.type, enabled=False):
        known = full_precision(classes).softmax(2)[..., :-1]
        return torch.einsum("bqk,bqhw->bkhw", known, full_precision(masks).sigmoid())


def log_probabilities(scores: Tensor) -> Tensor:
    """The logarithm of ``(scores + NOTHING)`` divided by its sum over the classes, ``B K h w``."""
    return (scores + NOTHING).log().log_softmax(1)


class MaskNetwork(nn.Module):
    """uint8 images to ``Outputs``: log-probabilities at the masks' own stride, mostly 4.

    The embedding is the map that masks are read off, the pyramid the backbone's levels; EoMT has neither. EoMT takes images of
    one size only: smaller ones are padded with black below and to the right, as its image processor does; larger ones are seen
    through windows of that size, which overlap evenly and end at the borders, and their scores averaged. ``task`` are the
    tokens by which OneFormer is told the task.
    """

    task: Tensor | None

    def __init__(self, model: Any, pixels: Pixels, task: Tensor | None) -> None:
        super().__init__()
        self.model, self.pixels = model.eval(), pixels
        self.register_buffer("task", task, persistent=False)
        config = model.config
        self.window = int(config.image_size) if config.model_type.startswith("eomt") else 0

    def forward(self, image: Tensor) -> Outputs:
        """Logits, embedding and pyramid."""
        if self.window:
            return Outputs(log_probabilities(self._through_windows(image)))
        task = {} if self.task is None else {"task_inputs": self.task.expand(len(image), -1)}
        found = self.model(pixel_values=self.pixels(image), output_hidden_states=True, **task)
        scores = class_scores(found.class_queries_logits, found.masks_queries_logits)
        last = getattr(found, "pixel_decoder_last_hidden_state", None)
        levels = [level for level in found.encoder_hidden_states or () if level.ndim == 4]
        embedding = found.pixel_decoder_hidden_states[0] if last is None else last
        return Outputs(log_probabilities(scores), None, embedding, tuple(levels))

    def _through_windows(self, image: Tensor) -> Tensor:
        """The scores of all windows, summed, ``B K h w``: how many saw a pixel is no matter once they are normalised there."""
        config, side = self.model.config, self.window
        stride = config.patch_size >> config.num_upscale_blocks
        cells = [-(-length // stride) for length in image.shape[-2:]]
        height, width = (max(side, count * stride) for count in cells)
        seen = self.pixels(F.pad(image, (0, width - image.shape[-1], 0, height - image.shape[-2])))
        total = seen.new_zeros(len(seen), config.num_labels, height // stride, width // stride)
        for top, left in product(starts(height, side, stride), starts(width, side, stride)):
            found = self.model(pixel_values=seen[..., top : top + side, left : left + side])
            place = (..., slice(top // stride, (top + side) // stride), slice(left // stride, (left + side) // stride))
            total[place] += class_scores(found.class_queries_logits, found.masks_queries_logits)
        return total[..., : cells[0], : cells[1]]


def starts(length: int, side: int, stride: int) -> list[int]:
    """Where windows begin: the fewest that cover a length, evenly apart up to multiples of the stride."""
    more = -(-length // side) - 1
    return [number * (length - side) // more // stride * stride for number in range(more)] + [length - side]


def task_tokens(folder: str, length: int) -> Tensor:
    """``TASK`` as int64 ``1 length``, by the tokenizer that lies beside the weights, else in CLIP's vocabulary."""
    found = (_told(folder) or TASK_TOKENS)[:length]
    return F.pad(torch.tensor([found]), (0, length - len(found)))


def _told(folder: str) -> Sequence[int]:
    """What a tokenizer makes of ``TASK``; nothing where there is none, of which some versions of transformers make one of no
    words."""
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, **LOCAL)
        tokens: Sequence[int] = tokenizer(TASK)["input_ids"]
        return tokens if tokenizer.decode(tokens, skip_special_tokens=True).strip() == TASK else ()
    except Exception:  # no files, or some that this version does not know
        return ()
