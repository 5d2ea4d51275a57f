"""CIRKDV2: CIRKD with the student's context gathered first, and how channels relate to channels of other images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kd.config import ConfigError
from kd.distributed import gather_tensor
from kd.keywords import keywords
from kd.methods.cirkd import CIRKD, Head, memory_term, mini_batch
from kd.methods.cirkd_memory import Bank, Found
from kd.methods.fitnet import regression
from kd.methods.maps import Projection, chosen, mean, pair, valid
from kd.methods.method import Method
from kd.seeds import generator
from kd.types import Outputs, Sizes, full_precision

WINDOW = 4
"""Side of the windows over which embeddings are averaged before their channels are compared."""


class Graph(nn.Module):
    """Pixels ``B D h w`` joined with what they attend to in their image, of the same shape.

    ``out = relu(bn(W [x, relu(bn(U softmax(q'k / sqrt(D / 2)) v))]))``, ``q``, ``k``, ``v`` of half the width, all 1x1
    convolutions without bias. The attention of all pixels to all is never held as a whole.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        half = max(1, width // 2)
        self.key, self.value, self.query = (Projection(width, half) for _ in range(3))
        self.widen = nn.Sequential(Projection(half, width), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        self.join = nn.Sequential(Projection(2 * width, width), nn.BatchNorm2d(width), nn.ReLU(inplace=True))

    def forward(self, maps: Tensor) -> Tensor:
        """See the class."""
        parts = (part(maps).flatten(2).transpose(1, 2).contiguous() for part in (self.query, self.key, self.value))
        seen = F.scaled_dot_product_attention(*(part.unsqueeze(1) for part in parts)).squeeze(1)
        context = self.widen(seen.transpose(1, 2).reshape(len(maps), -1, *maps.shape[2:]))
        return self.join(torch.cat([maps, context], 1))


def pooled(maps: Tensor) -> Tensor:
    """``B D h w`` averaged over windows of 4 x 4; windows at the border are cut, not padded."""
    return F.avg_pool2d(maps, WINDOW, WINDOW, ceil_mode=True)


def unit_channels(maps: Tensor) -> Tensor:
    """``B D h w`` to a unit vector for each channel, ``B D N``."""
    return F.normalize(maps.flatten(2), dim=2)


class CIRKDv2(Method):
    """CIRKD's ``kl``, ``mini``, ``pixel`` and ``region``; FitNet's ``hint``; and of channels, each one a unit vector ``c`` of
    its map averaged over 4 x 4 pixels: ``channel_mini``, the KL between their similarities to the channels of another image of
    the batch, ``channel_memory``, to the teacher's channels of a memory, and ``channel_mse``, mean ``(c_s - c_t)^2``.

    Yang et al., "CIRKDV2: Cross-Image Relational Knowledge Distillation with Contextual Modeling for Efficient Semantic
    Segmentation", as in the CIRKD repository (2024; CIRKD is arXiv 2204.06986). The student's embedding first passes a graph
    module, learnt along. All terms but ``kl`` read what comes out of it, though the network's own logits do not; those of
    channels after a convolution, norm, ReLU and convolution to the teacher's width. Weights on Cityscapes: CIRKD's, hint 1,
    channels 1, 0.1 and 100 at temperature 0.1; on VOC hint 10. Their scripts give each process one image (on VOC four), hence
    ``group: 1`` of ``cirkd_v2@citys``: other images are seen in the memories alone. The memory of channels is a ring of 10 000
    that starts anew at its end; at most 256 channels of a step's batch enter it, drawn at random, before 2048 of it are drawn.

    Fails where: the crop changes. A channel's vector is as long as its averaged map, so that the memory is of one crop, and
    images of another size are refused.
    """

    class Config(CIRKD.Config):
        """CIRKD's, of which ``group``, ``temperature`` and ``softening`` hold for channels too. ``channel_updates`` channels of
        a batch enter their memory of ``channel_slots``; a step compares to ``channel_draws`` of them. ``kd_mask: valid`` leaves
        ignored pixels out of ``hint`` and channels too; the graph module sees all.
        """

        channel_slots: int = Field(default=10_000, ge=1)
        channel_draws: int = Field(default=2048, ge=1)
        channel_updates: int = Field(default=256, ge=1)

    needs = CIRKD.needs
    terms = (*CIRKD.terms, "hint", "channel_mini", "channel_memory", "channel_mse")
    hard = CIRKD.hard

    @keywords(Config)
    def __init__(self, config: Any, student: Sizes, teacher: Sizes) -> None:
        super().__init__(config, student, teacher)
        if min(teacher.grid) < 1:
            raise ConfigError(
                "method: CIRKDV2 remembers channels as maps of one size, which must be known: build it with the teacher's "
                "sizes on your images, teacher.sizes.on_crop(H, W)"
            )
        self.cirkd = CIRKD(student, teacher, **config.model_dump(include=CIRKD.Config.model_fields.keys() - {"name"}))
        self.graph = Graph(student.embedding)
        self.projection = Projection(student.embedding, teacher.embedding)
        self.channel_head = Head(student.embedding, teacher.embedding)
        height, width = (-(-side // WINDOW) for side in teacher.grid)
        self.channel_bank = Bank(1, config.channel_slots, height * width, resets=True)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> dict[str, Tensor]:
        """All terms by name. Writes to the memories first, as published.

        Raises:
            ValueError: the teacher's embedding is of another size than the memory's channels.
        """
        student = replace(student, embedding=self.graph(full_precision(chosen(student, "embedding"))))
        mine, theirs = pair(student, teacher, "embedding")
        self._check_size(theirs)
        terms = self.cirkd.forward(student, teacher, target)
        keep = valid(target, teacher, theirs, self.config.kd_mask)
        terms["hint"] = regression(self.projection(mine), theirs, keep)
        if keep is not None:
            mine, theirs = (maps.where(keep.unsqueeze(1), 0) for maps in (mine, theirs))
        own, its = unit_channels(self.channel_head(pooled(mine))), unit_channels(pooled(theirs))
        moment = (int(self.cirkd.seed), int(self.cirkd.clock))
        vectors = gather_tensor(its).flatten(0, 1)
        self.remember(vectors, torch.randperm(len(vectors), generator=generator(*moment, "channels")))
        order = torch.randperm(self.channel_bank.slots, generator=generator(*moment, "slots"))
        return terms | self.channel_terms(own, its, order)

    def _check_size(self, theirs: Tensor) -> None:
        found, known = tuple(theirs.shape[-2:]), self.teacher.grid
        if found != known:
            raise ValueError(
                f"the teacher's embedding is {found[0]}x{found[1]}, and CIRKDV2's memory is of channels of "
                f"{known[0]}x{known[1]}, those of the crop that it was built for; train on crops of that size, or build it "
                "with teacher.sizes.on_crop(H, W) of your images"
            )

    def channel_terms(self, student: Tensor, teacher: Tensor, order: Tensor) -> dict[str, Tensor]:
        """The three terms of unit channels ``B D N`` of both networks, the memory's against its first slots in ``order``."""
        config = self.config
        negatives = self.channel_bank.negatives(order[: config.channel_draws].to(teacher.device))
        every = torch.ones(teacher.shape[:2], dtype=torch.bool, device=teacher.device)
        return {
            "channel_mini": mini_batch(student, teacher, config.temperature, config.group),
            "channel_memory": memory_term(student, teacher, negatives, every, config.temperature, config.softening),
            "channel_mse": mean((student - teacher).square()),
        }

    @torch.no_grad()
    def remember(self, vectors: Tensor, order: Tensor) -> None:
        """Write the first ``channel_updates`` of unit channels ``M N``, of all ranks, in ``order``."""
        most = min(self.config.channel_updates, self.channel_bank.slots)
        entering = vectors[order[:most].to(vectors.device)]
        count = torch.tensor([[len(entering)]], device=vectors.device)
        self.channel_bank.write(Found(entering[None, None], count))
