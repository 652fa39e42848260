"""Step `proactive.make`. Light: imported to validate a spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from runner.artifacts import ProactiveSamples
from runner.context import StepContext, item_key
from runner.data.datasets.specs import PackagedSet
from runner.nodes.cut_out_specs import PHOTOGRAPHS, SETS
from runner.nodes.made_pictures import kept
from runner.nodes.proactive.records import Scenario
from runner.references import AssetRef, InputPath
from runner.steps import Cost, Folder, step

if TYPE_CHECKING:
    from pathlib import Path

    from runner.nodes.noun_cut_outs import Stock
    from runner.nodes.proactive.making.making import Made, Materials

LAYOUT = "2"
"""Raised when the same parameters would give other samples or pictures."""
EVERY: list[Scenario] = ["ROD", "VSOD", "MVP-N", "IN-C", "QD", "CIT", "COCO"]
ICONS = AssetRef("asset:tabler-icons")
FRAMES = {"ROD": 14, "VSOD": 24, "MVP-N": 4, "IN-C": 5, "QD": 5, "CIT": 24, "COCO": 1}
NOTE = "drawn by this project from packaged material: a small set for trying methods, not the published benchmark"
GRADES = "IN-C: `visible` is the severity turned round (5: 0, 1: 1), no measured share"


def _distinct(scenarios: list[Scenario]) -> list[Scenario]:
    if len({*scenarios}) < len(scenarios):
        raise ValueError("a scenario is named twice")
    return scenarios


def _cost(params: Mapping[str, Any]) -> Cost:
    samples = (params.get("test") or 0) + (params.get("train") or 0)
    return Cost(images=samples * sum(FRAMES[name] for name in params.get("scenarios") or EVERY), bytes=None)


@dataclass(frozen=True)
class MadeProactive(ProactiveSamples):
    """Generated samples. ``pictures``: PNG files by scenario and split; ``summary``: numbers of samples, nouns and drawings by split and
    scenario."""

    pictures: Folder
    summary: dict[str, Any]


@step("proactive.make", version="2", estimate=_cost)
def make(
    ctx: StepContext,
    *,
    scenarios: Annotated[
        list[Scenario], Field(min_length=1, description="which of the seven"), AfterValidator(_distinct)
    ] = EVERY,
    test: Annotated[int, Field(ge=1, le=10_000, description="samples of each scenario to be asked about")] = 20,
    train: Annotated[int, Field(ge=0, le=100_000, description="samples of each for training, of other drawings")] = 0,
    size: Annotated[
        int, Field(ge=56, le=1024, description="pixels of a frame's side (COCO: of two thirds of it)")
    ] = 168,
    sets: Annotated[
        list[PackagedSet], Field(min_length=1, max_length=20, description="captioned sets with transparency")
    ] = SETS,
    photographs: Annotated[PackagedSet, Field(description="labelled photographs, as backgrounds")] = PHOTOGRAPHS,
    icons: Annotated[InputPath, Field(description="packed outline icons that QD draws")] = ICONS,
    wording: Annotated[
        InputPath | None, Field(description="YAML with questions and requests in place of ours, by scenario")
    ] = None,
    name: Annotated[
        str, Field(pattern=r"^[^\W_][\w .+-]{0,99}$", description="name of the set")
    ] = "generated-proactive",
    seed: Annotated[int | None, Field(ge=0, description="default: the run's")] = None,
) -> MadeProactive:
    """Draw samples of the proactive scenarios from packaged cut-outs, photographs and icons, in the published layout.

    Ours, small and free: no cut-out, photograph or icon stands in both splits, and those of `test` are the ones that `questions.make`
    keeps for `eval` with the same sets and seed.
    """
    from pathlib import Path

    from results.tables import arrow_table
    from runner.assets import resolve
    from runner.models.chat.keys import content_sha256
    from runner.nodes.proactive.making.making import made, row
    from runner.nodes.proactive.samples import by_scenario

    drawn = ctx.seed if seed is None else seed
    stock, materials = _materials(ctx, sets, photographs, icons, wording, drawn, name)
    counts = {"test": test} | ({"train": train} if train else {})
    folder, rows, tally = ctx.folder("pictures"), list[dict[str, Any]](), dict[str, Any]()
    total = len(scenarios) * sum(counts.values())
    for one in ctx.track(made(materials, scenarios, counts, size, drawn), unit="samples", total=total):
        _save(one, folder)
        rows.append(row(one, name))
        _count(tally, rows[-1])
    key = item_key("proactive", LAYOUT, name, size, drawn, counts, sorted(scenarios), materials.wording,
                   [s.model_dump(mode="json") for s in (*sets, photographs)], dict(stock.fingerprints), content_sha256(Path(resolve(icons))))  # fmt: skip
    corpus = [{"folder": str(kept(ctx, "proactive", key[:24], folder)), "name": name}]
    about = _about(name, scenarios, stock.licences)
    return MadeProactive(about, corpus, arrow_table("pb_samples", by_scenario(rows)), folder, _told(tally))


def _materials(
    ctx: StepContext, sets: Sequence[Any], photographs: Any, icons: str, wording: InputPath | None, seed: int, name: str
) -> tuple[Stock, Materials]:  # fmt: skip
    from pathlib import Path

    from runner.assets import resolve
    from runner.nodes.noun_cut_outs import stocked
    from runner.nodes.proactive.making.making import Materials
    from runner.nodes.proactive.making.material import SHARES, SIDE
    from runner.nodes.proactive.making.material import icons as dealt_icons
    from runner.nodes.proactive.making.writing import load_wording

    spoken = load_wording(None if wording is None else Path(wording))
    stock = stocked(sets, photographs, SHARES, SIDE, seed, lambda text: ctx.warn(text, item=name))
    return stock, Materials(stock.kits, dealt_icons(resolve(icons), seed), spoken)


def _save(one: Made, folder: Path) -> None:
    for uri, image in one.frames:
        path = folder / uri
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, "PNG", compress_level=1)


def _about(name: str, scenarios: Sequence[str], licences: Mapping[str, str]) -> dict[str, Any]:
    from runner.assets.registry import entry

    pasted = "; ".join(f"{source}: {text}" for source, text in sorted(licences.items()))
    drawn = f"{ICONS.name}: {entry(ICONS.name).licence}"
    ordered = [scenario for scenario in EVERY if scenario in scenarios]
    return {
        "name": name, "source": "made", "scenarios": ordered, "filter": None, "notes": [NOTE, GRADES],
        "licences": {scenario: drawn if scenario == "QD" else pasted for scenario in ordered},
    }  # fmt: skip


def _count(tally: dict[str, Any], row: Mapping[str, Any]) -> None:
    held = tally.setdefault(row["split"], {}).setdefault(
        row["scenario"], {"samples": 0, "nouns": set(), "parts": set()}
    )
    held["samples"] += 1
    held["nouns"].add(row["answer"])
    held["parts"].add(row["drawn_with"])


def _told(tally: Mapping[str, Any]) -> dict[str, Any]:
    return {
        split: {name: {key: value if key == "samples" else len(value) for key, value in held.items()} for name, held in by.items()}
        for split, by in tally.items()
    }  # fmt: skip
