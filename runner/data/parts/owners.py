"""Which part an attribute describes: a part, several parts, or ``global``. Read from YAML, checked against parts and attributes."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeGuard

import yaml

from runner.data.datasets.content import quoted, some
from runner.data.datasets.tables import read_text
from runner.errors import DataError

GLOBAL = "global"
"""Owner of what belongs to no part."""

Owner = str | list[str]


class OwnersFile(dict[str, Owner]):
    """Owners as a file gives them, with the file and the lines in which attributes stand."""

    def __init__(self, owners: Mapping[str, Owner], path: Path, lines: Mapping[str, int]) -> None:
        super().__init__(owners)
        self.path, self.lines = path, lines

    def where(self, attribute: str) -> str:
        """File and line of an attribute."""
        return f"{self.path}, line {self.lines[attribute]}" if attribute in self.lines else str(self.path)


def _where(name: str, owners: Mapping[str, Owner], attribute: str = "") -> str:
    return owners.where(attribute) if isinstance(owners, OwnersFile) else name


def check_owners(
    name: str, owners: Mapping[str, Owner], parts: Sequence[str], attributes: Sequence[str]
) -> dict[str, Owner]:
    """An owner for each attribute, in their order; lists of one part become that part.

    Raises ``DataError`` for an unknown attribute or part, and for an attribute that nothing owns; it names the file and the line
    where ``owners`` were read from one, else the dataset ``name``.
    """
    unknown = [attribute for attribute in owners if attribute not in {*attributes}]
    if unknown:
        raise DataError(
            f"{_where(name, owners, unknown[0])}: owners name attributes that do not exist: {some(unknown)}",
            hint=_near(unknown, attributes),
        )
    orphans = [attribute for attribute in attributes if attribute not in owners]
    if orphans:
        counted = "1 attribute has" if len(orphans) == 1 else f"{len(orphans)} attributes have"
        raise DataError(
            f"{_where(name, owners)}: {counted} no owner: {some(orphans)}",
            hint=f"Give each a part, several parts, or {GLOBAL}.",
        )
    return {
        attribute: _owner(_where(name, owners, attribute), attribute, owners[attribute], parts)
        for attribute in attributes
    }


def _owner(where: str, attribute: str, owner: Owner, parts: Sequence[str]) -> Owner:
    listed = [owner] if isinstance(owner, str) else owner
    if not isinstance(listed, list) or not listed or not all(isinstance(part, str) for part in listed):
        raise DataError(f"{where}: the owner of {quoted(attribute)} is a part, a list of parts or {GLOBAL}")
    if listed == [GLOBAL]:
        return GLOBAL
    unknown = [part for part in listed if part not in parts]
    if unknown:
        raise DataError(
            f"{where}: the owner of {quoted(attribute)} is a part that does not exist: {some(unknown)}",
            hint=_near(unknown, parts) or f"Parts are {some(parts, most=40)}.",
        )
    if len(set(listed)) < len(listed):
        raise DataError(f"{where}: the owner of {quoted(attribute)} names a part twice")
    return listed[0] if len(listed) == 1 else list(listed)


def owner_text(owner: Owner) -> str:
    """An owner as the results tables write it: several parts are joined with +."""
    return owner if isinstance(owner, str) else "+".join(owner)


def read_owners(path: Path) -> OwnersFile:
    """A YAML mapping attribute -> part | global | [parts]. Raises ``DataError`` naming the file and the line."""
    content, lines = read_yaml(path)
    for attribute, owner in content.items():
        if not _is_owner(owner):
            raise DataError(
                f"{path}, line {lines[attribute]}: the owner of {quoted(attribute)} is a part, a list of parts or {GLOBAL}",
                hint="Put a name that YAML reads as a number or as true or false in quotes.",
            )
    return OwnersFile({attribute: owner for attribute, owner in content.items() if _is_owner(owner)}, path, lines)


def _is_owner(owner: object) -> TypeGuard[Owner]:
    return isinstance(owner, str) or (isinstance(owner, list) and all(isinstance(part, str) for part in owner))


def read_yaml(path: Path) -> tuple[dict[str, object], dict[str, int]]:
    """A YAML file that holds a mapping from texts, and the line of each. Raises ``DataError`` naming file and line; keys that
    stand twice are refused."""
    try:
        loader = _Loader(read_text(path, most=4 * 2**20))
        node = loader.get_single_node()
        content = None if node is None else loader.construct_document(node)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise DataError(f"{path}{line}: no YAML: {getattr(error, 'problem', None) or str(error)[:200]}") from error
    if not isinstance(content, dict) or not isinstance(node, yaml.MappingNode):
        raise DataError(f"{path}: expected a mapping from attributes to parts")
    return content, {key.value: key.start_mark.line + 1 for key, _ in node.value}


class _Loader(yaml.SafeLoader):
    """Keys are texts as they are written (``yes``, ``1``, ``2020-01-01``). Refuses other keys, a key that stands twice, and anchors
    (with which a few lines grow without bound)."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases are not read", problem_mark=mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key is a text, no list or mapping", problem_mark=key.start_mark)
            key.tag = "tag:yaml.org,2002:str"
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{quoted(key.value)} stands twice", problem_mark=key.start_mark)
            seen.add(key.value)
        made: dict[object, object] = super().construct_mapping(node, deep)
        return made


def _near(unknown: Sequence[str], known: Sequence[str]) -> str | None:
    near = difflib.get_close_matches(unknown[0], known, 1)
    return f"Did you mean {near[0]!r}?" if near else None
