"""A researcher's own images and masks, in a folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field, PositiveInt, model_validator
from torch import Tensor

from kd.config import ConfigError
from kd.data import band_files
from kd.data.bands import Bands, as_pairs, check_bands
from kd.data.dataset import Colour, Dataset, Files, Reading
from kd.data.folder_layout import FREE, Layout
from kd.data.mask_coding import ByColour, ByThreshold, ByValue, ClassColours, ClassValues, Values, palette
from kd.data.reading import check_sizes, data_root, resized, shrunk
from kd.data.split_names import SPLIT
from kd.types import IGNORE

Byte = Annotated[int, Field(ge=0, le=255)]
Range = Annotated[tuple[tuple[float, float], ...], BeforeValidator(as_pairs)]


class Folder(Dataset):
    """Images and masks that pair up by name: ``images/street/7.jpg`` and ``masks/street/7.png``.

    Splits come from the first of these that is there: ``lists``; ``portions``; ``{split}`` in ``images``; sub-folders
    ``images/train``, ``images/val`` ... (or ``train/images`` ...); files ``train.txt``, ``val.txt``, ``test.txt`` under the
    root; else 70, 15 and 15 % of the files, cut by a hash of their names.

    Raises:
        ConfigError: folders, files or classes are missing, images and masks do not pair up, or the split is empty.
    """

    class Config(Dataset.Config):
        """``root`` holds ``images`` and ``masks`` (default ``$KD_DATA/folder``).

        ``images``, ``masks``: their folders; with ``{split}`` in both, e.g. ``{split}/rgb``, each split has its own.
        ``mask_suffix``: what masks have behind the image's stem, e.g. ``_mask``; other files beside them are left alone.
        ``classes``: ``[background, road]`` (a mask value is the position), or ``{0: background, 255: crack}`` (value to name;
        the order is the class number). ``colours``: ``{road: [128, 64, 128], ...}``: masks are painted, and read by colour.
        ``ignore``, ``ignore_colours``: mask values, or colours, that mean no label; 255 by default, unless it is a class.
        ``threshold``: for two classes whose masks are grey, with smoothed edges or lossy: from this level on it is the second.
        ``lists``: split to list file, which holds an image, or an image and its mask, a line.
        ``portions``: split to its share of the files. ``orphans``: whether images without mask, and masks without image, are
        refused or skipped. ``resize`` (H, W) shrinks what is read. ``unlabelled``: a folder of images without masks, the split
        ``unlabelled``, to learn from by soft labels alone; those that have a mask here are left out of it.
        ``channels`` of the images (3: RGB; others: TIFF, grey pictures, ``.npy`` of ``H W C`` or ``C H W``). ``range``: the
        values that become 0 and 1, ``[low, high]`` or a pair for each channel, where files hold other than 8 bits. ``shown``:
        the channels that pictures show as red, green and blue, or one as grey.
        """

        root: str | None = None
        images: str = Field("images", min_length=1)
        masks: str = Field("masks", min_length=1)
        mask_suffix: str = ""
        classes: ClassValues | None = None
        colours: ClassColours | None = None
        ignore: Values = (IGNORE,)
        threshold: int | None = Field(None, ge=1, le=255)
        ignore_colours: tuple[tuple[Byte, Byte, Byte], ...] = ()
        lists: dict[str, str] = Field(default_factory=dict)
        portions: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(default_factory=dict)
        orphans: Literal["refuse", "skip"] = "refuse"
        resize: tuple[PositiveInt, PositiveInt] | None = None
        channels: int = Field(3, ge=1)
        range: Range | None = None
        shown: tuple[Annotated[int, Field(ge=0)], ...] | None = None
        unlabelled: str | None = None

        @model_validator(mode="before")
        @classmethod
        def _a_class_is_not_ignored(cls, values: Any) -> Any:
            """The value that is ignored by default may be declared as a class."""
            classes = values.get("classes") if isinstance(values, dict) else None
            declared = isinstance(classes, dict) and str(IGNORE) in map(str, classes)
            cut = isinstance(values, dict) and values.get("threshold") is not None
            return {**values, "ignore": []} if (declared or cut) and "ignore" not in values else values

        @model_validator(mode="after")
        def _makes_sense(self) -> Any:
            _check_labels_declared(self)
            if self.lists and self.portions:
                raise ValueError("lists and portions are both set; keep one (delete the other with null)")
            total = sum(self.portions.values())
            if self.portions and abs(total - 1) > 1e-6:
                raise ValueError(f"portions add up to {total:g}; they must add up to 1")
            check_bands(Bands(self.channels, self.range, self.shown))
            if (SPLIT in self.images) != (SPLIT in self.masks):
                raise ValueError(f"images is '{self.images}' and masks '{self.masks}'; both must hold {SPLIT}, or neither")
            return self

    @classmethod
    def offers(cls, config: Any) -> tuple[str, ...]:
        """The splits that the folder has."""
        return Layout(config, data_root(config.root, "folder")).splits

    @classmethod
    def without_labels(cls, config: Any) -> tuple[str, ...]:
        """The folder of images without masks, where one is named."""
        return () if config.unlabelled is None else (FREE,)

    def __init__(self, config: Any, split: str) -> None:
        if not config.classes and not config.colours:
            raise ConfigError(
                "data.classes: is not set; name the classes in the order of the masks' values, e.g. "
                "data.classes='[background, road]', or by value: '{0: background, 255: crack}', or by colour: data.colours"
            )
        self.config, self.split = config, split
        self.root = data_root(config.root, "folder")
        layout, free = Layout(config, self.root), split in self.without_labels(config)
        pairs = [] if free else layout.pairs(split)
        found = layout.unlabelled() if free else {pair.name: pair.image for pair in pairs}
        self.names, self.images, self.masks = _file_names(list(found)), list(found.values()), [pair.mask for pair in pairs]
        self.classes, self.colours = _declared(config)
        self.channels = config.channels
        self._labels = self._reader()

    @property
    def bands(self) -> Bands:
        """What the images' channels are."""
        return Bands(self.config.channels, self.config.range, self.config.shown)

    def _reader(self) -> Callable[[Path], Tensor]:
        config = self.config
        if config.threshold is not None:
            return ByThreshold(config.threshold)
        if config.colours:
            return ByColour(_in_order(config), config.ignore_colours)
        return ByValue(config.classes, config.ignore, self._all_masks)

    def __len__(self) -> int:
        return len(self.images)

    def identity(self, index: int) -> str:
        """The path below the folder of images without suffix, ``/`` written as ``__``."""
        return self.names[index]

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Image uint8 ``C H W``, or floats in [0, 1] with ``range``; labels uint8 ``H W``, all 255 in ``unlabelled``."""
        if not self.masks:
            image = self.image(index)
            return image, torch.full(image.shape[1:], IGNORE, dtype=torch.uint8)
        image, labels = band_files.read(self.images[index], self.bands), self._labels(self.masks[index])
        check_sizes(image, labels, self.masks[index], self.images[index])
        return resized(image, labels, self.config.resize)

    def image(self, index: int) -> Tensor:
        """The image alone."""
        return shrunk(band_files.read(self.images[index], self.bands), self.config.resize)

    @property
    def notes(self) -> list[str]:
        """Arrays beside pictures."""
        return Layout(self.config, self.root).notes

    def files(self, index: int) -> Files:
        """The image's and the mask's."""
        read: Reading = "colours" if self.config.colours else "numbers" if self.config.threshold is None else "greys"
        return Files(self.images[index], self.masks[index] if self.masks else None, read)

    def _all_masks(self) -> Iterator[Path]:
        layout = Layout(self.config, self.root)
        return (pair.mask for split in layout.splits for pair in layout.pairs(split))


def _check_labels_declared(config: Any) -> None:
    """Classes, colours and ignored ones must not contradict each other."""
    both = [value for value, _ in config.classes or () if value in config.ignore]
    if both and not config.colours:
        raise ValueError(f"the mask value {both[0]} is a class and ignored; set data.ignore=[] or to another value")
    if config.threshold is not None and (config.colours or config.ignore or len(config.classes or ()) != 2):
        raise ValueError(
            "threshold cuts grey masks into two classes and leaves no pixel out; give two classes, e.g. classes=[background, "
            "crack], and neither colours nor ignore"
        )
    both = [name for name, colour in config.colours or () if colour in config.ignore_colours]
    if both:
        raise ValueError(f"the colour of {both[0]} is ignored too; correct colours or ignore_colours")
    if config.classes and config.colours:
        named, painted = {name for _, name in config.classes}, {name for name, _ in config.colours}
        if named != painted:
            raise ValueError(
                f"classes and colours name different classes ({', '.join(sorted(named ^ painted))}); with colours, classes "
                "only says their order and can be left out"
            )


def _in_order(config: Any) -> list[tuple[str, Colour]]:
    """Colours in the order of the classes."""
    colours = dict(config.colours)
    return [(name, colours[name]) for name in ([name for _, name in config.classes] if config.classes else colours)]


def _declared(config: Any) -> tuple[tuple[str, ...], tuple[Colour, ...]]:
    """Class names, and the colours to paint them with."""
    if config.colours:
        names, colours = zip(*_in_order(config), strict=True)
        return names, colours
    return tuple(name for _, name in config.classes), palette(len(config.classes))


def _file_names(names: list[str]) -> list[str]:
    flat = [name.replace("/", "__") for name in names]
    double = [name for name, count in Counter(flat).items() if count > 1]
    if double:
        raise ConfigError(f"data: two images of a split would be called {double[0]}; rename one, or list it once")
    return flat
