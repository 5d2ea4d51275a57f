"""A survey as recipes with a comment on each key: a pair, and its teacher."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from kd.data.split_names import purpose
from kd.data.survey.coding import Class
from kd.data.survey.survey import Survey

BATCH = 8
PASSES = 150
STEPS = (200, 40_000)
SPECIAL = ("yes", "no", "on", "off", "true", "false", "null", "y", "n")
"""Words that YAML takes for something else."""
CROP = (32, 512)
"""The least and the largest side of a crop."""


def pair(found: Survey, name: str) -> str:
    """The recipe of a pair, ``NAME/r18``."""
    places, train = found.places, found.splits["train"]
    batch = min(BATCH, train)
    steps = min(max(STEPS[0], round(PASSES * train / batch / 100) * 100), STEPS[1])
    select, report = chosen(found)
    lines = [
        f"# {name}: {sum(found.splits.values())} images with masks, written by `kd init`. Read it through; then",
        f"#   kd check-data {name}/r18                 after each change",
        f"#   kd train {name}/r18 ce                   the baseline: cross-entropy alone",
        f"#   kd train {name}/r34_teacher              the teacher, then the student that learns from it:",
        f"#   kd train {name}/r18 jml_kd",
        "# Backbones start from ImageNet weights of the Hugging Face hub; without network: student.pretrained=FILE, or",
        "# student.pretrained=false schedule.optimizer.lr=5e-4 schedule.optimizer.head_multiplier=1 and more steps.",
        "family: jdt",
        "extends: [_parts/data/folder, _parts/student/dl3_r18, _parts/schedule/folder]",
        f"teacher: {{name: run, path: runs/{name}/r34_teacher/seed0, floor: 20}}",
        "data:",
        f"  root: {json.dumps(str(found.root), ensure_ascii=False)}",
        _commented(f"  images: {_text(places.images)}", f"in {_counted(found)}"),
        _commented(f"  masks: {_text(places.masks)}", found.coding.words),
        *([f"  mask_suffix: {_text(places.suffix)}"] if places.suffix else []),
        *_bands(found),
        *_labels(found),
        *_splits(found),
        *_normalised(found),
        _commented(f"augmentation: {{crop: {_crop(found.sizes)}}}", f"height, width; images are {_sizes(found.sizes)}"),
        _commented(f"schedule: {{steps: {steps}, batch: {batch}}}", f"{steps * batch / train:.0f} passes over {train} images"),
        f"evaluation: {{select: {_text(select)}, report: {_text(report)}, every: {max(1, steps // 8)}}}",
    ]
    return "\n".join(lines) + "\n"


def teacher(name: str) -> str:
    """The recipe of the pair's teacher, ``NAME/r34_teacher``, on the same data."""
    return "\n".join(
        [
            f"# The teacher of {name}/r18, on its data: DeepLabV3-R34 with boundary-smoothed labels (BLS).",
            f"extends: [{name}/r18, _parts/loss/bls_jml]",
            "student: {backbone: resnet34d, width: 256, aux: 128}",
            "teacher: null",
            "",
        ]
    )


def _bands(found: Survey) -> Iterator[str]:
    """How images are read that are not RGB of 8 bits."""
    if (bands := found.bands) is None:
        return
    example = "[2, 1, 0]" if bands.channels > 2 else f"[{bands.channels - 1}]"
    seen = f"; shown: {example} says what is seen in pictures" if bands.channels > 1 else ""
    yield _commented(f"  channels: {bands.channels}", f"{bands.kind}{seen}")
    if bands.range:
        yield _commented(f"  range: {[list(pair) for pair in bands.range]}", "the values that become 0 and 1, as measured")


def _normalised(found: Survey) -> list[str]:
    """The student's mean and deviation."""
    if (bands := found.bands) is None:
        return []
    return [_commented(f"student: {{mean: {list(bands.mean)}, std: {list(bands.std)}}}", "of what it is shown, 0 to 1")]


def _labels(found: Survey) -> Iterator[str]:
    """How classes are declared."""
    coding = found.coding
    if coding.threshold is not None:
        yield _commented(f"  classes: [{', '.join(_text(one.name) for one in coding.classes)}]", "dark, bright: name them")
        yield _commented(f"  threshold: {coding.threshold}", "from this grey level on it is bright")
        return
    yield _commented(f"  {'colours' if coding.classes[0].colour else 'classes'}:", "give them names")
    yield from (_commented(f"    {_declared(one)}", f"{one.share:.2%} of the pixels") for one in coding.classes)
    if coding.ignore_colours:
        yield _commented(
            f"  ignore_colours: {list(map(list, coding.ignore_colours))}", f"no label: {coding.ignored:.2%} of the pixels"
        )
    if coding.classes[0].colour is None:
        yield _commented(f"  ignore: {coding.ignore}", f"no label: {coding.ignored:.2%} of the pixels" if coding.ignore else "")


def _declared(one: Class) -> str:
    return f"{one.number}: {_text(one.name)}" if one.colour is None else f"{_text(one.name)}: {list(one.colour)}"


def _splits(found: Survey) -> list[str]:
    if found.lists:
        return [f"  lists: {{{', '.join(f'{split}: {_text(file)}' for split, file in found.lists.items())}}}"]
    if not found.cut:
        return []
    told = ", ".join(f"{split} {count}" for split, count in found.splits.items())
    return [
        f"  # Splits are cut by a hash of the names ({told}). Images of one scene or patient must lie in one split:",
        "  # name them in lists then, lists: {train: train.txt, val: val.txt, test: test.txt}, or use folders images/train ...",
    ]


def chosen(found: Survey) -> tuple[str, str]:
    """The split that selects, and the one that is reported: by what their names say, test never selects where there is val."""
    roles = {purpose(split): split for split in found.splits if split != "train"}
    others = [split for split in found.splits if split != "train"] or ["train"]
    return roles.get("val", others[0]), roles.get("test", others[-1])


def _crop(sizes: Sequence[tuple[int, int]]) -> list[int]:
    """Not larger than nine of ten images, in whole blocks of the coarsest stride."""
    least, most = CROP
    sides = [sorted(size[axis] for size in sizes)[len(sizes) // 10] for axis in (0, 1)] if sizes else [most, most]
    return [min(most, max(least, side // least * least)) for side in sides]


def _sizes(sizes: Sequence[tuple[int, int]]) -> str:
    counted = Counter(f"{height}x{width}" for height, width in sizes)
    shown = ", ".join(f"{size} ({count})" for size, count in counted.most_common(3))
    return f"{shown} and {len(counted) - 3} other sizes" if len(counted) > 3 else shown or "unreadable"


def _counted(found: Survey) -> str:
    return ", ".join(f"{split} {count}" for split, count in found.splits.items())


def _commented(text: str, comment: str) -> str:
    return f"{text:<44s}  # {comment}" if comment else text


def _text(value: str) -> str:
    """As YAML, quoted unless it is a plain word."""
    plain = re.fullmatch(r"[A-Za-z][\w/.-]*", value) and value.lower() not in (
        "yes",
        "no",
        "on",
        "off",
        "true",
        "false",
        "null",
    )
    return value if plain else json.dumps(value, ensure_ascii=False)
