"""Step `proactive.make` with the packaged material."""

import io
import json
from collections import Counter

import pytest
from PIL import Image

from runner.assets import resolve
from runner.context import local_context
from runner.data.places import Place, read_pictures
from runner.data.sources import open_sources
from runner.errors import DataError, RunnerError
from runner.nodes.cut_out_specs import packaged
from runner.nodes.proactive.making.material import icons
from runner.nodes.proactive.making_steps import EVERY, make
from runner.spec import compile_text

SETS = [packaged("google-emoji"), packaged("fluent-3d")]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    ctx = local_context(tmp_path_factory.mktemp("made"), step="mini")
    return make(ctx, scenarios=EVERY, test=2, train=2, size=56, sets=SETS, seed=5)


def test_every_scenario_and_split_can_be_read(found):
    rows = found.samples.to_pylist()
    assert Counter((r["scenario"], r["split"]) for r in rows) == {(s, p): 2 for s in EVERY for p in ("test", "train")}
    assert [*dict.fromkeys(r["scenario"] for r in rows)] == EVERY == found.about["scenarios"]
    places = [Place(r["source_id"], uri) for r in rows for uri in r["uris"]]
    read = dict(read_pictures(open_sources(found.corpus), places))
    assert len(read) == len(places)
    sizes = {Image.open(io.BytesIO(data)).size for place, data in read.items() if "COCO" not in place.uri}
    assert sizes == {(56, 56)}


def test_no_drawing_stands_in_both_splits(found):
    drawn = {p: {r["drawn_with"] for r in found.samples.to_pylist() if r["split"] == p} for p in ("test", "train")}
    assert drawn["test"] and not drawn["test"] & drawn["train"]
    dealt = icons(resolve("asset:tabler-icons"), 0)
    names = [{icon.name for held in dealt[split].values() for icon in held} for split in ("train", "eval")]
    assert not names[0] & names[1] and dealt["train"].keys() == dealt["eval"].keys() and len(dealt["eval"]) > 40
    assert all(icon.strokes for split in dealt.values() for held in split.values() for icon in held)


def test_licences_are_those_of_what_was_used(found):
    assert found.about["licences"]["QD"] == "tabler-icons: MIT"
    assert "fluent-3d: MIT" in found.about["licences"]["ROD"] and "openclipart" not in found.about["licences"]["ROD"]
    assert found.summary["test"]["COCO"] == {"samples": 2, "nouns": 2, "parts": 2}


def test_the_same_seed_gives_the_same_bytes(found, tmp_path):
    again = make(
        local_context(tmp_path, step="mini"), scenarios=["QD", "COCO"], test=2, train=2, size=56, sets=SETS, seed=5
    )
    rows = [r for r in found.samples.to_pylist() if r["scenario"] in ("QD", "COCO")]
    assert again.samples.to_pylist() == rows and json.loads(rows[0]["record"])["id"] == 0
    for uri in (uri for r in rows for uri in r["uris"]):
        assert (again.pictures / uri).read_bytes() == (found.pictures / uri).read_bytes()


def test_a_folder_without_icons_is_refused(tmp_path):
    with pytest.raises(DataError, match="not the packed icons"):
        icons(tmp_path, 0)


@pytest.mark.parametrize(
    ("setting", "said"), [("test: 0", "test"), ("scenarios: [QD, QD]", "twice"), ("scenarios: [XX]", "XX|ROD"), ("size: 8", "size")]
)  # fmt: skip
def test_bad_settings_are_refused_before_anything_runs(tmp_path, setting, said):
    text = f"name: t\nprofile: embedded\nsteps:\n  mini: {{uses: proactive.make, {setting}}}\n"
    with pytest.raises(RunnerError, match=said):
        compile_text(text, "t.yaml", tmp_path)
