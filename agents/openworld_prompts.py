"""What a picture is asked in the open world: variants of the question (arXiv 2503.21851, in words of our own)."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from agents.prompting import one_line, render

PromptKey = Literal[
    "base", "caption", "describe", "list", "more_generic", "more_specific", "fine_grained", "zero_shot_cot", "llava_cot",
    "llamav_o1",
]  # fmt: skip
Compat = Literal["sane", "official"]

ANSWER_TOKENS, REASONING_TOKENS = 64, 256
REASONING = frozenset({"zero_shot_cot", "llava_cot", "llamav_o1"})
_TURNS = 4
_NOUN_CHARACTERS = 60

QuestionText = Annotated[str, Field(min_length=1, max_length=4000)]


class OwnPrompt(BaseModel):
    """A question of one's own: one ``text``, or several ``rounds`` of one conversation whose last reply is the answer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field("own", min_length=1, max_length=40, pattern=r"^[\w-]+$", description="what results call it")
    text: QuestionText | None = None
    rounds: list[QuestionText] | None = Field(None, min_length=1, max_length=8)

    @model_validator(mode="after")
    def _one_of_both(self) -> OwnPrompt:
        if (self.text is None) == (self.rounds is None):
            raise ValueError("write either text (one question) or rounds (several, in one conversation)")
        return self


class Question(NamedTuple):
    """``rounds``: user turns of one conversation; ``tokens``: most new tokens of each reply."""

    key: str
    rounds: tuple[str, ...]
    tokens: int


def base_question() -> str:
    """The open-world question in its plain form; judges are told this one whatever was asked."""
    return render("owc_base", subject="object")


def question(prompt: PromptKey | OwnPrompt, *, domain_noun: str | None = None, compat: Compat = "sane") -> Question:
    """The question that ``prompt`` stands for.

    ``domain_noun`` replaces "object" in ``fine_grained``. ``compat: official`` asks ``llava_cot`` as published runs did: their
    configuration wrote the question under a name that was not read, so that a question about the whole image was sent.
    Raises ``ValueError`` for ``fine_grained`` without a noun.
    """
    if isinstance(prompt, OwnPrompt):
        return Question(prompt.name, tuple(prompt.rounds or [str(prompt.text)]), ANSWER_TOKENS)
    noun = "object"
    if prompt == "fine_grained":
        if not domain_noun:
            raise ValueError("it has no domain noun")
        noun = one_line(domain_noun, _NOUN_CHARACTERS)
    turns = _TURNS if prompt == "llamav_o1" else 1
    settings: dict[str, Any] = {"subject": noun, "official": compat == "official"}
    rounds = tuple(render(f"owc_{prompt}", turn=turn, **settings) for turn in range(turns))
    return Question(prompt, rounds, REASONING_TOKENS if prompt in REASONING else ANSWER_TOKENS)


_CONCLUSION = re.compile(r"<CONCLUSION>(.*?)(?:</CONCLUSION>|\Z)", re.DOTALL | re.IGNORECASE)


def prediction_of(key: str, reply: str, compat: Compat = "sane") -> str:
    """What is scored of a reply: all of it, untouched; of ``llava_cot`` the last CONCLUSION section, stripped, where there is one.

    ``compat: official`` scores the whole text there too.
    """
    if key != "llava_cot" or compat == "official":
        return reply
    found = [text.strip() for text in _CONCLUSION.findall(reply)]
    return found[-1] if found and found[-1] else reply
