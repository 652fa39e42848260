"""Messages of in-context open-world classification (arXiv 2602.23229, section on CIRCLE; the wording is ours).

A context picture is directly followed by a text of one line with its labels; the target stands last. What models or datasets
call a picture enters as data: one line, bounded.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from agents.openworld_prompts import base_question
from agents.prompting import one_line, render
from runner.models.base import ImagePart, Message

if TYPE_CHECKING:
    import jinja2

LABEL_CHARACTERS = 200
VARIABLES = frozenset({"examples"})
"""What a template may use: the number of examples shown."""
_MAX_BYTES = 20_000


class Shown(NamedTuple):
    """A picture with the labels that stand beside it."""

    picture: ImagePart
    labels: str


@functools.cache
def template_names() -> tuple[str, ...]:
    """The templates that a folder may replace."""
    files = (Path(entry.name) for entry in resources.files("agents").joinpath("prompts").iterdir())
    return tuple(sorted(f.stem for f in files if f.suffix == ".jinja" and f.stem.startswith("circle_")))


def load_templates(folder: Path) -> dict[str, jinja2.Template]:
    """Templates in ``folder`` (``<name>.jinja``) that replace the packaged ones, by name.

    Raises ``ValueError`` for a folder without templates, a file of another name, one that is no template or is longer than
    20,000 bytes, and a template that uses what is not among ``VARIABLES``.
    """
    files = sorted(folder.glob("*.jinja")) if folder.is_dir() else []
    if not files:
        raise ValueError(f"{folder} holds no template: it replaces any of {', '.join(template_names())} (.jinja)")
    return {file.stem: _template(file) for file in files}


def _template(file: Path) -> jinja2.Template:
    import jinja2.sandbox
    from jinja2 import TemplateError, meta

    if file.stem not in template_names():
        raise ValueError(f"{file.name} replaces no template; there are {', '.join(template_names())}")
    environment = jinja2.sandbox.SandboxedEnvironment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise ValueError(f"it is longer than {_MAX_BYTES:,} bytes")
        text = file.read_text("utf8")
        unknown = meta.find_undeclared_variables(environment.parse(text)) - VARIABLES
        if unknown:
            raise ValueError(f"it uses {', '.join(sorted(unknown))}; known is only {', '.join(VARIABLES)}")
        template = environment.from_string(text)
        if not template.render(examples=2).strip():
            raise ValueError("it says nothing")
    except (OSError, ValueError, TemplateError, TypeError, ArithmeticError, LookupError) as error:
        raise ValueError(f"{file.name} cannot be used: {error}") from error
    return template


@dataclass(frozen=True)
class Prompts:
    """The messages. ``own``: templates instead of the packaged ones; ``system``: system message, or none.

    ``split_turns``: the task of a refinement is a user message of its own, as published runs sent it.
    """

    own: Mapping[str, jinja2.Template] = field(default_factory=dict)
    system: str | None = None
    split_turns: bool = False

    def text(self, name: str, examples: int = 0) -> str:
        """The template ``name``, with the number of examples filled in."""
        if name in self.own:
            return self.own[name].render(examples=examples).strip()
        return render(name, examples=examples)

    def texts(self, examples: int) -> dict[str, str]:
        """All templates as they read with so many examples, for the record."""
        return {name: self.text(name, examples) for name in template_names()}

    def pseudo(self, picture: ImagePart) -> tuple[Message, ...]:
        """What broad category the picture belongs to."""
        return self._user(picture, self.text("circle_pseudo"))

    def plain(self, examples: Sequence[Shown], picture: ImagePart) -> tuple[Message, ...]:
        """The plain open-world question, after pairs of picture and label where there are any."""
        return self._user(*_pairs(examples, "label"), picture, base_question())

    def refine(self, examples: Sequence[Shown], target: Shown) -> tuple[Message, ...]:
        """Instruction, examples with their current labels, delimiter, target with its own, task; alone without examples."""
        kind = "circle_refine" if examples else "circle_refine_alone"
        parts: list[str | ImagePart] = [self.text(kind, len(examples)), *_pairs(examples, "current labels")]
        if examples:
            parts.append(self.text("circle_target", len(examples)))
        parts += _pairs([target], "current labels")
        task = self.text(f"{kind}_task", len(examples))
        if self.split_turns:
            return (*self._user(*parts), Message("user", task))
        return self._user(*parts, task)

    def query(self, examples: Sequence[Shown], picture: ImagePart) -> tuple[Message, ...]:
        """Instruction, examples with their final labels, delimiter, query, task: all but the last two is the same for all queries.

        Without examples, the plain question.
        """
        if not examples:
            return self.plain((), picture)
        start = (self.text("circle_query", len(examples)), *_pairs(examples, "label"))
        count = len(examples)
        return self._user(*start, self.text("circle_target", count), picture, self.text("circle_query_task", count))

    def _user(self, *parts: str | ImagePart) -> tuple[Message, ...]:
        system = (Message("system", self.system),) if self.system else ()
        return (*system, Message("user", parts))


def shown_label(text: str) -> str:
    """A label as models read it: one line of at most 200 characters."""
    return one_line(text, LABEL_CHARACTERS)


def _pairs(shown: Sequence[Shown], name: str) -> Iterator[str | ImagePart]:
    for picture, labels in shown:
        yield picture
        yield f"{name}: {labels}"
