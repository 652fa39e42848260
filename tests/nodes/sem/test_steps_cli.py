"""`runner exec` from texts and pictures to debiased scores and an audit of the debiased classifier, in one spec."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import Image
from steps_material import write_clip

from results.store import ResultsStore

QUERIES = ["a photo of a landbird", "a photo of a waterbird"]
WORDINGS = {q: [q, q.replace("photo", "picture"), q.replace("photo", "painting")] for q in QUERIES}
AUDITED = "prism"
EVALUATED = {"features": "$features", "images": "$images", "attribute": "place", "folds": 4}
SPEC = {
    "name": "debias",
    "models": {
        "clip": {"provider": "open_clip", "checkpoint": "./clip"},
        "subject": {
            "provider": "zero_shot", "encoder": "$clip", "labels": ["landbird", "waterbird"], "vectors": "$debiased.vectors",
            "method": AUDITED,
        },
    },
    "steps": {
        "images": {
            "uses": "datasets.attributes",
            "datasets": {
                "table": "./birds.csv", "root": "./birds", "file": "file", "target": "bird", "attributes": ["place"],
                "as": "birds",
            },
        },
        "features": {"uses": "classify.features", "encoder": "$clip", "images": "$images"},
        "prompts": {
            "uses": "sem.prompts", "attribute": "background", "classes": ["land", "water"], "queries": QUERIES, "clip": "$clip",
            "needs": ["diverse", "bias", "paraphrase", "spurious", "candidate", "augmented", "scene"], "n_diverse": 40,
            "per_class": 6, "given": {"paraphrase": WORDINGS},
        },
        "sae": {
            "uses": "sem.train_sae", "clip": "$clip", "texts": {"words": [f"{n} things on a table" for n in range(80)]},
            "latents": 64, "levels": [8, 16], "epochs": 40, "batch": 16, "lr": 0.003,
        },
        "debiased": {
            "uses": "debias.texts", "clip": "$clip", "prompts": "$prompts", "sae": "$sae",
            "methods": [
                "vanilla", {"sem": {"variant": "bi"}}, "orth_proj", {"orth_cali": {"lambda": 10}, "label": "calibrated"},
                "prism_mini", {"prism": {"samples": 8, "seeds": [0]}}, "bend_vlm",
            ],
        },
        "found": {"uses": "debias.retrieval", "texts": ["$debiased"], **EVALUATED, "k": 6, "draws": 20},
        "scores": {
            "uses": "debias.zero_shot", "texts": ["$debiased"], **EVALUATED, "draws": 100,
            "bend": [{"base": "bend_vlm", "neighbours": 3}],
        },
        "again": {"uses": "debias.zero_shot", "texts": ["$debiased"], **EVALUATED, "draws": 0},
        "compared": {"uses": "debias.compare", "scores": {"before": "$scores", "after": "$again"}, "draws": 100},
        "kept": {
            "uses": "debias.cp_bn", "clip": "$clip", "prompts": "$prompts", "sae": "$sae", "methods": ["vanilla", "sem"],
            "values": ["land", "water"], "subjects": ["bird", "owl"],
        },
        "tree": {"uses": "retrieval.folder_tree", "path": "./birds", "task": "birds", "paper_mode": True},
        "audit": {"uses": "c2b.assess", "classifier": "$subject", "images": "$tree", "gate": "warn"},
    },
    "results": "out/results.duckdb",
}  # fmt: skip


def pictures(folder):
    """Noise around a colour of the place and a shade of the bird: 10 pictures of each of four groups."""
    rng, lines = np.random.default_rng(0), ["file,bird,place"]
    for bird, shade in (("landbird", 60), ("waterbird", 180)):
        for place, colour in (("land", (20, 90, 20)), ("water", (20, 20, 120))):
            home = folder / "birds" / bird / "place" / place
            home.mkdir(parents=True)
            for n in range(10):
                pixels = np.clip(rng.normal(shade, 30, (40, 36, 3)) / 2 + colour, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(home / f"{n}.png")
                lines.append(f"{bird}/place/{place}/{n}.png,{bird},{place}")
    (folder / "birds.csv").write_text("\n".join(lines))


def execute(folder, spec, *, expect=0):
    (folder / "debias.yaml").write_text(yaml.safe_dump(spec, sort_keys=False), "utf8")
    done = subprocess.run(
        [sys.executable, "-m", "runner", "exec", "debias.yaml"],
        cwd=folder, capture_output=True, text=True, timeout=280, check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "RUNNER_PROGRESS": "plain"},
    )  # fmt: skip
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    write_clip(folder / "clip")
    pictures(folder)
    return folder


@pytest.fixture(scope="module")
def store(folder):
    execute(folder, SPEC)
    return ResultsStore(folder / "out/results.duckdb")


def ask(store, sql):
    return store.query(sql).to_pylist()


LABELS = {"vanilla", "sem_bi", "orth_proj", "calibrated", "prism_mini", "prism", "bend_vlm"}


def test_every_method_is_debiased_searched_and_classified_with(store):
    assert {r["method"] for r in ask(store, "select distinct method from debias_text")} == LABELS
    found = ask(store, "select method, count(*) n, count(precision) p from debias_retrieval group by 1")
    assert {(r["method"], r["n"], r["p"]) for r in found} == {(label, 4 * 2, 0) for label in LABELS}
    sums = ask(store, "select sum(retrieved) r from debias_retrieval_count group by method, fold, query")
    assert {int(r["r"]) for r in sums} == {6}
    groups = ask(store, "select step, method, sum(n) n from debias_group group by 1, 2")
    wanted = {("scores", label, 80) for label in LABELS | {"bend(bend_vlm)"}} | {
        ("again", label, 80) for label in LABELS
    }
    assert {(r["step"], r["method"], int(r["n"])) for r in groups} == wanted


def test_summaries_are_those_of_their_groups(store):
    rows = ask(
        store,
        "select method, mean, (select sum(correct) / sum(n) from debias_group g where g.step = 'scores' and g.method = s.method) "
        "as share from debias_summary s where step = 'scores' and metric = 'accuracy' and ci_kind = 'published'",
    )
    assert len(rows) == 8 and all(r["mean"] == pytest.approx(r["share"]) for r in rows)
    same = ask(
        store, "select difference from debias_compare where first = 'before/vanilla' and second = 'after/vanilla'"
    )
    assert [r["difference"] for r in same] == [0, 0, 0]
    assert ask(store, "select count(*) n from cp_bn")[0]["n"] == 2


def test_the_debiased_classifier_is_audited_and_answers_as_evaluated(store):
    audited = ask(
        store,
        "select p.target, a.value, count(*) n, sum(p.correct::int)::int correct from c2b_prediction p "
        "join dataset_attribute a on a.sample_id = p.uri where a.attribute = 'place' group by 1, 2",
    )
    evaluated = ask(
        store,
        "select target, value, sum(n)::int n, sum(correct)::int correct from debias_group "
        f"where step = 'scores' and method = '{AUDITED}' group by 1, 2",
    )
    shares = {(r["target"], r["value"]): r["correct"] / r["n"] for r in evaluated}
    assert len(audited) == 4 and sum(r["n"] for r in audited) == 40
    for row in audited:
        # Halves hold a picture several times or never, so shares agree where all of a group are answered alike.
        share = shares[row["target"], row["value"]]
        assert row["correct"] / row["n"] == share or 0 < share < 1


@pytest.mark.large
def test_an_encoder_that_is_not_that_of_the_vectors_is_refused(folder):
    write_clip(folder / "other", seed=1)
    spec = json.loads(json.dumps(SPEC))
    spec["models"]["other"] = {"provider": "open_clip", "checkpoint": "./other"}
    spec["models"]["subject"]["encoder"] = "$other"
    assert "debiased for another encoder" in execute(folder, spec, expect=1)


def test_a_misspelt_method_is_told_where_it_stands(folder):
    spec = json.loads(json.dumps(SPEC))
    spec["steps"]["debiased"]["methods"][1] = {"sem": {"varient": "bi"}}
    said = execute(folder, spec, expect=2)
    assert 'unknown field "methods[1].sem.varient"' in said and "debias.yaml:" in said
