"""The step on a small dataset: every array against a plain computation, absences, refusals, and going on after a kill."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_parts
from PIL import Image
from toy_parts import COUNT, PARTS, extracted, toy

from runner.context import local_context
from runner.data.geometry import Geometry
from runner.data.parts.made_steps import planted
from runner.data.parts.reading import PartReader
from runner.errors import DataError, StepError
from runner.nodes.leakage.feature_steps import PatchRule, TwoStageSpec
from runner.nodes.leakage.features import single_stage, two_stage
from runner.nodes.leakage.loading import resized_sizes
from runner.nodes.leakage.masks import patch_mask
from runner.nodes.leakage.pooling import plain_layers
from runner.nodes.leakage.token_norms import high_norm


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Pictures, features with all controls in float32, and the context that made them. Picture 1 cannot be read."""
    folder = tmp_path_factory.mktemp("made")
    images, ctx = toy(folder / "pictures", broken=1), local_context(folder / "work")
    return images, extracted(ctx, images, dtype="float32"), ctx


def array(features, extractor, layer):
    return np.load(Path(features.vectors) / extractor / f"L{layer}.npy", mmap_mode="r")


def plain(images, row):
    """Pixels [1, 3, 32, 32] and masks [1, P + 2, 32, 32] of a picture, put together without the step."""
    model, reader = toy_parts.backbone(), PartReader(images)
    found, (_, image) = reader.masks(row), next(reader.pictures([row]))
    masks = [model.geometry.mask(m) for m in [*found.masks, found.object]]
    masks.append(~masks[-1])
    return model, torch.from_numpy(model.prepare(image))[None], torch.from_numpy(np.stack(masks))[None]


def inner(images, row):
    """The same of the masks of two-stage vectors."""
    found, geometry = PartReader(images).masks(row), toy_parts.backbone().geometry
    masks = [geometry.inner_mask(m) for m in [*found.masks, found.object, ~found.object]]
    return torch.from_numpy(np.stack(masks))[None]


def test_vectors_are_those_of_the_pictures_one_by_one(made):
    images, features, _ = made
    assert features.sources == [*PARTS, "whole", "background"]
    assert [e["name"] for e in features.extractors] == ["single", "two_stage", "random_region", "mask_only", "swap", "no_artefacts"]  # fmt: skip
    for row in (0, 4, 8):
        model, pixels, masks = plain(images, row)
        late = single_stage(model, pixels, masks, layers=[0, 3])
        early = two_stage(model, pixels, inner(images, row), "token_drop", layers=[0, 3])
        for place, layer in enumerate((0, 3)):
            for name, wanted in (("single", late), ("two_stage", early)):
                np.testing.assert_allclose(array(features, name, layer)[row], wanted[place, 0].numpy(), atol=1e-5)


def test_swapped_parts_stand_in_the_picture_of_their_donor(made):
    images, features, _ = made
    donors = features.present["swap_donor"]
    splits = features.rows["split"].to_pylist()
    assert all(d == -1 or (splits[d] == splits[i] and d != i) for i, d in enumerate(donors))
    assert donors[1] == -1 and (donors == -1).sum() == 2, "the broken picture, and the one it would have surrounded"
    row = next(i for i in (0, 2, 3, 4) if donors[i] >= 0)
    model, pixels, masks = plain(images, row)
    around = plain(images, int(donors[row]))[1]
    pasted = torch.where(masks[:, 1, None], pixels, around)
    np.testing.assert_allclose(
        array(features, "swap", 3)[row, 1], single_stage(model, pasted, masks)[0, 1].numpy(), atol=1e-5
    )
    assert np.isnan(array(features, "swap", 3)[:, 4:]).all(), "further sources are not pasted"


def test_mask_only_knows_the_mask_and_nothing_else(made):
    vectors = array(made[1], "mask_only", 3)
    same, other = vectors[0, 0], vectors[0, 1]
    for row in (3, 6):  # equal masks, other pictures, other neighbours in the batch
        np.testing.assert_allclose(vectors[row, 0], same, atol=1e-5)
    assert np.abs(same - other).max() > 1e-3
    assert np.abs(same - array(made[1], "two_stage", 3)[0, 0]).max() > 1e-3
    assert np.isfinite(other).all()


def test_random_regions_have_as_many_patches_and_another_place(made):
    _, features, _ = made
    present = features.present
    assert np.array_equal(present["random_region"][:, :4], present["single"][:, :4])
    assert not present["random_region"][:, 4:].any()
    assert np.nanmax(np.abs(array(features, "random_region", 3) - array(features, "single", 3))) > 1e-3


def test_absent_is_nan_and_has_a_reason(made):
    images, features, ctx = made
    for name in (e["name"] for e in features.extractors):
        for layer in (0, 3):
            finite = np.isfinite(array(features, name, layer)).all(-1)
            assert np.array_equal(finite, features.present[name] > 0), name
    rows = features.parts.to_pylist()
    assert len(rows) == COUNT * 6
    reasons = {(r["sample_id"], r["part"]): r["reason"] for r in rows}
    assert reasons["n0", "head"] is None and reasons["n0", "leg"] == "the picture does not show it"
    assert reasons["n1", "head"].startswith("unreadable image")
    assert {reasons[f"n{i}", "horn"] for i in (0, 2, 8)} == {"the picture does not show it"}
    head = next(r for r in rows if (r["sample_id"], r["part"]) == ("n0", "head"))
    mask = plain(images, 0)[2][0, 0]
    assert head["n_pixels"] == mask.sum() and (head["rule"], head["rule_two_stage"]) == ("majority", "all")
    cells = mask.unfold(0, 8, 8).unfold(1, 8, 8).float().mean((-1, -2))
    whole = inner(images, 0)[0, 0].unfold(0, 8, 8).unfold(1, 8, 8).float().mean((-1, -2)) == 1
    assert (head["n_patches"], head["n_patches_two_stage"]) == ((cells >= 0.5).sum(), whole.sum())
    assert ctx.failures == [("n1", reasons["n1", "head"])]
    assert any("no picture has vectors of horn" in m["text"] for m in ctx.journal.messages)


def test_what_travels_with_the_vectors(made):
    images, features, _ = made
    assert features.rows["sample_id"].to_pylist() == [f"n{i}" for i in range(COUNT)]
    assert np.array_equal(features.labels["value"], images.labels["value"])
    assert features.model["layers"] == [0, 3] and features.model["random_init"] is True
    assert features.settings["two_stage"]["leak_free"] is True
    assert {e["name"]: e["leak_free"] for e in features.extractors}["mask_only"] is True
    assert not any(e["leak_free"] for e in features.extractors if e["name"] in ("single", "swap", "random_region"))
    shown = features.pictures.to_pylist()
    assert len(shown) == 2 and all(r["split"] == "test" and r["overlay"] != r["picture"] for r in shown)
    assert len(set(shown[0]["colours"])) == len(shown[0]["parts"]) == 4


def test_what_is_left_out_as_an_artefact_is_counted_and_warned_of(tmp_path):
    """A flat background: no spread of its norms, so that the object's ordinary tokens lie above the threshold."""
    images, model = toy(tmp_path / "pictures"), toy_parts.backbone()
    model.network.pos_embed.zero_()
    for number in range(COUNT):
        pixels = np.full((toy_parts.HEIGHT, toy_parts.WIDTH, 3), 128, np.uint8)
        pixels[:16, :14] = np.random.default_rng(number).integers(0, 256, (16, 14, 3))  # within the head
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.png")
    ctx = local_context(tmp_path / "work")
    options = {"layers": [0, 3], "controls": ["no_artefacts", "whole"], "pictures": 0, "batch": 4}
    found = extracted(ctx, images, backbone=model, **options)
    counts = torch.zeros(2, 2, 5)
    for row in range(COUNT):
        _, pixels, masks = plain(images, row)
        for place, tokens in enumerate(plain_layers(model, pixels, [0, 3])):
            kept = patch_mask(masks[0, :5], 8, "majority")
            counts[place] += torch.stack([kept.sum(-1), (kept & high_norm(tokens.patches[0].norm(dim=-1))).sum(-1)])
    shares = found.settings["removed"]
    assert list(shares) == [*PARTS, "whole"] and shares["horn"] == {} and shares["head"]["0"] > 0.4
    for s in (0, 1, 2, 4):
        wanted = (counts[:, 1, s] / counts[:, 0, s]).tolist()
        assert list(shares[found.sources[s]].values()) == pytest.approx(wanted)
    said = [m["text"] for m in ctx.journal.messages if "no_artefacts leaves out more than 20%" in m["text"]]
    assert len(said) == 1 and f"head ({max(shares['head'].values()):.0%})" in said[0]


def test_splits_limits_and_half_precision(tmp_path):
    images = toy(tmp_path / "pictures")
    some = extracted(local_context(tmp_path / "a"), images, splits=["train"], limit=3, controls=[], pictures=0)
    assert some.rows.num_rows == 3 and set(some.rows["split"].to_pylist()) == {"train"}
    assert array(some, "single", 3).dtype == np.float16 and some.pictures.num_rows == 0
    chosen = [int(name[1:]) for name in some.rows["sample_id"].to_pylist()]
    assert np.array_equal(some.labels["value"], images.labels["value"][chosen])
    wide = extracted(local_context(tmp_path / "b"), images, dtype="float32", controls=[], two_stage=None, pictures=0)
    assert list(wide.present) == ["single"]
    np.testing.assert_allclose(array(some, "single", 3), array(wide, "single", 3)[chosen], atol=2e-3)
    assert {r["reason"] for r in wide.parts.to_pylist() if r["present"]} == {"two-stage vectors were not asked for"}


def test_keypoints_have_the_token_they_lie_on(tmp_path):
    images = toy(tmp_path / "pictures")
    found = extracted(local_context(tmp_path), images, pooling="keypoint", dtype="float32", controls=[], pictures=0)
    model, pixels, _ = plain(images, 0)
    point = PartReader(images).masks(0).keypoints[:1]
    x, y = model.geometry.points(point, toy_parts.WIDTH, toy_parts.HEIGHT)[0]
    raw = model.embed(model.normalise(pixels))
    for number in range(1, 4):
        raw = model.block(number, raw)
    wanted = model.norm(raw)[0, 3 + int(y) // 8 * 4 + int(x) // 8]
    np.testing.assert_allclose(array(found, "single", 3)[0, 0], wanted.numpy(), atol=1e-5)


def test_masks_of_another_size_need_leave(tmp_path):
    with pytest.raises(DataError, match="n4: its masks are 96 x 72 pixels, the picture is 48 x 36"):
        extracted(local_context(tmp_path / "a"), toy(tmp_path / "pictures", odd=4))
    scaled = toy(tmp_path / "pictures", odd=4, mask_resize="nearest")
    options = {"controls": [], "dtype": "float32", "pictures": 0}
    one = extracted(local_context(tmp_path / "b"), scaled, **options)
    two = extracted(local_context(tmp_path / "c"), toy(tmp_path / "pictures"), **options)
    np.testing.assert_array_equal(array(one, "two_stage", 3), array(two, "two_stage", 3))


def test_features_that_are_not_finite_name_the_picture(tmp_path):
    model = toy_parts.backbone()
    plain_norm, seen = model.norm, []

    def overflowing(tokens):
        seen.append(len(tokens))
        return plain_norm(tokens) * (1e39 if len(seen) > 1 else 1)

    model.norm = overflowing
    with pytest.raises(DataError, match=r"n0, head: tiny gives features that are not finite \(single/L3\)"):
        extracted(local_context(tmp_path), toy(tmp_path / "pictures"), backbone=model, controls=[], two_stage=None)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"layers": [9]}, "no layer 9"),
        ({"layers": [3, -1]}, "one layer twice"),
        ({"norm": "projected"}, "no joint space"),
        ({"controls": ["mask_only"], "two_stage": None}, "mask_only is a control of two-stage"),
        ({"two_stage": TwoStageSpec(strict_pixels=False), "patch_rule": PatchRule(two_stage="any")}, "allow_boundary_leak"),
        ({"two_stage": TwoStageSpec(fill="blur")}, "fill blur is for pixel_fill and crop"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_before_a_picture_is_read(tmp_path, change, said):
    images = toy(tmp_path / "pictures", broken=0)
    with pytest.raises(StepError, match=said):
        extracted(local_context(tmp_path), images, **change)
    assert not list((tmp_path / "scratch").iterdir())


def test_an_allowed_leak_is_written_down(tmp_path):
    two = TwoStageSpec(mode="crop", strict_pixels=False, allow_boundary_leak=True)
    options = {"two_stage": two, "controls": [], "pictures": 0}
    found = extracted(local_context(tmp_path), toy(tmp_path / "pictures"), **options)
    assert found.settings["two_stage"]["leak_free"] is False and found.extractors[1]["leak_free"] is False


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*.npy"))}


def test_a_killed_extraction_goes_on_and_gives_the_same_bytes(tmp_path, made):
    here = Path(__file__).parent
    paths = f"{here}:{here.parents[2]}"
    command = [sys.executable, "-c", f"import toy_parts; toy_parts.child({str(tmp_path)!r}, 3)"]
    dead = subprocess.run(command, env={"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}, capture_output=True)
    assert dead.returncode == -9, dead.stderr.decode()[-2000:]
    scratch = tmp_path / "work" / "scratch"
    kept = {p: p.stat().st_mtime_ns for p in scratch.glob("batch-*.npz")}
    assert sorted(p.stem for p in kept) == ["batch-000000", "batch-000001", "batch-000002"]
    ctx, images = local_context(tmp_path / "work"), toy(tmp_path / "pictures", broken=1)
    after = extracted(ctx, images)
    assert {p: p.stat().st_mtime_ns for p in kept} == kept, "finished batches are not computed again"
    assert [item for item, _ in ctx.failures] == ["n1"], "what a finished batch could not read is said again"
    whole = extracted(local_context(tmp_path / "whole"), images)
    assert files(after.vectors) == files(whole.vectors) and len(files(after.vectors)) == 12


@pytest.mark.parametrize(("side", "told"), [(32, 0), (40, 1)])
def test_exact_masks_that_get_scaled_are_warned_of_once(tmp_path, side, told):
    ctx = local_context(tmp_path / "work")
    images = planted(local_context(tmp_path / "images"), pictures=8, side=side, thumbnails=0)
    extracted(ctx, images, controls=[], layers=[0], pictures=0)
    said = [m["text"] for m in ctx.journal.messages if "masks are exact at" in m["text"]]
    assert len(said) == told and all("40 x 40" in text and "side 32" in text for text in said)


def test_sizes_that_a_backbone_scales(tmp_path):
    images = toy(tmp_path)
    assert resized_sizes(images, Geometry(32, 36)) == [] and resized_sizes(images, Geometry(32, 32)) == [(48, 36)]
    assert resized_sizes(images, Geometry(36, 36, squash=True)) == [(48, 36)]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("two_stage: {strict_pixels: false}, patch_rule: {two_stage: any}", "say allow_boundary_leak"),
        ("two_stage: {strict_pixels: false, mode: crop}", "say allow_boundary_leak"),
        ("two_stage: null, controls: [mask_only]", "mask_only is a control of two-stage"),
        ("layers: [1, 1]", "named twice"),
    ],
)
def test_a_spec_that_cannot_be_meant_is_refused_before_a_model_is_loaded(tmp_path, settings, said):
    from runner.errors import SpecError
    from runner.spec import compile_text

    text = f"""
name: parts
models: {{vit: {{provider: timm, name: tiny_planted}}}}
steps:
  pictures: {{uses: parts.planted}}
  vectors: {{uses: leakage.features, backbone: $vit, images: $pictures, {settings}}}
results: results.duckdb
"""
    with pytest.raises(SpecError, match=said):
        compile_text(text, "spec.yaml", tmp_path)
    compile_text(text.replace(settings, "two_stage: {strict_pixels: false}"), "spec.yaml", tmp_path)
