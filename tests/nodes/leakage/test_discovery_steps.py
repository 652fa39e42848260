"""``leakage.discover`` and ``leakage.found_parts`` on pictures whose parts are known."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from tiny_backbones import TINY, timm_vit

from runner.artifacts import PartImages
from runner.context import StepContext, local_context
from runner.data.geometry import Geometry
from runner.data.parts.made_steps import planted
from runner.data.parts.reading import PartReader
from runner.errors import DataError, ModelRefused
from runner.nodes.leakage import discovery_evaluation as evaluation
from runner.nodes.leakage import discovery_training as training
from runner.nodes.leakage.discovery import hard_slots, part_maps
from runner.nodes.leakage.discovery_data import central_pixel, read, stage1_tokens, truth
from runner.nodes.leakage.discovery_found import in_picture
from runner.nodes.leakage.discovery_metrics import pointing_hits
from runner.nodes.leakage.discovery_model import Routes, own_copy, patch_tokens
from runner.nodes.leakage.discovery_run import Told, routes_of, told_attributes
from runner.nodes.leakage.discovery_specs import HeadPlan, ShapingWeights, TrainPlan
from runner.nodes.leakage.discovery_steps import discover, found_parts
from runner.nodes.leakage.outputs import Discovery

NO_SHAPE = ShapingWeights(tv=0, presence=0, background=0, entropy=0, orth=0, equiv=0)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> PartImages:
    context = local_context(tmp_path_factory.mktemp("planted"))
    return planted(context, pictures=40, side=32, seed=0, thumbnails=0)


def _discover(folder: Path, images: PartImages, ctx: StepContext | None = None, **settings: Any) -> Discovery:
    options: dict[str, Any] = {
        "epochs": 2,
        "lr": 1e-5,
        "weights": ShapingWeights(background=1),
        "bootstrap": 20,
        "pictures": 1,
    }
    return discover(ctx or local_context(folder), backbone=TINY["timm_vit"](), images=images, **(options | settings))


@pytest.fixture(scope="module")
def found(images: PartImages, tmp_path_factory: pytest.TempPathFactory) -> Discovery:
    return _discover(tmp_path_factory.mktemp("found"), images, low_confidence=[0.2])


def _metric(found: Discovery, arch: str, name: str) -> float | None:
    rows = found.metrics.to_pylist()
    value: float | None = next(row["value"] for row in rows if row["arch"] == arch and row["metric"] == name)
    return value


def test_every_measure_of_both_architectures_has_a_row(found: Discovery) -> None:
    rows = found.metrics.to_pylist()
    names = {
        "nmi",
        "ari",
        "dense_nmi",
        "dense_ari",
        "keypoint_error",
        "pointing",
        "miou",
        "foreground_iou",
        "attribute_map",
    }
    for arch in ("single", "two_stage"):
        mine = {row["metric"]: row for row in rows if row["arch"] == arch}
        assert names | {"left_out_own", "left_out_other", "attribute_map_without_0.2", "removed_0.2"} == set(mine)
        assert all(
            row["n"] == 20 and row["ci_low"] <= row["value"] <= row["ci_high"] for row in mine.values() if row["value"]
        )
    terms = {(row["arch"], row["epoch"], row["term"]) for row in found.epochs.to_pylist()}
    assert {
        ("two_stage", 2, term)
        for term in ("attributes", "tv", "presence", "background", "entropy", "orth", "equiv", "total")
    } <= terms
    assert found.found["single.seed0"].shape == (40, 4, 4)
    assert found.pictures.num_rows == 2
    assert found.slots["part"].to_pylist() == list(found.about["parts"]) * 2


def test_a_slot_left_out_changes_other_attributes_in_a_single_stage_only(found: Discovery) -> None:
    assert _metric(found, "two_stage", "left_out_other") == 0
    assert _metric(found, "single", "left_out_other") != 0
    assert _metric(found, "two_stage", "left_out_own") != 0


class _Stopping:
    """Asks to stop after so many checks."""

    def __init__(self, after: int) -> None:
        self.left = after

    def check(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("routing", ["fixed", "learned"])
def test_a_stopped_training_goes_on_as_if_it_had_not_been(images: PartImages, tmp_path: Path, routing: str) -> None:
    plain = _discover(
        tmp_path / "plain", images, routing=routing, arch=["two_stage"], augment="light", leave_one_out=False
    )
    folder = tmp_path / "stopped"
    context = local_context(folder)
    context.stop = _Stopping(40 + 2 + 4)  # within the second epoch: pictures, batches of tokens, steps
    with pytest.raises(KeyboardInterrupt):
        _discover(folder, images, context, routing=routing, arch=["two_stage"], augment="light", leave_one_out=False)
    assert (folder / "scratch" / "two_stage-0.pt").is_file()
    again = _discover(folder, images, routing=routing, arch=["two_stage"], augment="light", leave_one_out=False)
    assert again.epochs.equals(plain.epochs)
    assert again.metrics.equals(plain.metrics)
    assert all(np.array_equal(again.weights[name], value) for name, value in plain.weights.items())


def test_stage_2_and_token_embeddings_train_where_asked_and_never_the_given_backbone(
    images: PartImages, tmp_path: Path
) -> None:
    backbone: Any = TINY["timm_vit"]()
    before = {name: value.clone() for name, value in backbone.network.state_dict().items()}
    ctx = local_context(tmp_path)
    discover(
        ctx, backbone=backbone, images=images, arch=["two_stage"], epochs=1, lr=1e-3, stage2="train", train_tokens=True,
        weights=NO_SHAPE, bootstrap=0, pictures=0, leave_one_out=False,
    )  # fmt: skip
    assert all(torch.equal(before[n], v) for n, v in backbone.network.state_dict().items())
    state = torch.load(tmp_path / "scratch" / "two_stage-0.pt", weights_only=True)
    assert set(state["tokens"]) == {"cls_token", "pos_embed"}
    assert not torch.equal(state["tokens"]["pos_embed"], before["pos_embed"])
    assert not torch.equal(state["second"]["blocks.0.attn.qkv.weight"], before["blocks.0.attn.qkv.weight"])


def test_classes_are_told_from_the_foreground(images: PartImages, tmp_path: Path) -> None:
    classes = images.datasets[0] | {"classes": ["a", "b"]}
    table = images.images.to_pylist()
    index = images.images.schema.get_field_index("class_index")
    column = images.images["class_index"].type
    named = images.images.set_column(index, "class_index", pa.array([i % 2 for i in range(len(table))], column))
    made = dataclasses.replace(images, datasets=[classes], images=named)
    both = _discover(tmp_path, made, class_weight=1.0, leave_one_out=False)
    for arch in ("single", "two_stage"):
        value = _metric(both, arch, "class_top1")
        assert value is not None and 0 <= value <= 1
    assert "class" in both.epochs["term"].to_pylist()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"slots": 3}, "fixed routing"),
        ({"class_weight": 1.0}, "one class only"),
        ({"arch": ["single", "single"]}, "twice"),
        ({"seeds": [1, 1]}, "twice"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_a_picture_is_read(
    images: PartImages, tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        _discover(tmp_path, images, **settings)
    assert not any((tmp_path / "scratch").iterdir())


def test_a_convolutional_network_is_refused(images: PartImages, tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="convolutional"):
        discover(local_context(tmp_path), backbone=TINY["resnet"](), images=images)


def test_found_parts_are_part_images(found: Discovery, images: PartImages, tmp_path: Path) -> None:
    made = found_parts(local_context(tmp_path), discovery=found, images=images, arch="single")
    assert made.about["parts"] == images.about["parts"]
    assert made.about["part_source"] == "discovered"
    reader, slots = PartReader(made), found.found["single.seed0"]
    places = {row["sample_id"]: i for i, row in enumerate(found.rows.to_pylist())}
    for row in (0, 25):
        large = slots[places[reader.sample_ids[row]]].repeat(8, 0).repeat(8, 1)
        for part in range(4):
            assert np.array_equal(reader.masks(row).masks[part], large == part)
    with pytest.raises(DataError, match="no training"):
        found_parts(local_context(tmp_path), discovery=found, images=images, seed=7)


def test_slots_in_a_picture_that_was_cut_stand_where_they_were_seen() -> None:
    slots = np.arange(4, dtype=np.uint8).reshape(2, 2)
    geometry = Geometry(8, 8)
    drawn = in_picture(slots, 4, geometry, 24, 16)  # twice as large, and four patches' width cut off at each side
    assert (drawn[:, :4] == 4).all() and (drawn[:, 20:] == 4).all()
    assert np.array_equal(drawn[:, 4:20], slots.repeat(8, 0).repeat(8, 1))
    for slot in range(4):
        assert np.array_equal(geometry.mask(drawn == slot), slots.repeat(4, 0).repeat(4, 1) == slot)


def test_pixels_and_tokens_are_those_of_the_backbone_and_truth_does_not_change(
    images: PartImages, tmp_path: Path
) -> None:
    backbone, ctx = TINY["timm_vit"](), local_context(tmp_path)
    pictures = read(ctx, backbone, images, 5)
    assert len(pictures.train) == len(pictures.test) == 5
    _, image = next(iter(pictures.reader.pictures([int(pictures.rows[0])])))
    assert isinstance(image, Image.Image)
    torch.testing.assert_close(pictures.batch(torch.tensor([0]))[0], torch.from_numpy(backbone.prepare(image)))
    tokens = stage1_tokens(ctx, backbone, pictures, 4)(torch.arange(10))
    with torch.no_grad():
        expected = patch_tokens(backbone, backbone.normalise(pictures.batch(torch.arange(10))))
    torch.testing.assert_close(tokens, expected)
    first, second = truth(backbone, pictures, 0), truth(backbone, pictures, 0)
    torch.testing.assert_close(tuple(first), tuple(second), rtol=0, atol=0, equal_nan=True)
    assert first.box == (0, 0, 32, 32) and bool(first.visible.all())


def test_no_keypoint_is_made_up_where_none_is_annotated(images: PartImages, found: Discovery, tmp_path: Path) -> None:
    backbone = TINY["timm_vit"]()
    given = truth(backbone, read(local_context(tmp_path), backbone, images, 5), 0)
    assert given.keypoints.isnan().all()
    assert given.spots.tolist() == [[7.5, 7.5], [23.5, 7.5], [7.5, 23.5], [23.5, 23.5]]
    for arch in ("single", "two_stage"):
        assert _metric(found, arch, "keypoint_error") is None and _metric(found, arch, "nmi") is not None


def test_the_spot_of_a_hollow_mask_lies_in_it_and_pointing_counts_inside_only() -> None:
    ring = np.ones((9, 9), bool)
    ring[1:-1, 1:-1] = False
    assert central_pixel(ring).tolist() == [4.5, 0.5]  # nearest to the centre, first of four
    masks, nothing = torch.from_numpy(ring)[None], torch.full((1, 2), torch.nan)
    places = torch.tensor([[4, 4], [8, 3]])
    assert pointing_hits(places, masks, nothing, 20.0).tolist() == [[False], [True]]
    assert pointing_hits(places, masks, torch.tensor([[4.0, 4.0]]), 2.0).tolist() == [[True], [True]]


def test_thresholds_come_from_pictures_of_all_places(monkeypatch: pytest.MonkeyPatch) -> None:
    class Kept:
        n, seed, device = 1000, 3, torch.device("cpu")

        class head:
            prototypes = torch.eye(2)

    asked: list[int] = []

    def maps_of(_: Any, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        asked.extend(places.tolist())
        return torch.ones(len(places), 4, 2), torch.ones(len(places), 2, 4)

    monkeypatch.setattr(evaluation, "maps_of", maps_of)
    looking = evaluation.Looking(False, (0.2,), 10)
    evaluation.floors(Kept(), looking, most=160)  # type: ignore[arg-type]
    first, asked[:] = list(asked), []
    evaluation.floors(Kept(), looking, most=160)  # type: ignore[arg-type]
    assert first == asked and len({*first}) == 40
    assert min(first) < 200 and max(first) > 800


def test_attributes_are_routed_by_owner_or_by_group() -> None:
    owners = {"wing::red": "wing", "wing::blue": "wing", "head": ["beak", "wing"], "size": "global"}
    about = {"parts": ["beak", "wing"], "attributes": list(owners), "owners": owners}
    told = told_attributes(about, "owned")
    assert told.names == ["wing::red", "wing::blue", "head"]
    fixed = routes_of(told, 2, "fixed")
    assert fixed.shares is not None and fixed.shares.tolist() == [[0, 1], [0, 1], [0.5, 0.5]]
    learned = routes_of(told_attributes(about, "all"), 5, "learned")
    assert learned.shares is None and learned.groups.tolist() == [0, 0, 1, 2]
    names = ["hair: black", "hair: long", "skin: light", "bill::a: b", "bill::c", "top:left"]
    assert routes_of(Told(names, [*range(6)], [(0,)] * 6), 2, "learned").groups.tolist() == [0, 0, 1, 2, 2, 3]


def test_rates_decay_and_schedule() -> None:
    rates = training.learning_rates(1e-6, 128)
    assert rates["backbone"] == pytest.approx(2.828e-6, rel=1e-3)
    assert rates["prototypes"] == pytest.approx(1000 * rates["backbone"]) and rates["heads"] == 10 * rates["prototypes"]
    assert training.weight_decay(100) == pytest.approx(0.005)
    assert [training.cosine(step, 10) for step in (0, 5, 10)] == pytest.approx([1, 0.5, 0], abs=1e-12)


def _quadrants(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    bits = torch.rand(count, 4, generator=draw) < 0.5
    signs = (2 * bits.float() - 1).view(count, 2, 2).repeat_interleave(16, 1).repeat_interleave(16, 2)
    colour = torch.tensor([0.11, -0.11, 0.055]).view(1, 3, 1, 1)
    return (0.5 + 0.1 * torch.randn(count, 3, 32, 32, generator=draw) + colour * signs[:, None]).clamp(
        0, 1
    ), bits.long()


def _placed_vit() -> Any:
    """The tiny transformer with smooth positions that its tokens show."""
    backbone: Any = timm_vit()
    x = torch.tensor([-1.0, -0.5, 0.5, 1.0])
    plane = torch.stack([x.expand(4, 4), x[:, None].expand(4, 4), x * x[:, None]], 2).view(16, 3)
    with torch.no_grad():
        mixed = plane @ torch.randn(3, 32, generator=torch.Generator().manual_seed(3))
        backbone.network.pos_embed[:, 1:] = 0.5 * mixed
    return backbone


def test_two_stages_with_fixed_routing_put_slots_on_their_quadrants() -> None:
    backbone, (pixels, bits) = _placed_vit(), _quadrants(160)
    with torch.no_grad():
        tokens = patch_tokens(backbone, backbone.normalise(pixels))
    material = training.Material(
        lambda rows: pixels[rows],
        lambda rows: tokens[rows],
        bits,
        torch.ones_like(bits),
        torch.zeros(160, dtype=torch.long),
    )
    plan = TrainPlan(12, 1e-5, 32, NO_SHAPE, "max", "enforced", 0.0, 0.0, 1.0, False, "none", False, False)
    trainer = training.Trainer(
        backbone, own_copy(backbone, train=False), HeadPlan(4, 32, "layer_norm", "mean", "cls", 0),
        Routes(torch.eye(4), torch.arange(4)), plan, material, seed=0,
    )  # fmt: skip
    quadrant = torch.arange(4).view(2, 2).repeat_interleave(2, 0).repeat_interleave(2, 1).flatten()

    def agreement() -> float:
        slots = hard_slots(part_maps(tokens, trainer.head.prototypes))
        return float((slots == quadrant).float().mean())

    before = agreement()
    trainer.run()
    assert before < 0.4
    assert agreement() > 0.6
    assert trainer.log[-1]["attributes"] < 0.5 * trainer.log[0]["attributes"]
