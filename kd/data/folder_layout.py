"""Which files of a researcher's folder make up which split."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from kd.config import ConfigError
from kd.data.band_files import ARRAYS
from kd.data.folder_files import ListFile, Pair, Strays, index, indices, matched, pictures
from kd.data.reading import SUFFIXES
from kd.data.split_names import SPLIT, purpose
from kd.files import at_home, is_folder

USUAL = ("train", "val", "test")
FREE = "unlabelled"
"""The split of images without masks."""
PORTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}


class OrphanError(ConfigError):
    """Images without a mask, or masks without an image; ``orphans`` holds each one's name and message."""

    def __init__(self, message: str, orphans: list[tuple[str, str]]) -> None:
        super().__init__(message)
        self.orphans = orphans


class Layout:
    """The files of a folder data set; ``config`` is that of ``Folder``, whose docstring says how splits are found."""

    def __init__(self, config: Any, root: Path) -> None:
        self.config, self.root = config, root
        self.lists = {split: root / at_home(file) for split, file in config.lists.items()}
        self.portions: dict[str, float] = dict(config.portions)
        self.images, self.masks = config.images, config.masks
        if not self.lists and not self.portions and SPLIT not in self.images:
            self._look_around()

    def _look_around(self) -> None:
        """Sub-folders, or list files, else the default portions.

        Raises:
            ConfigError: there are both.
        """
        self.lists = {split: file for split in USUAL if (file := self.root / f"{split}.txt").is_file()}
        for form in (f"{{}}/{SPLIT}", f"{SPLIT}/{{}}"):
            images, masks = (form.replace("{}", name) for name in (self.images, self.masks))
            folder = self.root / images.replace(SPLIT, "train")
            if is_folder(folder) and self.lists:
                raise ConfigError(
                    f"data: there are folders ({folder}) and list files ({', '.join(self.lists)}.txt); say which make the "
                    f"splits: 'data.lists={{train: train.txt, ...}}', or 'data.images=\"{images}\"' 'data.masks=\"{masks}\"'"
                )
            if is_folder(folder):
                self.images, self.masks = images, masks
                return
        if not self.lists:
            self.portions = PORTIONS

    @property
    def splits(self) -> tuple[str, ...]:
        """Their names, the usual ones first."""
        return _ordered(list(self.lists) or list(self.portions) or list(self._folders()))

    def _folders(self) -> dict[str, str]:
        """What ``{split}`` stands for, by the folders that are there; ``Training`` is the split ``train``."""
        form = re.compile(re.escape(self.images).replace(re.escape(SPLIT), "([^/]+)", 1))
        there = [path.relative_to(self.root).as_posix() for path in self.root.glob(self.images.replace(SPLIT, "*"))]
        names = [match[1] for name in there if (match := form.fullmatch(name)) and not match[1].startswith((".", "__"))]
        found = [name for name in names if (self.root / self.masks.replace(SPLIT, name)).is_dir()]
        if not found:
            raise ConfigError(f"data.images: no split has {self.images} and {self.masks}{self._there(self.root)}")
        return {"train" if "train" not in found and purpose(name) == "train" else name: name for name in found}

    def pairs(self, split: str) -> list[Pair]:
        """The pairs of a split, by name or in the order of its list.

        Raises:
            ConfigError: folders or files are missing, names collide, or nothing is left.
            OrphanError: images and masks do not pair up, and ``data.orphans`` does not say to skip such.
        """
        spelled = self._folders().get(split, split) if SPLIT in self.images and split not in self.lists else split
        images, masks = (self.root / name.replace(SPLIT, spelled) for name in (self.images, self.masks))
        for key, folder in (("images", images), ("masks", masks)):
            if not is_folder(folder) and not self.lists:
                raise ConfigError(f"data.{key}: {folder} is no directory{self._there(self.root)}")
        suffix = self.config.mask_suffix
        if split in self.lists:
            found, strays = ListFile(self.lists[split], self.root, images, masks, suffix).pairs()
        else:
            found, strays = matched(*indices(images, masks, suffix))
        if any(strays) and self.config.orphans == "refuse":
            raise self._orphaned(strays, images, masks)
        chosen = cut(found, self.portions, split) if split in self.portions else found
        if not chosen:
            raise ConfigError(self._why_empty(split, images, len(found), len(strays.images)))
        return chosen

    @property
    def notes(self) -> list[str]:
        """What lies in the folders of images and is not read."""
        folders = [self.root / self.images, *([self.root / at_home(self.config.unlabelled)] if self.config.unlabelled else [])]
        told = [(folder, _arrays(folder)) for folder in folders]
        hint = "put them into a folder without pictures"
        return [f"{folder}: arrays beside pictures are not read ({names}); {hint}" for folder, names in told if names]

    def unlabelled(self) -> dict[str, Path]:
        """The images of the folder that ``data.unlabelled`` names, without those of any split and their masks; by name.

        Raises:
            ConfigError: it is no folder, or nothing is left.
        """
        folder = self.root / at_home(self.config.unlabelled)
        if not is_folder(folder):
            raise ConfigError(f"data.unlabelled: {folder} is no directory; name a folder of images, below {self.root} or whole")
        known = {path.resolve() for pair in self._paired() for path in (pair.image, pair.mask)}
        there = index(folder) or index(folder, ARRAYS)
        masks = (self.root / self.masks).resolve()  # also those of images that are in no split
        own = masks != (self.root / self.images).resolve() and masks.is_dir()
        free = {name: path for name, path in there.items() if not (own and path.resolve().is_relative_to(masks))}
        found = {name: free[name] for name in sorted(free) if free[name].resolve() not in known}
        if not found:
            told = f"the {len(there)} images in it have masks" if there else f"pictures end in {', '.join(SUFFIXES)}"
            raise ConfigError(f"data.unlabelled: {folder} holds no image without a mask; {told}. Name another folder, or null")
        return found

    def _paired(self) -> Iterator[Pair]:
        """The pairs of all splits that can be opened."""
        for split in self.splits:
            with suppress(ConfigError):
                yield from self.pairs(split)

    def _there(self, folder: Path) -> str:
        """What a user may have meant."""
        names = sorted(path.name for path in folder.glob("*") if path.is_dir() and not path.name.startswith("."))
        return f"; {folder} holds the folders {', '.join(names[:12]) or '(none)'}. Set data.images and data.masks"

    def _orphaned(self, strays: Strays, images: Path, masks: Path) -> OrphanError:
        parts = [
            f"{len(paths)} {kind}, first {', '.join(path.name for path in paths[:3])}"
            for kind, paths in (("images without a mask", strays.images), ("masks without an image", strays.masks))
            if paths
        ]
        parts += [f"arrays beside pictures are no images: {names}"] if (names := _arrays(images)) else []
        guess = _suffix(strays)
        hint = f"Masks seem to end in '{guess}': set data.mask_suffix={guess}" if guess else "Complete them, by equal names"
        message = f"{images}, {masks}: {'; '.join(parts)}. {hint}, or leave such files out with data.orphans=skip"
        told = [(path.name, f"{path}: is an image without a mask") for path in strays.images]
        return OrphanError(message, told + [(path.name, f"{path}: is a mask without an image") for path in strays.masks])

    def _why_empty(self, split: str, images: Path, pairs: int, lonely: int) -> str:
        if pairs:
            return f"data.portions: {pairs} images leave none for '{split}'; raise its portion, or add images"
        if lonely:
            return f"{images}: none of {lonely} images has a mask, so '{split}' is empty; check data.masks and data.mask_suffix"
        kinds = f"pictures end in {', '.join(SUFFIXES)}, arrays in {', '.join(ARRAYS)}"
        return f"{images}: holds no image, so '{split}' is empty; {kinds}. Set data.images"


def _arrays(folder: Path) -> str:
    """The arrays in a folder that holds pictures, which are not read."""
    found = [path.name for path in pictures(folder, ARRAYS)] if folder.is_dir() and any(pictures(folder)) else []
    return f"{len(found)}, first {found[0]}" if found else ""


def _ordered(names: list[str]) -> tuple[str, ...]:
    return tuple(sorted(names, key=lambda name: (USUAL.index(name) if name in USUAL else len(USUAL), name)))


def cut(pairs: Sequence[Pair], portions: dict[str, float], split: str) -> list[Pair]:
    """A split's share of pairs: they are ordered by a hash of their names and cut at the rounded cumulated portions.

    The same names give the same splits, in whatever order the portions are written; sorted by name.
    """
    ranked = sorted(pairs, key=lambda pair: (hashlib.sha256(pair.name.encode()).digest(), pair.name))
    names = _ordered(list(portions))
    before = names[: names.index(split)]
    start = sum(portions[name] for name in before)
    first, last = (int(len(ranked) * share + 0.5 + 1e-9) for share in (start, start + portions[split]))
    return sorted(ranked[first:last])


def _suffix(strays: Strays) -> str:
    """What all lonely masks carry behind the stem of a lonely image; empty if nothing fits."""
    stems = sorted((path.stem for path in strays.images), key=len, reverse=True)
    endings = {next((mask.stem[len(s) :] for s in stems if mask.stem.startswith(s)), "") for mask in strays.masks}
    return endings.pop() if len(endings) == 1 else ""
