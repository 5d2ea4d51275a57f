"""Adapters for the newer distillation methods, whose files hold a whole module's parameters and gradients."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from kd.methods.afdcd import AfDCD, centre_mask, random_mask
from kd.methods.attnfd import Refinement, direction_gap, refined
from kd.types import Sizes

Inputs = dict[str, Tensor]
HP = dict[str, Any]


def place(module: nn.Module, names: dict[str, str], inputs: Inputs) -> None:
    """Put inputs in the places of parameters and buffers, so that gradients can be asked for; layers by our and their name."""
    for path, name in names.items():
        layer = module.get_submodule(path)
        for held in (layer._parameters, layer._buffers):
            for key in [key for key in held if f"{name}_{key}" in inputs]:
                del held[key]
                setattr(layer, key, inputs[f"{name}_{key}"])


PLAIN = {"hidden.0.0": "0", "last.0": "2"}
ENHANCED = {"hidden.0.0": "block_1_0", "hidden.1.0": "block_2_0", "last.0": "adpator_1", "last.1": "adpator_2"}


def afdcd(inputs: Inputs, hp: HP) -> dict[str, Any]:
    """Both terms under the recorded noise. CamVid's maps are cropped, not pooled."""
    mine, its = inputs["feat_s"], inputs["feat_t"]
    sizes = (Sizes(5, 8, 0, False, (maps.shape[1],), (8,)) for maps in (mine, its))
    method = AfDCD(
        *sizes,
        groups=hp["M"],
        patch=tuple(hp["patch"]),
        pool=1 if hp["dataset"] == "camvid" else max(1, hp["pool"]),
        projector="enhanced" if hp["enhance"] else "plain",
        temperature=hp["tau"],
    ).to(mine.dtype)
    names = {f"projector.{ours}": f"w_projetor_{name}" for ours, name in (ENHANCED if hp["enhance"] else PLAIN).items()}
    place(method, {"align": "w_align", **names}, inputs)
    mask = random_mask(inputs["noise"], hp["mask_ratio"]) if hp["rand_mask"] else centre_mask(mine)
    terms = method.compare(mine, its, mask)
    return {"fd": terms["feature"], "ctr": terms["contrast"]}


def attnfd(inputs: Inputs, hp: HP) -> dict[str, Any]:
    """One level."""
    mine, its = inputs["feat_s"], inputs["feat_t"]
    module = Refinement(mine.shape[1], its.shape[1], hp["reduction"]).to(mine.dtype)
    channels = {"channels.layers.0": "g_ChannelGate_mlp_1", "channels.layers.2": "g_ChannelGate_mlp_3"}
    pixels = {"pixels.layers.0": "g_SpatialGate_spatial_conv", "pixels.layers.1": "g_SpatialGate_spatial_bn"}
    place(module, {**channels, **pixels, "projection.0": "c_0", "projection.1": "c_1"}, inputs)
    attention = refined(its)
    return {"loss": direction_gap(module(mine), attention), "teacher_attention": attention}


ADAPTERS: dict[str, Any] = {"afdcd_": afdcd, "attnfd_": attnfd}
