"""Files of recipes, their parts and methods by name: the user's own first, then those that come with the package.

A name such as ``camvid/r18`` or ``cwd`` is looked up in the current folder, in its ``recipes``, and in the library.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

from kd.config import ConfigError
from kd.files import at_home, is_file, is_folder

NO_RECIPES = ("_parts", "sweeps", "results")
"""Folders that hold no recipes of pairs or teachers."""
KINDS = ("loss", "method")
"""Folders of ``_parts`` whose files say how a student is trained."""
MODELINE = "# yaml-language-server"
WORD = re.compile(r"[^\s+=]+")
"""What may name a method on a command line, where + joins and = sets."""


def library() -> Path:
    """The folder of the recipes that come with the package: ``kd/recipes`` where it is installed, ``recipes`` in a clone."""
    package = Path(__file__).parent.parent
    return installed if (installed := package / "recipes").is_dir() else package.parent / "recipes"


def shelves(near: Path | None = None) -> list[Path]:
    """Folders where names are looked up, the nearest first: those above the file ``near``, the current one, the library."""
    above = near.resolve().parents if near else ()
    return list(dict.fromkeys([*above, Path.cwd(), Path.cwd() / "recipes", library()]))


def find(name: str, near: Path | None = None, but: Path | None = None) -> Path | None:
    """The file of a name such as ``camvid/r18`` or ``_parts/loss/ce``, or None; not the file ``but``."""
    files = (folder / f"{name}.yaml" for folder in shelves(near))
    return next((file for file in files if is_file(file) and file.resolve() != but), None)


def recipe_names(folder: Path | None = None) -> list[str]:
    """The recipes of a folder (default: the library)."""
    base = folder or library()
    return [_name(file, base) for file in sorted(base.glob("*/*.yaml")) if file.parent.name not in NO_RECIPES]


def sweep_names() -> list[str]:
    """The sweeps of the library, e.g. ``camvid_cpu``."""
    return [file.stem for file in sorted((library() / "sweeps").glob("*.yaml"))]


def recipe_file(name: str | Path, near: Path | None = None) -> Path:
    """The file of a recipe that is given by its path or its name; ``near`` is a file whose folders come first.

    Raises:
        ConfigError: there is no such recipe; the message names close ones, or the new spelling of an old one.
    """
    if is_file(file := at_home(name)):
        return file
    text = _plain(name)
    if (found := find(text, near)) is not None:
        return found
    asked = f"{name}: there is no such recipe"
    if new := respelled(text, near):
        raise ConfigError(f"{asked}; a recipe describes a pair, and the method is named beside it: {' or '.join(new)}")
    if "=" in text or text in method_files(near):
        what = "sets a key" if "=" in text else "names a method"
        raise ConfigError(f"{asked}; it {what}, and the recipe comes first: kd train RECIPE {text}")
    known = [known for folder in shelves(near)[-2:] for known in recipe_names(folder)]
    folders = [(folder, (folder / text).parent) for folder in shelves(near)]
    beside = [_name(file, base) for base, folder in folders if is_folder(folder) for file in folder.glob("*.yaml")]
    raise ConfigError(f"{asked}; {_close(text, [*known, *beside]) or '`kd recipes` lists them; or give the path of a file'}")


def sweep_file(name: str | Path) -> Path:
    """The file of a sweep that is given by its path or its name.

    Raises:
        ConfigError: there is no such sweep.
    """
    if is_file(file := at_home(name)):
        return file
    text = _plain(name).removeprefix("sweeps/")
    found = find(text) or find(f"sweeps/{text}")
    if found is None:
        hint = _close(text, sweep_names()) or f"sweeps: {', '.join(sweep_names())}"
        raise ConfigError(f"{name}: there is no such sweep; {hint}; or give the path of a file")
    return found


def method_files(near: Path | None = None) -> dict[str, Path]:
    """The words that may stand beside a recipe, sorted, with their files.

    A word means the same beside every recipe: those of the current folder come first, those in folders above the file ``near``
    before the library's.
    """
    found: dict[str, Path] = {}
    here = (Path.cwd(), Path.cwd() / "recipes")
    for folder in reversed(dict.fromkeys([*here, *shelves(near)])):
        for kind in KINDS:
            files = (folder / "_parts" / kind).glob("*.yaml")
            found |= {file.stem: file for file in files if file.is_file() and WORD.fullmatch(file.stem)}
    return dict(sorted(found.items()))


def respelled(name: str, near: Path | None = None) -> list[str]:
    """New spellings of what was a file for a pair and a method, ``camvid/r18_kd``, or is the directory of such a run:
    ``camvid/r18 kd``. None where the name means nothing."""
    known = method_files(near)
    for split in (number for number, letter in enumerate(name) if letter == "_"):
        pair, word = name[:split], name[split + 1 :]
        fitting = (
            [word] if known.keys() >= set(word.split("+")) else [preset for preset in known if preset.startswith(f"{word}@")]
        )
        if fitting and find(pair, near) is not None:
            return [f"{pair} {word}" for word in fitting]
    return []


def trained_by(directory: str, near: Path | None = None) -> tuple[str, str] | None:
    """The recipe and the method of a run in ``runs/DIRECTORY/seedN``, or None; "" where the recipe needs no method."""
    if find(directory, near):
        return directory, ""
    found = respelled(directory, near)
    name, _, method = found[0].partition(" ") if len(found) == 1 else ("", "", "")
    return (name, method) if name else None


def comment(file: Path) -> str:
    """What a file says of itself at its beginning, in one line."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith(MODELINE)]
    end = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return " ".join(line.lstrip("# ") for line in lines[:end]).strip()


def short(path: Path) -> str:
    """A file as messages call it: from ``recipes/`` on where it lies in such a folder, from ``./`` on in the current one."""
    parts, here = path.parts, Path.cwd()
    if path.is_relative_to(here) and not path.is_relative_to(library()):
        return f"./{path.relative_to(here).as_posix()}"
    return "/".join(parts[parts.index("recipes") :]) if "recipes" in parts else path.name


def _close(name: str, options: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, dict.fromkeys(options), n=3)
    return f"did you mean {' or '.join(close)}?" if close else ""


def _name(file: Path, folder: Path) -> str:
    inside = file.relative_to(folder) if file.is_relative_to(folder) else file
    return inside.with_suffix("").as_posix()


def _plain(name: str | Path) -> str:
    """``recipes/camvid/r18.yaml`` as ``camvid/r18``."""
    return str(name).removesuffix(".yaml").removeprefix("./").removeprefix("recipes/")
