"""Adapters for the distillation methods: production classes and functions, names converted, no formulas."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kd.methods.at import AT
from kd.methods.cirkd import CIRKD, memory_term, mini_batch, unit
from kd.methods.cirkd_memory import Draw, pixels, regions
from kd.methods.critic import Critic, SelfAttention, SpectralConv, critic_loss, generator_loss, gradient_penalty
from kd.methods.cwd import CWD
from kd.methods.dist import DIST
from kd.methods.fitnet import FitNet
from kd.methods.ifvd import IFVD
from kd.methods.maskd import MasKD, masked_logits, masks, overlap
from kd.methods.method import Method
from kd.methods.skd import SKD
from kd.types import IGNORE, Outputs, Sizes

Inputs = dict[str, Tensor]
HP = dict[str, Any]


def _sizes(classes: int, features: Tensor | None) -> Sizes:
    return Sizes(classes, 8, 0 if features is None else features.shape[1], False)


def _outputs(inputs: Inputs, logits: str, features: str, classes: int) -> Outputs:
    """Files of feature losses hold no logits; zeros stand for them."""
    like = inputs[features] if features in inputs else inputs[logits]
    spare = like.new_zeros(len(like), classes, *like.shape[2:])
    return Outputs(inputs.get(logits, spare), embedding=inputs.get(features))


def _run(cls: type[Method], inputs: Inputs, target: Tensor | None = None, classes: int = 5, **knobs: Any) -> Any:
    """Terms of a method on ``student``/``teacher`` logits or ``feat_s``/``feat_t`` features, and the method."""
    names = (("student", "feat_s"), ("teacher", "feat_t"))
    student, teacher = (_outputs(inputs, logits, features, classes) for logits, features in names)
    sizes = [_sizes(o.logits.shape[1], o.embedding) for o in (student, teacher)]
    method = cls(cls.Config(**knobs), *sizes).to(student.logits.dtype)
    for name, value in inputs.items():
        if name == "conv_weight":
            _place(method.projection, "weight", value)
    if target is None:
        target = torch.zeros(len(teacher.logits), *teacher.logits.shape[2:]).long()
    return method(student, teacher, target)


def _place(module: Any, name: str, value: Tensor) -> None:
    """Put an input in the place of a parameter, so that its gradient can be asked for."""
    del module._parameters[name]
    setattr(module, name, value)


def attention(inputs: Inputs, hp: HP) -> dict[str, Any]:
    """AT on one pair of features."""
    return {"loss": _run(AT, inputs)["attention"]}


def fitnet(inputs: Inputs, hp: HP) -> dict[str, Any]:
    """FitNet with a given projection."""
    return {"loss": _run(FitNet, inputs)["hint"]}


def cwd(inputs: Inputs, hp: HP) -> dict[str, Any]:
    """CWD in all modes; the CIRKD repository's feature term is the variant ``code``."""
    features = "feat_s" in inputs
    terms = _run(
        CWD,
        inputs,
        maps=("embedding",) if features else ("logits",),
        temperature=hp.get("temperature", hp.get("tau")),
        over={"channel": "pixels", "spatial": "channels"}[hp.get("norm_type", "channel")],
        kind=hp.get("divergence", "kl"),
        variant="code" if features else "paper",
    )
    return {"loss": terms["feature" if features else "logit"]}


def dist(inputs: Inputs, hp: HP, variant: str = "paper") -> dict[str, Any]:
    """DIST on flattened rows, or on the 4-D map."""
    terms = _run(DIST, inputs, temperature=hp["tau"], aux=False, variant=variant)
    return {"loss": hp["beta"] * terms["inter"] + hp["gamma"] * terms["intra"]}


def skd(inputs: Inputs, hp: HP, variant: str) -> dict[str, Any]:
    """SKD's pair-wise term."""
    terms = _run(SKD, inputs, variant=variant, scale=hp.get("scale", 0.5), adversary=None)
    return {"loss": terms["pair"]}


def ifvd(inputs: Inputs, hp: HP) -> dict[str, Any]:
    """IFVD's own term."""
    target = inputs["label"].where(inputs["label"] != hp["ignore"], IGNORE)
    return {"loss": _run(IFVD, inputs, target, hp["num_classes"], adversary=None)["variation"]}


def cirkd_mini_batch(inputs: Inputs, hp: HP) -> dict[str, Any]:
    """All pairs of the batch as one group."""
    mine, its = unit(inputs["feat_s"]), unit(inputs["feat_t"])
    return {"loss": mini_batch(mine, its, hp["temperature"], group=len(mine))}


def cirkd_memory(inputs: Inputs, hp: HP, enqueue: tuple[Tensor, Tensor] | None = None) -> dict[str, Any]:
    """Both memory terms with given banks and slots; ``enqueue`` holds the recorded draws of the released code."""
    student, teacher = (_sizes(hp["num_classes"], inputs[name]) for name in ("feat_s", "feat_t"))
    knobs = {"pixel_slots": hp["pixel_memory_size"], "region_slots": hp["region_memory_size"], "variant": "code"}
    method = CIRKD(CIRKD.Config(**knobs), student, teacher).to(inputs["feat_s"].dtype)
    for bank, name in ((method.pixel_bank, "pixel"), (method.region_bank, "region")):
        bank.vectors.copy_(inputs[f"{name}_queue"])
        bank.position.copy_(inputs[f"{name}_ptr"])
    first, norm, _, last = method.head
    places = {"w1": (first, "weight"), "bn_w": (norm, "weight"), "bn_b": (norm, "bias"), "w2": (last, "weight")}
    for name, (module, key) in places.items():
        _place(module, key, inputs[f"proj_{name}"])
    found: dict[str, Any] = {}
    its, labels = unit(inputs["feat_t"]), _small_labels(inputs, hp)
    if enqueue is not None:
        draw = recorded(labels, hp["num_classes"], hp["pixel_update_freq"], *enqueue)
        method.pixel_bank.write(pixels(its, draw))
        method.region_bank.write(regions(its, labels, hp["num_classes"]))
        for bank, name in ((method.pixel_bank, "pixel"), (method.region_bank, "region")):
            found |= {f"{name}_queue_after": bank.vectors, f"{name}_ptr_after": bank.position}
    own = unit(method.head(inputs["feat_s"]))
    for bank, name in ((method.pixel_bank, "pixel"), (method.region_bank, "region")):
        negatives = bank.negatives(inputs[f"{name}_index"])
        softening = hp["contrast_kd_temperature"]
        term = memory_term(own, its, negatives, labels != IGNORE, hp["contrast_temperature"], softening)
        found[f"loss_{name}"] = term
    return {"loss": found["loss_pixel"] + found["loss_region"], **found}


def _small_labels(inputs: Inputs, hp: HP) -> Tensor:
    from kd.methods.maps import labels_at

    labels = inputs["label"].where(inputs["label"] != hp["ignore_label"], IGNORE)
    return labels_at(labels, inputs["feat_t"]).flatten(1)


def recorded(labels: Tensor, classes: int, most: int, flat: Tensor, offsets: Tensor) -> Draw:
    """The recorded permutations (by image, then class) as a draw."""
    place, number = torch.zeros(len(labels), classes, most).long(), torch.zeros(len(labels), classes).long()
    visits = [(image, c) for image in range(len(labels)) for c in range(classes) if (labels[image] == c).any()]
    for (image, c), first, last in zip(visits, offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        number[image, c] = last - first
        place[image, c, : last - first] = flat[first:last]
    return Draw(place, number)


def cirkd_enqueue(inputs: Inputs, hp: HP) -> dict[str, Any]:
    """The memory is written before the loss, with the draws that were recorded."""
    return cirkd_memory(inputs, hp, (inputs["enqueue_perm_flat"], inputs["enqueue_perm_offsets"]))


def maskd_learn(inputs: Inputs, hp: HP) -> dict[str, Any]:
    """MasKD's first stage: masks, masked logits, overlap."""
    mask = masks(inputs["tokens"], inputs["teacher"])
    out, dice = masked_logits(inputs["teacher"], mask), overlap(mask)
    return {"loss": dice + (out * inputs["cot"]).sum(), "masked_out": out, "mask": mask, "dice": dice}


def maskd(inputs: Inputs, hp: HP, variant: str = "segmentation") -> dict[str, Any]:
    """MasKD's second stage, through the method."""
    student, teacher = Outputs(inputs["student"]), Outputs(inputs["teacher"])
    sizes = _sizes(inputs["student"].shape[1], None)
    method = MasKD(MasKD.Config(count=hp["num_tokens"], aux=False, variant=variant), sizes, sizes)
    method.enter(method.stages[-1])
    method.tokens.values = nn.Parameter(inputs["tokens"], requires_grad=False)
    terms = method(student, teacher, torch.zeros_like(inputs["student"][:, 0]).long())
    return {"loss": terms["mask"], "mask": masks(inputs["tokens"], inputs["teacher"])}


def spectral(inputs: Inputs, hp: HP) -> dict[str, Any]:
    """One forward of the spectrally normalised convolution."""
    weight = inputs["weight_bar"]
    conv = SpectralConv(weight.shape[1], weight.shape[0]).to(weight.dtype)
    _place(conv, "weight", weight)
    conv.bias = nn.Parameter(inputs["bias"])
    conv.u.copy_(inputs["u0"])
    conv.v.copy_(inputs["v0"])
    out = conv(inputs["x"])
    return {"loss": (out * inputs["cot"]).sum(), "out": out, "u1": conv.u, "v1": conv.v}


def self_attention(inputs: Inputs, hp: HP) -> dict[str, Any]:
    """Self-attention with given weights."""
    layer = SelfAttention(inputs["x"].shape[1]).to(inputs["x"].dtype)
    for part, key in ((layer.query, "q"), (layer.key, "k"), (layer.value, "v")):
        part.weight, part.bias = nn.Parameter(inputs[f"w{key}"]), nn.Parameter(inputs[f"b{key}"])
    _place(layer, "gamma", inputs["gamma"])
    out = layer(inputs["x"])
    return {"loss": (out * inputs["cot"]).sum(), "out": out}


def _mixed(shape: torch.Size, stream: int, dtype: torch.dtype) -> Tensor:
    """The integer rule of the file's ``weight_rule``."""
    number = np.arange(int(np.prod(shape)), dtype=np.uint64)
    h = (number * np.uint64(2654435761) + np.uint64(stream * 40503)) % np.uint64(2**32)
    h ^= h >> np.uint64(16)
    h = h * np.uint64(73244475) % np.uint64(2**32)
    h ^= h >> np.uint64(16)
    return torch.from_numpy(0.1 * (h.astype(np.float64) / 2**32 - 0.5)).to(dtype).view(shape)


def discriminator(inputs: Inputs, hp: HP) -> dict[str, Any]:
    """The whole published critic at 64 x 64, weights by rule."""
    scores = (inputs["x"].double() / 8).requires_grad_()  # the input is an integer, which tells no precision
    critic = Critic(hp["input_channel"], width=hp["conv_dim"]).to(scores.dtype).train()
    one, two = critic.attention
    layers: list[Any] = [*critic.convs, critic.last, one.query, one.key, one.value, two.query, two.key, two.value]
    with torch.no_grad():
        for index, layer in enumerate(layers):
            layer.weight.copy_(_mixed(layer.weight.shape, index + 1, scores.dtype))
            layer.bias.copy_(_mixed(layer.bias.shape, 50 + index, scores.dtype))
            if isinstance(layer, SpectralConv):
                for name, base in (("u", 100), ("v", 200)):
                    raw = _mixed(getattr(layer, name).shape, base + index, scores.dtype)
                    getattr(layer, name).copy_(raw / (raw.norm() + 1e-12))
        one.gamma.fill_(hp["attn1_gamma"])
        two.gamma.fill_(hp["attn2_gamma"])
    out = critic(scores)
    slope = torch.autograd.grad(out.sum(), scores, retain_graph=True)[0][0, 0]
    return {"loss": out.sum(), "d_out": out, "grad_x00": slope}


def penalty(inputs: Inputs, hp: HP) -> dict[str, Any]:
    """Gradient penalty of a small critic given by two convolutions."""

    class Small(nn.Module):
        def forward(self, maps: Tensor) -> Tensor:
            return nn.functional.conv2d(nn.functional.leaky_relu(nn.functional.conv2d(maps, inputs["w1"]), 0.1), inputs["w2"])

    value = gradient_penalty(Small(), inputs["teacher"], inputs["student"], inputs["alpha"])
    return {"loss": hp["lambda_gp"] * value}


def critic_step(inputs: Inputs, hp: HP, kind: str) -> dict[str, Any]:
    """The critic's loss."""
    return {"loss": critic_loss(inputs["d_real"], inputs["d_fake"], kind)}


def generator_step(inputs: Inputs, hp: HP) -> dict[str, Any]:
    """The student's adversarial term."""
    return {"loss": generator_loss(inputs["d_fake"])}


ADAPTERS: dict[str, Any] = {
    "at_": attention,
    "fitnet_": fitnet,
    "cwd_": cwd,
    "dist_": dist,
    "dist_mmrazor_4d": partial(dist, variant="code"),
    "skd_pairwise_official": partial(skd, variant="official"),
    "skd_pairwise_cirkd": partial(skd, variant="cirkd"),
    "ifvd_": ifvd,
    "cirkd_minibatch": cirkd_mini_batch,
    "cirkd_memory_fixedbank": cirkd_memory,
    "cirkd_memory_with_enqueue": cirkd_enqueue,
    "maskd_stage1": maskd_learn,
    "maskd_stage2": maskd,
    "maskd_mmrazor_custommask": partial(maskd, variant="detection"),
    "adv_spectralnorm": spectral,
    "adv_selfattention": self_attention,
    "adv_discriminator": discriminator,
    "adv_gradient_penalty": penalty,
    "adv_hinge_discriminator": partial(critic_step, kind="hinge"),
    "adv_wgangp_discriminator": partial(critic_step, kind="wgan"),
    "adv_hinge_generator": generator_step,
    "adv_wgangp_generator": generator_step,
}
