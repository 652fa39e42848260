import json
import subprocess
import sys
from collections import Counter

import pytest
from PIL import Image
from pydantic import TypeAdapter
from tiny_encoder import ColourEncoder

from results.tables import arrow_schema, arrow_table
from retrieval.steps import folder_tree, index, search
from runner.artifacts import Captions, ImageIndex
from runner.context import local_context
from runner.data.sources import FolderSource, PackagedSource, open_source
from runner.errors import DataError
from runner.steps import load_steps

TARGETS = ["red thing", "green thing", "blue thing"]
TASK = {
    "description": "Tell the colour.",
    "outputs": [{"name": "colour", "type": "multi", "values": TARGETS, "caption_names": {}}],
}


@pytest.fixture
def captions():
    rows = []
    for target in TARGETS:
        for value in ("white", "black"):
            rows.append((target, "shade", value, f"a {target} on {value}", "kept"))
        rows.append((target, None, None, f"a photo of a {target}", "kept"))
        rows.append((target, "shade", "none", "never asked", "dropped"))
    table = [
        {
            "resample": 0, "caption_id": f"c{n:02d}", "target": t, "attribute": a, "value": v, "text": text,
            "is_neutral": a is None, "status": status,
        }
        for n, (t, a, v, text, status) in enumerate(rows)
    ]  # fmt: skip
    return Captions(task=TASK, targets=TARGETS, captions=arrow_table("c2b_caption", table))


def options(**more):
    return {"k": 4, "overfetch": 5, "min_side": 8, "dedup_cosine": 0.9999, "margin": 0.0, **more}


def test_the_steps_are_registered_with_what_a_spec_may_write(tmp_path):
    steps = {name: d for name, d in load_steps().items() if name.startswith("retrieval.")}
    assert set(steps) == {
        "retrieval.index", "retrieval.import_clip_retrieval", "retrieval.search", "retrieval.folder_tree"
    }  # fmt: skip
    corpus = steps["retrieval.search"].params["corpus"]
    assert corpus.artifacts == (ImageIndex,) and corpus.many == "one"
    (tmp_path / "photos").mkdir()
    validated = TypeAdapter(corpus.plain).validate_python({"folder": "photos"}, context={"base": tmp_path})
    assert validated == FolderSource(folder=str(tmp_path / "photos"))


def test_declaring_the_steps_imports_nothing_heavy():
    code = "import sys, retrieval.steps; print([m for m in ('torch','numpy','pyarrow','PIL','faiss','scipy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_search_returns_typed_tables_that_agree(folder, encoder, ctx, captions):
    found = search(ctx, encoder=encoder, corpus=[{"folder": str(folder)}], queries=captions, **options())
    assert found.retrieval.schema.equals(arrow_schema("c2b_retrieval"))
    assert found.counts.schema.equals(arrow_schema("c2b_retrieval_count"))
    rows = found.retrieval.to_pylist()
    assert Counter(row["caption_id"] for row in rows) == dict.fromkeys(
        [c["caption_id"] for c in captions.captions.to_pylist() if c["status"] == "kept"], 20
    )
    for caption_id in {row["caption_id"] for row in rows}:
        listed = [row for row in rows if row["caption_id"] == caption_id]
        assert [row["rank"] for row in listed] == list(range(20))
        assert listed == sorted(listed, key=lambda row: (-row["similarity"], row["row"]))
        assert sum(row["kept"] for row in listed) <= 4
    assert all((row["reject_reason"] is None) == row["kept"] for row in rows)
    group = {c["caption_id"]: (c["target"], c["attribute"], c["value"]) for c in found.captions.to_pylist()}
    for count in found.counts.to_pylist():
        key = (count["target"], count["attribute"], count["value"])
        mine = [row for row in rows if group[row["caption_id"]] == key]
        assert count["fetched"] == len(mine) == count["kept"] + sum(json.loads(count["rejected"]).values())
        kept = [row["similarity"] for row in mine if row["kept"]]
        assert count["kept"] == len(kept)
        assert count["mean_similarity"] == (pytest.approx(sum(kept) / len(kept)) if kept else None)
    assert {row["status"] for row in found.captions.to_pylist()} == {"kept"}
    assert found.encoder["family"] == "test-colours"


def test_the_bytes_can_be_read_again_from_what_is_returned(folder, encoder, ctx, captions):
    found = search(ctx, encoder=encoder, corpus=[{"folder": str(folder)}], queries=captions, **options())
    kept = [row for row in found.retrieval.to_pylist() if row["kept"]]
    sources = {source.source_id: source for source in map(open_source, json.loads(json.dumps(found.corpus)))}
    for name, source in sources.items():
        uris = [row["uri"] for row in kept if row["source_id"] == name]
        assert {uri: (folder / uri).read_bytes() for uri in uris} == dict(source.read_many(uris))
    assert kept


def test_an_index_step_and_a_source_given_directly_find_the_same(tmp_path, folder, captions):
    specs = [{"folder": str(folder)}]
    one = ColourEncoder()
    built = index(local_context(tmp_path / "1"), encoder=one, corpus=specs)
    by_index = search(local_context(tmp_path / "2"), encoder=one, corpus=built, queries=captions, **options())
    assert one.embedded == 60
    direct = search(local_context(tmp_path / "3"), encoder=one, corpus=specs[0], queries=captions, **options())
    assert by_index.retrieval.equals(direct.retrieval) and by_index.counts.equals(direct.counts)
    assert built.sources.to_pylist()[0]["embedded"] == 60


def test_a_second_search_of_the_same_corpus_embeds_nothing(tmp_path, folder, captions):
    ctx, encoder = local_context(tmp_path / "w"), ColourEncoder()
    for k in (3, 5):
        search(ctx, encoder=encoder, corpus=[{"folder": str(folder)}], queries=captions, **options(k=k))
    assert encoder.embedded == 60


def test_an_index_artifact_stays_when_its_sources_grow(tmp_path, folder, captions, make_picture):
    first = local_context(tmp_path / "w")
    built = index(first, encoder=ColourEncoder(), corpus=[{"folder": str(folder)}])
    before = {p.name: p.read_bytes() for p in built.index.iterdir()}
    (folder / "new.png").write_bytes(make_picture(99))
    second = local_context(tmp_path / "w")
    second.staging = tmp_path / "other"
    grown = index(second, encoder=ColourEncoder(), corpus=[{"folder": str(folder)}])
    assert {p.name: p.read_bytes() for p in built.index.iterdir()} == before
    assert grown.sources.to_pylist()[0]["embedded"] == 61


def test_paper_mode_returns_the_k_nearest_as_they_are(folder, encoder, ctx, captions):
    found = search(
        ctx,
        encoder=encoder,
        corpus=[{"folder": str(folder)}],
        queries=captions,
        paper_mode=True,
        **options(min_side=9999),
    )
    rows = found.retrieval.to_pylist()
    assert len(rows) == 4 * 9 and all(row["kept"] for row in rows)


def test_a_corpus_smaller_than_k_is_not_padded(tmp_path, encoder, ctx, captions, make_picture):
    for n in range(3):
        (tmp_path / "few").mkdir(exist_ok=True)
        (tmp_path / "few" / f"{n}.png").write_bytes(make_picture(n))
    found = search(
        ctx,
        encoder=encoder,
        corpus={"folder": str(tmp_path / "few")},
        queries=captions,
        **options(k=100, paper_mode=True),
    )
    assert all(count["kept"] == 3 for count in found.counts.to_pylist())


def test_a_dead_corpus_gives_empty_groups_and_says_so(tmp_path, encoder, ctx, captions):
    (tmp_path / "dead").mkdir()
    (tmp_path / "dead" / "a.png").write_bytes(b"")
    found = search(ctx, encoder=encoder, corpus={"folder": str(tmp_path / "dead")}, queries=captions, **options())
    assert len(found.retrieval) == 0
    assert [(c["fetched"], c["kept"]) for c in found.counts.to_pylist()] == [(0, 0)] * 9
    assert any("9 of 9 groups" in message["text"] for message in ctx.journal.messages)


def test_every_rule_shows_in_the_counters(tmp_path, folder, encoder, ctx, captions, make_picture):
    (folder / "red" / "again.png").write_bytes((folder / "red" / "000.png").read_bytes())
    Image.open(folder / "red" / "003.png").save(folder / "red" / "resaved.png", compress_level=1)
    for n in range(8):
        (folder / "blue" / f"tiny{n}.png").write_bytes(make_picture(200 + n, (30, 30, 220), size=(7, 7)))
        (folder / "green" / f"wide{n}.png").write_bytes(make_picture(300 + n, (30, 220, 30), size=(100, 60)))
    found = search(
        ctx, encoder=encoder, corpus=[{"folder": str(folder)}], queries=captions,
        **options(k=6, overfetch=10, max_pixels=5000, dedup_cosine=0.99999),
    )  # fmt: skip
    reasons = Counter(row["reject_reason"] for row in found.retrieval.to_pylist())
    assert {"large", "small", "duplicate", "near_duplicate", "other_value", "irrelevant"} <= set(reasons)
    for row in found.retrieval.to_pylist():
        assert (row["duplicate_of"] is not None) == (row["reject_reason"] in ("duplicate", "near_duplicate"))


def test_the_order_of_targets_and_captions_changes_no_fate(tmp_path, folder, captions):
    specs = [{"folder": str(folder / colour)} for colour in ("red", "green", "blue")]
    order = list(reversed(range(len(captions.captions))))
    turned = Captions(task=TASK, targets=TARGETS[::-1], captions=captions.captions.take(order))
    fates = []
    for n, (asked, corpus) in enumerate([(captions, specs), (turned, specs[::-1])]):
        found = search(
            local_context(tmp_path / str(n)), encoder=ColourEncoder(), corpus=corpus, queries=asked, **options()
        )
        fates.append(sorted(map(str, found.retrieval.to_pylist())))
    assert fates[0] == fates[1]


def test_another_encoder_cannot_search_the_index(tmp_path, folder, ctx, captions):
    built = index(ctx, encoder=ColourEncoder(), corpus=[{"folder": str(folder)}])
    with pytest.raises(DataError, match="made with encoder"):
        search(ctx, encoder=ColourEncoder("2"), corpus=built, queries=captions, **options())


def test_the_estimate_counts_pictures_before_anything_is_read(folder):
    estimate = load_steps()["retrieval.search"].estimate
    assert estimate({"corpus": [FolderSource(folder=str(folder))]}).images == 60
    assert estimate({}).images == 0


def test_the_estimate_fetches_nothing(monkeypatch):
    import runner.assets

    def refuse(*_):
        raise AssertionError("fetched")

    monkeypatch.setattr(runner.assets, "ensure", refuse)
    monkeypatch.setattr(runner.assets, "source_of", refuse)
    monkeypatch.setattr(runner.assets, "status", lambda name: "missing")
    estimate = load_steps()["retrieval.index"].estimate
    assert estimate({"corpus": [PackagedSource(packaged="cifar10-test")]}).images is None


def test_the_estimate_survives_a_folder_that_is_gone(folder):
    estimate = load_steps()["retrieval.search"].estimate
    assert estimate({"corpus": {"folder": str(folder / "gone")}}).images is None


# --- folder tree -----------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path, make_picture):
    root = tmp_path / "tree"
    for n, place in enumerate(["cat/light/dark", "cat/light/bright", "dog/light/dark"]):
        (root / place).mkdir(parents=True)
        for i in range(3):
            (root / place / f"{i}.png").write_bytes(make_picture(10 * n + i))
    (root / "cat/light/dark/9.png").write_bytes(make_picture(0))
    (root / "cat/light/dark/bad.png").write_bytes(b"no")
    return root


def test_a_sorted_tree_goes_straight_to_groups(tree, ctx):
    found = folder_tree(ctx, path=str(tree), task="Cat or dog?")
    assert found.targets == ["cat", "dog"]
    assert found.task["outputs"][0]["values"] == ["cat", "dog"]
    counts = {(c["target"], c["value"]): c for c in found.counts.to_pylist()}
    dark = counts["cat", "dark"]
    assert (dark["fetched"], dark["kept"]) == (5, 3)
    assert json.loads(dark["rejected"]) == {"duplicate": 1, "undecodable": 1}
    assert (counts["dog", "dark"]["kept"], counts["cat", "bright"]["kept"]) == (3, 3)
    kept = [row["uri"] for row in found.retrieval.to_pylist() if row["kept"]]
    assert len(dict(open_source(found.corpus[0]).read_many(kept))) == 9
    assert found.retrieval.schema.equals(arrow_schema("c2b_retrieval"))


def test_paper_mode_keeps_repeats(tree, ctx):
    found = folder_tree(ctx, path=str(tree), task="Cat or dog?", paper_mode=True)
    assert sum(c["kept"] for c in found.counts.to_pylist()) == 10


def test_a_tree_that_is_no_part_of_the_task_is_refused(tree, ctx):
    with pytest.raises(DataError, match="'cat' is no class"):
        folder_tree(ctx, path=str(tree), task="Tell birds.", classes=["dog", "bird"])
    assert folder_tree(ctx, path=str(tree), task="x", classes=["cat", "dog", "bird"]).targets == ["cat", "dog"]


def test_a_picture_must_be_told_apart_from_classes_that_are_not_audited(folder, encoder, ctx, captions):
    """Auditing one class of three keeps the same pictures for it as auditing all three."""
    red = captions.captions.filter([row["target"] == TARGETS[0] for row in captions.captions.to_pylist()])
    alone = Captions(task=TASK, targets=TARGETS[:1], captions=red)

    def kept_for_red(queries):
        found = search(ctx, encoder=encoder, corpus=[{"folder": str(folder)}], queries=queries, **options(overfetch=15))
        mine = {c["caption_id"] for c in found.captions.to_pylist() if c["target"] == TARGETS[0]}
        return {
            (r["caption_id"], r["uri"], r["reject_reason"])
            for r in found.retrieval.to_pylist()
            if r["caption_id"] in mine
        }

    assert kept_for_red(alone) == kept_for_red(captions)
    reasons = {reason for _, _, reason in kept_for_red(alone)}
    assert reasons & {"irrelevant", "other_target"}, "the corpus holds other colours too"
