"""Steps `proactive.load`, `proactive.probe`. Light: imported to validate a spec."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, ValidationInfo
from pydantic_core import PydanticCustomError

from runner.artifacts import ProactiveEpisodes, ProactiveSamples
from runner.context import StepContext, item_key
from runner.nodes.proactive.records import Scenario
from runner.references import AssetRef, InputPath, ResolvedPath
from runner.steps import Folder, step

if TYPE_CHECKING:
    from runner.nodes.proactive.filtering import KeptIds

PATTERN = "*_preprocessed.jsonl"


def _records_below(value: str) -> str:
    """The files of samples in the folder: they are what the step's key hashes; 100,000 frames are neither listed nor hashed for it."""
    if not isinstance(value, ResolvedPath) or value.path.name == PATTERN:
        return value
    if not any(value.path.glob(PATTERN)):
        raise PydanticCustomError("no_samples", "no file {pattern} in {path}; expected the folder `test/` of the published release",
                                  {"pattern": PATTERN, "path": str(value)})  # fmt: skip
    return ResolvedPath(value.path / PATTERN)


Release = Annotated[InputPath, AfterValidator(_records_below)]
"""The folder ``test/``; holds the pattern of its files of samples once validated."""


def _something(train: str | None, info: ValidationInfo) -> str | None:
    data = info.data or {}
    root = data.get("param_root", data.get("root"))
    if train is None and root is None and {"root", "param_root"} & {*data}:
        raise ValueError(
            "nothing to load: write `root:` (the folder `test/`), `train:` (Parquet of training rows), or both"
        )
    return train


def _distinct(values: list[Scenario]) -> list[Scenario]:
    if len({*values}) < len(values):
        raise ValueError("a scenario is named twice")
    return values


Scenarios = Annotated[list[Scenario], Field(min_length=1), AfterValidator(_distinct)]


def _published_elsewhere(value: Any) -> Any:
    if value in ("published", "probe"):
        raise PydanticCustomError("filter_word", "{text}", {"text": {
            "published": "the published ids come with the authors' code, not with this project: write them to a file and name it",
            "probe": "probing needs models: run `proactive.probe`, or name the file of kept ids that it wrote",
        }[value]})  # fmt: skip
    return value


def _filter_tag(value: Any) -> str:
    return "no filter" if value == "none" else "kept ids"


Filter = Annotated[
    Annotated[Literal["none"], Tag("no filter")]
    | Annotated[InputPath, BeforeValidator(_published_elsewhere), Tag("kept ids")],
    Discriminator(_filter_tag),
]


@step("proactive.load", version="1")
def load(
    ctx: StepContext,
    *,
    root: Annotated[
        Release | None,
        Field(
            description="folder `test/` of the published release, archives unpacked in place; its .jsonl files enter the key, frames do not"
        ),
    ] = None,
    train: Annotated[
        InputPath | None,
        Field(
            description="Parquet of published training rows (file, pattern or folder): split `train`, one turn each",
            validate_default=True,
        ),
        AfterValidator(_something),
    ] = None,
    scenarios: Annotated[Scenarios | None, Field(description="default: all that are there")] = None,
    filter: Annotated[
        Filter,
        Field(
            description="none, or a file of kept ids: .json {scenario: [ids]}, .jsonl or .csv with scenario, id and perhaps kept"
        ),
    ] = "none",
    limit: Annotated[
        int | None, Field(ge=1, description="kept samples drawn of each scenario and split; default: all")
    ] = None,
    seed: Annotated[int | None, Field(ge=0, description="of the draws; default: the run's")] = None,
    check_files: Annotated[bool, Field(description="see that every frame of the samples is there")] = True,
    edition: Annotated[
        str, Field(max_length=100, description="change it when frames were replaced under unchanged samples")
    ] = "",
    name: Annotated[str, Field(pattern=r"^[^\W_][\w .+-]{0,99}$", description="name of the set")] = "proactivebench",
) -> ProactiveSamples:
    """Load samples of the proactive scenarios from a local copy of the published release. Nothing is downloaded.

    A sample that is not as published is one error with file, line and field; samples of VSOD whose occlusion is weak are left out.
    """
    from results.tables import arrow_table
    from runner.errors import DataError
    from runner.nodes.proactive.reading import LICENCES
    from runner.nodes.proactive.samples import by_scenario

    if root is None and train is None:
        raise DataError(
            "nothing to load", hint="Write `root:` (the folder `test/`), `train:` (Parquet of training rows), or both."
        )
    asked = _Asked(name, scenarios, limit, ctx.seed if seed is None else seed, check_files)
    rows, corpus, notes = list[dict[str, Any]](), list[dict[str, Any]](), list[str]()
    for loaded in (
        None if root is None else _test_rows(ctx, _folder(root), filter, asked),
        None if train is None else _train_rows(ctx, _local(train), asked),
    ):
        if loaded is not None:
            rows += loaded.rows
            corpus.append(loaded.source)
            notes += loaded.notes
    for note in notes:
        ctx.warn(note, item=name)
    present = list(dict.fromkeys(row["scenario"] for row in by_scenario(rows)))
    about = {
        "name": name, "source": "published", "scenarios": present, "licences": {key: LICENCES[key] for key in present},
        "notes": notes, "filter": None if filter == "none" else f"kept ids of {Path(filter).name}",
    }  # fmt: skip
    return ProactiveSamples(about, corpus, arrow_table("pb_samples", by_scenario(rows)))


@dataclass(frozen=True)
class _Asked:
    """What the parameters say of either split."""

    name: str
    scenarios: Sequence[str] | None
    limit: int | None
    seed: int
    check_files: bool


@dataclass(frozen=True)
class _Loaded:
    """Rows of one split, where their pictures are, and what a reader should know."""

    rows: list[dict[str, Any]]
    source: dict[str, Any]
    notes: list[str]


def _local(value: str) -> Path:
    from runner.assets import resolve

    return resolve(value) if isinstance(value, AssetRef) else Path(value)


def _folder(root: str) -> Path:
    path = _local(root)
    return path.parent if path.name == PATTERN else path


def _test_rows(ctx: StepContext, root: Path, kept_file: str, asked: _Asked) -> _Loaded:
    from runner.errors import DataError
    from runner.nodes.proactive.filtering import read_kept
    from runner.nodes.proactive.reading import check_frames, files_of, read_scenario
    from runner.nodes.proactive.samples import sample_row

    kept: KeptIds = {} if kept_file == "none" else read_kept(_local(kept_file))
    rows, played, notes = list[dict[str, Any]](), list[Any](), list[str]()
    for scenario, path in ctx.track(files_of(root, asked.scenarios).items(), unit="scenarios"):
        read = read_scenario(scenario, path)
        if read.weak:
            notes.append(f"{scenario}: {read.weak} samples with weak occlusion left out, as published")
        notes += _filter_notes(scenario, {r.sample_id for r in read.records}, kept) if kept else []
        chosen = _drawn([r for r in read.records if r.sample_id in kept.get(scenario, (r.sample_id,))], asked)
        names = {record.sample_id for record in chosen}
        dropped = [r for r in read.records if r.sample_id not in kept.get(scenario, (r.sample_id,))]
        listed = [record for record in read.records if record.sample_id in names] + dropped
        rows += [sample_row(r, source_id=asked.name, kept=r.sample_id in names) for r in listed]
        played += chosen
    if not played:
        raise DataError(f"no sample of {root} is kept", hint="See `filter:` and `scenarios:`.")
    if asked.check_files:
        ctx.advance("frames", check_frames(root, played))
    return _Loaded(rows, {"folder": str(root), "name": asked.name}, notes)


def _filter_notes(scenario: str, known: set[str], kept: KeptIds) -> list[str]:
    if scenario not in kept:
        return [f"{scenario}: the file of kept ids does not name it; all its samples are kept"]
    unknown = sorted(kept[scenario] - known)
    shown = ", ".join(" ".join(name.split())[:40] for name in unknown[:5])
    return [f"{scenario}: {len(unknown)} kept ids are of no sample: {shown}"] if unknown else []


def _drawn(records: Sequence[Any], asked: _Asked) -> list[Any]:
    from runner.data.sampling import sampled

    return sampled(records, asked.limit, asked.seed, lambda record: f"{record.scenario}/{record.sample_id}")


def _train_rows(ctx: StepContext, path: Path, asked: _Asked) -> _Loaded:
    from runner.data.benchmarks.files import Skipped
    from runner.data.sampling import sampled
    from runner.errors import DataError
    from runner.nodes.made_pictures import kept
    from runner.nodes.proactive.samples import sample_row
    from runner.nodes.proactive.train_rows import parquet_files, read_turns, with_pictures

    skipped = Skipped()
    by_scenario: dict[str, list[Any]] = {}
    for placed in read_turns(parquet_files(path), skipped):
        by_scenario.setdefault(placed.turn.scenario, []).append(placed)
    wanted = [key for key in by_scenario if asked.scenarios is None or key in asked.scenarios]
    drawn = [p for key in wanted for p in sampled(by_scenario[key], asked.limit, asked.seed, lambda p: str(p.name))]
    source, folder = f"{asked.name}-train", ctx.scratch / "train-pictures"
    folder.mkdir(parents=True, exist_ok=True)
    found = [*ctx.track(with_pictures(drawn, folder, skipped), unit="rows", total=len(drawn))]
    if not found:
        raise DataError(
            f"{path}: no training row could be read: {'; '.join(skipped.lines())[:600] or 'there is none of these scenarios'}"
        )
    rows = [sample_row(one.record, source_id=source, split="train", max_turns=1) for one in found]
    home = kept(ctx, "proactive-train", item_key("proactive-train", sorted({one.uri for one in found}))[:24], folder)
    notes = [f"training rows: {line}" for line in skipped.lines()]
    return _Loaded(rows, {"folder": str(home), "name": source}, notes)


@dataclass(frozen=True)
class ProbedSamples(ProactiveSamples):
    """Samples with the votes of the probes. ``kept_ids``: a folder with ``kept.jsonl``, which ``filter:`` of `proactive.load` reads;
    ``summary``: by scenario samples, probed, kept; the probes; what guessing alone would drop."""

    kept_ids: Folder
    summary: dict[str, Any]


@step("proactive.probe", version="1")
def probe(
    ctx: StepContext,
    *,
    samples: ProactiveSamples,
    episodes: Annotated[
        list[ProactiveEpisodes], Field(min_length=1, description="episodes of the probe models, mode mcqa")
    ],
    threshold: Annotated[
        float,
        Field(
            gt=0,
            le=1,
            description="share of the probes that are right at once at which a sample is dropped; the paper: 0.25",
        ),
    ] = 0.25,
) -> ProbedSamples:
    """Drop samples that give the answer away: those that many models answer rightly on turn 1, before anything is asked for."""
    from results.tables import arrow_table
    from runner.nodes.proactive.filtering import judged, probe_notes, probe_summary, votes_of, write_kept

    votes = votes_of(episodes)
    rows = judged(samples.samples.to_pylist(), votes, threshold)
    summary = probe_summary(rows, [e.label for e in episodes], threshold)
    for note in probe_notes(summary):
        ctx.warn(note)
    folder = ctx.folder("kept_ids")
    write_kept(folder / "kept.jsonl", rows)
    told = f"dropped where at least {threshold:.0%} of {len(episodes)} probes were right on turn 1"
    about = {**samples.about, "filter": "; ".join(filter(None, [samples.about.get("filter"), told]))}
    return ProbedSamples(about, samples.corpus, arrow_table("pb_samples", rows), folder, summary)
