"""The dependence audit on real networks with random weights: two-stage vectors depend on nothing outside, bit for bit."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from locality_material import PARTS, png, quadrant_images
from tiny_backbones import TINY

from runner.context import local_context
from runner.data.parts.building import MaskRow, part_images
from runner.errors import DataError, Interrupted, StepError
from runner.nodes.leakage.dependence_rows import Audit
from runner.nodes.leakage.dependence_run import Chunk, audit_chunk, read_chunk
from runner.nodes.leakage.dependence_steps import dependence
from runner.nodes.leakage.feature_steps import TwoStageSpec

TWO = TwoStageSpec().model_dump() | {"rule": "all"}
SOME = ("timm_registers", "timm_no_cls", "timm_eva", "dinov3", "siglip", "mae", "open_clip")
"""A network a kind of block; exactness of the vectors themselves is tested on all."""
AUDIT = Audit((1, 2), ("single", "two_stage"), TWO, "mean", "final", "majority", "donor", True, True, True, 0)


@cache
def backbone(name):
    return TINY[name]()


def chunk(side, count=2):
    """Pictures with two quadrants, a ragged part and one that no picture shows."""
    generator = torch.Generator().manual_seed(0)
    pixels, donors = (torch.rand(count, 3, side, side, generator=generator) for _ in range(2))
    masks = torch.zeros(count, 4, side, side, dtype=torch.bool)
    half = side // 2
    masks[:, 0, :half, :half], masks[:, 1, half:, half:], masks[:, 2, 3 : half + 9, : half + 5] = True, True, True
    return Chunk([f"{i}" for i in range(count)], pixels, masks, masks.any(1), donors)


@pytest.mark.parametrize("name", SOME)
def test_two_stage_is_exactly_zero_and_single_stage_is_not(name, tmp_path):
    audit = replace(AUDIT, layers=(0, backbone(name).depth))
    found = audit_chunk(local_context(tmp_path), backbone(name), chunk(32), audit)
    two, single = found["values two_stage"], found["values single"]
    assert (two[:2, ..., :3] == 0).all() and (two[3, ..., :3] == 0).all()  # gradient, d_out, out_share
    assert (two[2, ..., :3] > 1e-6).all()  # the inside matters
    assert (single[:2, 1, :, :3] > 1e-6).all()
    assert np.nanmax(single[:2, 0, :, :2]) == 0  # layer 0: patches of a quadrant that is made of whole patches
    assert np.isnan(two[..., 3]).all() and np.isnan(single[..., 3]).all()  # absent
    total = found["attention"].sum(-1) / np.maximum(found["attention_n"], 1)
    assert np.allclose(total[..., :3], 1, atol=1e-5)
    assert found["attention_n"].tolist() == [2, 2, 2, 0]


@pytest.mark.parametrize("name", ["resnet", "convnext"])
def test_a_convolutional_network_is_measured_with_painted_pictures(name, tmp_path):
    audit = replace(AUDIT, two_stage=TWO | {"mode": "pixel_fill", "rule": "majority"}, layers=(1, 2))
    found = audit_chunk(local_context(tmp_path), backbone(name), chunk(64), audit)
    assert set(found) == {"values single", "values two_stage"}
    assert (found["values two_stage"][:2, ..., :3] == 0).all()
    reach = found["values single"][:2, ..., :3]
    assert (reach > 0).all() if name == "resnet" else (reach >= 0).all()  # untrained ConvNeXt hardly leaves its patches


def audited(folder, images, name="timm_registers", **options):
    ctx = options.pop("ctx", None) or local_context(folder, seed=1)
    return dependence(ctx, backbone=backbone(name), images=images, **options), ctx


def test_the_step_fills_its_four_tables(tmp_path):
    images = quadrant_images(tmp_path / "pictures", absent={(i, 3) for i in range(24)} | {(20, 1)})
    made, ctx = audited(tmp_path / "run", images, layers=[0, -1], batch=5)
    rows = made.pictures.to_pylist()
    assert {r["part"] for r in rows} == set(PARTS[:3]) and {r["layer"] for r in rows} == {0, 3}
    assert len(rows) == 2 * 2 * (
        12 * 3 - 1
    )  # extractors, layers, parts of 12 test pictures less the one that is hidden
    summary = made.summary.to_pylist()
    for row in summary:
        own = [r[row["measure"]] for r in rows if all(r[k] == row[k] for k in ("part", "extractor", "layer"))]
        own = [value for value in own if value is not None]
        if row["part"] == PARTS[3]:
            assert (row["mean"], row["largest"], row["n"]) == (None, None, 0)
        elif row["part"] != "all":
            assert (row["mean"], row["largest"], row["n"]) == (pytest.approx(np.mean(own)), max(own), len(own))
            assert row["ci_low"] <= row["mean"] <= row["ci_high"]
    assert {r["mean"] for r in summary if r["extractor"] == "two_stage" and r["measure"] == "d_out" and r["n"]} == {0.0}
    assert [r["n"] for r in summary if r["part"] == "all"] == [12] * 16
    assert {(r["layer"], r["head"]) for r in made.attention.to_pylist()} == {
        (b, h) for b in (1, 2, 3) for h in (0, 1, 2, 3, None)
    }
    (first, last) = made.token_norms.to_pylist()
    assert first["n_tokens"] == 12 * 16 and last["layer"] == 3 and last["median_norm"] <= last["largest_norm"]
    said = "no picture has a vector of this part ({}), of 12: 12 have no mask of it"
    assert [(m["item"], m["text"]) for m in ctx.journal.messages] == [
        (PARTS[3], said.format(name)) for name in ("single", "two_stage")
    ]


def test_it_is_said_why_a_part_has_no_vector(tmp_path):
    """Pictures twice as wide as high are cut to the middle square; a part there is smaller than a patch, one is at the left."""
    masks, listed = [], []
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(png(np.full((32, 64, 3), 40 * i, np.uint8)))
        listed.append({"sample_id": f"s{i}", "split": "test", "source_id": "wide", "uri": f"{i}.png"})
        for part, (left, side) in enumerate(((24, 8), (24, 2), (0, 8))):
            mask = np.zeros((32, 64), bool)
            mask[8 : 8 + side, left : left + side] = True
            if (i, part) != (3, 1):
                masks.append(MaskRow(i, part, mask))
    images = part_images(
        name="wide", object="square", parts=["large", "small", "left"], attributes=[], owners={}, pictures=listed, masks=masks,
        corpus=[{"folder": str(tmp_path), "name": "wide"}], value=np.zeros((4, 0)), valid=np.zeros((4, 0)),
    )  # fmt: skip
    made, ctx = audited(tmp_path / "run", images, extractors=["single"], attention=False, token_norms=False)
    assert {row["part"] for row in made.pictures.to_pylist()} == {"large"}
    said = "no picture has a vector of this part (single), of 4: "
    assert [(m["item"], m["text"]) for m in ctx.journal.messages] == [
        ("small", said + "1 have no mask of it, 3 have no patch of it by the rule majority"),
        ("left", said + "4 lose it when they are cut to the input"),
    ]


def test_all_is_the_mean_of_pictures_not_of_parts(tmp_path):
    images = quadrant_images(tmp_path / "pictures", 6, absent={(5, part) for part in (1, 2, 3)})
    made, _ = audited(
        tmp_path / "run", images, extractors=["single"], gradient=False, attention=False, token_norms=False
    )
    rows = made.pictures.to_pylist()
    by_picture = [np.mean([r["d_out"] for r in rows if r["sample_id"] == f"s{i}"]) for i in (3, 4, 5)]
    (found,) = [r for r in made.summary.to_pylist() if (r["part"], r["measure"]) == ("all", "d_out")]
    assert found["mean"] == pytest.approx(np.mean(by_picture))
    assert {r["grad_share_out"] for r in rows} == {None}
    assert made.attention.num_rows == made.token_norms.num_rows == 0


@pytest.mark.parametrize("how", ["mean", "noise"])
def test_other_replacements_and_batches_give_the_same_rows_whatever_the_batch(how, tmp_path):
    images = quadrant_images(tmp_path / "pictures", 8)
    few, many = (
        audited(tmp_path / f"{b}", images, replace=how, batch=b, gradient=False, attention=False)[0] for b in (1, 4)
    )
    for one, other in zip(few.pictures.to_pylist(), many.pictures.to_pylist(), strict=True):
        assert one["sample_id"] == other["sample_id"]
        assert one["d_out"] == pytest.approx(other["d_out"], abs=1e-6) and one["d_in"] == pytest.approx(
            other["d_in"], abs=1e-6
        )
        assert one["replacement"] == how


class StopAt:
    """Stops at the n-th question."""

    def __init__(self, number):
        self.left = number

    def check(self):
        self.left -= 1
        if self.left < 0:
            raise Interrupted("stop")


def test_finished_chunks_survive_a_stop(tmp_path):
    images = quadrant_images(tmp_path / "pictures", 12)
    whole, _ = audited(tmp_path / "whole", images, batch=2)
    ctx = local_context(tmp_path / "stopped", seed=1)
    ctx.stop = StopAt(6)
    with pytest.raises(Interrupted):
        audited(tmp_path, images, batch=2, ctx=ctx)
    kept = dict(ctx.items.values)
    assert 0 < len(kept) < 3
    ctx.stop = StopAt(10**6)
    again, _ = audited(tmp_path, images, batch=2, ctx=ctx)
    assert all(ctx.items.values[key] is value for key, value in kept.items())
    assert again.pictures.equals(whole.pictures) and again.summary.equals(whole.summary)
    assert again.attention.equals(whole.attention) and again.token_norms.equals(whole.token_norms)


def test_pictures_that_cannot_be_read_are_left_out(tmp_path):
    images = quadrant_images(tmp_path / "pictures", 8)
    (tmp_path / "pictures" / "6.png").write_bytes(b"no picture")
    made, ctx = audited(tmp_path / "run", images, gradient=False, batch=2)
    assert {r["sample_id"] for r in made.pictures.to_pylist()} <= {"s4", "s5", "s7"}
    assert "s6" in {item for item, _ in ctx.failures}


@pytest.mark.parametrize(
    ("options", "said"),
    [({"layers": [7]}, "no layer 7"), ({"layers": []}, "no layer"), ({"norm": "projected"}, "joint space"),
     ({"two_stage": TwoStageSpec(pool="cls"), "name": "timm_no_cls"}, "no CLS"), ({"name": "resnet"}, "pixel_fill")],
)  # fmt: skip
def test_what_a_backbone_cannot_do_is_refused_first(options, said, tmp_path):
    with pytest.raises(StepError, match=said):
        audited(tmp_path, quadrant_images(tmp_path / "pictures", 4), **options)


def test_too_few_pictures_are_refused(tmp_path):
    images = quadrant_images(tmp_path / "pictures", 4)
    with pytest.raises(DataError, match="no picture"):
        audited(tmp_path, images, split="val")
    with pytest.raises(DataError, match="another picture of the same split"):
        audited(tmp_path, images, pictures=1)
    assert audited(tmp_path, images, pictures=1, replace="mean", gradient=False)[0].settings["pictures"] == 1


def test_a_chunk_knows_the_pictures_that_replace_its_own(tmp_path):
    """Donors are other pictures of the draw, each used once."""
    from runner.data.parts.reading import PartReader
    from runner.nodes.leakage.loading import Loader, draw_donors

    images = quadrant_images(tmp_path / "pictures", 8)
    reader = PartReader(images)
    donors = draw_donors([4, 5, 6, 7], reader.splits, 0)
    loader = Loader(reader, backbone("timm_vit"), images.about, (), donors, 0)
    found = read_chunk(local_context(tmp_path), loader, [4, 5, 6, 7], AUDIT)
    matches = [[i for i in range(4) if torch.equal(found.replacement[j], found.pixels[i])] for j in range(4)]
    assert sorted(matches) == [[0], [1], [2], [3]] and all(matches[j] != [j] for j in range(4))
