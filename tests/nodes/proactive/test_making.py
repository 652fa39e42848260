"""Generated samples: what frames show is what records and rows say, and first frames do not tell the answer."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from runner.data.places import Place
from runner.errors import DataError, UsageError
from runner.nodes.cut_outs import Figure
from runner.nodes.noun_cut_outs import Kit
from runner.nodes.nouns import NOUNS
from runner.nodes.proactive.env import make_env
from runner.nodes.proactive.making.checks import colours, ends, leak_check, pixels
from runner.nodes.proactive.making.corrupting import FAMILIES
from runner.nodes.proactive.making.making import Materials, made, row
from runner.nodes.proactive.making.material import Icon, kinds_of
from runner.nodes.proactive.making.strokes import flattened
from runner.nodes.proactive.making.writing import load_wording
from runner.nodes.proactive.records import SCENARIOS, is_abstention, parse_record, record_json

INK = {
    "dog": (210, 20, 20), "cat": (20, 20, 210), "horse": (20, 170, 20), "cow": (230, 20, 230), "car": (20, 200, 200),
    "bus": (240, 240, 10), "train": (120, 60, 0), "truck": (250, 140, 10),
}  # fmt: skip
PATHS = ("M4 4h16v16h-16z", "M12 3a9 9 0 1 0 0 18a9 9 0 0 0 0 -18", "M3 20l9 -16l9 16z", "M4 12h16", "M12 4v16")
ONE_CHOICE = 0.25


def kit():
    """Blocks of one colour a noun, on grey photographs: what is seen can be read from the pixels."""
    figures = {n: [Figure(Place("s", n), Image.new("RGBA", (40, 30), (*INK[n], 255)))] for n in INK}
    return Kit(figures, [(Place("p", "0"), "ship", Image.new("RGB", (32, 32), (128, 128, 128)))])


def icons():
    drawn = {
        "box": PATHS[:1],
        "ring": PATHS[1:2],
        "hill": PATHS[2:3],
        "cross": PATHS[3:],
        "gate": (PATHS[0], PATHS[4]),
    }
    return {noun: [Icon(noun, noun, [s for p in paths for s in flattened(p)])] for noun, paths in drawn.items()}


def materials():
    return Materials({"train": kit(), "eval": kit()}, {"train": icons(), "eval": icons()}, load_wording(None))


def samples(scenario, count=12, seed=0, size=84):
    return [*made(materials(), [scenario], {"test": count}, size, seed)]


def ink_seen(image, noun):
    pixels = np.asarray(image.convert("RGB")).astype(int)
    return int((np.abs(pixels - INK[noun]).sum(-1) < 40).sum())


def noun_of(one):
    return one.record.answer[:-1].lower()


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_records_are_published_ones_and_rows_say_the_same(scenario):
    for one in samples(scenario):
        told = row(one, "set")
        record = parse_record(scenario, json.loads(told["record"]))
        assert record == one.record and parse_record(scenario, record_json(record)) == record
        assert told["uris"] == [uri for uri, _ in one.frames] and len({*told["uris"]}) == len(told["uris"])
        assert len(record.categories) == 4 and record.answer in record.categories
        assert sum(is_abstention(option) for option in record.options) == 1
        assert told["n_frames"] == record.num_images == len(one.visible)
        assert all(0 <= share <= 1 for share in one.visible)


@pytest.mark.parametrize("scenario", ["ROD", "VSOD", "CIT", "COCO", "MVP-N", "QD"])
def test_asking_leads_from_little_of_the_object_to_all_of_it(scenario):
    for one in samples(scenario):
        env, files = make_env(one.record), [uri for uri, _ in one.frames]
        path = env.ask_path()
        places = [*range(len(path))] if scenario == "COCO" else [files.index(env.frame(s).uri) for s in path]
        along = [one.visible[place] for place in places]
        assert along[0] <= (0.2 if one.record.direction == "zoom" else 0.1)
        if scenario == "CIT":  # windows need not end on the last frame
            assert along[-1] > 0.6 and along == sorted(along)
        else:
            assert along[-1] == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("scenario", ["ROD", "VSOD", "CIT"])
def test_the_share_that_is_said_to_be_seen_is_what_the_pixels_show(scenario):
    for one in samples(scenario, 8):
        seen = np.asarray([ink_seen(image, noun_of(one)) for _, image in one.frames], float)
        said = np.asarray(one.visible)
        assert np.abs(seen / seen.max() - said)[said > 0.05].max(initial=0) < 0.15
        assert seen[np.argmin(said)] < 0.03 * seen.max()


def test_views_of_a_scene_show_what_the_row_says():
    for one in samples("COCO", 24):
        env = make_env(one.record)
        image = one.frames[0][1]
        boxes = [tuple(round(edge) for edge in env.frame(state).crop) for state in env.ask_path()]
        seen = [ink_seen(image.crop(box), noun_of(one)) for box in boxes]
        assert np.allclose(np.asarray(seen) / ink_seen(image, noun_of(one)), one.visible, atol=0.06)
        assert all(0 <= low < high <= image.width for box in boxes for low, high in (box[::2], box[1::2]))


def test_a_box_shows_its_product_on_the_last_view_only():
    for one in samples("MVP-N", 10):
        seen = [ink_seen(image, noun_of(one)) for _, image in one.frames]
        assert seen[3] > 150 and max(seen[:2]) <= 10 and seen[2] < 0.25 * seen[3]
        assert one.frames[3][0].endswith("/1-0003.png") and one.frames[0][0].endswith("/0-0000.png")


def test_sketches_gain_ink_evenly_and_begin_with_one_short_line():
    for one in samples("QD", 10):
        dark = [float((np.asarray(image.convert("L")) < 128).sum()) for _, image in one.frames]
        assert dark == sorted(dark) and dark[0] > 0
        assert 0.02 < dark[0] / dark[-1] < 0.25 and one.visible[0] <= 0.1


def test_damage_grows_with_the_severity_and_each_family_has_its_request():
    draw, grid = np.random.default_rng(0), np.mgrid[0:84, 0:84] / 84
    picture = np.stack([grid[0], grid[1], (np.hypot(*(grid - 0.5)) < 0.3).astype(float)], -1)
    for name, damage in FAMILIES.items():
        kept = [
            np.corrcoef(damage(picture, level, draw)[..., 2].ravel(), picture[..., 2].ravel())[0, 1] for level in (0, 2)
        ]
        changed = [np.abs(damage(picture, level, draw) - picture).mean() for level in range(5)]
        assert kept[0] > 0.8 and changed == sorted(changed), name
    assert {*FAMILIES} == {*load_wording(None)["IN-C"]["requests"]}
    for one in samples("IN-C", 10):
        assert [uri[-5] for uri, _ in one.frames] == ["1", "2", "3", "4", "5"]
        assert make_env(one.record).frame(make_env(one.record).initial()).uri.endswith("5.png")


def same(first, second):
    pairs = zip(first, second, strict=True)
    return all(
        a.record == b.record and [i.tobytes() for _, i in a.frames] == [i.tobytes() for _, i in b.frames]
        for a, b in pairs
    )


def test_the_seed_decides_and_nothing_else_changes_a_sample():
    alone, many = samples("QD", 3), [*made(materials(), SCENARIOS, {"test": 4, "train": 1}, 84, 0)]
    beside = [one for one in many if one.record.scenario == "QD" and one.split == "test"][:3]
    assert same(alone, beside) and not same(alone, samples("QD", 3, seed=1))
    assert [*dict.fromkeys(one.record.scenario for one in many)] == [*SCENARIOS]


def test_what_is_asked_about_comes_in_turn_and_wrong_answers_of_boxes_are_alike():
    found = samples("MVP-N", 16)
    assert Counter(noun_of(one) for one in found) == dict.fromkeys(INK, 2)
    animals = {"Dog.", "Cat.", "Horse.", "Cow."}
    assert all({*one.record.categories} in (animals, {"Car.", "Bus.", "Train.", "Truck."}) for one in found)


def test_no_choice_stands_out_by_its_kind():
    nouns = [*[noun for noun in NOUNS if NOUNS[noun] != "vehicle"][:-3], "car", "bus"]
    kinds = kinds_of(nouns)
    sizes = Counter(kinds.values())
    assert {*kinds} == {*nouns} and min(sizes.values()) >= 4 and len(sizes) > 1
    assert kinds["tree"] == kinds["flower"] and kinds["car"] == kinds["bus"] and kinds["dog"] != kinds["pizza"]
    assert len({*kinds_of(["dog", "cat", "car"]).values()}) == 1


@pytest.mark.parametrize("scenario", ["ROD", "VSOD", "MVP-N", "CIT"])
def test_first_frames_tell_nothing_and_last_ones_the_answer(scenario):
    """The classifier looks for the very colours of the blocks, wherever they stand."""

    def inks(image):
        seen = np.asarray([ink_seen(image, noun) for noun in INK], float)
        return seen / max(seen.sum(), 1)

    fitted, asked = samples(scenario, 32, seed=1, size=56), samples(scenario, 48, seed=2, size=56)
    found = leak_check(fitted, asked, inks)[scenario]
    spread = (ONE_CHOICE * (1 - ONE_CHOICE) / found.n) ** 0.5
    assert found.n == 48 and found.first < ONE_CHOICE + 4 * spread and found.reference > 0.8


def test_a_picture_is_compared_by_place_or_by_colour():
    image = Image.new("RGB", (40, 40), (255, 0, 0))
    image.paste((0, 0, 255), (0, 0, 20, 40))
    turned = image.rotate(180)
    assert np.array_equal(colours(image), colours(turned)) and (colours(image) ** 2).sum() == pytest.approx(1)
    assert np.abs(pixels(image) - pixels(turned)).mean() == pytest.approx(2 / 3)


def test_the_check_finds_a_leak():
    one = samples("ROD", 8)
    leaky = [s._replace(frames=[(uri, s.frames[0][1]) for uri, _ in s.frames]) for s in one]
    assert leak_check(leaky, leaky)["ROD"].first == 1.0 and len(ends(one[0])) == 2


def test_wording_can_be_replaced_by_key_only(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text('QD:\n  questions: ["Guess what?"]\n')
    found = load_wording(file)
    assert found["QD"]["questions"] == ["Guess what?"] and len(found["QD"]["requests"]) == 13
    assert len(found["MVP-N"]["requests"]) == 11


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a", "expected texts by key"), ("QD: [", "is not YAML"), ("QD: &a [x]\nROD: *a", "aliases are not read"), ("XX: 1", "no 'XX' here"), ("QD: {ask: 1}", "no 'ask'"),
        ("QD: {questions: []}", "a list of texts"), ("ROD: 3", "a mapping"), ("IN-C: {requests: {deblur: 1}}", "a text"),
    ],
)  # fmt: skip
def test_wording_that_is_not_like_ours_is_refused(tmp_path, text, said):
    file = tmp_path / "own.yaml"
    file.write_text(text)
    with pytest.raises((DataError, UsageError), match=said):
        load_wording(file)
