"""The steps that check an audit, through the command line, on miniature data sets with planted biases.

A real ONNX network reads five cells of a picture as five yes/no logits; the planted gaps lie in how the cells are drawn. The
expected rows are made by plain loops over decoded pictures, with nothing of the package.
"""

import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.nodes.bias.evaluation_material import (
    CLASSES,
    NAMES,
    answer,
    make_celeba,
    make_clip,
    make_things,
    make_tree,
    network,
    seen,
)

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.assets

SPEC = """
name: evaluation
models:
  faces: {{provider: file, path: faces.onnx, labels: [Smiling, Eyeglasses, Wearing_Hat, Male, Young], head: multilabel, preprocess: {{size: 40}}}}
  things: {{provider: file, path: things.onnx, labels: ["cat, house cat", crane, crane], preprocess: {{size: 40}}}}
  llm: {{provider: openai, model: scripted, base_url: "{url}", timeout: 5, deadline: 60, concurrency: 4}}
  clip: {{provider: open_clip, checkpoint: clip}}
  sentences: {{provider: minilm}}
steps:
  truth: {{uses: c2b.ground_truth, classifier: $faces, dataset: {{celeba: celeba}}}}
  things_truth: {{uses: c2b.ground_truth, classifier: $things, dataset: {{imagenet_x: factors.jsonl, images: val}}, captions: {{darker: "a dark photo of {{target}}"}}}}
  images: {{uses: retrieval.folder_tree, path: tree, task: Say what a face shows., classes: [Smiling, Male, Young]}}
  verdict: {{uses: c2b.assess, classifier: $faces, images: $images, prediction: "logit>=0"}}
  evaluated: {{uses: c2b.evaluate, verdicts: $verdict, truth: $truth, sentences: $sentences}}
  agreed: {{uses: c2b.agreement, llm: $llm, verdicts: $verdict, truth: $truth, sentences: $sentences, pictures_per_target: null}}
  words: {{uses: c2b.b2t, encoder: $clip, images: $truth, targets: [Smiling, Male]}}
  told: {{uses: c2b.b2t, encoder: $clip, classifier: $things, images: {{folder: val, label_from_folder: true}}, llm: $llm, label_map: {{n01: "cat, house cat", n02: bird, crane: bird}}}}
  rated_words: {{uses: c2b.evaluate, verdicts: $words, truth: $truth, sentences: $sentences}}
results: out/results.duckdb
"""


def fault_server():
    spec = importlib.util.spec_from_file_location("fault_server", ROOT / "tests/chat/fault_server.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault("fault_server", module)
    spec.loader.exec_module(module)
    return module


def command(folder, *arguments):
    env = os.environ | {"NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
    call = [sys.executable, "-m", "runner", *arguments]
    return subprocess.run(call, cwd=folder, env=env, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The whole spec, run twice: the second run must ask and compute nothing."""
    folder = tmp_path_factory.mktemp("evaluation")
    make_celeba(folder / "celeba")
    make_tree(folder / "tree")
    make_things(folder)
    make_clip(folder / "clip")
    network(folder / "faces.onnx", NAMES, row=0)
    network(folder / "things.onnx", CLASSES, row=0)
    with fault_server().serving(answer=answer) as server:
        (folder / "evaluation.yaml").write_text(SPEC.format(url=server.base_url))
        first = command(folder, "exec", "evaluation.yaml")
        assert first.returncode == 0, first.stdout[-3000:] + first.stderr[-3000:]
        asked = len(server.bodies)
        again = command(folder, "exec", "evaluation.yaml")
        assert again.returncode == 0 and len(server.bodies) == asked
    return folder, asked


def rows(done, table, step):
    from results.store import ResultsStore

    found = (
        ResultsStore(done[0] / "out/results.duckdb").query(f"SELECT * FROM {table} WHERE step = '{step}'").to_pylist()
    )
    latest = max(row["run_id"] for row in found)
    return [row for row in found if row["run_id"] == latest]


def celeba_labels(folder):
    """{file: labels} of the pictures of the validation split that can be read."""
    split = dict(line.split() for line in (folder / "celeba/list_eval_partition.txt").read_text().splitlines())
    lines = (folder / "celeba/list_attr_celeba.txt").read_text().splitlines()[2:]
    labels = {line.split()[0]: [v == "1" for v in line.split()[1:]] for line in lines}
    return {file: own for file, own in labels.items() if split[file] == "1" and file != "000080.jpg"}


def celeba_said(folder):
    files = celeba_labels(folder)
    return {file: [10 * cell - 5 >= 0 for cell in seen(folder / "celeba/img_align_celeba" / file, 0)] for file in files}


def test_celeba_scores_are_those_of_plain_loops(done):
    labels, said = celeba_labels(done[0]), celeba_said(done[0])
    found = {(row["target"], row["bias"]): row for row in rows(done, "c2b_ground_truth", "truth")}
    assert len(found) == 5 * 4 and len(labels) == 63
    for t, target in enumerate(NAMES):
        for b, bias in enumerate(NAMES):
            if b == t:
                continue
            counts = {True: [0, 0], False: [0, 0]}
            for file, own in labels.items():
                if own[t]:
                    counts[own[b]][0] += said[file][t]
                    counts[own[b]][1] += 1
            row = found[target, bias]
            assert [row["k_with"], row["n_with"], row["k_without"], row["n_without"]] == [*counts[True], *counts[False]]
            wanted = counts[True][0] / counts[True][1] - counts[False][0] / counts[False][1]
            assert row["score"] == pytest.approx(wanted) and row["low"] <= wanted <= row["high"]
    assert found["Smiling", "Eyeglasses"]["score"] < -0.2 and found["Male", "Wearing_Hat"]["score"] > 0.4
    assert found["Young", "Male"]["score"] == 0
    assert found["Male", "Wearing_Hat"]["caption"] == "a photo of male with wearing hat"


def test_predictions_are_kept_for_true_positives_only(done):
    labels, said = celeba_labels(done[0]), celeba_said(done[0])
    found = rows(done, "c2b_prediction", "truth")
    assert len(found) == sum(sum(own) for own in labels.values())
    for row in found:
        t = NAMES.index(row["target"])
        assert labels[row["uri"]][t] and row["correct"] == said[row["uri"]][t] and row["source_id"] == "celeba"
    warned = rows(done, "messages", "truth")
    assert len(warned) == 1 and warned[0]["item"] == "000080.jpg"


def test_imagenet_x_scores_keep_classes_of_one_name_apart(done):
    found = {(row["target"], row["bias"]): row for row in rows(done, "c2b_ground_truth", "things_truth")}
    # `pose` has one picture a class, so no score; 14 factors are never there.
    assert set(found) == {(name, "darker") for name in ("cat, house cat", "crane (1)", "crane (2)")}
    scores = {name: row["score"] for (name, _), row in found.items()}
    assert scores == pytest.approx({"cat, house cat": 0 / 4 - 8 / 8, "crane (1)": 4 / 4 - 7 / 8, "crane (2)": 0})
    assert found["crane (1)", "darker"]["caption"] == "a dark photo of crane (1)"
    assert [found["crane (1)", "darker"][c] for c in ("k_with", "n_with", "k_without", "n_without")] == [4, 4, 7, 8]
    predicted = {row["uri"]: row for row in rows(done, "c2b_prediction", "things_truth")}
    assert len(predicted) == 36 and sum(not row["correct"] for row in predicted.values()) == 5
    assert all(
        row["pred"] == "crane (1)" for uri, row in predicted.items() if uri.startswith("n01") and not row["correct"]
    )


def test_matches_and_hit_rates_by_hand(done):
    matches = {(row["target"], row["bias"], row["value"]): row for row in rows(done, "c2b_match", "evaluated")}
    hit = matches["Smiling", "Eyeglasses", "eyeglasses"]
    assert (
        hit["found_score"] == -0.5 and hit["truth_outcome"] == hit["found_outcome"] == "hit" and hit["cosine"] > 0.999
    )
    false_hit = matches["Male", "Wearing_Hat", "wearing hat"]
    assert false_hit["found_score"] == -0.75 and false_hit["truth_outcome"] == false_hit["found_outcome"] == "false_hit"
    # One picture of 20 apart lies *on* 0.05, so nothing is detected of Young.
    young = matches["Young", "Eyeglasses", "eyeglasses"]
    assert young["found_score"] == pytest.approx(0.05) and young["found_outcome"] is None
    assert matches["Male", None, "bare head"]["found_outcome"] == "miss"
    truth = {(row["target"], row["bias"]): row["score"] for row in rows(done, "c2b_ground_truth", "truth")}
    rates = {(row["direction"], row["target"]): row for row in rows(done, "c2b_eval", "evaluated")}
    percents = []
    for target in ("Smiling", "Male", "Young"):
        biases = [b for b in NAMES if b != target and abs(truth[target, b]) > 0.05]
        row = rates["truth_to_detected", target]
        hits = [(t, b) for (t, b, _), m in matches.items() if t == target and m["truth_outcome"] == "hit"]
        assert row["biases"] == len(biases) and row["hits"] == len(hits)
        if biases:
            percents.append(100 * len(hits) / len(biases))
            assert row["hit"] == pytest.approx(percents[-1]) and row["hit_low"] <= row["hit"] <= row["hit_high"]
        else:
            assert row["hit"] is None
    assert rates["truth_to_detected", None]["hit"] == pytest.approx(sum(percents) / len(percents))
    back = rates["detected_to_truth", "Male"]
    assert (back["hits"], back["false_hits"], back["misses"], back["false_hit"]) == (0, 1, 1, 50)
    assert rates["detected_to_truth", "Young"]["hit"] is None and rates["detected_to_truth", None]["targets"] == 2


def test_agreement_with_a_labeller_that_looks(done):
    labels, said = celeba_labels(done[0]), celeba_said(done[0])
    found = {(r["target"], r["attribute"], r["value"]): r for r in rows(done, "c2b_agreement", "agreed")}
    plan = {
        ("Smiling", "accessory"): (lambda own: own[1], ["eyeglasses", "wearing hat"], [-0.5, 0.5]),
        ("Male", "headwear"): (lambda own: not own[2], ["bare head", "wearing hat"], [0.75, -0.75]),
        ("Young", "accessory"): (lambda own: own[1], ["eyeglasses", "wearing hat"], [0.05, -0.05]),
    }
    overall = []
    for (target, attribute), (is_first, values, phi) in plan.items():
        t, sides = NAMES.index(target), {True: [], False: []}
        for file, own in labels.items():
            if own[t]:
                sides[bool(is_first(own))].append(said[file][t])
        gap = sum(sides[True]) / len(sides[True]) - sum(sides[False]) / len(sides[False])
        total = 0
        for value, mine, vqa in zip(values, phi, (gap, -gap), strict=True):
            row = found[target, attribute, value]
            assert row["vqa_phi"] == pytest.approx(vqa) and row["phi"] == pytest.approx(mine)
            large = [abs(row["phi"]) >= 0.05, abs(vqa) >= 0.05]
            total += (1 if mine * vqa > 0 else -1) if all(large) else 0 if any(large) else 1
        overall.append(total / 2)
        assert found[target, attribute, None]["agreement"] == total / 2
        assert found[target, None, None]["agreement"] == total / 2
        assert found[target, attribute, None]["n"] == len(sides[True]) + len(sides[False])
    assert overall[0] == 1 and overall[1] == -1
    assert found[None, None, None]["agreement"] == pytest.approx(sum(overall) / 3)
    asked = {
        (target == "Male", file)
        for target in ("Smiling", "Male", "Young")
        for file, own in labels.items()
        if own[NAMES.index(target)]
    }
    # Smiling and Young share a question, so a picture that shows both is asked about once; 24 captions besides.
    assert done[1] == len(asked) + 24


def embedded(folder, files, texts):
    from runner.models.encoders.clip import load_local

    encoder = load_local(folder / "clip", None, device="cpu", half=False)
    images = encoder.encode_images([Image.open(f).convert("RGB") for f in files])
    return images.astype(float), encoder.encode_texts(texts).astype(float)


def test_keywords_of_wrong_pictures_by_plain_loops(done):
    labels, said = celeba_labels(done[0]), celeba_said(done[0])
    found = [row for row in rows(done, "c2b_b2t", "words") if row["target"] == "Smiling"]
    assert {"glasses", "person"} <= {row["keyword"] for row in found}
    files = [f for f, own in labels.items() if own[0]]
    root = done[0] / "celeba/img_align_celeba"
    captions = [(root / f).with_suffix(".txt").read_text() for f in files]
    images, texts = embedded(done[0], [root / f for f in files], [f"a photo of a {row['keyword']}" for row in found])
    for row, text in zip(found, texts, strict=True):
        cosines = {True: [], False: []}
        held = []
        for file, image, caption in zip(files, images, captions, strict=True):
            cosines[said[file][0]].append(100 * sum(a * b for a, b in zip(image, text, strict=True)))
            if f" {row['keyword']} " in f" {caption.strip()} ":
                held.append(said[file][0])
        wanted = sum(cosines[False]) / len(cosines[False]) - sum(cosines[True]) / len(cosines[True])
        assert row["score"] == pytest.approx(wanted, abs=1e-3) and row["score_low"] < wanted < row["score_high"]
        assert (row["subgroup_k"], row["subgroup_n"]) == (sum(held), len(held)) and row["subgroup_n"] > 0
        assert (row["n_wrong"], row["n_right"]) == (len(cosines[False]), len(cosines[True]))
        assert row["mark"] == "" if row["score"] < 0 else row["mark"] in ("M", "S")
    glasses = next(row for row in found if row["keyword"] == "glasses")
    assert glasses["subgroup_acc"] < glasses["class_acc"]


def test_labelled_sources_are_classified_and_described(done):
    found = rows(done, "c2b_b2t", "told")
    # n03 means no class of the classifier; n02 and both labels "crane" mean bird, so no picture of a bird is wrong.
    assert {row["target"] for row in found} == {"cat, house cat"}
    assert {row["keyword"] for row in found} >= {"blue thing", "floor"}
    assert all((row["n_wrong"], row["n_right"]) == (4, 8) for row in found)
    blue = next(row for row in found if row["keyword"] == "blue thing")
    assert (blue["subgroup_k"], blue["subgroup_n"], blue["subgroup_acc"]) == (0, 4, 0)


def test_keywords_can_be_rated_like_an_audit(done):
    words = {(r["target"], r["keyword"]): r["score"] for r in rows(done, "c2b_b2t", "words")}
    found = [r for r in rows(done, "c2b_match", "rated_words") if r["value"] is not None]
    assert len(found) == len(words)
    for row in found:
        assert row["found_score"] == -words[row["target"], row["value"]]
        assert (row["found_outcome"] is not None) == (abs(row["found_score"]) > 0.05)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"celeba: celeba": "portraits: celeba"},
            "a labelled data set is a mapping with one of the keys celeba, imagenet_x",
        ),
        ({"celeba: celeba": "celebs: celeba"}, 'needs a field "celeba"'),
        ({"celeba: celeba": "celeba: nowhere"}, "no such file or folder"),
        ({"celeba: celeba}": "celeba: celeba, split: dev}"}, "split"),
    ],
)
def test_a_wrong_data_set_is_refused_with_its_place(change, says, done):
    text = (done[0] / "evaluation.yaml").read_text()
    for old, new in change.items():
        text = text.replace(old, new)
    (done[0] / "wrong.yaml").write_text(text)
    refused = command(done[0], "validate", "wrong.yaml")
    assert refused.returncode == 2 and says in refused.stderr and "wrong.yaml:10:" in refused.stderr, refused.stderr


def test_nothing_here_is_nan(done):
    for table, step in (("c2b_eval", "evaluated"), ("c2b_agreement", "agreed"), ("c2b_b2t", "words")):
        for row in rows(done, table, step):
            assert not any(isinstance(v, float) and math.isnan(v) for v in row.values())
