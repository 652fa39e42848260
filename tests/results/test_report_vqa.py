"""Answers to questions about pictures: views, page, terminal."""

import base64
import re

import pytest
from synthetic_audit import hostile, picture
from synthetic_lvlm import MODELS, POINTS, RUN, store_lvlm
from test_report import Outline, printed

from results.console_lvlm import lvlm_tables
from results.report import render
from results.store import ResultsStore
from results.tables import arrow_table

ASKED = ("images", "items", "answers 0", "answers 1", "answers 2", "compared", "measured")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    made = ResultsStore(tmp_path_factory.mktemp("vqa") / "results.duckdb")
    store_lvlm(made, only=ASKED)
    store_lvlm(made, hostile, "hostile", only=ASKED)
    return made


@pytest.fixture(scope="module")
def pages(store):
    return {run: render(store, run) for run in (RUN, "hostile")}


def squeezed(text):
    """Without spaces: cells of a table follow each other without any."""
    return re.sub(r"\s", "", text)


def rows(store, sql):
    return store.query(sql).to_pylist()


def test_scores_hold_the_metric_that_counts_and_its_share(store):
    found = rows(store, f"SELECT * FROM benchmark_scores WHERE run_id = '{RUN}'")
    main = {(r["benchmark"], r["model"]): r for r in found if r["main"]}
    assert len(main) == 6 and {r["metric"] for r in found if not r["main"]} == {"accuracy"}
    for model, value in MODELS.items():
        assert tuple(main["shapes", model][k] for k in ("value", "low", "high")) == value
        points = main["yes or no", model]
        assert (points["share"], points["share_low"]) == pytest.approx((POINTS[model] / 2000, (POINTS[model] - 100) / 2000))  # fmt: skip
    assert main["shapes", "whole"]["seconds_each"] == pytest.approx(20 / 400)


def test_a_metric_that_stands_alone_counts_whatever_its_name(store):
    row = {"model": "m", "benchmark": "imported", "metric": "accuracy", "category": None, "value": 0.0, "ci_low": 0.0, "ci_high": 0.3, "share": 0.0,
           "n": 10, "n_failed": 0, "n_total": 10, "seconds": None}  # fmt: skip
    store.replace_step(RUN, "", "imported", {"vqa_score": arrow_table("vqa_score", [row])})
    (found,) = rows(store, "SELECT * FROM benchmark_scores WHERE benchmark = 'imported'")
    store.replace_step(RUN, "", "imported", {"vqa_score": arrow_table("vqa_score", [])})
    assert found["main"] and (found["share_low"], found["share_high"]) == (0.0, 0.3) and found["seconds_each"] is None


def test_verdicts_go_by_the_interval(store):
    found = {
        (r["model"], r["benchmark"]): r
        for r in rows(store, f"SELECT * FROM retained_performance WHERE run_id = '{RUN}'")
    }
    assert {k: r["verdict"] for k, r in found.items()} == {
        ("half", "all"): "worse", ("half", "shapes"): "worse", ("half", "yes or no"): "cannot_be_told",
        ("half, trained", "all"): "cannot_be_told", ("half, trained", "shapes"): "cannot_be_told", ("half, trained", "yes or no"): "cannot_be_told",
    }  # fmt: skip
    whole = found["half", "all"]
    assert (whole["retained"], whole["retained_low"], whole["retained_high"], whole["n"]) == (0.5, 0.41, 0.59, 600)
    assert whole["difference"] == pytest.approx((-0.4 - 0.3) / 2)
    assert (
        whole["sentence"]
        == "half keeps 50 % of the original's score (95 % interval 41 to 59 %) over 2 benchmarks: it is worse"
    )
    assert found["half", "shapes"]["sentence"] == "half on shapes: -40.0 points (-50.0 to -30.0), worse"
    assert found["half", "yes or no"]["sentence"].endswith("-30.0 points, without an interval")
    assert found["half, trained", "shapes"]["sentence"].endswith("(-20.0 to +1.0), which cannot be told from none")


def test_an_original_without_a_score_gives_no_percentage(store):
    row = {"model": "m", "benchmark": "hard", "metric": "exact_match", "value": 0.0, "value_original": 0.0, "retained": None, "difference": 0.0,
           "ci_low": -0.1, "ci_high": 0.1, "n": 9}  # fmt: skip
    store.replace_step(RUN, "", "nothing", {"bench_score": arrow_table("bench_score", [row])})
    (found,) = rows(store, "SELECT sentence FROM retained_performance WHERE benchmark = 'hard'")
    store.replace_step(RUN, "", "nothing", {"bench_score": arrow_table("bench_score", [])})
    assert (
        found["sentence"] == "m cannot be put beside the original on hard: there is no score, or the original scores 0"
    )


def test_the_order_of_the_page(pages):
    titles = [
        "Questions about pictures",
        "What is left of the original",
        "Loss on conversations",
        "Questions and answers",
    ]
    found = re.findall(r"<h2[^>]*><bdi>(.*?)</bdi>", pages[RUN])
    assert [t for t in found if t in titles] == titles and found[-1] == "Where it comes from"


@pytest.mark.parametrize(
    "said",
    ["80.0 70.0\u201388.0", "400 of 1 000", "60 % of the full scale", "the answer is one of those accepted", "far below a published model",
     "This run used small packaged models", "half keeps 50 % of the original's score (95 % interval 41 to 59 %)", "\u221240 \u221250 to \u221230", "1.50 [1.40, 1.60]",
     "1 of 4 questions got the full score from every model, 1 from none", "✗ no answer: the picture cannot be read", "50 % left or so", "read as <left or so>",
     "✗ empty", "q1.png", "red and blue", "50 ms"],
)  # fmt: skip
def test_what_must_be_there(pages, said):
    assert squeezed(said) in squeezed(Outline(pages[RUN]).text)


def test_questions_on_which_models_differ_come_first(pages):
    told = Outline(pages[RUN]).text.partition("Some questions with what each model replied")[2]
    places = [told.index(q) for q in ("Where?", "What is shown?", "How many?", "Which colour?")]
    assert max(places[:2]) < places[2] < places[3]


def test_pictures_stand_where_the_table_has_them(pages):
    own, of_the_set = (base64.b64encode(picture(name, True)).decode() for name in ("q3", "q0"))
    assert pages[RUN].count("data:image/jpeg") == 2  # q3 has one of its own; q0 that of the images of its run
    assert pages[RUN].count(own) == pages[RUN].count(of_the_set) == 1 and own != of_the_set
    assert pages[RUN].count("<svg") == 2  # one chart a benchmark


def test_hostile_words_make_no_element(pages):
    page = Outline(pages["hostile"])
    assert not {"script", "iframe", "object", "embed", "form"} & set(page.tags)
    assert not [a for a in page.attributes if a[1].startswith("on")]
    assert not [v for _, name, v in page.attributes if name in ("src", "href") and not v.startswith(("data:", "#"))]
    assert "\u202e" not in pages["hostile"] and "\x07" not in pages["hostile"]


def test_tables_have_heads_with_scopes(pages):
    page = Outline(pages[RUN])
    assert page.tags.count("thead") == page.tags.count("table") > 6
    assert page.tags.count("th") == sum(tag == "th" and name == "scope" for tag, name, _ in page.attributes)


def test_the_terminal_shows_scores_and_what_is_kept(store):
    text = printed(lvlm_tables(store, RUN))
    line = next(line for line in text.splitlines() if "whole" in line and "shapes" in line)
    assert "0.80" in line and "[0.70, 0.88]" in line and "400" in line
    assert "41 % to 59 %" in text.replace("\u202f", " ") and "cannot be told" in text
    assert lvlm_tables(store, "no run") is None
    assert "\x07" not in printed(lvlm_tables(store, "hostile"))
