"""Steps on generated faces: ``faces.generate``, ``faces.parts``, ``c2b.association``, ``c2b.counterfactual``.

Light: imported to validate a spec.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from runner.context import StepContext
from runner.models.base import Classifier
from runner.references import AssetRef, InputPath
from runner.steps import Arrays, Artifact, Cost, Folder, Rows, Table, step

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from runner.nodes.faces.effects import Answers, Edited

GENERATOR = AssetRef("asset:face-generator")
PARSER = AssetRef("asset:face-parser")
POOR_FIT = 0.2
VARIANCE = 0.8
"""Share of the styles' variance that directions are fitted in: what is left out is noise to a fit on a few hundred people."""
Threads = Annotated[int | None, Field(ge=1, le=256, description="of the networks; none = all cores")]
Measure = Annotated[str, Field(min_length=1, description="part of a face, hair_luminance or background_luminance")]


@dataclass(frozen=True)
class Faces(Artifact):
    """Generated people. ``pictures``: a folder of JPEGs; ``styles``: ``styles`` float32 [n, 512] in the order of the
    names; ``summary``: what was drawn by what, and what a reader must know of it."""

    pictures: Folder
    styles: Arrays
    summary: dict[str, Any]


@dataclass(frozen=True)
class FaceParts(Artifact):
    """Measurements of pictures of faces."""

    measurements: Annotated[Table, Rows("face_measurement")]


@dataclass(frozen=True)
class Associations(Artifact):
    """How often classifiers give an answer, by bins of what was measured."""

    rates: Annotated[Table, Rows("c2b_association")]


@dataclass(frozen=True)
class Counterfactuals(Artifact):
    """What classifiers' answers do when one circumstance of the same people is changed."""

    effects: Annotated[Table, Rows("c2b_counterfactual")]
    pairs: Annotated[Table, Rows("c2b_pair")]


def _faces_cost(params: Mapping[str, Any]) -> Cost:
    return Cost(images=params.get("faces"), bytes=None)


@step("faces.generate", version="1", estimate=_faces_cost)
def generate(
    ctx: StepContext,
    *,
    faces: Annotated[int, Field(ge=1, le=100_000, description="people to draw")] = 160,
    psi: Annotated[float, Field(gt=0, le=1, description="truncation: 1 = as varied as it goes, 0 = all alike")] = 0.75,
    side: Annotated[int, Field(ge=64, le=1024, description="pixels of a picture's side")] = 256,
    seed: Annotated[int | None, Field(ge=0, description="none = the run's seed")] = None,
    generator: InputPath = GENERATOR,
    threads: Threads = None,
) -> Faces:
    """Draw portraits of people who do not exist; the same seed draws the same people."""
    from runner.assets import resolve
    from runner.nodes.faces.generator import NOTE, FaceGenerator
    from runner.nodes.faces.studio import draw_styles, portraits, style_space

    network = FaceGenerator(resolve(generator), threads=threads)
    used = ctx.seed if seed is None else seed
    styles = draw_styles(network, style_space(network, psi), faces, psi, used)
    folder = ctx.folder("pictures")
    for name, data in zip(_names(faces), portraits(ctx, network, styles, side), strict=True):
        (folder / name).write_bytes(data)
    ctx.warn(NOTE)
    summary = {"faces": faces, "psi": psi, "side": side, "seed": used, "generator": network.identity, "note": NOTE}
    return Faces(folder, {"styles": styles}, summary)


def _names(faces: int) -> list[str]:
    return [f"face-{number:06d}.jpg" for number in range(faces)]


def _pictures(folder: Path) -> dict[str, bytes]:
    from runner.errors import DataError

    found = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
    if not found:
        raise DataError(f"{folder}: there is no picture")
    return found


@step("faces.parts", version="1")
def parts(
    ctx: StepContext,
    *,
    pictures: Annotated[Folder, Field(description="portraits, such as $people.pictures")],
    parser: InputPath = PARSER,
    threads: Threads = None,
) -> FaceParts:
    """Measure which share of each picture is hair, skin, hat and so on, and how light hair and background are."""
    from results.tables import arrow_table
    from runner.assets import resolve
    from runner.nodes.faces.effects import number
    from runner.nodes.faces.measure import MEASURES
    from runner.nodes.faces.studio import Meter

    found = _pictures(Path(pictures))
    values = Meter(resolve(parser), threads).measure(ctx, found.values(), len(found))
    rows = [
        {"uri": uri, "measure": name, "value": number(value)}
        for uri, row in zip(found, values, strict=True)
        for name, value in zip(MEASURES, row, strict=True)
    ]
    return FaceParts(arrow_table("face_measurement", rows))


def _measured(table: Any, uris: list[str]) -> NDArray[np.float64]:
    """Measurements as [n, 21] in the order of ``uris``. Raises ``DataError`` where a picture was not measured."""
    import numpy as np

    from runner.errors import DataError
    from runner.nodes.faces.measure import MEASURES

    by_uri: dict[str, dict[str, float]] = {}
    for uri, name, value in zip(*(table[c].to_pylist() for c in ("uri", "measure", "value")), strict=True):
        by_uri.setdefault(uri, {})[name] = np.nan if value is None else value
    missing = [uri for uri in uris if uri not in by_uri]
    if missing:
        raise DataError(f"{len(missing)} pictures were not measured, the first is {missing[0]}")
    return np.array([[by_uri[uri][name] for name in MEASURES] for uri in uris])


@step("c2b.association", version="1")
def association(
    ctx: StepContext,
    *,
    classifiers: dict[str, Classifier],
    pictures: Annotated[Folder, Field(description="portraits, such as $people.pictures")],
    measurements: FaceParts,
    circumstances: Annotated[list[Measure], Field(min_length=1)] = ["hair"],  # noqa: B006
    outcome: Annotated[str, Field(description="the answer that is counted; a label of every classifier")] = "female",
    bins: Annotated[int, Field(ge=2, le=20, description="bins of equal size: 3 = thirds")] = 3,
) -> Associations:
    """How often each classifier gives an answer where there is little and where there is much of a circumstance."""
    from results.tables import arrow_table
    from runner.nodes.faces.effects import answers, association_rows

    found = _pictures(Path(pictures))
    given = {name: answers(ctx, c, list(found.values()), outcome) for name, c in classifiers.items()}
    values = _measured(measurements.measurements, list(found))
    rows = association_rows(given, values, circumstances, outcome, bins)
    return Associations(arrow_table("c2b_association", rows))


@step("c2b.counterfactual", version="1")
def counterfactual(
    ctx: StepContext,
    *,
    people: Faces,
    measurements: FaceParts,
    classifiers: dict[str, Classifier],
    describer: Annotated[
        Classifier | None, Field(description="a face_gender model with network faceres: is it still the same person?")
    ] = None,
    circumstances: Annotated[list[Measure], Field(min_length=1)] = ["hair"],  # noqa: B006
    hold: Annotated[list[Measure], Field(description="measures that must stay as they are")] = [],  # noqa: B006
    outcome: Annotated[str, Field(description="the answer that is counted; a label of every classifier")] = "female",
    pairs: Annotated[int, Field(ge=2, le=10_000, description="people to draw with less and with more")] = 60,
    least: Annotated[float, Field(gt=0, le=2, description="share of the wanted change that a pair must reach")] = 0.5,
    most: Annotated[float, Field(gt=0, description="largest change of a held measure, in standard deviations")] = 1.0,
    placebo: Annotated[bool, Field(description="also change people at random by as much, as a control")] = True,
    examples: Annotated[int, Field(ge=0, le=50, description="people shown, flipped and unflipped each")] = 4,
    generator: InputPath = GENERATOR,
    parser: InputPath = PARSER,
    threads: Threads = None,
) -> Counterfactuals:
    """Draw the same people with less and with more of one circumstance, measure again, and ask the classifiers."""
    from results.tables import arrow_table
    from runner.assets import resolve
    from runner.nodes.faces.effects import effect_row, pair_rows, with_q
    from runner.nodes.faces.generator import NOTE

    ctx.warn(NOTE)
    effects, rows = [], []
    editor = _editor(ctx, people, measurements, describer, resolve(generator), resolve(parser), pairs, least, most, threads)  # fmt: skip
    for circumstance in circumstances:
        edited = editor.edit(circumstance, [name for name in hold if name != circumstance])
        if edited.fit is not None and edited.fit < POOR_FIT:
            ctx.warn(
                f"{circumstance}: styles hardly tell it (R2 {edited.fit:.2f} on people left out); draw more people"
            )
        if not edited.kept.any():
            ctx.warn(f"{circumstance}: no pair passed the manipulation check; its effect is not known")
        for made in [edited, *([editor.placebo(edited, ctx.seed)] if placebo else [])]:
            for name, classifier in classifiers.items():
                less, more = _both(ctx, classifier, made, outcome)
                effects.append(effect_row(made, name, outcome, less, more))
                rows += pair_rows(made, name, less, more, examples)
    return Counterfactuals(arrow_table("c2b_counterfactual", with_q(effects)), arrow_table("c2b_pair", rows))


def _both(ctx: StepContext, classifier: Classifier, made: Edited, outcome: str) -> tuple[Answers, Answers]:
    from runner.nodes.faces.effects import answers

    return answers(ctx, classifier, made.less, outcome), answers(ctx, classifier, made.more, outcome)


def _editor(
    ctx: StepContext, people: Faces, measurements: FaceParts, describer: Classifier | None, generator: Path,
    parser: Path, pairs: int, least: float, most: float, threads: int | None,
) -> Any:  # fmt: skip
    """Everything that edits need. Raises ``DataError`` where the people were drawn by another generator."""
    from runner.errors import DataError
    from runner.nodes.faces.directions import whitening
    from runner.nodes.faces.edits import Editor, People
    from runner.nodes.faces.generator import FaceGenerator
    from runner.nodes.faces.studio import Meter, portraits, style_space

    network, summary = FaceGenerator(generator, threads=threads), people.summary
    if network.identity != summary["generator"]:
        raise DataError("the people were drawn by another generator", hint="give both steps the same generator")
    uris = _names(summary["faces"])
    styles = people.styles["styles"]
    meter = Meter(parser, threads)
    white = whitening(style_space(network, summary["psi"]).pool, VARIANCE)
    known = People(uris, styles, _measured(measurements.measurements, uris))
    return Editor(
        known,
        white,
        draw=lambda wanted: portraits(ctx, network, wanted, summary["side"], "edits"),
        measure=lambda pictures: meter.measure(ctx, pictures, None, "edits measured"),
        describe=None if describer is None else _describe(describer),
        pairs=min(pairs, len(uris)),
        least=least,
        most=most,
    )


def _describe(describer: Classifier) -> Any:
    import numpy as np

    from runner.data.images import decode
    from runner.errors import DataError

    descriptors = getattr(describer, "descriptors", None)
    if descriptors is None:
        raise DataError(f"{describer.name} describes no faces", hint="describer: a face_gender model, network: faceres")
    return lambda pictures: descriptors(np.stack([describer.prepare(decode(data)) for data in pictures]))
