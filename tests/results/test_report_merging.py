"""Mixtures by merged stand-ins: views, page, charts, terminal."""

import re

import pytest
from synthetic_audit import hostile
from synthetic_lvlm import PROXY, RUN, WEIGHTS, cost_rows, lvlm_run, store_lvlm
from test_report import Outline, printed

from results.console_lvlm import lvlm_tables
from results.report import charts_lvlm, render
from results.report.sections.merging import ranked
from results.store import ResultsStore
from results.tables import arrow_table

MERGED = ("experts", "mixtures", "proxies", "trained", "truth", "regression", "laws", "ranking")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    made = ResultsStore(tmp_path_factory.mktemp("merging") / "results.duckdb")
    store_lvlm(made, only=MERGED)
    store_lvlm(made, hostile, "hostile", only=MERGED)
    store_lvlm(made, run_id="experts alone", only=("experts",))
    made.replace_run(lvlm_run(run_id="cases"))
    return made


@pytest.fixture(scope="module")
def pages(store):
    return {run: render(store, run) for run in (RUN, "hostile", "experts alone")}


def squeezed(text):
    """Without spaces: cells of a table follow each other without any."""
    return re.sub(r"\s", "", text)


def rows(store, sql):
    return store.query(sql).to_pylist()


def test_mixtures_find_their_trained_models_by_weights_not_by_name(store):
    found = {r["mixture_id"]: r for r in rows(store, f"SELECT * FROM mixture_ranking WHERE run_id = '{RUN}'")}
    assert list(found) == ["m1", "m4", "m2", "m3"]
    assert {m: r["true_value"] for m, r in found.items()} == {"m1": -0.9, "m4": -0.8, "m2": -1.5, "m3": None}
    assert {m: r["true_rank"] for m, r in found.items()} == {"m1": 2, "m4": 1, "m2": 3, "m3": None}
    foretold = {m: {p["kind"]: p["value"] for p in r["predicted"]} for m, r in found.items() if r["predicted"]}
    assert foretold.keys() == {"m1", "m4", "m2"}
    assert {m: p["regression/regmix_linear"] for m, p in foretold.items()} == pytest.approx(
        {"m1": -0.89, "m4": -0.79, "m2": -1.49}
    )
    assert {m: p["regression/mixing_law/2"] for m, p in foretold.items()} == pytest.approx(
        {"m1": -0.4, "m4": -0.3, "m2": -1.0}
    )
    for name, r in found.items():
        assert r["weights"] == list(WEIGHTS[name]) and r["value"] == PROXY[name][0] and r["best"] == (name == "m1")


def test_those_whose_gap_may_be_nothing_cannot_be_told_apart(store):
    found = rows(store, f"SELECT mixture_id, indistinguishable FROM mixture_ranking WHERE run_id = '{RUN}'")
    assert {r["mixture_id"] for r in found if r["indistinguishable"]} == {"m1", "m4"}


def test_validity_goes_by_the_interval(store):
    found = {(r["kind"], r["task"]): r for r in rows(store, f"SELECT * FROM proxy_validity WHERE run_id = '{RUN}'")}
    assert {k: r["verdict"] for k, r in found.items()} == {
        ("proxy", "objective"): "cannot_be_told", ("proxy", "loss/shapes"): "agrees", ("regression/regmix_linear", "objective"): "reversed",
        ("regression/mixing_law/2", "objective"): "agrees",
    }  # fmt: skip
    assert found["proxy", "objective"]["sentence"] == (
        "By objective, the ranking of 3 mixtures by merged stand-ins cannot be told from one by chance "
        "(rank correlation 0.50, 95 % interval -1.00 to 1.00, p = 0.670); so few mixtures make it fragile"
    )
    assert (
        "p < 0.001" in found["proxy", "loss/shapes"]["sentence"]
        and "fragile" not in found["proxy", "loss/shapes"]["sentence"]
    )


def test_without_a_correlation_nothing_is_claimed(store):
    row = {"task": "objective", "kind": "proxy", "n": 2}
    store.replace_step("cases", "", "ranked", {"dmo_validity": arrow_table("dmo_validity", [row])})
    (found,) = rows(store, "SELECT * FROM proxy_validity WHERE run_id = 'cases'")
    assert (
        found["verdict"] == "cannot_be_told"
        and "rank 2 mixtures as training on them would cannot be computed" in found["sentence"]
    )


def test_experts_have_their_cosines_and_sizes(store):
    (found,) = rows(store, f"SELECT * FROM expert_geometry WHERE run_id = '{RUN}'")
    assert (found["domain_i"], found["domain_j"], found["cosine"], found["norm_i"], found["norm_j"]) == (
        "shapes",
        "counts",
        -0.125,
        1.0,
        2.0,
    )


def test_the_order_of_the_page(pages):
    titles = ["Which mixture of training data is best", "Can the stand-ins be believed?", "What fits over the mixtures propose", "Scores of the mixtures by task", "The experts",
              "What it cost"]  # fmt: skip
    found = re.findall(r"<h2[^>]*><bdi>(.*?)</bdi>", pages[RUN])
    assert [t for t in found if t in titles] == titles
    assert [t for t in re.findall(r"<h2[^>]*><bdi>(.*?)</bdi>", pages["experts alone"]) if t in titles] == [
        "The experts",
        "What it cost",
    ]


@pytest.mark.parametrize(
    "said",
    ["Of 4 mixtures, m1 comes out best: 50 % shapes , 50 % counts", "This 1 mixture cannot be told apart from the best: m4", "cannot be told from one by chance",
     "the one that merged stand-ins put first is number 2 , 0.10 below the best", "a quadratic over the shares (Scheffé's)", "62 % counts , 38 % shapes", "failed", "\u22120.12",
     "2 experts took 2.0 s to train; 4 mixtures were then merged and evaluated in 17.0 s", "Training on 3 mixtures took 4.5 s : at that rate, 6.0 s", "linear, batched lora", "shapes 0.50 0.40 36 %",
     "<0.001", "predictions by regression (RegMix, a line)", "-0.4 place 2", "predictions by regression (mixing laws, no. 2)", "by regression (mixing law) no. 2 agrees",
     "by regression (regmix linear) runs against"],
)  # fmt: skip
def test_what_must_be_there(pages, said):
    assert squeezed(said) in squeezed(Outline(pages[RUN]).text)


def test_charts_of_the_page(pages):
    merging = pages[RUN].partition('id="mixtures"')[2].partition('id="tables')[0]
    assert merging.count("<svg") == 3  # ranking, scatter, cosines
    assert "#0072b2" in merging


def place(name, **changes):
    row = {"mixture_id": name, "rank": 1, "best": True, "value": 0.5, "ci_low": 0.4, "ci_high": 0.6, "gap": 0.0, "gap_low": 0.0, "gap_high": 0.0, "domains": ["a", "b"],
           "weights": [0.25, 0.75], "indistinguishable": True, "true_rank": None, "predicted": None}  # fmt: skip
    return row | changes


def test_without_intervals_or_values_nothing_is_called_best_for_certain():
    bare = ranked([place("x", gap_low=None, gap_high=None, indistinguishable=None)])
    assert (
        not bare["intervals"]
        and bare["same"] == []
        and bare["shares"] == [("b", 0.75), ("a", 0.25)]
        and bare["chart"] is None
    )
    none = ranked([place("x", rank=None, best=False, value=None)])
    assert none["best"] is None and none["placed"] == 0 and none["shares"] == []


def test_a_ranking_is_drawn_with_more_domains_than_colours():
    domains = [f"d{i}" for i in range(12)]
    rows = [
        {"name": f"m{i}", "weights": [1 / 12] * 12, "value": 0.1 * i, "low": None, "high": None, "kind": "other"}
        for i in range(3)
    ]
    drawn = charts_lvlm.ranking_chart(rows, domains)
    assert all(name in drawn for name in domains) and "NaN" not in drawn


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


def written(store, run_id, **tables):
    """The page of a run with the rows of the others and these as well."""
    store_lvlm(store, run_id=run_id, only=MERGED)
    rows = {name: arrow_table(name, found) for name, found in tables.items()}
    store.replace_step(run_id, "", "ranking" if "dmo_objective" in rows else "costs", rows)
    return squeezed(Outline(render(store, run_id)).text)


def halved(chosen, place=2):
    """A ranking by halves: ``m4`` leads on the half that is reported."""
    shared = {"kind": "proxy", "ci_low": 0.1, "ci_high": 0.9}
    return [
        {**shared, "mixture_id": "m4", "value": 0.6, "rank": 1, "gap": 0.0, "gap_low": 0.0, "gap_high": 0.0, "chosen": chosen == "m4"},
        {**shared, "mixture_id": "m1", "value": 0.5, "rank": place, "gap": 0.1, "gap_low": -0.1, "gap_high": 0.3, "chosen": chosen == "m1"},
    ]  # fmt: skip


def test_what_was_chosen_on_other_questions_is_the_best_though_it_is_second_here(store):
    text = written(store, "halves", dmo_objective=halved("m1"))
    assert squeezed("Of 2 mixtures, m1 was chosen on one half of the questions: 50 % shapes , 50 % counts") in text
    assert squeezed("where it takes place 2 , 0.10 below the first, m4 , from which it cannot be told apart") in text
    assert "comesoutbest" not in text
    found = rows(store, "SELECT mixture_id FROM mixture_ranking WHERE run_id = 'halves' AND best")
    assert [r["mixture_id"] for r in found] == ["m1"]
    line = next(line for line in printed(lvlm_tables(store, "halves")).splitlines() if "m1" in line)
    assert "0.50" in line


def test_older_rankings_without_a_choice_go_by_the_first_place(store):
    text = written(store, "older", dmo_objective=[{k: v for k, v in r.items() if k != "chosen"} for r in halved("m4")])
    assert squeezed("m4 comes out best") in text


@pytest.mark.parametrize(
    ("costs", "said"),
    [
        ({}, "2 experts took 2.0 s to train; 4 mixtures were then merged and evaluated in 17.0 s . A model trained on each of the 4 mixtures would take 6.0 s , "
             "at the rate of those that were trained: experts and their merging save 3.0 s of it."),
        ({"estimated": True, "saved": -1.5}, "if a mixture trains as long as the mean expert (an estimate: none was timed): experts and their merging take 1.5 s more."),
    ],
)  # fmt: skip
def test_the_sentence_on_costs_is_that_of_the_ranking(store, costs, said):
    text = written(store, "costs", dmo_cost=cost_rows(**costs))
    assert squeezed(said) in text and "atthatrate" not in text


def test_a_ranking_that_knows_no_seconds_leaves_the_account_to_the_tables(store):
    text = written(store, "costs", dmo_cost=cost_rows(proxy=None, direct=None, saved=None))
    assert squeezed("Training on 3 mixtures took 4.5 s : at that rate, 6.0 s") in text


def test_the_terminal_shows_the_ranking_and_its_validity(store):
    text = printed(lvlm_tables(store, RUN)).replace("\u202f", " ")
    line = next(line for line in text.splitlines() if "m4" in line)
    assert "shapes 25 %, counts 75 %" in line and "[\u22120.05, 0.20]" in line and line.rstrip(" │").endswith("1")
    assert "runs against it" in text
