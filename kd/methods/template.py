"""The files that `kd new-method` writes: a method that works, to be made another."""

from __future__ import annotations

CODE = '''"""CLASS: say in a line what the student shall have in common with the teacher."""

from pydantic import Field

from kd.methods.maps import mean, pair
from kd.methods.method import Method


class CLASS(Method):
    """``gap``: mean over pixels of the squared difference of both networks' probabilities.

    Say here which paper it is of, what its code does otherwise, and where it fails.
    """

    class Config(Method.Config):
        """Knobs, checked before anything runs: `method.temperature=4` beside `kd train`, or an axis of a sweep."""

        temperature: float = Field(1.0, gt=0)

    # What forward reads of the teacher: logits, aux_logits, embedding, pyramid.
    needs = frozenset({"logits"})

    # What forward returns, each weighted in PRESET.
    terms = ("gap",)

    # Layers of its own are made in __init__(self, config, student, teacher), after super().__init__(config, student, teacher),
    # and trained with the student. Only their state, and buffers, outlive a checkpoint. kd/methods/method.py tells the rest.

    def forward(self, student, teacher, target):
        """Maps are B K h w, labels B H W with 255 where there is none. Terms are scalars without weights."""
        mine, theirs = pair(student, teacher)  # logits on one grid, in float32, the teacher's without gradient
        mine, theirs = ((maps / self.config.temperature).softmax(1) for maps in (mine, theirs))
        return {"gap": mean((mine - theirs).square().sum(1))}  # over the images of all processes
'''
PRESET = """# CLASS, with a weight for each of its terms. A task loss stands beside it: cross-entropy unless another is named.
method: {name: "MODULE:CLASS"}
weights: {gap: 1.0}
"""


def class_name(name: str) -> str:
    """``my_method`` as ``MyMethod``."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def written(name: str, module: str, preset: str) -> tuple[str, str]:
    """The code of a method and its preset; ``preset`` is the path of the latter, for the comments."""
    cls = class_name(name)
    return CODE.replace("CLASS", cls).replace("PRESET", preset), PRESET.replace("MODULE", module).replace("CLASS", cls)
