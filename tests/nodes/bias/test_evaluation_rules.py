"""Rules and refusals of the steps that check an audit, called from Python: one clear error each, nothing lost."""

import asyncio
import math

import numpy as np
import pytest
from PIL import Image

from results.tables import arrow_table
from runner.artifacts import Captions, Verdicts
from runner.context import local_context
from runner.data.places import Place
from runner.errors import BudgetExceeded, DataError, EndpointError, StepError
from runner.models.base import ChatModel, ChatReply, Classifier, ImageTextEncoder, SentenceEncoder
from runner.nodes.bias.datasets.specs import CelebaFolder, ImagenetXFolder
from runner.nodes.bias.evaluation_labeller import (
    Audited,
    Looking,
    ask_about_pictures,
    audited_attributes,
    sampled,
    snapped,
)
from runner.nodes.bias.evaluation_matches import common_targets, found_groups, found_keywords
from runner.nodes.bias.evaluation_steps import GroundTruth, agreement, b2t, evaluate, ground_truth
from runner.nodes.bias.evaluation_truth import class_names
from tests.nodes.bias.test_datasets import celeba, entry, factor_file


class Red(Classifier):
    """Yes/no (or one of many) from the red of the picture's first pixels."""

    name, format = "red", "test"

    def __init__(self, labels, head="multilabel"):
        self.labels, self.head, self.identity = tuple(labels), head, f"red {labels} {head}"

    def prepare(self, image):
        return np.asarray(image, np.float32).transpose(2, 0, 1) / 255

    def logits(self, batch):
        return np.ascontiguousarray(batch[:, 0, 0, : len(self.labels)] - 0.5)


class Words(SentenceEncoder):
    """Texts as counts of their letters."""

    name = identity = "letters"
    dim = 128

    def encode(self, texts):
        counts = np.array([[t.lower().count(chr(c)) for c in range(self.dim)] for t in texts], np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


class Both(ImageTextEncoder):
    name = identity = family = "both"
    dim, logit_scale = 4, 1.0

    def prepare(self, image):
        return np.asarray(image, np.float32).transpose(2, 0, 1) / 255

    def encode_prepared(self, batch):
        return np.eye(4, dtype=np.float32)[(batch[:, 0, 0, 0] > 0.5).astype(int)]

    def encode_texts(self, texts):
        return np.eye(4, dtype=np.float32)[[1 if "red" in t else 0 for t in texts]]


class Scripted(ChatModel):
    name = "scripted"

    def __init__(self, reply):
        self.reply, self.asked = reply, 0

    async def complete(self, request, ctx):
        self.asked += 1
        text = self.reply(request)
        return ChatReply(text, None, "stop", 1, 1, 1, False, self.name)


def picture(path, *reds):
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[0, : len(reds), 0] = reds
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, "PNG")


@pytest.fixture
def faces(tmp_path):
    root = celeba(tmp_path / "celeba")
    for i in (1, 2, 3):
        picture(root / f"img_align_celeba/{i:06d}.jpg", 200, 10, 200)
    return CelebaFolder(celeba=str(root), split="all")


def test_targets_are_those_that_the_classifier_has_labels_for(faces, tmp_path):
    done = ground_truth(
        local_context(tmp_path),
        classifier=Red(["young", "hat", "smiles"]),
        dataset=faces,
        label_map={"smiles": "Smiling"},
    )
    assert done.targets == ["Smiling", "Young"]
    one = ground_truth(local_context(tmp_path), classifier=Red(["young", "hat"]), dataset=faces, targets=["young"])
    assert one.targets == ["Young"] and set(one.predictions["uri"].to_pylist()) == {"000001.jpg", "000002.jpg"}
    # Young: right on both; eyeglasses are never there, so that pair has no row.
    assert [(r["bias"], r["score"], r["n_with"]) for r in one.biases.to_pylist()] == [("Smiling", 0.0, 1)]


def test_unknown_targets_and_labels_are_refused(faces, tmp_path):
    with pytest.raises(DataError, match="no attribute 'Bald'"):
        ground_truth(local_context(tmp_path), classifier=Red(["Young"]), dataset=faces, targets=["Bald"])
    with pytest.raises(DataError, match="no label of the classifier is an attribute"):
        ground_truth(local_context(tmp_path), classifier=Red(["cat"]), dataset=faces)


def things(tmp_path):
    path = factor_file(tmp_path / "x.jsonl", *(entry(f"v{i}", i % 3, *(["pose"] if i < 6 else [])) for i in range(12)))
    for i in range(12):
        picture(tmp_path / "val" / f"v{i}", *(250 if j == (i % 3 if i else 1) else 0 for j in range(3)))
    return ImagenetXFolder(imagenet_x=str(path), images=str(tmp_path / "val"))


def test_only_pictures_of_the_targets_are_classified(tmp_path):
    ctx, classifier = local_context(tmp_path), Red(["tabby, tabby cat", "dog", "crane"], "softmax")
    done = ground_truth(ctx, classifier=classifier, dataset=things(tmp_path), targets=["tabby cat"])
    assert done.targets == ["tabby, tabby cat"] and len(ctx.items.values) == 2  # equal pictures are run once
    assert [(r["bias"], r["score"]) for r in done.biases.to_pylist()] == [("pose", 1 / 2 - 1)]
    with pytest.raises(DataError, match="no label 'lion'"):
        ground_truth(ctx, classifier=classifier, dataset=things(tmp_path), targets=["lion"])
    with pytest.raises(DataError, match="has class 2, but the classifier has 2 labels"):
        ground_truth(ctx, classifier=Red(["a", "b"], "softmax"), dataset=things(tmp_path))


def test_several_labels_may_mean_one_class(tmp_path):
    labels = {"dog": "animal", "tabby": "animal"}
    done = ground_truth(
        local_context(tmp_path),
        classifier=Red(["tabby", "dog", "crane"], "softmax"),
        dataset=things(tmp_path),
        label_map=labels,
    )
    # The one tabby that is called a dog is right now.
    assert done.targets == ["animal", "crane"] and all(done.predictions["correct"].to_pylist())
    assert class_names(["crane", "Crane", "cat"], {"cat": "pet"}) == ("crane (0)", "Crane (1)", "pet")
    with pytest.raises(DataError, match="no label 'cow'"):
        class_names(["cat"], {"cow": "pet"})


# --- evaluate ---------------------------------------------------------------------------------------------------------


def group(target, attribute, value, k, n, verdict="no_evidence", phi=None):
    return {
        "target": target, "attribute": attribute, "value": value, "k": k, "n": n, "phi": phi, "verdict": verdict,
        "target_check": "none",
    }  # fmt: skip


GROUPS = [
    group("Smiling", "light", "dark", 10, 20, "disfavoured", -0.45),
    group("Smiling", "light", "bright", 19, 20, "no_evidence", 0.45),
    group("Smiling", "place", "indoors", 20, 20, "no_evidence", 0.05),
    group("Smiling", "place", "outdoors", 19, 20, "no_evidence", -0.05),
    group("Smiling", "empty", "never", 0, 0, "undefined"),
]


def audited(groups, targets):
    empty = {name: arrow_table(f.table, []) for name, f in Verdicts.outputs().items() if f.kind == "table"}
    return Verdicts(task={}, targets=targets, settings={}, **empty | {"groups": arrow_table("c2b_group", groups)})


def true(rows, targets):
    filled = [
        {"dataset": "d", "classifier": "c", "target": t, "bias": b, "caption": f"a photo of {t} with {b}".lower(), "n_with": n,
         "k_with": k, "n_without": n, "k_without": n, "score": k / n - 1}
        for t, b, k, n in rows
    ]  # fmt: skip
    return GroundTruth("d", targets, [], arrow_table("c2b_ground_truth", filled), arrow_table("c2b_prediction", []))


def test_detected_by_the_papers_rule_or_by_verdict():
    point = found_groups(GROUPS, [], "{target} {value}", threshold=0.05)
    assert [f.detected for f in point] == [True, True, False, False, False] and math.isnan(point[4].score)
    verdict = found_groups(GROUPS, [], "{target} {value}", threshold=0.05, rule="verdict")
    assert [f.detected for f in verdict] == [True, False, False, False, False]
    assert [f.text for f in point[:2]] == ["smiling dark", "smiling bright"]


def test_keywords_against_a_class_count_as_disfavoured():
    rows = [
        {"target": "cat", "keyword": k, "caption": k, "score": s} for k, s in (("a", 2.0), ("b", -0.05), ("c", None))
    ]
    assert [(f.value, f.score, f.detected) for f in found_keywords(rows, 0.05)] == [
        ("a", -2.0, True),
        ("b", 0.05, False),
    ]


def test_captions_of_the_audit_are_what_is_matched(tmp_path):
    def caption(id_, value, text, *, resample=0, status="kept"):
        return {"resample": resample, "caption_id": id_, "target": "Smiling", "attribute": "light", "value": value, "text": text,
                "is_neutral": False, "status": status}  # fmt: skip

    rows = [
        caption("0", "dark", "dropped", status="dropped"), caption("1", "dark", "another draw", resample=1),
        caption("2", "dark", "a photo of smiling with darkness"), caption("3", "dark", "a second caption"),
    ]  # fmt: skip
    truth = true(
        [("Smiling", "darkness", 15, 20), ("Smiling", "zzz", 19, 20), ("Bald", "darkness", 0, 20)], ["Smiling", "Bald"]
    )
    done = evaluate(
        local_context(tmp_path), verdicts=audited(GROUPS, ["Smiling"]), truth=truth, sentences=Words(),
        captions=Captions({}, ["Smiling"], arrow_table("c2b_caption", rows)), match_above=0.999,
    )  # fmt: skip
    matches = done.matches.to_pylist()
    assert matches[0]["found_text"] == "a photo of smiling with darkness" and matches[0]["truth_outcome"] == "hit"
    # 19 of 20 against 20 of 20 lies on the threshold: no true bias. Bald was not audited: it counts nowhere.
    assert matches[1]["truth_outcome"] is None and {m["target"] for m in matches} == {"Smiling"}
    rates = {(r["direction"], r["target"]): r for r in done.rates.to_pylist()}
    assert (rates["truth_to_detected", None]["hit"], rates["detected_to_truth", None]["hit"]) == (100, 50)
    assert rates["truth_to_detected", None]["hit_low"] is None


def test_audited_classes_meet_true_ones_by_any_of_their_names():
    assert common_targets(["tabby, tabby cat", "crane (1)"], ["Tabby_Cat", "crane"]) == {
        "Tabby_Cat": "tabby, tabby cat"
    }
    with pytest.raises(DataError, match="no audited class is a target"):
        common_targets(["dog"], ["cat"])


def test_an_audit_without_any_group_misses_everything(tmp_path):
    ctx = local_context(tmp_path)
    done = evaluate(
        ctx,
        verdicts=audited([], ["Smiling", "Other"]),
        truth=true([("Smiling", "x", 5, 20)], ["Smiling"]),
        sentences=Words(),
    )
    rates = {(r["direction"], r["target"]): r for r in done.rates.to_pylist()}
    assert rates["truth_to_detected", "Smiling"]["miss"] == 100 and rates["detected_to_truth", None]["hit"] is None
    assert "Other" in [m["item"] for m in ctx.journal.messages]


# --- the labeller -----------------------------------------------------------------------------------------------------


def pictures(folder, count):
    for i in range(count):
        picture(folder / f"{i}.png", 200 if i % 2 else 0, i)
    return [(Place("s", f"{i}.png"), (folder / f"{i}.png").read_bytes()) for i in range(count)]


def test_a_lost_question_costs_itself_alone(tmp_path):
    def reply(request):
        if request.item == "3.png":
            raise EndpointError("nothing came", scope="item")
        return f"\n about {request.item} \nand more"

    ctx, shown = local_context(tmp_path), pictures(tmp_path / "p", 40)
    shown.append((Place("s", "broken"), b"no picture"))
    questions = {place: ["what?", "where?"] for place, _ in shown}
    llm = Scripted(reply)
    answers = asyncio.run(ask_about_pictures(llm, shown, questions, ctx, Looking("test")))
    assert len(answers) == 2 * 39 and answers[Place("s", "0.png"), "where?"] == "about 0.png" and llm.asked == 80
    assert sorted(ctx.failures)[0] == ("3.png", "nothing came") and sorted(ctx.failures)[-1][0] == "broken"


def test_a_spent_budget_ends_the_asking_but_a_bad_key_ends_the_step(tmp_path):
    def spent(request):
        raise BudgetExceeded("llm_calls", 5, 5, "the spec")

    def refused(request):
        raise EndpointError("bad key", scope="run")

    def late(request):
        raise BudgetExceeded("minutes", 5, 5, "the spec")

    shown = pictures(tmp_path / "p", 2)
    questions = {place: ["what?"] for place, _ in shown}
    ctx = local_context(tmp_path)
    assert asyncio.run(ask_about_pictures(Scripted(spent), shown, questions, ctx, Looking("test"))) == {}
    assert len(ctx.failures) == 2
    for fault, error in ((refused, EndpointError), (late, BudgetExceeded)):
        with pytest.raises(error):
            asyncio.run(ask_about_pictures(Scripted(fault), shown, questions, ctx, Looking("test")))


def test_an_attribute_without_answers_has_no_agreement(tmp_path):
    done = asyncio.run(
        agreement(local_context(tmp_path), llm=Scripted(str), verdicts=audited(GROUPS, ["Smiling"]), truth=true([], ["Smiling"]), sentences=Words())
    )  # fmt: skip
    rows = done.agreements.to_pylist()
    assert len(rows) == 1 + 1 + 3 + 5 and all(row["agreement"] is None for row in rows)


def test_attributes_samples_and_snapping():
    items = audited_attributes(GROUPS)
    assert [(a.attribute, a.values) for a in items[:2]] == [
        ("light", ("dark", "bright")),
        ("place", ("indoors", "outdoors")),
    ]
    assert math.isnan(items[2].phi[0])
    places = [Place("s", f"{i:03}") for i in range(50)]
    drawn = sampled(places, 10, 0, "x")
    assert len(set(drawn)) == 10 and drawn == sampled(places[::-1], 10, 0, "x") != sampled(places, 10, 1, "x")
    assert sampled(places, None) == sampled(places, 50) == places
    item = Audited("t", "Sky_Color", ("blue", "grey"), (0.1, -0.1))
    assert item.question("{attribute}? {choices}") == "sky color? blue, grey"
    assert snapped(["Grey!", "blue", "BLUE."], item, Words().encode).tolist() == [1, 0, 0]
    assert snapped([], item, Words().encode).tolist() == []


# --- Bias-to-Text -----------------------------------------------------------------------------------------------------


def labelled(tmp_path, *, captions=True):
    for label, red in (("cat", 0), ("dog", 250)):
        for i in range(6):
            wrong = i < 2
            picture(tmp_path / "photos" / label / f"{i}.png", red if not wrong else 250 - red, i)
            if captions and i != 5:
                (tmp_path / "photos" / label / f"{i}.txt").write_text("a red sofa" if wrong else "some grass")
    return {"folder": str(tmp_path / "photos"), "label_from_folder": True}


class Threshold(Classifier):
    name = identity = "threshold"
    format, head, labels = "test", "softmax", ("cat", "dog")
    prepare = Red.prepare

    def logits(self, batch):
        return np.stack([np.full(len(batch), 0.5), batch[:, 0, 0, 0]], 1).astype(np.float32)


def words(tmp_path, **more):
    ctx = local_context(tmp_path)
    return asyncio.run(b2t(ctx, encoder=Both(), classifier=Threshold(), **more)), ctx


def test_keywords_of_labelled_sources_by_hand(tmp_path):
    done, ctx = words(tmp_path, images=labelled(tmp_path))
    rows = {(r["target"], r["keyword"]): r for r in done.keywords.to_pylist()}
    # Wrong cats are red, right ones are not; with dogs it is the other way round.
    assert rows["cat", "red sofa"]["score"] == 100 and rows["dog", "red sofa"]["score"] == -100
    assert (rows["cat", "red sofa"]["mark"], rows["dog", "red sofa"]["mark"]) == ("S", "")
    assert [rows["cat", "sofa"][c] for c in ("subgroup_k", "subgroup_n", "n_wrong", "n_right")] == [0, 2, 2, 4]
    assert rows["cat", "sofa"]["class_acc"] == pytest.approx(4 / 6) and done.targets == ["cat", "dog"]
    assert [m["text"] for m in ctx.journal.messages] == ["2 pictures have no caption: no keyword can come from them"]
    only, _ = words(tmp_path, images=labelled(tmp_path), targets=["Dog"], top=1)
    assert only.targets == ["dog"] and len(only.keywords) == 1


def test_what_bias_to_text_needs_is_said_before_anything_is_encoded(tmp_path):
    with pytest.raises(StepError, match="no labelled picture has a caption"):
        words(tmp_path, images=labelled(tmp_path, captions=False))
    with pytest.raises(StepError, match="need a classifier"):
        asyncio.run(b2t(local_context(tmp_path), encoder=Both(), images=labelled(tmp_path)))
    with pytest.raises(DataError, match="true class 'cow'"):
        words(tmp_path, images=labelled(tmp_path), targets=["cow"])
    with pytest.raises(DataError, match="has no labels"):
        words(tmp_path, images={"folder": str(tmp_path / "photos")})
    with pytest.raises(StepError, match="no pictures of 'Bald'"):
        asyncio.run(b2t(local_context(tmp_path), encoder=Both(), images=true([], ["Smiling"]), targets=["Bald"]))
