"""Write a distillation method to begin with: a short commented file that works, and its preset."""

from __future__ import annotations

import argparse
from pathlib import Path

EPILOG = """examples:
  kd new-method cosine                           cosine.py with the class Cosine, and _parts/method/cosine.yaml
  kd new-method cosine --output mine/cosine.py

The preset lies in the current folder, where `kd train RECIPE NAME` and sweeps find it. Nothing is overwritten.
"""
PARTS = Path("_parts", "method")


def configure(parser: argparse.ArgumentParser) -> None:
    """Its command line."""
    parser.add_argument("name", metavar="NAME", help="of the method beside a recipe: letters, digits and _")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where its code goes (default: NAME.py)")


def run(options: argparse.Namespace) -> None:
    """Write both files, and say what comes next."""
    import shlex

    from kd.files import write_text
    from kd.methods.template import class_name, written

    name = options.name
    check_name(name)
    code, preset = options.output or Path(f"{name}.py"), PARTS / f"{name}.yaml"
    folder, module = importable(code)
    for path, text in zip((code, preset), written(name, module, str(preset)), strict=True):
        write_text(path, text)
    with_path = f"PYTHONPATH={shlex.quote(str(folder))} " if folder != Path() else ""
    print(f"wrote {code} and {preset}; next:")
    print(f"  {with_path}kd check-method {module}:{class_name(name)}")
    print(f"  {with_path}kd train shapes/tiny {name} --smoke")
    print(f"  kd train shapes/r10_teacher && {with_path}kd train shapes/tiny {name}")


def check_name(name: str) -> None:
    """Refuse what cannot name a method.

    Raises:
        InputError: it is no identifier, or means something here already.
    """
    import keyword

    from kd.config import InputError
    from kd.lookup import options
    from kd.recipe.library import method_files, short

    if not name.isidentifier() or keyword.iskeyword(name) or not name.strip("_"):
        raise InputError(f"'{name}' cannot name a method; use letters, digits and _, a letter first, e.g. my_method")
    known = dict.fromkeys(options("kd.methods", "Method"), "the library")
    known |= {word: short(file) for word, file in method_files().items()}
    if name in known:
        raise InputError(f"{name}: there is such a method already, in {known[name]}; choose another name")


def importable(code: Path) -> tuple[Path, str]:
    """The folder that must be on Python's path, the current one where possible, and the module's name from there.

    Raises:
        InputError: the file is there, is no module, or would be hidden by another one.
    """
    import importlib.util

    from kd.config import InputError

    if code.suffix != ".py" or not code.stem.isidentifier():
        raise InputError(f"{code}: is no name of a Python module; use letters, digits and _, and end in .py")
    if code.exists():
        raise InputError(f"{code}: is there already, and nothing is overwritten; choose another --output")
    here, whole = Path.cwd(), code.resolve()
    parts = whole.relative_to(here).with_suffix("").parts if whole.is_relative_to(here) else ()
    folder, parts = (Path(), parts) if parts and all(map(str.isidentifier, parts)) else (code.parent, (code.stem,))
    spec = importlib.util.find_spec(parts[0])
    places = [spec.origin or "", *(spec.submodule_search_locations or ())] if spec else []
    if places and not any(Path(place).is_relative_to(here) for place in places):
        raise InputError(f"{code}: Python has a module {parts[0]} already, which would be found instead; choose another name")
    return folder, ".".join(parts)
