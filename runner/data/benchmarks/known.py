"""Metrics and public benchmarks by name: how each is scored, aggregated and licensed. Light.

Layouts and licences are general knowledge of the field, not read again in their sources for this table, unless ``seen`` says so.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Metric = Literal[
    "exact_match", "vqa_accuracy", "anls", "relaxed_accuracy", "yes_no", "multiple_choice", "mathvista", "substring",
    "count_exact", "count_soft",
]  # fmt: skip
METRIC_NAMES: tuple[Metric, ...] = (
    "exact_match", "vqa_accuracy", "anls", "relaxed_accuracy", "yes_no", "multiple_choice", "mathvista", "substring",
    "count_exact", "count_soft",
)  # fmt: skip
"""Scorers of ``runner.nodes.vqa.scoring``."""

Aggregate = Literal["mean", "category_mean", "pairs", "yes_no", "mme"]
AGGREGATES: tuple[Aggregate, ...] = ("mean", "category_mean", "pairs", "yes_no", "mme")
"""``mean`` of items; ``category_mean``: mean of the categories' means; ``pairs``: share of pairs that are right as a whole; ``yes_no``: mean,
with precision, recall, F1 and share of yes beside it; ``mme``: points, 100 x (accuracy + share of whole pairs) summed over categories."""

WHOLE_PAIRS = ("pairs", "mme")
"""Aggregates of which a limit draws whole pairs."""


class KnownBenchmark(NamedTuple):
    """What is fixed about a public benchmark. ``full_scale``: of its score; ``licence``: of questions, pictures."""

    metric: Metric
    licence: str
    aggregate: Aggregate = "mean"
    full_scale: float = 1.0


_COCO = "pictures: COCO, terms of Flickr"

KNOWN: dict[str, KnownBenchmark] = {
    "gqa": KnownBenchmark("exact_match", "CC BY 4.0; pictures: Visual Genome"),
    "vqav2": KnownBenchmark("vqa_accuracy", f"CC BY 4.0; {_COCO}"),
    "okvqa": KnownBenchmark("vqa_accuracy", f"CC BY 4.0; {_COCO}"),
    "vizwiz": KnownBenchmark("vqa_accuracy", "CC BY 4.0"),
    "textvqa": KnownBenchmark("vqa_accuracy", "CC BY 4.0; pictures: Open Images"),
    "docvqa": KnownBenchmark("anls", "research use; pictures: UCSF Industry Documents Library"),
    "infographicvqa": KnownBenchmark("anls", "research use; pictures: of their publishers"),
    "chartqa": KnownBenchmark("relaxed_accuracy", "GPL-3.0; pictures: of their publishers"),
    "ai2d": KnownBenchmark("multiple_choice", "CC BY-SA 4.0"),
    "scienceqa": KnownBenchmark("multiple_choice", "CC BY-NC-SA 4.0"),
    "mmmu": KnownBenchmark("multiple_choice", "Apache-2.0; pictures: of their publishers"),
    "mathvista": KnownBenchmark("mathvista", "CC BY-SA 4.0; pictures: of their sources"),
    "mme_perception": KnownBenchmark("yes_no", "research use, on request", "mme", 2000.0),
    "mme_cognition": KnownBenchmark("yes_no", "research use, on request", "mme", 800.0),
    "pope": KnownBenchmark("yes_no", f"MIT; {_COCO}", "yes_no"),
    "ocrbench": KnownBenchmark("substring", "MIT; pictures: of their sources"),
    "mmstar": KnownBenchmark("multiple_choice", "research use; pictures: of their sources", "category_mean"),
    "cv_bench_count": KnownBenchmark("count_exact", "Apache-2.0; pictures: ADE20K, COCO"),
    "vmcbench": KnownBenchmark("multiple_choice", "research use; pictures: of their sources", "category_mean"),
}

MME_PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
MME_COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
"""Tasks of MME, by the names of their folders; each is worth 200 points."""
