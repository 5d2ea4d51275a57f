"""Names to classes: the file name is the registry.

``lookup("kd.methods", "cwd", "Method")`` finds the one public class of ``kd/methods/cwd.py`` that derives from ``Method``.
``"package.module:Class"`` reaches a user's own code.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, GetJsonSchemaHandler, SerializeAsAny, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import CoreSchema

from kd.blame import blame
from kd.config import ConfigError, Named, explain, shown

HOMES = {
    "Dataset": "kd.data.Dataset",
    "Loss": "kd.losses.Loss",
    "Method": "kd.methods.Method",
    "Network": "kd.networks.Network",
    "Predictor": "kd.evaluate.Predictor",
    "Teacher": "teachers.Teacher",
}
"""Where a base class is imported from."""
MARK = "x-chosen-from"
"""In a JSON Schema: a value whose name chooses a class, by the folder and the base of the classes."""


@cache
def options(folder: str, base: str) -> dict[str, str]:
    """File name to class name, for every file of a package that defines a class deriving from ``base``. Imports nothing."""
    spec = importlib.util.find_spec(folder)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"there is no package {folder}")
    found = {}
    for file in sorted(Path(spec.submodule_search_locations[0]).glob("*.py")):
        names = [name for name in _derived(file, base) if not name.startswith("_")]
        if len(names) > 1:
            raise ImportError(f"{file} defines {', '.join(names)}; one {base} a file, so that the file name can stand for it")
        if names:
            found[file.stem] = names[0]
    return found


def _derived(file: Path, base: str) -> list[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    return [node.name for node in classes if any(isinstance(b, ast.Name) and b.id == base for b in node.bases)]


def lookup(folder: str, name: str, base: str) -> type[Any]:
    """The class called ``name`` in ``folder``.

    Raises:
        ConfigError: the name is unknown (the message lists the options), or the user's own class cannot be imported.
    """
    if ":" in name:
        return _own(name, base)
    known = options(folder, base)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        choices = ", ".join(known)
        raise ConfigError(f"'{name}' is no {base} here.{hint} Options: {choices}; or package.module:Class for your own.")
    return getattr(importlib.import_module(f"{folder}.{name}"), known[name])


def named(folder: str, base: str) -> Any:
    """The type of a configuration field, written as a mapping: its ``name`` chooses the class that checks the rest."""

    def check(value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        name = value.get("name")
        if not isinstance(name, str) or not name:
            raise ConfigError(f"needs a name; it chooses a file of {folder.replace('.', '/')}/")
        found = lookup(folder, name, base)
        strange = [key for key in value if key not in found.Config.model_fields]
        if strange and ":" in name and found.Config.__qualname__ == f"{base}.Config":
            raise ConfigError(
                f"{name} has no knob {strange[0]}; declare it inside {found.__name__}: class Config({base}.Config): "
                f"{strange[0]}: float = 1.0"
            )
        return found.Config.model_validate(dict(value))

    return Annotated[SerializeAsAny[Named], BeforeValidator(check), _Marked(folder, base)]


def configured(values: Any, folder: str, base: str, key: str) -> Any:
    """A configuration that names its class: what a recipe writes under ``key``, plain, or a configuration already.

    Raises:
        ConfigError: the name or a knob is unknown, or a value wrong; told as in a recipe.
    """
    if isinstance(values, Mapping):
        try:
            return TypeAdapter(named(folder, base)).validate_python(values)
        except ValidationError as error:
            raise ConfigError(explain(error, key)) from None
    if not hasattr(values, "name"):
        example = {"name": next(iter(options(folder, base)))}
        raise ConfigError(f"{key}: is {shown(values)}; give a mapping as a recipe does, e.g. {example}")
    if values.name or not isinstance(values, Named):
        return values
    kind = type(values)
    return values.model_copy(update={"name": _name(kind.__module__, kind.__qualname__.rpartition(".")[0])})


class _Marked:
    """Tells the generator of JSON Schemas which classes a name may choose."""

    def __init__(self, folder: str, base: str) -> None:
        self.mark = [folder, base]

    def __get_pydantic_json_schema__(self, _: CoreSchema, __: GetJsonSchemaHandler) -> dict[str, Any]:
        return {MARK: self.mark}


def recipe_name(cls: type[Any]) -> str:
    """By what a recipe finds a class: its file's name, or ``package.module:Class`` for a user's own."""
    return _name(cls.__module__, cls.__qualname__)


def _name(module: str, cls: str) -> str:
    top, _, rest = module.partition(".")
    return rest.rpartition(".")[2] if top in ("kd", "teachers") else f"{module}:{cls}"


def own_name(name: str) -> str:
    """A class as labels and terms call it: its file's name, or the lower-case name of the user's own class."""
    return name.rpartition(":")[2].lower()


def _own(name: str, base: str) -> type[Any]:
    module, _, cls = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), cls)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"'{name}' cannot be imported ({error}); write package.module:Class, with its folder here or on PYTHONPATH"
        ) from error
    except PydanticUserError as error:
        raise ConfigError(
            f"'{name}': a knob of its Config has no type; write e.g. power: float = 2.0 ({str(error).splitlines()[0]})"
        ) from error
    except Exception as error:
        raise ConfigError(f"'{name}': its module breaks off when it is imported: {blame(error)}; mend it there") from error
    own = isinstance(found, type) and base in {parent.__name__ for parent in found.__mro__ if parent is not found}
    if not own:
        raise ConfigError(f"'{name}' is not a {base}; derive the class from {HOMES[base]}")
    if not isinstance(found.Config, type) or not issubclass(found.Config, Named):
        raise ConfigError(f"'{name}': its Config is no configuration; write class Config({base}.Config): inside the class")
    return found
