"""The assessment step on real files: generated pictures, a classifier that breaks when a red square is there."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from results.tables import arrow_table
from runner.artifacts import RetrievedImages
from runner.context import local_context
from runner.errors import DataError, StepError
from runner.models.base import Classifier
from runner.nodes.bias.steps import HandCheck, assess, stability, truth

CLASSES = ("cat", "dog")


class SquareClassifier(Classifier):
    """Reads the class from the picture's top left pixel; a red square makes it guess where ``blind`` is set."""

    name, format, labels, head = "squares", "test", CLASSES, "softmax"

    def __init__(self, *, blind=True, noise=0.05, seed=0, broken=False, identity=None):
        self.blind, self.noise, self.seed, self.broken = blind, noise, seed, broken
        self.identity = identity or f"squares {blind} {noise} {seed} {broken}"
        self.images = 0
        self.batches = 0

    def prepare(self, image):
        return np.asarray(image, np.float32).transpose(2, 0, 1) / 255

    def logits(self, batch):
        self.images += len(batch)
        self.batches += 1
        truth = (batch[:, 2, 0, 0] > 0.5).astype(int)
        square = (batch[:, 0, 12, 12] > 0.8) & (batch[:, 1, 12, 12] < 0.2)
        key = (batch.reshape(len(batch), -1) * 255).astype(np.int64).sum(1)
        luck = np.array([np.random.default_rng([self.seed, int(k)]).random() for k in key])
        wrong = luck < np.where(square & self.blind, 0.5, self.noise)
        said = np.where(wrong, 1 - truth, truth)
        said = 1 - said if self.broken else said
        return np.eye(2, dtype=np.float32)[said] * 5


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """60 pictures of each class with and without a red square, and 40 plain ones; the folder is the label."""
    root = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for target in CLASSES:
        (root / target).mkdir()
        for i in range(160):
            pixels = rng.integers(60, 180, (24, 24, 3), np.uint8)
            pixels[:2, :2] = (0, 0, 255) if target == "dog" else (0, 0, 0)
            image = Image.fromarray(pixels)
            if i < 60:
                ImageDraw.Draw(image).rectangle((8, 8, 16, 16), fill=(255, 0, 0))
            image.save(root / target / f"{i:03}.png")
    return root


def caption(target, attribute, value, resample=0):
    return {
        "resample": resample, "caption_id": f"{resample}-{target}-{attribute}-{value}", "target": target, "attribute": attribute,
        "value": value, "text": f"a {target}", "is_neutral": attribute is None, "status": "kept", "drop_reason": None,
    }  # fmt: skip


def retrieved(corpus, *, wrong_target=0.0, resamples=1, broken_file=False, order=1):
    """The stub retriever: files by number; ``wrong_target`` of the square group shows the other class instead."""
    captions, found = [], []
    for resample in range(resamples):
        for target in CLASSES:
            other = CLASSES[1 - CLASSES.index(target)]
            plan = {
                ("object", "red square"): [(target, i) for i in range(60)],
                ("object", "nothing"): [(target, i) for i in range(60, 120)],
                ("place", "left"): [(target, i) for i in (*range(30), *range(60, 90))],
                ("place", "right"): [(target, i) for i in (*range(30, 60), *range(90, 120))],
            }
            if resample == 0:
                plan[None, None] = [(target, i) for i in range(120, 160)]
            swapped = int(60 * wrong_target) if target == "cat" else 0
            plan["object", "red square"][:swapped] = [(other, i) for i in range(120, 120 + swapped)]
            for (attribute, value), files in plan.items():
                captions.append(caption(target, attribute, value, resample))
                far = swapped and value == "red square"
                for rank, (folder, i) in enumerate(files):
                    found.append({
                        "caption_id": captions[-1]["caption_id"], "rank": rank, "source_id": "shots",
                        "uri": f"{folder}/{i:03}.png", "row": i, "similarity": (0.1 if far else 0.3) - 0.0001 * rank,
                        "kept": True, "reject_reason": None, "duplicate_of": None,
                    })  # fmt: skip
    captions.append(caption("cat", "weather", "snow"))
    if broken_file:
        (corpus / "cat" / "broken.png").write_bytes(b"not a picture")
        found.append(found[0] | {"uri": "cat/broken.png", "rank": 60})
    return RetrievedImages(
        task={"description": "", "outputs": [
            {"name": "animal", "type": "multi", "values": list(CLASSES), "caption_names": {}}]},
        targets=list(CLASSES)[::order],
        corpus=[{"folder": str(corpus), "name": "shots", "label_from_folder": True}],
        encoder={"family": "stub"},
        captions=arrow_table("c2b_caption", captions[::order]),
        retrieval=arrow_table("c2b_retrieval", found[::order]),
        counts=arrow_table("c2b_retrieval_count", []),
    )  # fmt: skip


def groups(verdicts):
    return {(r["target"], r["attribute"], r["value"]): r for r in verdicts.groups.to_pylist()}


def findings(verdicts):
    return {name for name, row in groups(verdicts).items() if row["verdict"] in ("favoured", "disfavoured")}


def test_exactly_the_planted_bias_is_found(corpus, tmp_path):
    classifier = SquareClassifier()
    done = assess(local_context(tmp_path), classifier=classifier, images=retrieved(corpus))
    rows = groups(done)
    for target in CLASSES:
        assert rows[target, "object", "red square"]["verdict"] == "disfavoured"
        assert rows[target, "object", "nothing"]["verdict"] == "favoured"
        assert rows[target, "place", "left"]["verdict"] == "no_evidence"
    assert rows["cat", "weather", "snow"]["verdict"] == "undefined" and rows["cat", "weather", "snow"]["n"] == 0
    gate = done.gate.to_pylist()[0]
    assert gate["target"] is None and gate["n"] == 80 and gate["passed"]
    pooled = {r["value"]: r for r in done.pooled.to_pylist()}
    assert pooled["red square"]["odds_ratio"] < 0.3 and pooled["red square"]["targets"] == 2


def test_each_picture_costs_one_pass_and_a_second_run_none(corpus, tmp_path):
    ctx = local_context(tmp_path)
    classifier, images = SquareClassifier(), retrieved(corpus)
    first = assess(ctx, classifier=classifier, images=images, batch_size=50)
    assert classifier.images == 320 and len(first.predictions) == 320
    again = assess(ctx, classifier=classifier, images=images)
    assert classifier.images == 320
    for name in type(first).outputs():
        assert getattr(first, name) == getattr(again, name), name
    other = SquareClassifier(identity="squares-2")
    assess(ctx, classifier=other, images=images)
    assert other.images == 320


def test_interrupted_prediction_goes_on_where_it_was(corpus, tmp_path):
    class Power:
        left = 3

        def check(self):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt

    ctx = local_context(tmp_path)
    whole, ctx.stop = ctx.stop, Power()
    classifier = SquareClassifier()
    with pytest.raises(KeyboardInterrupt):
        assess(ctx, classifier=classifier, images=retrieved(corpus), batch_size=40)
    done = classifier.images
    assert 0 < done < 320
    ctx.stop = whole
    assess(ctx, classifier=classifier, images=retrieved(corpus), batch_size=40)
    assert classifier.images == 320


def test_order_of_everything_changes_nothing(corpus, tmp_path):
    one = assess(local_context(tmp_path / "a"), classifier=SquareClassifier(), images=retrieved(corpus))
    two = assess(local_context(tmp_path / "b"), classifier=SquareClassifier(), images=retrieved(corpus, order=-1))
    for name in ("groups", "tests", "pooled", "predictions", "members"):
        assert getattr(one, name).equals(getattr(two, name)), name


def test_a_fair_classifier_gives_few_findings(corpus, tmp_path):
    ctx = local_context(tmp_path)
    images = retrieved(corpus)
    alarms = sum(
        bool(findings(assess(ctx, classifier=SquareClassifier(blind=False, seed=s), images=images,
                             examples_per_group=0)))
        for s in range(20)
    )  # fmt: skip
    assert alarms <= 3


def test_wrong_pictures_are_no_finding(corpus, tmp_path):
    ctx = local_context(tmp_path)
    images = retrieved(corpus, wrong_target=0.4)
    fair = SquareClassifier(blind=False)
    bare = assess(ctx, classifier=fair, images=images)
    assert groups(bare)["cat", "object", "red square"]["verdict"] == "held_back"
    assert groups(bare)["cat", "object", "red square"]["target_check"] == "none"
    checks = [
        HandCheck(group=(t, "object", v), images=50, target=shown)
        for t, v, shown in (("cat", "red square", 30), ("cat", "nothing", 50))
    ]
    checked = assess(ctx, classifier=fair, images=images, checked=checks)
    assert not findings(checked)
    assert groups(checked)["cat", "object", "red square"]["target_precision"] == pytest.approx(0.6)


def test_a_classifier_below_chance_is_stopped_before_it_is_judged(corpus, tmp_path):
    with pytest.raises(StepError, match="not above guessing") as caught:
        assess(local_context(tmp_path), classifier=SquareClassifier(broken=True), images=retrieved(corpus))
    assert "preprocessing" in caught.value.hint
    stopped = SquareClassifier(broken=True)
    with pytest.raises(StepError):
        assess(local_context(tmp_path / "b"), classifier=stopped, images=retrieved(corpus))
    assert stopped.images == 80  # the neutral ones only
    ctx = local_context(tmp_path)
    assess(ctx, classifier=SquareClassifier(broken=True), images=retrieved(corpus), gate="warn")
    assert "not above guessing" in ctx.journal.messages[0]["text"]


def test_examples_show_wrong_and_right_pictures(corpus, tmp_path):
    done = assess(
        local_context(tmp_path), classifier=SquareClassifier(), images=retrieved(corpus), examples_per_group=6
    )
    rows = [r for r in done.examples.to_pylist() if (r["target"], r["value"]) == ("cat", "red square")]
    assert [r["correct"] for r in rows] == [False] * 3 + [True] * 3
    assert all(r["thumbnail"][:2] == b"\xff\xd8" for r in rows)


def test_unreadable_pictures_count_nowhere_and_are_said(corpus, tmp_path):
    ctx = local_context(tmp_path)
    done = assess(ctx, classifier=SquareClassifier(), images=retrieved(corpus, broken_file=True))
    assert groups(done)["cat", "object", "red square"]["n"] == 60
    assert any(m["item"] == "cat/broken.png" for m in ctx.journal.messages)


@pytest.mark.parametrize(("output", "message"), [(np.nan, "NaN"), (None, "shape")])
def test_outputs_that_make_no_sense_are_refused(corpus, tmp_path, output, message):
    class Odd(SquareClassifier):
        def logits(self, batch):
            return np.full((len(batch), 2), output) if output is not None else np.zeros((len(batch), 3))

    with pytest.raises(DataError, match=message):
        assess(local_context(tmp_path), classifier=Odd(), images=retrieved(corpus))


def test_a_classifier_of_the_retrievers_family_is_warned_about(corpus, tmp_path):
    ctx = local_context(tmp_path)
    classifier = SquareClassifier()
    classifier.encoder_family = "stub"
    assess(ctx, classifier=classifier, images=retrieved(corpus))
    assert "errors may be hidden" in ctx.journal.messages[0]["text"]


def test_what_a_classifier_says_of_itself_is_warned_once(corpus, tmp_path):
    ctx = local_context(tmp_path)
    classifier = SquareClassifier()
    classifier.notes = ("squares: runs in a confined process (seccomp)",) * 2
    assess(ctx, classifier=classifier, images=retrieved(corpus))
    assert [m["text"] for m in ctx.journal.messages].count(classifier.notes[0]) == 1
    assert SquareClassifier().notes == ()


def test_paper_mode_flags_by_the_point_rule(corpus, tmp_path):
    done = assess(local_context(tmp_path), classifier=SquareClassifier(), images=retrieved(corpus), paper_mode=True)
    for row in groups(done).values():
        expected = "undefined" if row["phi"] is None else (
            "no_evidence" if not row["flag_point"] else "favoured" if row["phi"] > 0 else "disfavoured")  # fmt: skip
        assert row["verdict"] == expected


class YesNo(SquareClassifier):
    """A softmax head with a label for "no": the yes/no outputs of the task must not win for want of rivals."""

    labels = ("cat", "dog", "neither")

    def logits(self, batch):
        return np.tile(np.array([0.0, 1.0, 2.0], np.float32), (len(batch), 1))


@pytest.mark.parametrize("paper_mode", [True, False])
def test_yes_no_outputs_of_a_softmax_head_compete(corpus, tmp_path, paper_mode):
    images = retrieved(corpus)
    outputs = [{"name": c, "type": "binary", "values": [c], "caption_names": {}} for c in CLASSES]
    images.task["outputs"][:] = outputs
    done = assess(
        local_context(tmp_path),
        classifier=YesNo(),
        images=images,
        paper_mode=paper_mode,
        gate="warn",
        examples_per_group=0,
    )
    assert {r["pred"] for r in done.predictions.to_pylist()} == {"(unmapped)"}
    assert done.gate.to_pylist()[0]["chance"] == 0.5


def test_yes_no_outputs_of_many_logits_are_judged_alone(corpus, tmp_path):
    class Logits(SquareClassifier):
        def logits(self, batch):
            return np.tile(np.array([0.0, 7.0], np.float32), (len(batch), 1))

    classifier = Logits()
    classifier.head = "multilabel"
    images = retrieved(corpus)
    images.task["outputs"][:] = [{"name": c, "type": "binary", "values": [c], "caption_names": {}} for c in CLASSES]
    done = assess(local_context(tmp_path), classifier=classifier, images=images, examples_per_group=0)
    rows = done.predictions.to_pylist()
    assert all(r["correct"] and r["pred"] == r["target"] for r in rows)
    assert {(r["target"], r["score"], r["rank_of_target"]) for r in rows} == {("cat", 0.0, 2), ("dog", 7.0, 1)}


def test_truth_confirms_and_unmasks(corpus, tmp_path):
    ctx = local_context(tmp_path)
    labels = {"folder": str(corpus), "name": "shots", "label_from_folder": True}
    done = truth(ctx, verdicts=assess(ctx, classifier=SquareClassifier(), images=retrieved(corpus)), labels=labels)
    rows = {(r["target"], r["value"]): r for r in done.groups.to_pylist()}
    assert rows["cat", "red square"]["agreement"] == "agrees"
    assert rows["cat", "red square"]["true_target_precision"] == 1.0
    assert rows["cat", "left"]["agreement"] == "nothing_to_find"
    assert rows["cat", "snow"]["agreement"] == "unknown"
    images = retrieved(corpus, wrong_target=0.4)
    fooled = assess(ctx, classifier=SquareClassifier(blind=False), images=images, paper_mode=True)
    unmasked = truth(ctx, verdicts=fooled, labels=labels)
    rows = {(r["target"], r["value"]): r for r in unmasked.groups.to_pylist()}
    assert rows["cat", "red square"]["true_target_precision"] == pytest.approx(0.6)
    assert rows["cat", "red square"]["verdict"] == "disfavoured"
    assert rows["cat", "red square"]["agreement"] == "not_confirmed"
    assert rows["cat", "red square"]["true_n"] == 36


def test_truth_needs_labels_of_the_audited_pictures(corpus, tmp_path):
    ctx = local_context(tmp_path)
    done = assess(ctx, classifier=SquareClassifier(), images=retrieved(corpus))
    with pytest.raises(DataError, match="has no labels"):
        truth(ctx, verdicts=done, labels={"folder": str(corpus), "name": "shots"})
    with pytest.raises(DataError, match="none of the audited") as caught:
        truth(ctx, verdicts=done, labels={"folder": str(corpus), "name": "other", "label_from_folder": True})
    assert "shots" in caught.value.hint


def test_stability_of_identical_draws_is_perfect(corpus, tmp_path):
    ctx = local_context(tmp_path)
    images = retrieved(corpus, resamples=3)
    done = stability(ctx, images=images, verdicts=assess(ctx, classifier=SquareClassifier(), images=images))
    rows = {(r["target"], r["value"]): r for r in done.groups.to_pylist()}
    square = rows["cat", "red square"]
    assert (square["share_proposed"], square["share_same_sign"], square["share_same_verdict"]) == (1, 1, 1)
    assert square["jaccard"] == 1.0 and rows["cat", "snow"]["share_proposed"] == 0
    once = retrieved(corpus)
    alone = stability(ctx, images=once, verdicts=assess(ctx, classifier=SquareClassifier(), images=once))
    assert alone.groups.to_pylist()[0]["share_proposed"] is None


def test_adaptive_sampling_finds_the_planted_bias_with_fewer_passes(corpus, tmp_path):
    ctx, images = local_context(tmp_path), retrieved(corpus)
    classifier = SquareClassifier(noise=0.02)
    done = assess(ctx, classifier=classifier, images=images, sampling="adaptive", smallest_gap=0.4)
    rows = groups(done)
    for target in CLASSES:
        square = rows[target, "object", "red square"]
        assert (square["verdict"], square["stopped"]) == ("disfavoured", "decided")
        assert square["q_value"] <= 0.05 and square["e_value"] >= 20 and square["fisher_p"] is None
        assert square["phi_low"] < square["phi"] < square["phi_high"] < 0.05
        assert rows[target, "place", "left"]["verdict"] == "no_evidence"
        assert square["n"] < square["available"] == 60
    assert rows["cat", "weather", "snow"]["verdict"] == "undefined"
    assert {r["p"] for r in done.pooled.to_pylist()} == {None} == {r["chi2_p"] for r in done.tests.to_pylist()}
    assert done.settings["sampling"] == "adaptive" and classifier.images == len(done.predictions) < 320
    counted = [m for m in done.members.to_pylist() if (m["target"], m["value"]) == ("cat", "red square")]
    assert len(counted) == rows["cat", "object", "red square"]["n"]
    again = assess(ctx, classifier=classifier, images=images, sampling="adaptive", smallest_gap=0.4)
    assert classifier.images == len(done.predictions)
    turned = assess(
        local_context(tmp_path / "b"), classifier=SquareClassifier(noise=0.02), images=retrieved(corpus, order=-1),
        sampling="adaptive", smallest_gap=0.4,
    )  # fmt: skip
    for name in ("groups", "tests", "pooled", "predictions", "members"):
        assert getattr(done, name) == getattr(again, name) == getattr(turned, name), name


def test_adaptive_sampling_goes_on_where_it_was_interrupted(corpus, tmp_path):
    class Power:
        left = 6

        def check(self):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt

    whole = SquareClassifier()
    expected = assess(local_context(tmp_path / "a"), classifier=whole, images=retrieved(corpus), sampling="adaptive")
    ctx, classifier = local_context(tmp_path / "b"), SquareClassifier()
    unlimited, ctx.stop = ctx.stop, Power()
    with pytest.raises(KeyboardInterrupt):
        assess(ctx, classifier=classifier, images=retrieved(corpus), sampling="adaptive")
    assert 80 <= classifier.images < whole.images
    ctx.stop = unlimited
    done = assess(ctx, classifier=classifier, images=retrieved(corpus), sampling="adaptive")
    assert classifier.images == whole.images and done.groups == expected.groups


def test_adaptive_sampling_keeps_gate_holds_doubts_and_further_draws(corpus, tmp_path):
    with pytest.raises(StepError, match="not above guessing"):
        assess(
            local_context(tmp_path / "a"), classifier=SquareClassifier(broken=True), images=retrieved(corpus),
            sampling="adaptive",
        )  # fmt: skip
    ctx, images = local_context(tmp_path / "b"), retrieved(corpus, wrong_target=0.4, resamples=2, broken_file=True)
    unseen = [HandCheck(group=("dog", "place", v), images=50, target=5) for v in ("left", "right")]
    done = assess(ctx, classifier=SquareClassifier(blind=False), images=images, sampling="adaptive", checked=unseen)
    rows = groups(done)
    assert not findings(done)
    assert rows["dog", "place", "left"]["verdict"] == rows["dog", "place", "left"]["stopped"] == "not_testable"
    assert rows["dog", "place", "left"]["n"] == 10
    assert sum("count nowhere" in m["text"] for m in ctx.journal.messages) <= 1
    draws = stability(ctx, images=images, verdicts=done).groups.to_pylist()
    assert {r["share_proposed"] for r in draws} == {0.0, 1.0}
    assert any("judged by the fixed rule" in m["text"] for m in ctx.journal.messages)


@pytest.mark.parametrize("other", [{"paper_mode": True}, {"permutation": 99}])
def test_adaptive_sampling_refuses_what_needs_a_fixed_number(corpus, tmp_path, other):
    with pytest.raises(StepError, match="cannot go with") as caught:
        assess(
            local_context(tmp_path),
            classifier=SquareClassifier(),
            images=retrieved(corpus),
            sampling="adaptive",
            **other,
        )
    assert next(iter(other)) in caught.value.hint
