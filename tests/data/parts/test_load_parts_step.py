"""Step ``parts.load``: what is drawn, what is saved, and a whole run from a spec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from part_miniatures import cub, manifest, picture
from pydantic import TypeAdapter, ValidationError
from typer.testing import CliRunner

from runner.cli import app
from runner.context import StepContext, local_context
from runner.data.datasets.specs import SplitCounts
from runner.data.parts import loading
from runner.data.parts.loading import Options, load
from runner.data.parts.reading import PartReader
from runner.data.parts.specs import CubParts, ManifestParts, PartDatasetSpec
from runner.data.parts.twins import same_bytes
from runner.errors import DataError, Interrupted


def _many(root: Path, count: int = 40) -> ManifestParts:
    """``count`` pictures, half of them train; the head of picture i is i % 5 + 1 pixels wide."""
    lines: dict[str, list[str]] = {name: [] for name in ("images", "parts", "attributes")}
    for i in range(count):
        picture(root / f"{i}.png", (8, 6), i)
        lines["images"].append(f"{i},{i}.png,{'train' if i % 2 else 'test'}")
        width = i % 5 + 1
        runs = ",".join(str(run) for run in (0, 6 * width, 48 - 6 * width))
        lines["parts"].append(f'{i},head,"{{""size"": [6, 8], ""counts"": [{runs}]}}"')
        lines["attributes"].append(f"{i},red,{i % 3 == 0:d}")
    heads = {"images": "image_id,path,split", "parts": "image_id,part,rle", "attributes": "image_id,attribute,value"}
    for name, head in heads.items():
        (root / f"{name}.csv").write_text("\n".join([head, *lines[name]]) + "\n")
    (root / "owners.yaml").write_text("red: head\n")
    return ManifestParts(manifest=str(root))


def test_limits_draw_the_same_pictures_and_keep_masks_with_them(tmp_path: Path) -> None:
    spec = _many(tmp_path / "set")
    few = load(local_context(tmp_path / "a"), spec, Options(limit=5, seed=3, thumbnails=0))
    more = load(local_context(tmp_path / "b"), spec, Options(limit=SplitCounts(train=9), seed=3, thumbnails=0))
    ids = few.images["sample_id"].to_pylist()
    assert len(ids) == 10 and {*ids} < {*more.images["sample_id"].to_pylist()}
    assert few.images["split"].to_pylist() == ["train"] * 5 + ["test"] * 5 and len(more.images) == 9 + 20
    reader = PartReader(more)
    for row, name in enumerate(more.images["sample_id"].to_pylist()):
        assert reader.masks(row).masks[0].sum() == 6 * (int(name) % 5 + 1)
        assert more.labels["value"][row, 0] == (int(name) % 3 == 0)


def test_val_is_taken_from_train_where_there_is_none(tmp_path: Path) -> None:
    spec = _many(tmp_path / "set")
    images = load(local_context(tmp_path / "a"), spec, Options(val_fraction=0.4, seed=1, thumbnails=0))
    splits = images.images["split"].to_pylist()
    assert splits == sorted(splits, key=["train", "val", "test"].index)
    assert splits.count("test") == 20 and 2 <= splits.count("val") <= 16
    other = load(local_context(tmp_path / "b"), spec, Options(val_fraction=0.4, seed=2, thumbnails=0))
    assert other.images["sample_id"].to_pylist() != images.images["sample_id"].to_pylist()


def test_splits_that_are_not_wanted_stay_out(tmp_path: Path) -> None:
    images = load(local_context(tmp_path / "a"), _many(tmp_path / "set"), Options(splits=["test"], thumbnails=0))
    assert {*images.images["split"].to_pylist()} == {"test"} and len(images.images) == 20


class _Stopping:
    """Stops after some checks."""

    def __init__(self, left: int) -> None:
        self.left = left

    def check(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Interrupted("stopped")


def test_a_stopped_step_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "CHUNK", 8)
    spec = _many(tmp_path / "set")
    context: StepContext = local_context(tmp_path / "a")
    context.stop = _Stopping(3)
    with pytest.raises(Interrupted):
        load(context, spec, Options(thumbnails=0))
    saved = sorted(path.name for path in context.scratch.glob("masks-*.parquet"))
    assert len(saved) == 3
    stamps = {name: (context.scratch / name).stat().st_mtime_ns for name in saved}
    context.stop = _Stopping(100)
    resumed = load(context, spec, Options(thumbnails=0))
    assert {name: (context.scratch / name).stat().st_mtime_ns for name in saved} == stamps
    whole = load(local_context(tmp_path / "b"), spec, Options(thumbnails=0))
    assert resumed.masks.equals(whole.masks) and resumed.images.equals(whole.images)


def test_a_picture_that_cannot_be_read_is_given_up_alone(tmp_path: Path) -> None:
    spec = _many(tmp_path / "set")
    (tmp_path / "set/7.png").write_bytes(b"no picture")
    context = local_context(tmp_path / "a")
    images = load(context, spec, Options(thumbnails=0))
    assert [item for item, _ in context.failures] == ["7"] and len(images.images) == 39
    reader = PartReader(images)
    for row, name in enumerate(images.images["sample_id"].to_pylist()):
        assert reader.masks(row).masks[0].sum() == 6 * (int(name) % 5 + 1)


def test_pictures_that_are_missing_are_named_before_any_mask(tmp_path: Path) -> None:
    spec = _many(tmp_path / "set")
    (tmp_path / "set/7.png").unlink()
    with pytest.raises(DataError, match=r"1 of 40 pictures .* missing: '7.png'\s+Complete the copy"):
        load(local_context(tmp_path / "a"), spec, Options(thumbnails=0))
    assert not list((tmp_path / "a/scratch").iterdir())


def test_pictures_stay_below_the_folder_that_the_spec_names(tmp_path: Path) -> None:
    spec = _many(tmp_path / "set")
    (tmp_path / "set/7.png").rename(tmp_path / "7.png")
    (tmp_path / "set/7.png").symlink_to(tmp_path / "7.png")
    with pytest.raises(DataError, match=r"lead out of .*\s+Links must stay below the folder of the dataset"):
        load(local_context(tmp_path / "a"), spec, Options(thumbnails=0))


def test_test_pictures_that_are_training_pictures_are_counted(tmp_path: Path) -> None:
    spec = manifest(tmp_path / "set")
    context = local_context(tmp_path / "a")
    load(context, ManifestParts(manifest=str(spec)), Options(thumbnails=0))
    assert not context.journal.messages
    (spec / "pictures/b.png").write_bytes((spec / "pictures/c.png").read_bytes())
    load(context, ManifestParts(manifest=str(spec)), Options(thumbnails=0))
    (message,) = context.journal.messages
    assert (message["item"], message["text"]) == (
        "manifest",
        "1 of 1 test pictures have the bytes of a training picture: 'pictures/b.png'",
    )


def test_twins_are_files_with_the_same_bytes(tmp_path: Path) -> None:
    content = {
        "a": b"x" * 9000,
        "b": b"y" + b"x" * 8999,
        "c": b"x" * 9000,
        "d": b"z" * 9000,
        "e": b"",
        "f": b"x",
        "g": b"",
    }
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    left, right = ([tmp_path / name for name in names] for names in ("abe", "fcdgh"))
    assert same_bytes(left, right) == [tmp_path / "c", tmp_path / "g"], "in order; h cannot be read"
    assert same_bytes([], right) == same_bytes(left, []) == []


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"cub_200": "."}, "one of the keys cub, celebamask_hq|Extra inputs"),
        ({"something": 1}, "one of the keys cub, celebamask_hq"),
        ({"cub": ".", "part_source": "masks"}, "belong together"),
        ({"cub": ".", "min_certainty": 1}, "greater than or equal to 2"),
        ({"cub": "./nowhere/at/all"}, "no such file"),
        ({"manifest": ".", "exclude": ["a", "a"]}, "stands twice"),
        ({"manifest": ".", "swaps": [["a"]]}, "at least 2 items"),
        ({"manifest": ".", "as": "a\nb"}, "match pattern"),
        ({"celebamask_hq": ".", "fractions": {"train": 0.5}}, "add up to 0.5"),
    ],
)
def test_specs_that_are_wrong(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(PartDatasetSpec).validate_python(spec)


def test_a_run_from_a_spec(tmp_path: Path) -> None:
    cub(tmp_path / "birds")
    manifest(tmp_path / "mine")
    (tmp_path / "spec.yaml").write_text(
        "name: parts\n"
        "steps:\n"
        "  birds: {uses: parts.load, dataset: {cub: birds, as: small birds}, thumbnails: 1}\n"
        "  mine: {uses: parts.load, dataset: {manifest: mine, exclude: [big]}}\n"
    )
    done = CliRunner().invoke(app, ["exec", str(tmp_path / "spec.yaml")])
    assert done.exit_code == 0, done.output
    with duckdb.connect(str(next(tmp_path.rglob("results.duckdb"))), read_only=True) as results:
        counted = results.sql(
            "SELECT dataset, count(*), count(thumbnail) FROM dataset_image GROUP BY 1 ORDER BY 1"
        ).fetchall()
        assert counted == [("manifest", 3, 3), ("small birds", 4, 2)]
        rows = results.sql(
            "SELECT attribute, owner, excluded, split, n_valid, n_positive FROM part_attribute WHERE dataset = 'manifest' "
            "ORDER BY attribute, split"
        ).fetchall()
        assert rows == [
            ("big", "head+tail", "the spec excludes it", "test", 1, 1),
            ("big", "head+tail", "the spec excludes it", "train", 0, 0),
            ("red", "head", None, "test", 1, 0),
            ("red", "head", None, "train", 1, 1),
        ]
        assert results.sql(
            "SELECT count(DISTINCT owner) FROM part_attribute WHERE dataset = 'small birds'"
        ).fetchone() == (16,)


def test_masks_drawn_in_threads_are_the_same(tmp_path: Path) -> None:
    cub(tmp_path / "birds")
    made = [
        load(local_context(tmp_path / name), CubParts(cub=str(tmp_path / "birds")), Options(thumbnails=0))
        for name in "ab"
    ]
    assert made[0].masks.equals(made[1].masks)
    assert np.array_equal(made[0].labels["value"], made[1].labels["value"])
