"""Steps `evaluate.compare`, `evaluate.loss`, `evaluate.import_lmms_eval`, `evaluate.speed`. Light: imported to validate a spec."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from runner.artifacts import Conversations, LvlmLoss, LvlmSpeed, Retained, VqaItems, VqaScores
from runner.context import StepContext
from runner.errors import StepError
from runner.models.base import VisionLanguageModel
from runner.references import InputPath
from runner.steps import step

Label = Annotated[
    str | None, Field(min_length=1, max_length=80, description="name in results; default: the model's own")
]


@step("evaluate.compare", version="2")
def compare(
    ctx: StepContext,
    *,
    original: VqaScores,
    others: Annotated[
        dict[str, VqaScores], Field(min_length=1, description="scores of models by their name in results")
    ],
) -> Retained:
    """Put models beside the original they were made from: what each benchmark and their mean retain, items paired."""
    from results.tables import arrow_table
    from runner.nodes.vqa import comparing

    scores, aggregates = [], []
    for label, other in others.items():
        found, whole = comparing.compare(original, other, label)
        scores += found
        aggregates.append(whole)
        for benchmark in original.benchmarks:
            name = benchmark["benchmark"]
            told = next((row["n"] for row in found if row["benchmark"] == name), 0)
            asked = sum(value == name for value in original.items["benchmark"].to_pylist())
            if told < asked:
                ctx.warn(f"{label}: {told:,} of the {asked:,} items of {name} were put to both; only they count")
    return Retained(arrow_table("bench_score", scores), arrow_table("bench_aggregate", aggregates))


@step("evaluate.loss", version="1")
def loss(
    ctx: StepContext,
    *,
    model: VisionLanguageModel,
    data: Conversations,
    label: Label = None,
    split: Annotated[
        Literal["eval", "train"] | None, Field(description="records of this split; default: eval where there is one")
    ] = None,
    limit: Annotated[int | None, Field(ge=1, description="records at most, drawn with the run's seed")] = None,
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 8,
    max_length: Annotated[int | None, Field(ge=8, description="tokens of a record at most; default: all")] = None,
) -> LvlmLoss:
    """Measure a model's loss on conversations, nats a token of the replies, by domain, with intervals by record."""
    import pyarrow as pa

    from results.tables import arrow_table
    from runner.data.sampling import sampled
    from runner.nodes.vqa.losses import loss_rows, record_losses

    rows = data.records.to_pylist()
    wanted = split or ("eval" if any(row["split"] == "eval" for row in rows) else None)
    rows = [row for row in rows if wanted is None or row["split"] == wanted]
    if limit is not None:
        rows = sampled(rows, limit, ctx.seed, lambda row: str(row["record_id"]))
    if not rows:
        raise StepError(f"split: {data.about['name']} has no record of the split {wanted!r}", step=ctx.step)
    loaded, name = model.load(), label or model.name[:80]
    found = record_losses(
        ctx, loaded, data, rows, identity=model.identity, batch_size=batch_size, max_length=max_length
    )
    loaded.close()
    texts: list[tuple[str, pa.DataType]] = [(field, pa.string()) for field in ("record_id", "domain", "group")]
    schema = pa.schema([*texts, ("nll", pa.float64()), ("tokens", pa.int64())])
    table = arrow_table("text_perplexity", loss_rows(name, data.about["name"], data.about["domains"], found))
    return LvlmLoss(name, table, pa.Table.from_pylist(found, schema=schema))


@step("evaluate.speed", version="1")
def speed(
    ctx: StepContext,
    *,
    models: Annotated[
        dict[str, VisionLanguageModel], Field(min_length=1, description="models by their name in results")
    ],
    items: VqaItems,
    batch_size: Annotated[int, Field(ge=1, le=1024, description="questions read and answered at once")] = 1,
    new_tokens: Annotated[int, Field(ge=1, le=4096, description="tokens written after the first one")] = 32,
    repeats: Annotated[int, Field(ge=1, le=100, description="runs of which the median counts")] = 3,
) -> LvlmSpeed:
    """Measure prompt tokens and new tokens a second and peak memory, on the first questions of benchmarks."""
    from results.tables import arrow_table
    from runner.nodes.vqa.answering import questions_of
    from runner.nodes.vqa.speed import measure

    rows, lengths = [], {}
    questions = questions_of(items, batch_size)
    for name, model in models.items():
        ctx.check()
        loaded = model.load()
        found = measure(loaded, questions, new_tokens=new_tokens, repeats=repeats)
        lengths[name] = {"prompt_tokens": found.prompt_tokens, "device": loaded.device, "dtype": model.dtype}
        loaded.close()
        rows.append(
            {
                "model": name, "stage": "evaluate", "seconds": found.seconds, "peak_bytes": found.peak_bytes,
                "prefill_tps": found.prefill_tps, "decode_tps": found.decode_tps,
            }
        )  # fmt: skip
    settings = {"batch_size": len(questions), "new_tokens": new_tokens, "repeats": repeats, "models": lengths}
    return LvlmSpeed(settings, arrow_table("prune_timing", rows))


@step("evaluate.import_lmms_eval", version="1")
def import_lmms_eval(
    ctx: StepContext,
    *,
    path: Annotated[InputPath, Field(description="folder that lmms-eval wrote: *_results.json, *_samples_*.jsonl")],
    label: Annotated[str, Field(min_length=1, max_length=80, description="name of the model in results")],
    tasks: Annotated[
        dict[str, str] | None,
        Field(
            min_length=1, description="by task the metric that counts, such as {gqa: exact_match}; default: the first"
        ),
    ] = None,
    scales: Annotated[
        dict[str, Annotated[float, Field(gt=0)]] | None,
        Field(description="largest value of a task's metric where it is not 1, such as {mme: 2000}"),
    ] = None,
) -> VqaScores:
    """Read scores and samples that lmms-eval wrote; the newest file of a task counts."""
    from pathlib import Path

    from runner.nodes.vqa.lmms_eval import imported

    return imported(Path(path), label, tasks, scales or {}, ctx.warn)
