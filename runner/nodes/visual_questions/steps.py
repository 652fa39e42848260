"""Steps ``questions.make``, ``questions.items``, ``questions.align``. Light: imported to validate a spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from runner.artifacts import Conversations, VqaItems
from runner.context import StepContext, item_key
from runner.data.datasets.specs import PackagedSet
from runner.models.base import VisionLanguageModel
from runner.nodes.cut_out_specs import PHOTOGRAPHS, SETS
from runner.nodes.made_pictures import kept
from runner.nodes.visual_questions.specs import EVERY, Counts, Domain
from runner.steps import Artifact, Cost, Folder, step

if TYPE_CHECKING:
    from pathlib import Path

    from runner.nodes.visual_questions.making import Made

LAYOUT = "1"
"""Raised when the same parameters would give other pictures or questions."""
SPLITS = ("train", "eval")


@dataclass(frozen=True)
class MadeQuestions(Conversations):
    """Generated conversations. ``pictures``: PNG files by split and domain; ``summary``: numbers of pictures, questions, answers and
    cut-outs by split and domain."""

    pictures: Folder
    summary: dict[str, Any]


def _cost(params: Mapping[str, Any]) -> Cost:
    counts = params.get("domains") or {}
    return Cost(images=sum(c.train + c.eval for c in counts.values()), bytes=None)


@step("questions.make", version="1", estimate=_cost)
def make(
    ctx: StepContext,
    *,
    domains: Annotated[dict[Domain, Counts], Field(min_length=1, description="pictures of each domain")] = EVERY,
    sets: Annotated[
        list[PackagedSet], Field(min_length=1, max_length=20, description="captioned sets with transparency")
    ] = SETS,
    photographs: Annotated[
        PackagedSet, Field(description="labelled photographs, as backgrounds and as a style")
    ] = PHOTOGRAPHS,
    size: Annotated[int, Field(ge=28, le=1024, description="pixels of a picture's side")] = 84,
    turns: Annotated[int, Field(ge=1, le=4, description="questions about one picture, at most")] = 4,
    eval_fraction: Annotated[
        float, Field(gt=0, lt=1, description="share of cut-outs and photographs for `eval`")
    ] = 0.25,
    name: Annotated[
        str, Field(pattern=r"^[^\W_][\w .+-]{0,99}$", description="name of the set")
    ] = "generated-questions",
    seed: Annotated[int | None, Field(ge=0, description="default: the run's")] = None,
) -> MadeQuestions:
    """Compose pictures of packaged cut-outs and ask short questions about them, with answers that are known because they were chosen.

    Ours, small and free: objects, counts, colours, drawn words, positions and styles; no cut-out and no photograph stands in both splits.
    """
    from runner.data.benchmarks.building import conversations
    from runner.nodes.noun_cut_outs import stocked
    from runner.nodes.visual_questions.making import made, record

    drawn = ctx.seed if seed is None else seed
    fractions = {"train": 1 - eval_fraction, "eval": eval_fraction}
    stock = stocked(sets, photographs, fractions, 2 * size, drawn, lambda text: ctx.warn(text, item=name))
    counts: dict[str, dict[str, int]] = {
        split: {domain: getattr(count, split) for domain, count in domains.items()} for split in SPLITS
    }
    folder, rows, tally = ctx.folder("pictures"), list[dict[str, Any]](), _Tally()
    total = sum(sum(by_domain.values()) for by_domain in counts.values())
    for one in ctx.track(made(stock, counts, size, turns, drawn), unit="images", total=total):
        _save(one, folder)
        rows.append(record(one, name))
        tally.add(one)
    key = item_key("questions", LAYOUT, name, size, turns, eval_fraction, drawn, counts,
                   [s.model_dump(mode="json") for s in (*sets, photographs)], dict(stock.fingerprints))  # fmt: skip
    corpus = [{"folder": str(kept(ctx, "questions", key[:24], folder)), "name": name}]
    told = conversations(name, [*domains], rows, corpus, licences=stock.licences, notes=[NOTE])
    return MadeQuestions(told.about, told.corpus, told.records, folder, tally.summary())


NOTE = "composed and asked by this project: a small set for trying methods, not a published benchmark"


def _save(one: Made, folder: Path) -> None:
    path = folder / one.file
    path.parent.mkdir(parents=True, exist_ok=True)
    one.image.save(path, "PNG")


class _Tally:
    """Counts for the summary."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], tuple[int, dict[str, dict[str, int]], set[str]]] = {}

    def add(self, one: Made) -> None:
        pictures, answers, parts = self._held.get((one.split, one.domain), (0, {}, set()))
        for turn in one.turns:
            told = answers.setdefault(turn.kind, {})
            told[turn.answer] = told.get(turn.answer, 0) + 1
        self._held[one.split, one.domain] = (pictures + 1, answers, parts | {*one.parts})

    def summary(self) -> dict[str, Any]:
        """By split and domain; ``majority``: share of the commonest answer of each kind, what a blind guess gets."""
        found: dict[str, Any] = {}
        for (split, domain), (pictures, answers, parts) in self._held.items():
            asked = {kind: sum(told.values()) for kind, told in sorted(answers.items())}
            majority = {kind: max(told.values()) / asked[kind] for kind, told in sorted(answers.items())}
            found.setdefault(split, {})[domain] = {
                "pictures": pictures, "questions": asked, "majority": majority, "cut_outs": len(parts),
            }  # fmt: skip
        return found


@step("questions.items", version="2")
def items(
    ctx: StepContext,
    *,
    data: Conversations,
    split: Annotated[str, Field(pattern="^(train|eval)$", description="records that are asked")] = "eval",
    prefix: Annotated[
        str, Field(pattern=r"^[\w .+-]{0,60}$", description="before the domain in a benchmark's name")
    ] = "",
    thumbnails: Annotated[int, Field(ge=0, le=10_000, description="first items of each benchmark shown")] = 24,
) -> VqaItems:
    """Each question of generated conversations on its own: one benchmark a domain, answers compared as they stand."""
    import json

    from runner.data.benchmarks.building import vqa_items
    from runner.data.benchmarks.showing import with_thumbnails
    from runner.nodes.visual_questions.making import items as asked

    wanted = [row for row in data.records.to_pylist() if row["split"] == split]
    rows = [row for one in wanted for row in asked(one, json.loads(one["turns"]))]
    present = [domain for domain in data.about["domains"] if any(row["benchmark"] == domain for row in rows)]
    licence = "; ".join(f"{name}: {text}" for name, text in data.about["licences"].items()) or None
    benchmarks = [
        {
            "benchmark": prefix + domain,
            "metric": "exact_match",
            "split": split,
            "licence": licence,
            "notes": data.about["notes"],
        }
        for domain in present
    ]
    asked_of = vqa_items(benchmarks, data.corpus, [{**row, "benchmark": prefix + row["benchmark"]} for row in rows])
    return with_thumbnails(asked_of, thumbnails, lambda text, uri: ctx.warn(text, item=uri))


@dataclass(frozen=True)
class AlignedLvlm(Artifact):
    """A model whose projector was aligned. ``checkpoint``: the whole folder; ``summary``: loss of each epoch, pictures, words."""

    checkpoint: Folder
    summary: dict[str, Any]


@step("questions.align", version="1")
def align(
    ctx: StepContext,
    *,
    model: VisionLanguageModel,
    data: Conversations,
    epochs: Annotated[int, Field(ge=1, le=1000, description="passes over the pictures")] = 8,
    lr: Annotated[float, Field(gt=0, le=1)] = 1e-3,
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 64,
    seed: Annotated[int | None, Field(ge=0, description="default: the run's")] = None,
) -> AlignedLvlm:
    """Teach a LLaVA's projector the words of the answers without running the language model: a cheap start for `lvlm.finetune`.

    Ours: image tokens are drawn to the embeddings of words that answer questions about their picture (`train` records with one picture).
    """
    from runner.models.lvlm.tiny import write
    from runner.nodes.visual_questions.aligning import aligned, projector_of, word_targets

    loaded = model.load()
    projector_of(loaded.network)
    rows = [row for row in data.records.to_pylist() if row["split"] == "train"]
    kept, vocabulary, targets = word_targets(rows, loaded.tokenizer)
    features = _features(ctx, loaded, data, [rows[number] for number in kept])
    losses = aligned(
        loaded.network, features, vocabulary, targets, epochs=epochs, lr=lr, batch_size=batch_size,
        seed=ctx.seed if seed is None else seed,
    )  # fmt: skip
    told = [*ctx.track(losses, unit="epochs", total=epochs)]
    folder = ctx.folder("checkpoint")
    write(loaded.network, loaded.processor, folder, model.dtype)
    return AlignedLvlm(folder, {"losses": told, "pictures": len(kept), "words": len(vocabulary)})


def _features(ctx: StepContext, loaded: Any, data: Conversations, rows: list[dict[str, Any]]) -> Any:
    import torch

    from runner.models.lvlm.batches import records_of
    from runner.nodes.visual_questions.aligning import picture_features

    found, waiting = [], []
    for record in ctx.track(records_of(data, rows), unit="images", total=len(rows)):
        waiting.append(record.images[0])
        if len(waiting) == 64:
            found.append(_seen(loaded, waiting, picture_features))
            waiting = []
    return torch.cat([*found, _seen(loaded, waiting, picture_features)] if waiting else found)


def _seen(loaded: Any, images: list[Any], picture_features: Any) -> Any:
    pixels = loaded.processor.image_processor(images, return_tensors="pt")["pixel_values"]
    return picture_features(loaded.network, pixels.to(loaded.device)).cpu()
