"""Steps ``proactive.scripted``, ``proactive.exact``. Light: imported to validate a spec."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, StrictBool, ValidationInfo

from runner.artifacts.proactive import ProactiveEpisodes, ProactiveSamples
from runner.context import StepContext
from runner.models.base import VisionLanguageModel
from runner.nodes.proactive.records import Scenario
from runner.references import InputPath
from runner.steps import step

if TYPE_CHECKING:
    from runner.nodes.proactive.episodes import Episode

Scenarios = Annotated[
    list[Scenario] | None, Field(min_length=1, description="scenarios that are played (default: all)")
]
Split = Annotated[str, Field(min_length=1, max_length=40, description="split that is played")]
Limit = Annotated[int | None, Field(ge=1, description="samples of each scenario, drawn with the seed (default: all)")]
Label = Annotated[str | None, Field(min_length=1, max_length=80, description="name in results")]
Seed = Annotated[int | None, Field(ge=0, lt=2**31, description="of draws, limits and foreign requests (default: the run's)")]  # fmt: skip
Options = Annotated[
    Literal["native", "foreign"],
    Field(description="foreign: requests that belong to other scenarios stand in the place of those that help"),
]


def _known(info: ValidationInfo, field: str) -> Any:
    data = info.data or {}
    return data.get(f"param_{field}", data.get(field))


def _needed(k: int | None, info: ValidationInfo) -> int | None:
    policy = _known(info, "policy")
    if policy == "ask_k" and k is None:
        raise ValueError("policy ask_k needs `k`: requests before the right category is named")
    if policy not in ("ask_k", "oracle") and k is not None:
        raise ValueError("`k` is for the policies ask_k and oracle")
    return k


def _draws(draws: int, info: ValidationInfo) -> int:
    if draws > 1 and _known(info, "exact"):
        raise ValueError("exact values are expectations: there is nothing to draw")
    return draws


@step("proactive.scripted", version="1")
def scripted(
    ctx: StepContext,
    *,
    samples: ProactiveSamples,
    policy: Annotated[
        Literal["uniform", "always_ask", "always_true", "abstain", "oracle", "ask_k"],
        Field(
            description="uniform: any shown option; always_ask; always_true: the right category at once; abstain; oracle: the shortest "
            "way to the most telling view, then the right category; ask_k: k requests, then the right category"
        ),
    ],
    k: Annotated[
        int | None,
        Field(ge=0, le=1000, description="requests: of ask_k, and at most of oracle", validate_default=True),
        AfterValidator(_needed),
    ] = None,
    exact: Annotated[
        bool, Field(description="expected values by dynamic programming in place of episodes that are played")
    ] = False,
    options: Options = "native",
    match: Annotated[
        Literal["strict", "robust", "constrained"],
        Field(description="how the answer, said as a line of the list, is matched with the options"),
    ] = "constrained",
    draws: Annotated[int, Field(ge=1, le=10_000, description="episodes of each sample"), AfterValidator(_draws)] = 1,
    scenarios: Scenarios = None,
    split: Split = "test",
    limit: Limit = None,
    label: Label = None,
    seed: Seed = None,
) -> ProactiveEpisodes:
    """Play a policy that needs no model: a baseline, or what could be reached. No picture is opened."""
    from runner.nodes.proactive.episodes import play
    from runner.nodes.proactive.policies import exact_episodes
    from runner.nodes.proactive.policies import scripted as policy_of
    from runner.nodes.proactive.samples import cases_of

    drawn = ctx.seed if seed is None else seed
    cases = cases_of(samples, scenarios=scenarios, split=split, limit=limit, seed=drawn, match=match, options=options)
    chosen = policy_of(policy, k=k, seed=drawn)
    episodes = exact_episodes(cases, chosen) if exact else play(cases, chosen, draws=draws, seed=drawn, spoken=True)
    ctx.advance("episodes", len(episodes), len(episodes))
    name = policy if k is None else f"{policy} {k}"
    model = {"name": name, "identity": f"scripted:{name}", "kind": "scripted", "small": False, "notes": []}
    settings = {
        "mode": "exact" if exact else "mcqa", "policy": policy, "k": k, "draws": draws, "options": options, "match": match,
        "scenarios": scenarios, "split": split, "limit": limit, "seed": drawn, "hint": False, "history": False, "shots": 0,
    }  # fmt: skip
    return _episodes(model, label or name, settings, episodes)


@step("proactive.exact", version="1")
def exact(
    ctx: StepContext,
    *,
    model: VisionLanguageModel,
    samples: ProactiveSamples,
    form: Annotated[
        Literal["letter", "text"],
        Field(description="what is compared: letters of the options as a reply, or their texts"),
    ] = "letter",
    hint: Annotated[
        StrictBool | InputPath,
        Field(
            description="a sentence after the question that says what help there could be; or a YAML file of texts of your own"
        ),
    ] = False,
    options: Options = "native",
    short_answer: Annotated[bool, Field(description="say that only one of the options is to be returned")] = True,
    scenarios: Scenarios = None,
    split: Split = "test",
    limit: Limit = None,
    max_side: Annotated[
        int | None, Field(ge=16, description="longer side of pictures at most (default: as they are)")
    ] = None,
    batch_size: Annotated[int, Field(ge=1, le=512, description="turns at once")] = 8,
    label: Label = None,
    seed: Seed = None,
) -> ProactiveEpisodes:
    """Expected values of a model that draws among the options by their likelihood: every view is asked about once, nothing is drawn."""
    from runner.assets import resolve
    from runner.nodes.proactive.option_views import OptionViews
    from runner.nodes.proactive.samples import cases_of
    from runner.nodes.proactive.texts import load_texts

    drawn = ctx.seed if seed is None else seed
    texts = load_texts(None if isinstance(hint, bool) else resolve(str(hint)))
    cases = cases_of(
        samples, scenarios=scenarios, split=split, limit=limit, seed=drawn, match="constrained", options=options,
        hint=bool(hint), texts=texts,
    )  # fmt: skip
    views = OptionViews(ctx, model, samples.corpus, form, short_answer, max_side, batch_size)
    episodes = views.episodes(cases)
    told = {"name": model.name, "identity": model.identity, "kind": "lvlm", "small": model.small, "notes": [*model.notes]}  # fmt: skip
    settings = {
        "mode": "exact", "form": form, "hint": bool(hint), "texts": None if isinstance(hint, bool) else str(hint),
        "options": options, "match": "constrained", "short_answer": short_answer, "scenarios": scenarios, "split": split,
        "limit": limit, "max_side": max_side, "seed": drawn, "history": False, "shots": 0,
    }  # fmt: skip
    return _episodes(told, label or model.name, settings, episodes)


def _episodes(
    model: dict[str, Any], label: str, settings: dict[str, Any], episodes: list[Episode]
) -> ProactiveEpisodes:
    from results.tables import arrow_table
    from runner.nodes.proactive.rows import episode_rows

    rows = episode_rows(label, settings["mode"], settings, episodes)
    return ProactiveEpisodes(
        model, label, settings, arrow_table("pb_episodes", rows["pb_episodes"]), arrow_table("pb_turns", rows["pb_turns"]),
        arrow_table("pb_judgements", []),
    )  # fmt: skip
