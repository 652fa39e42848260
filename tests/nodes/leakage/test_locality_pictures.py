"""Step ``leakage.mask_pictures`` on real files."""

import numpy as np
import pytest
from locality_material import PARTS, SIDE, png, quadrant_images, quadrant_mask
from PIL import Image

from runner.context import local_context
from runner.data.parts.building import MaskRow, part_images
from runner.errors import DataError, StepError
from runner.nodes.leakage.locality_steps import mask_pictures


@pytest.fixture
def ctx(tmp_path):
    return local_context(tmp_path / "run", step="hidden")


def opened(found, uri):
    with Image.open(found.pictures / uri) as image:
        return np.asarray(image)


def source_of(tmp_path, sample_id):
    with Image.open(tmp_path / "data" / f"{sample_id[1:]}.png") as image:
        return np.asarray(image)


def test_only_the_part_is_hidden_with_the_mean_colour(ctx, tmp_path):
    found = mask_pictures(ctx, images=quadrant_images(tmp_path / "data"), images_per_pair=5, draws=2)
    views = found.views.to_pylist()
    assert {v["sample_id"] for v in views} <= {f"s{i}" for i in range(12, 24)}
    for view in views:
        pixels, plain = opened(found, view["uri"]), source_of(tmp_path, view["sample_id"])
        if view["masked_part"] is None:
            assert view["draw"] == -1 and np.array_equal(pixels, plain)
            continue
        mask = quadrant_mask(PARTS.index(view["masked_part"]))
        assert np.array_equal(pixels[~mask], plain[~mask])
        mean = np.rint(plain.astype(np.float64).mean((0, 1)))
        assert np.abs(pixels[mask].astype(float) - mean).max() <= 1  # rounding of a tie
        assert len(np.unique(pixels[mask], axis=0)) == 1


def test_pictures_of_a_draw_are_those_of_the_pairs(ctx, tmp_path):
    images = quadrant_images(tmp_path / "data", absent={(i, 3) for i in range(12, 21)})
    found = mask_pictures(ctx, images=images, images_per_pair=4, draws=3)
    views = {(v["sample_id"], v["masked_part"], v["draw"]) for v in found.views.to_pylist()}
    pairs = found.visible.to_pylist()
    for q in PARTS:
        for k in PARTS:
            for draw in range(3):
                mine = [p["sample_id"] for p in pairs if (p["part"], p["masked_part"], p["draw"]) == (q, k, draw)]
                assert len(mine) == len(set(mine)) == (3 if PARTS[3] in (q, k) else 4)
                assert all((sample, k, draw) in views for sample in mine)
                if PARTS[3] in (q, k):
                    assert set(mine) == {"s21", "s22", "s23"}  # the only ones that show it
    plain = [v["sample_id"] for v in found.views.to_pylist() if v["masked_part"] is None]
    assert len(plain) == len(set(plain)) and set(plain) == {sample for sample, _, _ in views}
    again = mask_pictures(local_context(tmp_path / "again"), images=images, images_per_pair=4, draws=3)
    assert again.views.equals(found.views) and again.visible.equals(found.visible)
    other = mask_pictures(local_context(tmp_path / "other"), images=images, images_per_pair=4, draws=3, seed=7)
    assert not other.views.equals(found.views)


def test_truth_is_that_of_the_drawn_pictures(ctx, tmp_path):
    images = quadrant_images(tmp_path / "data")
    found = mask_pictures(ctx, images=images, images_per_pair=50, draws=1)
    value = images.labels["value"]
    expected = {(f"s{i}", f"red {part}"): int(value[i, a]) for i in range(12, 24) for a, part in enumerate(PARTS)}
    assert {(t["sample_id"], t["attribute"]): t["value"] for t in found.truth.to_pylist()} == expected


def test_a_keypoint_hides_what_is_nearest_to_it(ctx, tmp_path):
    images = quadrant_images(tmp_path / "data", absent={(i, 1) for i in range(24)})
    found = mask_pictures(ctx, images=images, images_per_pair=1, draws=1, region="keypoint", radius=0.3)
    radius = int(0.3 * SIDE)
    points = {PARTS[p]: (SIDE // 4 + SIDE // 2 * (p // 2), SIDE // 4 + SIDE // 2 * (p % 2)) for p in (0, 2, 3)}
    hidden = [v for v in found.views.to_pylist() if v["masked_part"]]
    assert {v["masked_part"] for v in hidden} == set(points)
    for view in hidden:
        pixels, plain = opened(found, view["uri"]), source_of(tmp_path, view["sample_id"])
        rows, columns = np.mgrid[0:SIDE, 0:SIDE]
        distance = {part: (rows - y) ** 2 + (columns - x) ** 2 for part, (y, x) in points.items()}
        own = distance.pop(view["masked_part"])
        region = (own < radius**2) & (own < np.minimum(*distance.values()))
        assert np.array_equal(pixels[~region], plain[~region])
        assert len(np.unique(pixels[region], axis=0)) == 1


def test_a_smaller_side_shrinks_pictures_and_regions(ctx, tmp_path):
    images = quadrant_images(tmp_path / "data")
    for region in ("mask", "keypoint"):
        ctx = local_context(tmp_path / region)
        found = mask_pictures(ctx, images=images, images_per_pair=2, draws=1, side=16, region=region)
        view = next(v for v in found.views.to_pylist() if v["masked_part"] == PARTS[2])
        plain = next(v for v in found.views.to_pylist() if v["sample_id"] == view["sample_id"] and not v["masked_part"])
        changed = (opened(found, view["uri"]) != opened(found, plain["uri"])).any(2)
        assert changed.shape == (16, 16) and changed.any()
        assert not (changed & ~quadrant_mask(2, 16)).any()


def test_the_colour_of_the_dataset_is_one_for_all(ctx, tmp_path):
    images = quadrant_images(tmp_path / "data")
    found = mask_pictures(ctx, images=images, images_per_pair=20, draws=1, fill="dataset_mean")
    hidden = [v for v in found.views.to_pylist() if v["masked_part"]]
    colours = {tuple(opened(found, v["uri"])[quadrant_mask(PARTS.index(v["masked_part"]))][0]) for v in hidden}
    expected = np.mean([source_of(tmp_path, f"s{i}").astype(float).mean((0, 1)) for i in range(12, 24)], 0)
    assert len(colours) == 1 and np.abs(np.array(colours.pop(), float) - expected).max() <= 0.51


def test_what_cannot_be_read_is_given_up_and_the_rest_goes_on(ctx, tmp_path):
    images = quadrant_images(tmp_path / "data")
    (tmp_path / "data" / "13.png").write_bytes(b"no picture")
    found = mask_pictures(ctx, images=images, images_per_pair=50, draws=1)
    assert [item for item, _ in ctx.failures] == ["s13"]
    assert "s13" not in set(found.views["sample_id"].to_pylist()) | set(found.visible["sample_id"].to_pylist())
    assert len(set(found.views["sample_id"].to_pylist())) == 11


def test_a_pair_that_no_picture_shows_is_named(ctx, tmp_path):
    absent = {(i, 0) for i in range(12, 18)} | {(i, 1) for i in range(18, 24)}
    found = mask_pictures(ctx, images=quadrant_images(tmp_path / "data", absent=absent), images_per_pair=3, draws=1)
    assert any("top left and top right" in m["text"] for m in ctx.journal.messages)
    assert ("top left", "top right") not in {(p["part"], p["masked_part"]) for p in found.visible.to_pylist()}


def test_refused_inputs_say_where(ctx, tmp_path):
    images = quadrant_images(tmp_path / "data", keypoints=False)
    with pytest.raises(StepError, match="no part 'top lift'") as error:
        mask_pictures(ctx, images=images, parts=["top lift"])
    assert "top left" in str(error.value)
    with pytest.raises(StepError, match="no picture of the split 'val'"):
        mask_pictures(ctx, images=images, split="val")
    with pytest.raises(StepError, match="has a keypoint of any of these parts"):
        mask_pictures(ctx, images=images, region="keypoint")


def odd_masks(tmp_path, resize):
    """A picture of 20 x 10 pixels whose mask has twice its size."""
    tmp_path.mkdir(exist_ok=True)
    pictures = []
    for i, split in enumerate(["train", "test"]):
        (tmp_path / f"{i}.png").write_bytes(png(np.full((10, 20, 3), 9 * i, np.uint8)))
        pictures.append({"sample_id": f"../odd {i}", "split": split, "source_id": "odd", "uri": f"{i}.png"})
    mask = np.zeros((20, 40), bool)
    mask[:, 20:] = True
    ones = np.ones((2, 1), np.uint8)
    return part_images(
        name="odd", object="thing", parts=["half"], attributes=["dark"], owners={"dark": "half"}, pictures=pictures,
        corpus=[{"folder": str(tmp_path), "name": "odd"}], masks=[MaskRow(i, 0, mask) for i in range(2)], value=ones,
        valid=ones, mask_resize=resize,
    )  # fmt: skip


def test_masks_of_another_size_need_to_be_allowed(ctx, tmp_path):
    with pytest.raises(DataError, match="masks are 40 x 20, its picture 20 x 10"):
        mask_pictures(ctx, images=odd_masks(tmp_path / "odd", "none"))
    found = mask_pictures(ctx, images=odd_masks(tmp_path / "odd", "nearest"))
    view = next(v for v in found.views.to_pylist() if v["masked_part"])
    assert "/" not in view["uri"] and opened(found, view["uri"]).shape == (10, 20, 3)


def test_one_part_alone(ctx, tmp_path):
    found = mask_pictures(
        ctx, images=quadrant_images(tmp_path / "data"), parts=["bottom left"], images_per_pair=2, draws=1
    )
    assert set(found.views["masked_part"].to_pylist()) == {None, "bottom left"}
    assert found.settings["parts"] == ["bottom left"] and len(found.visible) == 2
