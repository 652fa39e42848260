"""What an audit is about, as the agents and the later steps share it: the task, its classes, how captions call them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

OutputKind = Literal["multi", "binary"]

_ID_LIKE = re.compile(r"^(n\d{5,}|(label|class|category|output|target|c|id)?[\s_-]*\d+)$", re.IGNORECASE)


def looks_like_id(name: str) -> bool:
    """Whether a class name says nothing to a reader: ``n02123045``, ``LABEL_3``, ``17``."""
    return bool(_ID_LIKE.match(name.strip()))


def shown(name: str) -> str:
    """A name as prompts and captions write it: lower case, underscores as spaces."""
    return " ".join(name.replace("_", " ").lower().split())


@dataclass(frozen=True)
class Brief:
    """The audited task.

    ``kind`` ``multi``: one class of many is right, ``classes`` are its values. ``binary``: each class is a yes/no output of
    its own, and its share of "yes" among pictures that show it is measured. ``targets``: the audited classes.
    """

    description: str
    name: str
    kind: OutputKind
    classes: tuple[str, ...]
    targets: tuple[str, ...]
    caption_names: dict[str, str]

    def caption_name(self, target: str) -> str:
        """How captions call the class."""
        return self.caption_names.get(target) or shown(target)

    def names_of(self, target: str) -> tuple[str, ...]:
        """What counts as naming the class: its caption name, and its own name unless that is an id."""
        own = () if looks_like_id(target) else (target,)
        return (self.caption_name(target), *own)

    def task(self) -> dict[str, Any]:
        """As artifacts carry it: ``{"description", "outputs": [{"name", "type", "values", "caption_names"}]}``."""
        if self.kind == "multi":
            outputs = [self._output(self.name, self.classes)]
        else:
            outputs = [self._output(name, (name,)) for name in self.classes]
        return {"description": self.description, "outputs": outputs}

    def _output(self, name: str, values: tuple[str, ...]) -> dict[str, Any]:
        names = {v: self.caption_names[v] for v in values if v in self.caption_names}
        return {"name": name, "type": self.kind, "values": list(values), "caption_names": names}


def brief_of(task: dict[str, Any], targets: list[str]) -> Brief:
    """The brief behind an artifact's ``task`` and ``targets``."""
    outputs = task["outputs"]
    kind: OutputKind = outputs[0]["type"]
    return Brief(
        description=task["description"],
        name=outputs[0]["name"] if kind == "multi" else "attributes",
        kind=kind,
        classes=tuple(value for output in outputs for value in output["values"]),
        targets=tuple(targets),
        caption_names={k: v for output in outputs for k, v in output["caption_names"].items()},
    )
