"""The agent that writes captions: a template once, then one question per target and attribute, repaired within bounds.

START -> template -> (one branch a target and attribute; one a chunk of neutral captions) -> finish -> END
                         ask -> judge -> ask ...
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

from agents.asking import NotAnswered, ask, asking_loop, sample_of, temperature_of
from agents.brief import Brief
from agents.captioning import judge_captions, tidy
from agents.prompting import prompt
from agents.replies import caption_pattern, captions_schema, template_schema
from runner.context import StepContext, item_key
from runner.models.base import ChatModel, ChatRequest
from runner.naming import normalised

if TYPE_CHECKING:
    from langgraph.graph.state import CompiledStateGraph

Row = dict[str, Any]
Wording = Literal["free", "template", "fill"]

NEUTRAL_CHUNK = 8
_TOKENS_PER_CAPTION = 32
_SLOTS = ("{target}", "{circumstance}")
_ARTICLE = re.compile(r"^(a|an|the)\s+", re.IGNORECASE)


class Wanted(TypedDict):
    """What one caption must show; ``value`` is None for a neutral caption."""

    target: str
    attribute: str | None
    value: str | None
    wording: int


class CaptionState(TypedDict):
    """One branch: captions wanted by opaque key, texts kept so far, rows of what was dropped."""

    resample: int
    round: int
    template: str
    wanted: dict[str, Wanted]
    kept: dict[str, str]
    answer: dict[str, str]
    rejected: list[Row]
    failure: str
    rows: Annotated[list[Row], operator.add]


class CaptionsState(TypedDict):
    """All branches together: rows of ``c2b_caption``."""

    template: str
    rows: Annotated[list[Row], operator.add]
    final: list[Row]


class _BranchOutput(TypedDict):
    rows: Annotated[list[Row], operator.add]


@dataclass(frozen=True)
class CaptionPlan:
    """What to write.

    ``wording`` ``free``: each caption as the model likes; ``template``: the model first writes one template, which its
    captions follow (small models follow it also where it reads badly); ``fill``: its template is filled in, with no further
    question an attribute.
    """

    captions_per_value: int = 1
    neutral_per_target: int = 1
    wording: Wording = "free"
    repair_rounds: int = 1


async def write_captions(
    llm: ChatModel, brief: Brief, attributes: Sequence[Row], plan: CaptionPlan, ctx: StepContext
) -> list[Row]:
    """Rows of ``c2b_caption`` for kept ``attributes`` (rows of ``c2b_attribute``) and neutral ones for every target."""
    graph = CaptionAgent(llm, brief, tuple(attributes), plan, ctx).graph()
    state = await graph.ainvoke({"template": "", "rows": [], "final": []}, {"recursion_limit": 50})
    return list(state["final"])


@dataclass(frozen=True)
class CaptionAgent:
    """The caption graph around one model; ``graph()`` compiles it."""

    llm: ChatModel
    brief: Brief
    attributes: tuple[Row, ...]
    plan: CaptionPlan
    ctx: StepContext

    def graph(self) -> CompiledStateGraph[Any, Any, Any, Any]:
        """Compiled without a saver of its own: inside a run it uses the run's."""
        from langgraph.graph import END, START, StateGraph

        builder = StateGraph(CaptionsState)
        builder.add_node("template", self._template)
        builder.add_node("captions", self._branch())
        builder.add_node("finish", self._finish)
        builder.add_edge(START, "template")
        builder.add_conditional_edges("template", self._fan_out, ["captions", "finish"])
        builder.add_edge("captions", "finish")
        builder.add_edge("finish", END)
        return builder.compile()

    def _branch(self) -> CompiledStateGraph[Any, Any, Any, Any]:
        return asking_loop(
            CaptionState, _BranchOutput, ask=self._ask, judge=self._judge, close=self._close, enough=self._enough
        )

    # --- the template -----------------------------------------------------------------------------------------------

    async def _template(self, state: CaptionsState) -> Row:
        if self.plan.wording == "free":
            return {"template": ""}
        data = {"task name": self.brief.name, "task description": self.brief.description}
        request = ChatRequest(
            messages=prompt("caption_template", data),
            purpose="c2b.template",
            schema=template_schema(),
            schema_name="caption_template",
            max_tokens=96,
            seed=self.ctx.seed,
            accept=_accept_template,
        )
        try:
            return {"template": tidy((await ask(self.llm, request, self.ctx))["caption template"])}
        except NotAnswered as error:
            self.ctx.warn(f"no caption template, captions are written without one: {error}")
            return {"template": ""}

    def _fan_out(self, state: CaptionsState) -> list[Any] | str:
        from langgraph.types import Send

        jobs = [(row["resample"], self._wanted(row)) for row in self.attributes] + [(0, w) for w in self._neutral()]
        self.ctx.advance("captions", 0, sum(len(wanted) for _, wanted in jobs))
        start: Row = {
            "round": 0, "template": state["template"], "kept": {}, "answer": {}, "rejected": [], "failure": "", "rows": [],
        }  # fmt: skip
        return [Send("captions", {"resample": r, "wanted": w, **start}) for r, w in jobs] or "finish"

    def _wanted(self, row: Row) -> dict[str, Wanted]:
        pairs = [(value, i) for value in row["bias_values"] for i in range(self.plan.captions_per_value)]
        return {
            f"v{n}": Wanted(target=row["target"], attribute=row["attribute"], value=value, wording=i)
            for n, (value, i) in enumerate(pairs)
        }

    def _neutral(self) -> list[dict[str, Wanted]]:
        pairs = [(target, i) for target in self.brief.targets for i in range(self.plan.neutral_per_target)]
        entries = [Wanted(target=target, attribute=None, value=None, wording=i) for target, i in pairs]
        chunks = [entries[i : i + NEUTRAL_CHUNK] for i in range(0, len(entries), NEUTRAL_CHUNK)]
        return [{f"v{n}": entry for n, entry in enumerate(chunk)} for chunk in chunks]

    # --- one branch -------------------------------------------------------------------------------------------------

    async def _ask(self, state: CaptionState) -> Row:
        missing = {key: want for key, want in state["wanted"].items() if key not in state["kept"]}
        neutral = next(iter(missing.values()))["attribute"] is None
        if self.plan.wording == "fill" and not neutral and state["template"]:
            return {"answer": {}, "round": self.plan.repair_rounds + 1}
        try:
            answer = await ask(self.llm, self._request(state, missing, neutral=neutral), self.ctx)
        except NotAnswered as error:
            return {"answer": {}, "failure": str(error), "round": state["round"] + 1}
        texts = {key: tidy(answer["captions"][key]) for key in missing}
        return {"answer": texts, "failure": "", "round": state["round"] + 1}

    def _request(self, state: CaptionState, missing: Mapping[str, Wanted], *, neutral: bool) -> ChatRequest:
        again, plan, one = bool(state["rejected"]), self.plan, next(iter(missing.values()))
        # The task's description stays out: small models write its words into every caption.
        data: Row = {"task name": self.brief.name}
        if neutral:
            settings: Row = {"per_target": plan.neutral_per_target}
        else:
            data |= {"target class": self.brief.caption_name(one["target"]), "bias attribute": one["attribute"]}
            data |= {"caption template": state["template"]} if state["template"] else {}
            settings = {"per_value": plan.captions_per_value, "template": bool(state["template"])}
        data["captions"] = {
            key: self.brief.caption_name(w["target"]) if neutral else w["value"] for key, w in missing.items()
        }
        if again:
            data["rejected"] = state["rejected"][-8:]
        return ChatRequest(
            messages=prompt("neutral_captions" if neutral else "captions", data, again=again, **settings),
            purpose="c2b.neutral_captions" if neutral else "c2b.captions",
            item=_item(missing),
            schema=captions_schema(missing, self._patterns(missing) if state["round"] else None),
            schema_name="captions",
            temperature=temperature_of(state["resample"]),
            max_tokens=min(64 + _TOKENS_PER_CAPTION * len(missing), 4096),
            seed=self.ctx.seed,
            sample=sample_of(state["resample"], round_=state["round"]),
        )

    def _patterns(self, wanted: Mapping[str, Wanted]) -> dict[str, str]:
        """For a second try: captions that cannot but name the class and the value, where both are plain words."""
        made = {key: caption_pattern(self.brief.caption_name(w["target"]), w["value"]) for key, w in wanted.items()}
        return {key: pattern for key, pattern in made.items() if pattern is not None}

    def _judge(self, state: CaptionState) -> Row:
        texts, unfit = self._checked(state, state["answer"])
        rejected = [{"caption": state["answer"][key], "reason": reason} for key, reason in unfit.items()]
        dropped = [
            self._row(state, key, state["answer"][key], "dropped", reason, mark=state["round"])
            for key, reason in unfit.items()
        ]
        return {"kept": state["kept"] | texts, "rejected": state["rejected"] + rejected, "rows": dropped}

    def _checked(self, state: CaptionState, answer: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
        """The captions of an answer that can be used, and the reasons against the others, both by key."""
        wanted = state["wanted"]
        unfit = judge_captions(
            answer,
            {key: _shows(want) for key, want in wanted.items()},
            {key: self.brief.names_of(want["target"]) for key, want in wanted.items()},
            {normalised(text): _shows(wanted[key]) for key, text in state["kept"].items()},
        )
        return {key: text for key, text in answer.items() if key not in unfit}, unfit

    def _enough(self, state: CaptionState) -> str:
        complete = len(state["kept"]) == len(state["wanted"])
        spent = state["failure"] or state["round"] > self.plan.repair_rounds
        return "enough" if complete or spent else "again"

    def _close(self, state: CaptionState) -> Row:
        """Fill the model's own template where it wrote no usable caption; what is missing even then is recorded as failed."""
        missing = {key: want for key, want in state["wanted"].items() if key not in state["kept"]}
        filled = {key: fill(state["template"], self.brief, want) for key, want in missing.items() if state["template"]}
        usable, _ = self._checked(state, {key: text for key, text in filled.items() if text})
        rows = [self._row(state, key, text, "kept", None) for key, text in state["kept"].items()]
        rows += [self._row(state, key, text, "kept", "template filled in") for key, text in usable.items()]
        lost = {key: want for key, want in missing.items() if key not in usable}
        reason = state["failure"] or "no usable caption was written"
        rows += [self._row(state, key, "", "failed", reason, mark="failed") for key in lost]
        if lost:
            self.ctx.failed(_item(lost), reason)
        self.ctx.advance("captions", len(state["wanted"]))
        return {"rows": rows}

    def _row(self, state: CaptionState, key: str, text: str, status: str, reason: str | None, mark: object = "") -> Row:
        want = state["wanted"][key]
        identity = item_key(state["resample"], *want.values(), mark)
        return {
            "resample": state["resample"], "caption_id": identity[:16],
            "target": want["target"], "attribute": want["attribute"], "value": want["value"],
            "text": text, "is_neutral": want["attribute"] is None, "status": status, "drop_reason": reason,
        }  # fmt: skip

    def _finish(self, state: CaptionsState) -> Row:
        order = {target: i for i, target in enumerate(self.brief.targets)}
        return {"final": sorted(state["rows"], key=lambda r: (r["resample"], order[r["target"]]))}


def fill(template: str, brief: Brief, want: Mapping[str, Any]) -> str:
    """The model's template with target and circumstance in place; '' for neutral captions and second wordings."""
    if want["value"] is None or want["wording"]:
        return ""
    name = brief.caption_name(want["target"])
    if re.search(r"\b(a|an|the)\s+\{target\}", template, re.IGNORECASE):
        name = _ARTICLE.sub("", name)
    return template.replace("{target}", name).replace("{circumstance}", want["value"])


def _accept_template(reply: Any) -> None:
    text = reply["caption template"]
    if any(text.count(slot) != 1 for slot in _SLOTS) or text.count("{") != len(_SLOTS):
        raise ValueError("the template must contain {target} and {circumstance} exactly once each and no other braces")


def _shows(want: Wanted) -> str:
    """What a caption tells apart from the others of its branch: its value, or its target for a neutral one."""
    return want["value"] if want["value"] is not None else want["target"]


def _item(wanted: Mapping[str, Wanted]) -> str:
    """The piece of work by name, for calls and failures."""
    one = next(iter(wanted.values()))
    if one["attribute"] is None:
        return "neutral: " + ", ".join(dict.fromkeys(w["target"] for w in wanted.values()))
    return f"{one['target']} / {one['attribute']}"
