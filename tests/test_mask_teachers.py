"""Networks that classify masks teach what transformers' own pipeline says of pixels."""

from __future__ import annotations

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
        text = {"text_encoder_width": 64, "text_encoder_vocab_size": 64, "text_encoder_num_layers": 1, "is_training": True}
        sizes = {"conv_dim": 32, "mask_dim": 32, "hidden_dim": 32, "decoder_layers": 3, "num_queries": 6}
        sizes["query_dec_layers"] = 1
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
    name = "MaskFormer" if kind == "maskformer" else "Mask2Former"  # OneFormer's own asks the hub
    return getattr(transformers, f"{name}ImageProcessor")(do_resize=False, image_mean=IMAGENET[0], image_std=IMAGENET[1])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of each family a tiny network with random weights that has opinions."""
    found = {}
    for kind in KINDS:
        torch.manual_seed(2)
        model = transformers.AutoModelForUniversalSegmentation.from_config(config(kind))
        for name, parameter in model.named_parameters():
            if "class_predictor" in name or "class_embed" in name:
                parameter.data.mul_(20).add_(torch.randn_like(parameter))
            if "task_mlp.layers.0" in name:  # which sees numbers of tokens, up to 49407
                parameter.data.div_(10_000)
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
    known = {key: inputs[key] for key in ("pixel_values", "patch_offsets") if inputs.get(key) is not None}
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


@pytest.mark.parametrize("kind", ["eomt", "eomt_dinov3"])
def test_eomt_sees_larger_images_through_its_processors_windows(folders: dict[str, Path], kind: str) -> None:
    outputs, theirs = said(folders[kind], kind, picture(SIDE, 96))
    offsets = [tuple(int(part) for part in one) for one in outputs.patch_offsets]
    assert offsets == [(0, 0, 64), (0, 32, 96), (1, 0, 64), (1, 32, 96)]
    outputs.patch_offsets = [(image, start // 4, end // 4) for image, start, end in offsets]
    size = {"shortest_edge": SIDE // 4, "longest_edge": None}
    found = theirs.post_process_semantic_segmentation(outputs, [(16, 24)] * 2, size, return_segmentation_scores=True)
    scores = torch.stack([one.segmentation_scores for one in found])
    logits = teacher_of(folders, kind)(picture(SIDE, 96)).logits
    close(logits.exp(), scores / scores.sum(1, keepdim=True))
    assert torch.equal(logits.argmax(1), torch.stack([one.segmentation for one in found]))


def test_eomt_sees_smaller_images_padded_as_its_processor_pads(folders: dict[str, Path]) -> None:
    outputs, _ = said(folders["eomt"], "eomt", picture(40, 54))
    assert outputs.masks_queries_logits.shape[-2:] == (16, 16)
    scores = class_scores(outputs.class_queries_logits, outputs.masks_queries_logits)[..., :10, :14]
    close(teacher_of(folders, "eomt")(picture(40, 54)).logits, log_probabilities(scores))


@pytest.mark.parametrize(
    ("length", "expected"), [(64, [0]), (68, [0, 4]), (96, [0, 32]), (132, [0, 32, 68]), (192, [0, 64, 128])]
)
def test_windows_cover_all_and_overlap_evenly(length: int, expected: list[int]) -> None:
    assert starts(length, 64, 4) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_mask_teachers_behave(folders: dict[str, Path], kind: str) -> None:
    teacher = teacher_of(folders, kind)
    fields = {"logits"} if kind.startswith("eomt") else {"logits", "embedding", "pyramid"}
    assert (teacher.sizes.stride, set(teacher.sizes.fields)) == (4, fields)
    assert teacher.mark == teacher_of(folders, kind).mark
    for precision in (torch.float32, torch.bfloat16):
        found = teacher.for_steps(precision)(batch())
        assert found.logits.dtype == torch.float32
        gap = (found.logits.exp() - teacher(batch()).logits.exp()).abs().mean()
        assert gap < (1e-4 if precision == torch.float32 else 0.05)
    behaves(teacher)


def test_a_pixel_without_objects_is_undecided() -> None:
    classes, masks = torch.zeros(1, 3, 5), torch.full((1, 3, 2, 2), -1e4)
    classes[..., 4] = 1e4
    masks[..., 0, 0] = 10.0
    classes[:, 0] = torch.tensor([0.0, 50, 0, 0, 0])
    found = log_probabilities(class_scores(classes.bfloat16(), masks.bfloat16()))
    assert found.dtype == torch.float32
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found[0, :, 1, 1].exp(), torch.full((4,), 0.25))
    torch.testing.assert_close(found[0, :, 0, 0].exp(), torch.tensor([0, 1.0, 0, 0]), atol=4 * NOTHING, rtol=0)


def test_oneformer_is_told_the_task_by_its_own_tokenizer(folders: dict[str, Path], tmp_path: Path) -> None:
    assert teacher_of(folders, "oneformer").network.task.tolist() == [[*TASK_TOKENS, *[0] * 70]]
    own = copied(folders["oneformer"], tmp_path / "own")
    words = ["<|startoftext|>", "<|endoftext|>", *(f"{word}</w>" for word in TASK.split())]
    letters = sorted({*TASK, *(f"{letter}</w>" for letter in TASK)} - {" "})
    ends = [(word, end) for word in TASK.split() for end in range(1, len(word))]
    merges = [(word[:end], word[end] + "</w>" * (end == len(word) - 1)) for word, end in ends]
    inner = [first for first, _ in merges if len(first) > 1]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys([*words, *letters, *inner]))}
    transformers.CLIPTokenizer(vocab=vocabulary, merges=merges).save_pretrained(own)
    assert hf(own, rename=RACE).network.task.tolist() == [[0, 2, 3, 4, 5, 1, *[0] * 71]]


def test_damaged_and_other_networks_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    less = copied(folders["mask2former"], tmp_path / "less")
    tensors = load_file(less / "model.safetensors")
    assert tensors.pop("criterion.empty_weight") is not None  # the loss's: nothing depends on it
    save_file(tensors, less / "model.safetensors", {"format": "pt"})
    assert torch.equal(hf(less, rename=RACE)(picture()).logits, teacher_of(folders, "mask2former")(picture()).logits)
    del tensors["class_predictor.bias"]
    save_file(tensors, less / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"^teacher.path: .*less lacks 1 tensors of Mask2Former\w+, first class_pred"):
        hf(less, rename=RACE)
    other = copied(folders["eomt"], tmp_path / "other", **{"class_predictor.bias": torch.zeros(9)})
    with pytest.raises(ConfigError, match=r"^teacher.path: .*other has 1 tensors of other shapes .* first class_pred"):
        hf(other, rename=RACE)
    torch.manual_seed(0)
    detr = transformers.DetrConfig(d_model=16, encoder_layers=1, decoder_layers=1, backbone_config=transformers.ResNetConfig())
    detr.save_pretrained(tmp_path / "detr")
    with pytest.raises(ConfigError, match=r"^teacher.path: .*detr gives no .*, MaskFormer, Mask2Former, OneFormer or EoMT"):
        hf(tmp_path / "detr")


def test_a_panoptic_networks_classes_are_brought_together(folders: dict[str, Path]) -> None:
    whole = teacher_of(folders, "mask2former")(picture()).logits.softmax(1)
    groups = {"ground": ["road"], "thing": ["Race Car", "tree"]}
    teacher = build({"name": "hf", "path": str(folders["mask2former"]), "classes": groups}, ("thing", "ground"))
    found = teacher(Batch(picture(), torch.zeros(2, 64, 96, dtype=torch.long))).logits.softmax(1)
    wanted = torch.stack([whole[:, 2] + whole[:, 3], whole[:, 0]], 1)
    torch.testing.assert_close(found, wanted / wanted.sum(1, keepdim=True))
    assert teacher.sizes.classes == 2
