"""Look at every image and label map of a data set once, and tell what would hurt: damage, wrong labels, leakage, imbalance."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from kd.config import ConfigError
from kd.data.audit.sample import Sample, Scan
from kd.data.build import named_splits, open_images
from kd.data.dataset import Colour, Dataset
from kd.data.folder_layout import OrphanError
from kd.data.presence import Seen, Shower, advice
from kd.lookup import lookup
from kd.types import IGNORE


@dataclass(frozen=True)
class Offence:
    """Something to mend: in which split, what (a sample, a file or a class), and the message that names value and remedy."""

    split: str
    name: str
    message: str


@dataclass
class Audit:
    """What was found. ``samples`` by split are all readable ones; ``kinds`` counts what the files are, readable or not, and
    ``turned`` the EXIF orientations of images that are not upright; ``offences`` must be mended, ``notes`` be known. The splits
    that are ``free`` have no labels."""

    classes: tuple[str, ...] = ()
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    kinds: dict[str, Counter[str]] = field(default_factory=lambda: {what: Counter() for what in ("images", "masks")})
    turned: Counter[int] = field(default_factory=Counter)
    offences: list[Offence] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    free: frozenset[str] = frozenset()

    def pixels(self, split: str) -> NDArray[np.int64]:
        """Labels of each readable image, ``N 256``."""
        found = [sample.pixels for sample in self.samples[split] if sample.pixels is not None]
        return np.stack(found) if found else np.zeros((0, 256), np.int64)


def audit(
    config: Any, *, splits: Sequence[str] = (), crop: tuple[int, int] = (0, 0), workers: int = 0, show: Shower | None = None
) -> Audit:
    """Scan splits (default: all with labels, and those without that the configuration names) in ``workers`` processes.
    ``crop`` (H, W): smaller images of train are noted.

    Raises:
        ConfigError: there is no such split, or none can be opened.
    """
    cls = lookup("kd.data", config.name, "Dataset")
    free = cls.without_labels(config)
    known = (*cls.offers(config), *free)
    unknown = [split for split in splits if split not in known]
    if unknown:
        raise ConfigError(f"there is no split '{unknown[0]}'; the splits of {config.name} are {', '.join(known)}")
    found = Audit(free=frozenset(free))
    for split in splits or named_splits(config):
        try:
            data = opened(config, split, found)
        except ConfigError as error:
            found.offences.append(Offence(split, split, str(error)))
        else:
            found.classes = data.classes
            found.notes += [note for note in data.notes if note not in found.notes]
            _scan(data, split, found, workers, show)
    if not found.samples:
        raise ConfigError("\n".join(dict.fromkeys(offence.message for offence in found.offences)))
    _leakage(found)
    _palettes(found, config)
    for split in found.samples:
        if split not in found.free:
            _absent(found, split)
        _remarks(found, split, crop)
        if split not in found.free:
            _labels(found, split)
    return found


def opened(config: Any, split: str, found: Audit | None = None) -> Dataset:
    """The split without its orphans, which become offences, each once.

    Raises:
        ConfigError: it cannot be opened for another reason, or nothing but orphans is there.
    """
    if getattr(config, "store", None) is not None:
        config = config.model_copy(update={"store": None})  # it is the files that are looked at
    try:
        return open_images(config, split)
    except OrphanError as error:
        orphaned = error
    try:
        data = open_images(config.model_copy(update={"orphans": "skip"}), split)
    except ConfigError:
        raise orphaned from None
    if found is not None and str(orphaned) not in found.notes:
        found.notes.append(str(orphaned))
        found.offences += [Offence(split, name, message) for name, message in orphaned.orphans]
    return data


def _scan(data: Dataset, split: str, found: Audit, workers: int, show: Shower | None) -> None:
    loader: Any = DataLoader(Scan(data), batch_size=1, num_workers=workers, collate_fn=_single, worker_init_fn=_one_thread)
    samples = list(loader if show is None else show(loader, f"checking {split}"))
    for sample in samples:
        for what, told in zip(found.kinds.values(), sample.kinds, strict=True):
            what.update([told] if told else [])
    found.turned.update(sample.orientation for sample in samples if sample.orientation != 1)
    found.samples[split] = [sample for sample in samples if not sample.error]
    found.offences += [Offence(split, sample.name, sample.error) for sample in samples if sample.error]


def _single(samples: list[Sample]) -> Sample:
    return samples[0]


def _one_thread(worker: int) -> None:  # noqa: ARG001
    torch.set_num_threads(1)


def _leakage(found: Audit) -> None:
    """Images that two splits share, pixel by pixel. A split that names another, as ``trainval`` does, is meant to hold it."""
    seen: dict[str, dict[str, str]] = defaultdict(dict)
    for split, sample in [(split, sample) for split, samples in found.samples.items() for sample in samples]:
        before = seen[sample.digest]
        if split in before:
            found.notes.append(f"{split}: {sample.name} is the same image as {before[split]}")
            continue
        others = [(other, name) for other, name in before.items() if other not in split and split not in other]
        for other, name in others:
            same = f"is the same image as {name} of {other}"
            if {split, other} <= found.free | {"train"}:  # one is learnt from like the other
                found.notes.append(f"{split}: {sample.name} {same}")
            else:
                message = f"{sample.name}: {same}; leave it in one split, or scores are too good"
                found.offences.append(Offence(split, sample.name, message))
        before[split] = sample.name


def _palettes(found: Audit, config: Any) -> None:
    """Masks that paint one number in different colours: a program that numbers colours anew in each file permutes classes."""
    samples = [(split, sample) for split, scanned in found.samples.items() for sample in scanned]
    seen: dict[int, Counter[Colour]] = defaultdict(Counter)
    for _, sample in samples:
        for value, colour in sample.palette.items():
            seen[value][colour] += 1
    usual = {value: colours.most_common(1)[0][0] for value, colours in seen.items()}
    offenders = 0
    for split, sample in samples:
        others = [value for value, colour in sample.palette.items() if colour != usual[value]]
        if others:
            offenders += 1
            told = (
                f"paints the value {others[0]} {list(sample.palette[others[0]])}, most masks paint it {list(usual[others[0]])}"
            )
            message = f"{told}; where palettes differ the numbers may mean other classes: read the masks by colour"
            found.offences.append(Offence(split, sample.name, f"{sample.name}: {message}"))
    if offenders:
        names = dict(getattr(config, "classes", None) or enumerate(found.classes))
        colours = ", ".join(f"{names[value]}: {list(colour)}" for value, colour in sorted(usual.items()) if value in names)
        paste = f"'data.colours={{{colours}}}' data.classes=null"
        found.notes.append(f"{offenders} masks have another palette than most; to read them by colour: {paste}")


def _absent(found: Audit, split: str) -> None:
    """Classes without a pixel: nothing can be learned of them in ``train``, nothing measured elsewhere."""
    totals = found.pixels(split).sum(0)
    absent = [name for number, name in enumerate(found.classes) if totals[number] == 0]
    if not absent or not found.samples[split]:
        return
    if split == "train":
        share = totals[IGNORE] / totals.sum()
        seen = Seen(frozenset(np.flatnonzero(totals[:IGNORE]).tolist()), bool(totals[IGNORE]))
        message = f"no pixel of train has this class, so it cannot be learned ({share:.0%} of all pixels are ignored); "
        message += advice(found.classes, seen)
        found.offences += [Offence(split, name, f"{name}: {message}") for name in absent]
    elif len(absent) < len(found.classes):
        found.notes.append(f"{split}: never holds {', '.join(absent)}; their IoU will be undefined or zero there")
    else:
        found.notes.append(f"{split}: has no labels at all; nothing can be measured on it")


def _remarks(found: Audit, split: str, crop: tuple[int, int]) -> None:
    samples = found.samples[split]
    crop = crop if split == "train" or split in found.free else (0, 0)
    small = [sample for sample in samples if sample.size[0] < crop[0] or sample.size[1] < crop[1]]
    if small:
        name, size = small[0].name, small[0].size
        found.notes.append(
            f"{split}: {len(small)} images are smaller than the crop {crop[0]}x{crop[1]} and get padded, first {name} "
            f"({size[0]}x{size[1]})"
        )
    kinds = Counter(sample.kinds[0] for sample in samples)
    usual = max(kinds, key=kinds.__getitem__, default="")
    rare = [sample for sample in samples if sample.kinds[0] != usual]
    if split in found.free and rare:
        found.notes.append(
            f"{split}: {len(rare)} images are no {usual} as most are, first {rare[0].name}, {rare[0].kinds[0]}: is it a mask?"
        )


def _labels(found: Audit, split: str) -> None:
    samples = found.samples[split]
    blank = [sample.name for sample in samples if sample.pixels is not None and not sample.pixels[:IGNORE].any()]
    if blank:
        found.notes.append(f"{split}: {len(blank)} images hold nothing but ignored pixels, first {', '.join(blank[:3])}")
    cut = [sample.doubtful for sample in samples if sample.doubtful]
    if cut:
        found.notes.append(
            f"{split}: masks are cut at a grey level; {sum(cut) / len(samples):.2%} of their pixels are neither dark nor "
            "bright, and scores along edges say little"
        )
    if len({sample.size for sample in samples}) > 1:
        found.notes.append(f"{split}: images differ in size; keep evaluation.batch=1")
