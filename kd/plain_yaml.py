"""YAML as plain values: mappings, lists, texts, numbers, true, false, null; no key twice, nothing that grows as it is read."""

from __future__ import annotations

from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

DEEPEST, MOST, WORDY = 64, 200_000, 250
"""Levels of a file, values in it with all aliases written out, and characters of a key."""
TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null", "merge"))


class NotPlainError(yaml.YAMLError):
    """It is YAML, but not of the kind that is read here."""


class _Loader(yaml.SafeLoader):
    depth = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        self.depth += 1
        if self.depth > DEEPEST:
            raise NotPlainError(f"line {self.peek_event().start_mark.line + 1}: is nested deeper than {DEEPEST} levels")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, ScalarNode):
                raise NotPlainError(f"line {_line(key)}: a key is a {_kind(key)}; keys are words or numbers")
            if len(key.value) > WORDY:
                raise NotPlainError(f"line {_line(key)}: a key has {len(key.value)} characters; keys are words or numbers")
            name = key.tag, key.value
            if name in lines:
                where = f"lines {lines[name]} and {_line(key)}" if lines[name] != _line(key) else f"line {_line(key)}"
                raise NotPlainError(f"{where}: {key.value[:60]!r} stands there twice; drop one of them")
            lines[name] = _line(key)
        return node

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        if node.tag not in TAGS:
            raise NotPlainError(
                f"line {_line(node)}: {node.tag.rpartition(':')[2][:60]} is no kind of value here; write a text"
            )
        try:
            value = super().construct_object(node, deep=deep)
        except (ValueError, KeyError, IndexError, AttributeError) as error:
            told = node.value[:60] if isinstance(node, ScalarNode) else _kind(node)
            raise NotPlainError(f"line {_line(node)}: {told!r} is no {node.tag.rpartition(':')[2]} ({error})") from None
        if isinstance(value, str) and not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise NotPlainError(f"line {_line(node)}: holds half a surrogate pair, which is no character")
        return value


_Loader.yaml_implicit_resolvers = {  # a date is a text
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load_yaml(text: str) -> Any:
    """Plain values.

    Raises:
        yaml.YAMLError: it is no YAML, or of another kind, with the line.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if (count := _written_out(node, {})) > MOST:
            raise NotPlainError(f"aliases make more than {MOST} values of it ({count:.1e}); write out what is meant")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _kind(node: Node) -> str:
    return "list" if isinstance(node, SequenceNode) else "mapping" if isinstance(node, MappingNode) else "value"


def _written_out(node: Node, known: dict[int, int]) -> int:
    """The values below a node, those that aliases repeat as often as they do."""
    if id(node) in known:
        if known[id(node)] == 0:
            raise NotPlainError(f"line {_line(node)}: holds itself, by an alias")
        return known[id(node)]
    known[id(node)] = 0
    inner = node.value if isinstance(node, SequenceNode) else []
    inner = [part for pair in node.value for part in pair] if isinstance(node, MappingNode) else inner
    known[id(node)] = 1 + sum(_written_out(part, known) for part in inner)
    return known[id(node)]
