"""Step that gathers the texts of debiasing methods: ``sem.prompts``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag

from agents.debias_given import GivenTexts
from agents.debias_subject import Kind
from agents.inputs import refuse_repeats
from runner.artifacts import DebiasPrompts
from runner.context import StepContext
from runner.models.base import ChatModel, ClipModel
from runner.steps import Cost, step


def _distinct(what: str) -> AfterValidator:
    return AfterValidator(lambda names: refuse_repeats(names, what))


def _slots(*slots: str) -> AfterValidator:
    """Each of the templates must hold each slot exactly once."""

    def check(value: Any) -> Any:
        from agents.debias_texts import slots_missing

        for template in [value] if isinstance(value, str) else value or []:
            if reason := slots_missing(template, slots):
                raise ValueError(f"the template {template[:80]!r} {reason}")
        return value

    return AfterValidator(check)


Template = Annotated[str, Field(min_length=1, max_length=400)]
Name = Annotated[str, Field(min_length=1, max_length=400)]
Words = Annotated[list[Annotated[str, Field(min_length=1, max_length=60)]], Field(max_length=500)]
Classes = Annotated[
    list[Name],
    Field(min_length=2, max_length=100, description="values of the attribute, at least two"),
    _distinct("classes"),
]
Queries = Annotated[list[Name], Field(min_length=1, max_length=5000), _distinct("queries")]
# Told apart by type, so that what is wrong with a list is said of the list.
ShippedOrQueries = Annotated[
    Annotated[Literal["stereotypes"], Tag("shipped queries")] | Annotated[Queries, Tag("own queries")],
    Discriminator(lambda value: "shipped queries" if isinstance(value, str) else "own queries"),
]


class SpecTemplates(BaseModel):
    """Templates in place of the shipped ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    spurious: Annotated[list[Template] | None, Field(min_length=1, description="hold {class}"), _slots("class")] = None
    candidate: Annotated[
        list[Template] | None, Field(min_length=1, description="hold {query} and {class}"), _slots("query", "class")
    ] = None
    insight: Annotated[Template | None, Field(description="holds {value}"), _slots("value")] = None


def _cost(params: Mapping[str, Any]) -> Cost:
    """How many texts are given or shipped is seen when the step runs."""
    return Cost(llm_calls=None)


@step("sem.prompts", version="1", estimate=_cost, tags=frozenset({"llm"}))
async def prompts(
    ctx: StepContext,
    *,
    attribute: Annotated[str, Field(min_length=1, max_length=120, description="what queries should not depend on")],
    classes: Classes,
    queries: Annotated[
        ShippedOrQueries,
        Field(description="texts that are searched or classified with; stereotypes: 25 shipped ones about people"),
    ],
    needs: Annotated[
        list[Kind], Field(min_length=1, description="kinds of texts that the methods need"), _distinct("needs")
    ] = ["diverse", "bias", "paraphrase"],  # noqa: B006
    llm: ChatModel | None = None,
    clip: ClipModel | None = None,
    given: Annotated[
        GivenTexts | None,
        Field(description="by kind: texts, {file: texts.json}, shipped, or llm (default: as there is)"),
    ] = None,
    n_diverse: Annotated[int, Field(ge=1, le=20_000, description="neutral captions")] = 328,
    per_class: Annotated[int, Field(ge=1, le=1000, description="bias prompts a value")] = 20,
    n_paraphrases: Annotated[int, Field(ge=1, le=200, description="wordings a query, itself among them")] = 10,
    n_insights: Annotated[int, Field(ge=1, le=50, description="pairs that a model writes, of each sort")] = 5,
    n_scenes: Annotated[int, Field(ge=1, le=200, description="scenes that a model writes")] = 12,
    forbidden: Annotated[
        Words | None, Field(description="words that must not stand in neutral texts (default: those of the attribute)")
    ] = None,
    retries: Annotated[int, Field(ge=0, le=10, description="further questions where texts are missing")] = 3,
    templates: SpecTemplates | None = None,
) -> DebiasPrompts:
    """Gather the texts that debiasing methods need: given in the spec, shipped, or written by a language model.

    A kind that ``given`` does not name is shipped where texts for it are, and written otherwise; paraphrases and insights are
    written where there is an ``llm``. Texts that fail their checks are refused (given) or asked for again (written).
    """
    from agents.debias_gathering import Gathering, prompt_rows
    from agents.debias_shipped import forbidden_words, stereotype_queries
    from agents.debias_subject import Sizes, Subject, Templates
    from results.tables import arrow_table

    texts = stereotype_queries() if queries == "stereotypes" else list(queries)
    words = forbidden_words(attribute, classes) if forbidden is None else forbidden
    subject = Subject(attribute, tuple(classes), tuple(texts), tuple(words))
    used = templates or SpecTemplates()
    found = await Gathering(
        subject, tuple(needs), given or GivenTexts(), Sizes(n_diverse, per_class, n_paraphrases, n_insights, n_scenes),
        Templates(_tuple(used.spurious), _tuple(used.candidate), used.insight), llm, ctx, retries,
    ).gather()  # fmt: skip
    return DebiasPrompts(
        attribute, list(classes), texts, arrow_table("prompt_set", prompt_rows(found, attribute, clip, ctx))
    )


def _tuple(templates: list[str] | None) -> tuple[str, ...] | None:
    return None if templates is None else tuple(templates)
