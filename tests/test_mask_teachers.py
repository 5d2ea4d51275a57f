"""Networks that classify masks teach what transformers' own pipeline says of pixels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_foreign_teachers import IMAGENET, RACE, batch, behaves, close, copied, hf, picture
from test_teachers import OWN, WANTED, build
from torch import Tensor

from kd.config import ConfigError
from kd.types import Batch
from teachers.mask_classification import NOTHING, TASK, TASK_TOKENS, class_scores, log_probabilities, starts

transformers = pytest.importorskip("transformers")

KINDS = ("mask2former", "maskformer", "oneformer", "eomt", "eomt_dinov3")
NAMES = dict(enumerate(("Road", "sky", "race-car", "TREE")))
LABELS = {"id2label": NAMES, "label2id": {name: key for key, name in NAMES.items()}}
STAGES = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}
SIDE = 64
"""Of what the EoMTs here take."""


def config(kind: str) -> Any:
    """The smallest that there is, nearly."""
    backbone = transformers.SwinConfig(embed_dim=8, depths=[1] * 4, num_heads=[1, 1, 2, 2], window_size=4, **STAGES)
    layers = {"encoder_layers": 1, "num_attention_heads": 2, "encoder_feedforward_dim": 16, "dim_feedforward": 16}
    if kind == "maskformer":
        small = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
        heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
        decoder = transformers.DetrConfig(d_model=32, num_queries=6, **small, **heads)
        sizes = {"fpn_feature_size": 32, "mask_feature_size": 32}
        return transformers.MaskFormerConfig(backbone_config=backbone, decoder_config=decoder, **sizes, **LABELS)
    if kind == "mask2former":
        sizes = {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "decoder_layers": 2, "num_queries": 6}
        return transformers.Mask2FormerConfig(backbone_config=backbone, **layers, **sizes, **LABELS)
    if kind == "oneformer":
        text = {"text_encoder_width": 64, "text_encoder_vocab_size": 64, "text_encoder_num_layers": 1, "query_dec_layers": 1, "is_training": True}
        sizes = {"conv_dim": 32, "mask_dim": 32, "hidden_dim": 32, "decoder_layers": 3, "num_queries": 6}
        return transformers.OneFormerConfig(backbone_config=backbone, **layers, **sizes, **text, **LABELS)
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "num_blocks": 2, "num_queries": 6}
    vit = {"image_size": SIDE, "patch_size": 16, "num_register_tokens": 1, **sizes, **LABELS}
    if kind == "eomt":
        return transformers.EomtConfig(**vit)
    return transformers.EomtDinov3Config(intermediate_size=32, **vit)


def processor(kind: str) -> Any:
    if kind.startswith("eomt"):
        size = {"shortest_edge": SIDE, "longest_edge": SIDE}
        return transformers.EomtImageProcessor(do_resize=False, do_split_image=True, do_pad=True, size=size)
    name = {"mask2former": "Mask2Former", "maskformer": "MaskFormer", "oneformer": "Mask2Former"}[kind]  # OneFormer's asks the hub
    return getattr(transformers, f"{name}ImageProcessor")(do_resize=False, image_mean=IMAGENET[0], image_std=IMAGENET[1])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of each family a tiny network with random weights that has opinions."""
    found = {}
    for kind in KINDS:
        torch.manual_seed(0)
        model = transformers.AutoModelForUniversalSegmentation.from_config(config(kind))
        for name, parameter in model.named_parameters():
            if "class_predictor" in name or "class_embed" in name:
                parameter.data.mul_(20).add_(torch.randn_like(parameter))
        found[kind] = tmp_path_factory.mktemp(kind)
        model.save_pretrained(found[kind])
        processor(kind).save_pretrained(found[kind])
    return found


def teacher_of(folders: dict[str, Path], kind: str, classes: tuple[str, ...] = OWN, **knobs: Any) -> Any:
    return hf(folders[kind], classes, **{"rename": RACE, **knobs})


@torch.no_grad()
def said(folder: Path, kind: str, image: Tensor) -> tuple[Any, Any]:
    """What the library's network says of images as its processor prepares them."""
    settings = transformers.AutoConfig.from_pretrained(folder)
    settings.is_training = False
    model = transformers.AutoModelForUniversalSegmentation.from_pretrained(folder, config=settings).eval()
    theirs = processor(kind)
    inputs = theirs(list(image), return_tensors="pt")
    known = {key: inputs[key] for key in ("pixel_values", "patch_offsets") if inputs.get(key)is not None}
    if kind == "oneformer":
        known["task_inputs"] = torch.tensor([[*TASK_TOKENS, *[0] * (77 - len(TASK_TOKENS))]] * len(image))
        theirs = transformers.OneFormerImageProcessor
    return model(**known), theirs


def pipeline(folder: Path, kind: str, image: Tensor) -> tuple[Tensor, Tensor]:
    """The library's scores of classes and its map, where the masks lie."""
    outputs, theirs = said(folder, kind, image)
    grid = tuple(outputs.masks_queries_logits.shape[-2:])
    if kind == "oneformer":  # its processor is made with files of the hub, which this method does not read
        found = theirs.post_process_semantic_segmentation(None, outputs, [grid] * len(image), True)
    elif kind.startswith("eomt"):
        outputs.patch_offsets = None
        size = {"shortest_edge": grid[0], "longest_edge": grid[1]}
        found = theirs.post_process_semantic_segmentation(outputs, [grid] * len(image), size, return_segmentation_scores=True)
    else:
        found = theirs.post_process_semantic_segmentation(outputs, [grid] * len(image), return_segmentation_scores=True)
    return torch.stack([one.segmentation_scores for one in found]), torch.stack([one.segmentation for one in found])


@pytest.mark.parametrize("kind", KINDS)
def test_masks_are_the_librarys_own_pipeline(folders: dict[str, Path], kind: str) -> None:
    side = 1536 if kind == "mask2former" else SIDE  # of its masks the library makes 384 x 384, whatever they were
    image = picture(side, side)[:1]
    scores, maps = pipeline(folders[kind], kind, image)
    found = teacher_of(folders, kind)(image).logits
    assert found.dtype == torch.float32
    close(found.exp(), scores / scores.sum(1, keepdim=True))
    torch.testing.assert_close(found.exp().sum(1), torch.ones_like(found[:, 0]))
    assert torch.equal(found.argmax(1), maps)
    other = teacher_of(folders, kind, WANTED)(image).logits
    assert torch.equal(other, found[:, [OWN.index(name) for name in WANTED]])
