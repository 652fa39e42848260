"""Step ``leakage.ask``: a chat model is asked yes or no about pictures with one part hidden. Light: imported to validate a spec."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from runner.artifacts import ConceptAnswers, MaskedPictures
from runner.context import StepContext
from runner.errors import StepError
from runner.models.base import ChatModel
from runner.steps import Cost, step

if TYPE_CHECKING:
    from agents.locality import Concept

Words = Annotated[str, Field(min_length=1, max_length=120)]


class PartQuestion(BaseModel):
    """What a question asks of one attribute."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    part: Words | None = Field(default=None, description="part that is asked about; none: the object as a whole")
    value: Words = Field(description="what may describe it, such as red or striped")


def _with_value(template: str) -> str:
    if "{value}" not in template:
        raise ValueError("a question needs {value} where the attribute's value goes")
    return template


def _cost(params: Mapping[str, Any]) -> Cost:
    """One question a picture and attribute, never more than the limit."""
    return Cost(llm_calls=params.get("limit"), images=None)


@step("leakage.ask", version="1", estimate=_cost, tags=frozenset({"llm"}))
async def ask(
    ctx: StepContext,
    *,
    llm: ChatModel,
    pictures: MaskedPictures,
    questions: Annotated[
        dict[str, PartQuestion] | None,
        Field(min_length=1, description="by attribute; default: every attribute, its part and value from its name"),
    ] = None,
    template: Annotated[
        str | None,
        Field(min_length=1, max_length=1000, description="question with {object}, {part}, {value}; default: our own"),
        AfterValidator(lambda text: text if text is None else _with_value(text)),
    ] = None,
    limit: Annotated[
        int | None, Field(ge=1, description="questions at most; pictures are drawn so that each is asked about whole")
    ] = None,
    label: Annotated[
        str | None, Field(min_length=1, max_length=80, description="predictor's name in results, to tell two apart")
    ] = None,
    probe: Annotated[bool, Field(description="find out first whether the model takes pictures")] = True,
) -> ConceptAnswers:
    """Ask a chat model yes or no about each attribute, of pictures as they are and with one part hidden."""
    from agents.locality import Interview, answers, chosen_pictures, question_text

    concepts = _concepts(pictures, questions, ctx)
    files = chosen_pictures(pictures, len(concepts), limit, ctx.seed)
    if not files:
        raise StepError(
            f"limit: {limit} questions are too few for {len(concepts)} attributes of one picture with its hidden parts",
            step=ctx.step, hint="raise limit, name fewer questions, or hide fewer parts in leakage.mask_pictures",
        )  # fmt: skip
    if probe:
        await llm.check_images(1, ctx)
    texts = [question_text(pictures.about["object"], concept, template) for concept in concepts]
    return await answers(Interview(llm, ctx, concepts, texts), pictures, files, label)


def _concepts(
    pictures: MaskedPictures, questions: Mapping[str, PartQuestion] | None, ctx: StepContext
) -> list[Concept]:
    """What is asked, in the order of the attributes. Raises ``StepError`` for what the pictures do not have."""
    from agents.locality import Concept, default_concept

    about = pictures.about
    if questions is None:
        return [default_concept(attribute, about["owners"][attribute]) for attribute in about["attributes"]]
    for attribute in questions:
        if attribute not in about["attributes"]:
            near = ", ".join(difflib.get_close_matches(attribute, about["attributes"], 3) or about["attributes"][:20])
            text = f"questions: the pictures have no attribute {attribute!r}"
            raise StepError(text, step=ctx.step, hint=f"nearest: {near}")
    return [
        Concept(name, questions[name].part, questions[name].value) for name in about["attributes"] if name in questions
    ]
