"""The views on open-world, in-context and closed-world answers, and what the report shows of them."""

import math
import re
from itertools import pairwise
from statistics import fmean

import pytest
from synthetic_audit import hostile, wilson
from synthetic_openworld import CLOSED, CONTEXT, GROUPS, METHODS, QUERIES, ROUNDS, RUN, experiment
from test_report import Outline

from results.report import render
from results.report.page import sections
from results.report.scoreboard import board
from results.report.sections.circle import change_interval
from results.report.sections.openworld import TABLES, _of_metric, leniency
from results.report.words import score
from results.store import ResultsStore
from results.tables import step_tables

SWEEP = {f"dataset={d},rounds={r}": (d,) for r in (2, 3) for d in GROUPS}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """An experiment, the same over a sweep, in hostile words, and without judge, pictures and class lists."""
    made = ResultsStore(tmp_path_factory.mktemp("openworld") / "results.duckdb")
    experiment().store(made)
    experiment(run_id="sweep", variants=SWEEP).store(made)
    experiment(hostile, run_id="hostile").store(made)
    experiment(run_id="bare", judged=False, thumbnails=False, closed=False).store(made)
    return made


@pytest.fixture(scope="module")
def pages(store):
    return {run: render(store, run) for run in (RUN, "sweep", "hostile", "bare")}


def rows(store, sql):
    return store.query(sql).to_pylist()


def test_a_sweep_over_datasets_gives_the_plain_mean_of_the_datasets(store):
    """In the synthetic rows zero-shot answers do not depend on the variant: the sweep has the means of the single run."""
    where = "method = 'zero_shot' AND metric = 'bcs' AND prompt_key = 'base' AND run_id ="
    own = {(r["level"], r["name"]): r for r in rows(store, f"SELECT * FROM owc_group_scores WHERE {where} '{RUN}'")}
    swept = rows(store, f"SELECT * FROM owc_group_scores WHERE {where} 'sweep'")
    assert {r["setting"] for r in swept} == {"rounds=2", "rounds=3"}
    assert len(swept) == 2 * len(own) == 6
    for row in swept:
        assert row["value"] == pytest.approx(own[row["level"], row["name"]]["value"])
        assert row["datasets"] == {"all": 3, "non-prototypical": 1, "fine-grained": 2}.get(row["name"])


def test_intervals_of_means_join_those_of_the_datasets(store):
    single = rows(
        store, "SELECT * FROM owc_scoreboard WHERE run_id = 'sweep' AND setting = 'rounds=2' AND method = 'circle'"
    )
    half = math.sqrt(sum((r["li"] - r["li_low"]) ** 2 for r in single)) / len(single)
    (found,) = rows(store, """SELECT value, low FROM owc_group_scores WHERE run_id = 'sweep' AND setting = 'rounds=2'
        AND method = 'circle' AND level = 'all' AND metric = 'llama_inclusion'""")  # fmt: skip
    assert found["low"] == pytest.approx(fmean(r["li"] for r in single) - half)


def test_the_scoreboard_has_a_row_a_method_and_dataset(store):
    found = rows(store, f"SELECT * FROM owc_scoreboard WHERE run_id = '{RUN}'")
    assert len(found) == len(METHODS) * len(GROUPS)
    assert {r["items"] for r in found if r["method"] == "circle"} == {2.0}
    assert [r["li_unscored"] for r in found if (r["method"], r["dataset"]) == ("cased", "dtd")] == [1]
    assert len(rows(store, f"SELECT * FROM closed_world_scoreboard WHERE run_id = '{RUN}'")) == len(CLOSED) * len(
        GROUPS
    )


def test_shares_of_errors_have_wilson_intervals(store):
    found = rows(store, f"SELECT * FROM owc_errors WHERE run_id = '{RUN}' AND taxonomy = 'quadrant'")
    assert found
    for row in found:
        assert (row["low"], row["high"]) == pytest.approx(wilson(row["n"], row["scored"]), abs=1e-6)


def test_gain_counts_what_one_had_right_and_the_other_not(store):
    found = rows(store, f"SELECT * FROM circle_gain WHERE run_id = '{RUN}' AND baseline_prompt = 'base'")
    assert len(found) == 2 * QUERIES * len(GROUPS)  # two seeds against one answer without context
    right = {(r["method"], r["prompt_key"], r["dataset"], r["sample_id"], r["seed"]): r["llama_inclusion"] if r["llama_inclusion"] is not None
             else int(r["text_inclusion"]) for r in rows(store, f"SELECT * FROM owc_score WHERE run_id = '{RUN}'")}  # fmt: skip
    names = {(1, 0): "gained", (0, 1): "lost", (1, 1): "both right", (0, 0): "both wrong"}
    for r in found:
        with_, without = (
            right["circle", "circle", r["dataset"], r["sample_id"], r["seed"]],
            right["zero_shot", "base", r["dataset"], r["sample_id"], 0],
        )
        assert r["outcome"] == names[with_, without]


def test_history_is_in_the_order_of_rounds(store):
    found = rows(store, f"SELECT * FROM circle_history WHERE run_id = '{RUN}' AND dataset = 'dtd' AND seed = 0")
    assert len(found) == CONTEXT
    assert found[1]["labels"] == ["a texture", "thing", "thing", "chequered"] and found[1]["flags"] == ["kept_previous"]
    assert [r["changes"] for r in found] == [2] * CONTEXT


def test_cost_counts_calls_that_were_made(store):
    found = {
        r["kind"]: r
        for r in rows(store, f"SELECT * FROM circle_cost WHERE run_id = '{RUN}' AND dataset = 'dtd' AND seed = 0")
    }
    assert {kind: (r["calls"], r["made"], r["failures"]) for kind, r in found.items()} == {
        "pseudo": (CONTEXT, CONTEXT - 2, 0), "refine": (CONTEXT * ROUNDS,) * 2 + (0,), "query": (QUERIES, QUERIES, 1)}  # fmt: skip
    assert found["query"]["prefix_share"] == pytest.approx(0.6) and found["pseudo"]["prefix_share"] == 0
    assert found["refine"]["images"] == CONTEXT * ROUNDS * CONTEXT


def test_pictures_that_divide_the_methods_come_first(store):
    found = rows(store, f"SELECT * FROM answers_side_by_side WHERE run_id = '{RUN}' AND world = 'open'")
    assert len(found) == QUERIES * len(GROUPS)
    assert all(a["disagreement"] >= b["disagreement"] for a, b in pairwise(found))
    for r in found:
        share = len(r["right_by"] or []) / (len(r["right_by"] or []) + len(r["wrong_by"] or []))
        assert r["disagreement"] == pytest.approx(min(share, 1 - share))


def line(method, value, setting="", name="dtd", level="dataset", n=10):
    return {"method": method, "model": "m", "detail": "base", "step": "s", "setting": setting, "level": level, "name": name,
            "value": value, "low": value, "high": value, "sd": None, "n": n, "unscored": 0, "seeds": 1}  # fmt: skip


def test_lines_that_a_sweep_did_not_change_are_one():
    made = board([line("a", 0.5, "k=1"), line("a", 0.5, "k=2"), line("b", 0.1, "k=1"), line("b", 0.7, "k=2")])
    assert [(found.method, found.settings) for found in made.lines] == [
        ("a", ["k=1", "k=2"]),
        ("b", ["k=1"]),
        ("b", ["k=2"]),
    ]
    assert [made.is_best(found, ("dataset", "dtd")) for found in made.lines] == [False, False, True]


def test_a_lone_value_is_not_the_best_and_one_dataset_has_no_mean():
    made = board([line("a", 0.5), line("a", 0.5, name="all", level="all"), line("b", None)])
    assert made.columns == [("dataset", "dtd")] and made.best == {}


@pytest.mark.parametrize(("gained", "lost", "n"), [(0, 0, 10), (10, 0, 10), (3, 1, 40), (5, 5, 20)])
def test_interval_of_a_change_is_that_of_agresti_and_min(gained, lost, n):
    """The textbook form: half a picture more in each cell of the 2 x 2 table."""
    b, c, m = gained + 0.5, lost + 0.5, n + 2
    spread = 1.96 * math.sqrt((b + c) - (b - c) ** 2 / m) / m
    found = change_interval(gained - lost, gained + lost, n)
    assert found["low"] == pytest.approx(max(-1, (b - c) / m - spread))
    assert found["high"] == pytest.approx(min(1, (b - c) / m + spread))


def test_what_a_judge_accepts_of_good_and_bad():
    counts = {"true_positive": 14, "false_negative": 1, "false_positive": 3, "true_negative": 12}
    assert leniency(counts) == {"accepts_bad": pytest.approx(0.2), "accepts_good": pytest.approx(14 / 15)}
    assert leniency(dict.fromkeys(counts, 0)) == {"accepts_bad": None, "accepts_good": None}


def test_counts_are_not_shown_times_hundred():
    rows_ = [{**line("a", 2.5), "metric": "n_items"}, {**line("b", 0.5), "metric": "bcs"}]
    shown = {m: _of_metric(rows_, m).lines[0].cells["dataset", "dtd"]["value"] for m in ("n_items", "bcs")}
    assert {m: score(value) for m, value in shown.items()} == {"n_items": "2.5", "bcs": "50.0"}


def test_every_table_of_the_methods_is_spoken_for():
    spoken = frozenset().union(*(section.tables for section in sections()))
    start = list(step_tables()).index("dataset_image")
    plain = {"splice_image", "splice_code", "textspan_concept", "sith_compare", "sith_recall"}  # shown as tables alone
    assert {name for name in list(step_tables())[start:] if name not in spoken} == plain
    assert len(TABLES) == 11


def test_the_order_of_the_page(pages):
    titles = [
        "Answers without a class list", "The same as a picture", "Why answers fail", "How near wrong answers come", "Elo ratings",
        "What the judge is worth", "Answers side by side", "What context gained and lost", "The context and how its labels came about",
        "What each round changed", "What the answers cost", "Answers with a class list", "What Tip-Adapter searched", "The datasets",
        "Language-model usage", "Where it comes from",
    ]  # fmt: skip
    assert re.findall(r"<h2[^>]*><bdi>(.*?)</bdi>", pages[RUN]) == titles


@pytest.mark.parametrize(
    "said",
    ["2 seeds, sd", "n 11, 1 unscored", "2 billion parameters: small", "llama-3b agrees with the label 87 % of the time",
     "It accepts 20 % of the bad answers and 93 % of the good ones", "no answer: the endpoint gave up", "kept previous",
     "156 calls with context and 12 replies from the cache", "Yes, it is", "16 shots", "Items an answer"],
)  # fmt: skip
def test_what_must_be_there(pages, said):
    assert said in Outline(pages[RUN]).text


def test_scores_stand_in_the_table_with_a_mark_at_the_highest(store, pages):
    found = rows(
        store, f"SELECT method, li FROM owc_scoreboard WHERE run_id = '{RUN}' AND dataset = 'food101' ORDER BY li DESC"
    )
    text = Outline(pages[RUN]).text
    assert found[0]["method"] == "circle" and f"★ {100 * found[0]['li']:.1f}" in text
    assert all(f"{100 * r['li']:.1f}" in text for r in found)


def test_a_sweep_is_one_table(pages):
    text = Outline(pages["sweep"]).text
    assert "rounds=2 and rounds=3" in text  # zero-shot, the same in both
    assert text.count("Answers without a class list") == 2  # contents and heading


def test_without_judge_pictures_and_class_list(pages):
    text = Outline(pages["bare"]).text
    assert "No language model judged these answers" in text and "Best concept similarity" in text
    assert "Llama inclusion" not in text and "Why answers fail" not in text and "Answers with a class list" not in text
    assert "<img" not in pages["bare"]


def test_as_many_pictures_as_asked_for(store):
    def pictures(examples):
        return len(re.findall('alt="Picture ', render(store, RUN, examples=examples)))

    assert (pictures(2), pictures(5)) == (2 * len(GROUPS), 5 * len(GROUPS))


def test_hostile_words_make_no_element(pages):
    page = Outline(pages["hostile"])
    assert not {"script", "iframe", "object", "embed", "form"} & set(page.tags)
    assert not [a for a in page.attributes if a[1].startswith("on")]
    assert not [
        value for _, name, value in page.attributes if name in ("src", "href") and not value.startswith(("data:", "#"))
    ]
    assert page.tags.count("img") == Outline(pages[RUN]).tags.count("img")
    assert "\u202e" not in pages["hostile"] and "\x07" not in pages["hostile"]
    assert "<script>" in page.text  # as words


def test_tables_have_heads_with_scopes(pages):
    page = Outline(pages[RUN])
    assert page.tags.count("thead") == page.tags.count("table") > 12
    assert page.tags.count("th") == sum(tag == "th" and name == "scope" for tag, name, _ in page.attributes)
