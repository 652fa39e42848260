"""Gathering the texts of every kind: given ones first, then shipped ones, then a model; with checks and warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agents.debias_given import GivenTexts, texts_in
from agents.debias_given_rows import given_rows, shown
from agents.debias_jobs import WRITTEN, Job, jobs_for
from agents.debias_ready import ready_texts
from agents.debias_subject import KINDS, Kind, NotShipped, PromptText, Row, Sizes, Subject, Templates, Unfit
from agents.debias_texts import concept_words, forbidden_in, name_of
from agents.debias_writing import Written, write
from runner.context import StepContext, item_key
from runner.errors import StepError
from runner.models.base import ChatModel, ClipModel

_NAMED = 3
_BETTER_WRITTEN = frozenset({"paraphrase", "insights"})
"""Kinds whose shipped texts only stand in where there is no model: frames around one noun, and harmful pairs alone."""


@dataclass(frozen=True)
class Gathering:
    """What is wanted and where it may come from."""

    subject: Subject
    needs: tuple[Kind, ...]
    given: GivenTexts
    sizes: Sizes
    templates: Templates
    llm: ChatModel | None
    ctx: StepContext
    retries: int = 3

    async def gather(self) -> list[PromptText]:
        """Texts of all kinds in a fixed order, the queries first. Raises ``StepError`` naming kind, reason and way out."""
        found: dict[Kind, list[PromptText]] = {}
        jobs: list[tuple[Kind, Job]] = []
        for kind in KINDS:
            if kind in self.needs or getattr(self.given, kind) is not None:
                texts = self._without_model(kind)
                if texts is None:
                    jobs += [(kind, job) for job in jobs_for(kind, self.subject, self.sizes, self.templates)]
                else:
                    found[kind] = texts
        for kind, texts in (await self._written(jobs)).items():
            found[kind] = texts
        queries = [PromptText("query", text, idx, query=text) for idx, text in enumerate(self.subject.queries)]
        rows = queries + [text for kind in KINDS for text in found.get(kind, [])]
        self._warn(rows)
        return rows

    def _without_model(self, kind: Kind) -> list[PromptText] | None:
        """Texts of a kind that are there already; None where a model is to write them."""
        entry = getattr(self.given, kind)
        if entry is not None and entry not in ("shipped", "llm"):
            try:
                return given_rows(kind, texts_in(kind, entry), self.subject)
            except Unfit as error:
                raise self._refused(f"the given texts cannot be used: {error}", kind) from None
        if entry == "llm" or (entry is None and kind in _BETTER_WRITTEN and self.llm is not None):
            self._require_writer(kind, "given says llm")
            return None
        try:
            return ready_texts(kind, self.subject, self.sizes, self.templates, self.ctx.seed)
        except NotShipped as error:
            if entry == "shipped":
                raise self._refused(f"no texts of the kind {kind} are shipped: {error}", kind) from None
            self._require_writer(kind, str(error))
            return None

    def _require_writer(self, kind: Kind, why: str) -> None:
        if kind not in WRITTEN:
            raise self._refused(f"no model writes texts of the kind {kind} ({why})", kind)
        if self.llm is None:
            raise self._refused(f"texts of the kind {kind} need a language model ({why}), and `llm` names none", kind)

    async def _written(self, jobs: Sequence[tuple[Kind, Job]]) -> dict[Kind, list[PromptText]]:
        if self.llm is None or not jobs:
            return {}
        results = await write(self.llm, [job for _, job in jobs], self.ctx, retries=self.retries)
        found: dict[Kind, list[PromptText]] = {}
        for (kind, job), written in zip(jobs, results, strict=True):
            self._require_enough(kind, job, written)
            texts = [
                t._replace(source="llm", llm=self.llm.name, retries=written.refused) for t in job.rows(written.items)
            ]
            found.setdefault(kind, []).extend(texts)
        return {kind: _without_repeats(texts) for kind, texts in found.items()}

    def _require_enough(self, kind: Kind, job: Job, written: Written) -> None:
        got = len(written.items)
        if got < job.needed:
            assert self.llm is not None
            reasons = "; ".join(dict.fromkeys(written.reasons)) or "it wrote nothing"
            raise self._refused(
                f"{self.llm.name} wrote {got} of {job.needed} usable {job.kind} texts for {shown(job.about)} "
                f"after {written.refused} refused replies: {reasons}", kind,
            )  # fmt: skip
        if got < job.wanted:
            self.ctx.warn(f"{got} instead of {job.wanted} {job.kind} texts were written", item=job.about)

    def _refused(self, message: str, kind: str) -> StepError:
        way = f"give the texts in the spec under given: {{{kind}: ...}} or as given: {{{kind}: {{file: texts.json}}}}"
        more = ", take a larger llm, or raise retries" if kind in WRITTEN else ""
        return StepError(message, step=self.ctx.step, item=kind, hint=way + more)

    def _warn(self, rows: Sequence[PromptText]) -> None:
        """Say what may spoil a method without forbidding it."""
        queries = {name_of(query) for query in self.subject.queries}
        of = {kind: [row for row in rows if row.kind == kind] for kind in ("diverse", "bias", "paraphrase")}
        if "insights" in self.needs and not any(row.kind == "helpful" for row in rows):
            self.ctx.warn(
                "there are harmful pairs only: name an llm, give helpful pairs, or use roboshot with accept: false"
            )
        self._name(
            [r.text for r in of["diverse"] if name_of(r.text) in queries],
            "the diverse captions hold a query, whose own neurons then count as common",
        )
        concepts = concept_words(self.subject.queries, [self.subject.attribute, *self.subject.classes])
        self._name(
            [r.text for r in of["bias"] if forbidden_in(r.text, concepts)], "bias prompts name what a query is about"
        )
        own = [r for kind in ("diverse", "paraphrase") for r in of[kind] if r.source == "spec" and r.text != r.query]
        self._name(
            [r.text for r in own if forbidden_in(r.text, self.subject.forbidden)],
            f"given texts hold words of {self.subject.attribute}",
        )

    def _name(self, texts: Sequence[str], what: str) -> None:
        if texts:
            more = f" and {len(texts) - _NAMED:,} more" if len(texts) > _NAMED else ""
            self.ctx.warn(f"{what}: {', '.join(map(shown, texts[:_NAMED]))}{more}")


def _without_repeats(texts: Sequence[PromptText]) -> list[PromptText]:
    """Rows once each: the words of scenes belong to all of them."""
    return list(dict.fromkeys(texts))


def prompt_rows(texts: Sequence[PromptText], attribute: str, clip: ClipModel | None, ctx: StepContext) -> list[Row]:
    """Rows of ``prompt_set``; texts over the encoder's context are named in a warning."""
    by_kind: dict[str, list[PromptText]] = {}
    for text in texts:
        by_kind.setdefault(text.kind, []).append(text)
    ids = {kind: item_key([t.text for t in of_kind]) for kind, of_kind in by_kind.items()}
    counts = _token_counts(texts, clip)
    _warn_long(counts, clip, ctx)
    return [
        {**text._asdict(), "set_id": ids[text.kind], "attribute": attribute, "tokens": counts.get(text.text)}
        for text in texts
    ]


def _token_counts(texts: Sequence[PromptText], clip: ClipModel | None) -> dict[str, int]:
    if clip is None:
        return {}
    distinct = list(dict.fromkeys(text.text for text in texts))
    return dict(zip(distinct, clip.token_counts(distinct), strict=True))


def _warn_long(counts: Mapping[str, int], clip: ClipModel | None, ctx: StepContext) -> None:
    """Name the texts that an encoder would cut."""
    long: list[tuple[str, int]] = [] if clip is None else [(t, n) for t, n in counts.items() if n > clip.context_length]
    if clip is not None and long:
        named = ", ".join(f"{shown(text)} ({tokens})" for text, tokens in long[:_NAMED])
        ctx.warn(
            f"texts with more than the {clip.context_length} tokens that {clip.name} reads are cut ({len(long):,}): {named}"
        )
