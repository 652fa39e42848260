"""Thumbnails of the first questions of each benchmark."""

from pathlib import Path

from PIL import Image

from runner.context import local_context
from runner.data.benchmarks.building import vqa_items
from runner.data.benchmarks.showing import with_thumbnails
from runner.data.benchmarks.specs import Benchmark
from runner.data.benchmarks.steps import load_benchmarks
from runner.data.images import decode
from tests.data.benchmarks.made_archives import MADE


def test_the_first_of_each_benchmark_have_one_and_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    for name, size in (("a", (400, 100)), ("b", (20, 30))):
        Image.new("RGB", size, "red").save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    uris = [["a.png", "b.png"], ["broken.png"], [], ["b.png"], ["b.png"]]
    rows = [
        {"benchmark": benchmark, "item_id": str(i), "question": "?", "answers": ["x"], "uris": u, "source_id": "p" if u else None}
        for benchmark in ("one", "two") for i, u in enumerate(uris)
    ]  # fmt: skip
    about = [{"benchmark": name, "metric": "exact_match"} for name in ("one", "two")]
    items = vqa_items(about, [{"folder": str(tmp_path), "name": "p"}], rows)
    said: list[tuple[str, str]] = []
    found = with_thumbnails(items, 4, lambda text, uri: said.append((text, uri)))
    sizes = [row["thumbnail"] and decode(row["thumbnail"]).size for row in found.items.to_pylist()]
    assert sizes == [(96, 24), None, None, (20, 30), None] * 2
    assert [uri for _, uri in said] == ["broken.png"] and "undecodable" in said[0][0]
    assert found.items.schema == items.items.schema
    assert with_thumbnails(items, 0, lambda *_: None).items.equals(items.items)


def test_the_step_fills_them_as_far_as_it_is_told(tmp_path: Path) -> None:
    MADE["pope"](tmp_path / "pope")
    spec = {"own": Benchmark(path=str(tmp_path / "pope"), kind="pope")}
    kept = [
        [bool(row["thumbnail"]) for row in load_benchmarks(local_context(tmp_path / str(n)), benchmarks=spec, thumbnails=n).items.to_pylist()]
        for n in (0, 2, 24)
    ]  # fmt: skip
    assert kept == [[False] * 3, [True, True, False], [True] * 3]
