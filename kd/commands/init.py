"""Write recipes for a folder of images and masks: looks at them, declares classes and splits, and checks all."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

FEW, FEW_CLASSES = 10, 2
"""Images below which a split says little."""
EPILOG = """examples:
  kd init ~/cracks                          writes recipes/cracks/r18.yaml and r34_teacher.yaml here, and checks the data
  kd init ~/cracks --name cracks_2027
  kd init ~/cracks --images photos --masks labelled --mask-suffix _gt

Folders are found by their names (images, masks, train/images, ...) and by pictures of one name; masks may hold numbers (grey,
palette, 8 or 16 bits), be painted, or be grey pictures of one thing with smoothed edges. Names of classes are taken from
classes.txt or labelmap.txt in the folder. Exit codes: 0 ready to train, 2 something to mend (or bad input).
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Its command line."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="holds images and masks")
    parser.add_argument("--name", help="of the recipes' folder below recipes/ (default: that of FOLDER)")
    parser.add_argument("--images", metavar="DIR", help="the folder of images in FOLDER; {split} stands for train, val ...")
    parser.add_argument("--masks", metavar="DIR", help="the folder of masks")
    parser.add_argument("--ignore", type=int, action="append", metavar="VALUE", help="a mask value that means no label")
    parser.add_argument("--mask-suffix", metavar="TEXT", help="what masks have behind the image's name, e.g. _mask")


def run(options: argparse.Namespace) -> None:
    """Look, write, check."""
    from kd.config import InputError
    from kd.data.survey.recipe_text import pair, teacher
    from kd.data.survey.survey import survey
    from kd.files import at_home, write_text
    from kd.recipe.library import MODELINE, library
    from students.progress import bar

    root = at_home(options.folder).resolve()
    name = re.sub(r"[^\w.=+@-]+", "_", options.name or root.name).strip("_.")
    if not name:
        raise InputError(f"{options.name or root}: has no letter that a recipe could be called by; give --name")
    target = Path("recipes") / name
    if there := [path for path in (target / "r18.yaml", target / "r34_teacher.yaml") if path.exists()]:
        raise InputError(f"{there[0]}: is there already, and may have been edited; remove it, or choose another --name")
    keys = {"images": options.images, "masks": options.masks, "mask_suffix": options.mask_suffix}
    found = survey(root, {key: value for key, value in keys.items() if value is not None}, bar, options.ignore)
    if not found.splits.get("train"):
        raise InputError(f"{root}: has no images to train on; splits: {', '.join(found.splits)}. Call one of them train")
    head = f"{MODELINE}: $schema={(library() / 'recipe.schema.json').resolve()}\n"
    target.mkdir(parents=True, exist_ok=True)
    write_text(target / "r18.yaml", head + pair(found, name))
    write_text(target / "r34_teacher.yaml", head + teacher(name))
    print(f"{target / 'r18.yaml'}, r34_teacher.yaml: written; {found.coding.words}; classes:")
    print(*summary(found), sep="\n")
    check(name, target)
    print(f"next: kd train {name}/r18 ce")


def summary(found: Any) -> list[str]:
    """What was seen that a glance should confirm: classes, what is no label, splits, and what is left out."""
    from kd.data.survey.recipe_text import chosen

    coding, (select, report) = found.coding, chosen(found)
    shown = ", ".join(f"{one.name} {one.share:.1%}" for one in coding.classes[:12])
    lines = [f"  {shown}{f', ... ({len(coding.classes)})' if len(coding.classes) > 12 else ''}"]
    if none := [*coding.ignore, *map(list, coding.ignore_colours)]:
        lines.append(f"  no label: {', '.join(map(str, none))} ({coding.ignored:.1%} of the pixels)")
    if any(one.colour == (0, 0, 0) for one in coding.classes) and len(coding.classes) > FEW_CLASSES:
        lines.append("  note: black is taken for a class; if it means no label: data.ignore_colours instead of data.colours")
    counts = ", ".join(f"{split} {count}" for split, count in found.splits.items())
    how = "cut by a hash of the names" if found.cut else "by list files" if found.lists else "as they are"
    lines.append(f"splits {how}: {counts}; the best is chosen on {select}, {report} is reported")
    if select == report:
        lines.append(f"  note: {select} chooses and is reported; a further split would make the best checkpoint's score honest")
    if few := [split for split, count in found.splits.items() if split != "train" and count < FEW]:
        lines.append(f"  note: {' and '.join(few)}: fewer than {FEW} images, on which scores and choices say little")
    return lines + [
        f"  note: not taken: {other}; move them together, or say --images and --masks" for other in found.places.others
    ]


def check(name: str, target: Path) -> Any:
    """``kd check-data`` on what was written."""
    from kd.commands import check_data
    from kd.config import InputError

    parser = argparse.ArgumentParser()
    check_data.configure(parser)
    try:
        check_data.run(parser.parse_args([str(target / "r18.yaml")]))
    except InputError as error:
        raise InputError(f"{error}. Mend them, or say more in {target / 'r18.yaml'}; then: kd check-data {name}/r18") from None
