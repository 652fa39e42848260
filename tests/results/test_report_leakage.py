"""The views on leakage, masking and discovery, and what the report and the terminal show of them."""

import re

import pytest
from synthetic_audit import hostile
from synthetic_leakage import (
    CONTROLS,
    EXCESS,
    LAYERS,
    METRICS,
    OWN,
    PARTS,
    PREDICTORS,
    RUN,
    TWO,
    excess,
    leakage_run,
    store_leakage,
)
from test_report import Outline, printed

from results.console_leakage import leakage_tables
from results.report import charts, render
from results.report.drawn import overlays
from results.report.sections.discovery import boards
from results.report.words import figure, figure_interval
from results.store import ResultsStore
from results.tables import arrow_table


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    made = ResultsStore(tmp_path_factory.mktemp("leakage") / "results.duckdb")
    store_leakage(made)
    store_leakage(made, hostile, "hostile")
    store_leakage(made, run_id="bare", without=("probed", "masked", "found"))
    made.replace_run(leakage_run(run_id="cases"))
    return made


@pytest.fixture(scope="module")
def pages(store):
    return {run: render(store, run) for run in (RUN, "hostile", "bare")}


def rows(store, sql):
    return store.query(sql).to_pylist()


def test_depth_holds_both_kinds_of_vectors_and_the_excess(store):
    found = rows(store, f"SELECT * FROM leakage_by_depth WHERE run_id = '{RUN}'")
    assert [(r["model"], r["layer"]) for r in found] == [(m, layer) for m in sorted(EXCESS) for layer in LAYERS]
    for r in found:
        more, low, high = excess(r["model"], r["layer"])
        assert (r["excess"], r["excess_low"], r["excess_high"]) == pytest.approx((more, low, high))  # not that of AP
        assert (r["own"], r["cross"], r["cross_two"]) == pytest.approx((OWN, TWO + more, TWO))
        assert r["cross_two_high"] == pytest.approx(TWO + 0.03) and r["own_two"] == pytest.approx(OWN - 0.02)


def verdict(store, model):
    (found,) = rows(store, f"SELECT * FROM leakage_verdict WHERE run_id = '{RUN}' AND model = '{model}'")
    return found


def test_the_verdict_is_of_the_deepest_layer_and_goes_by_the_interval(store):
    assert {m: verdict(store, m)["verdict"] for m in EXCESS} == {
        "leaky": "leaks",
        "local": "none_found",
        "unsure": "cannot_be_told",
    }
    leaky = verdict(store, "leaky")
    assert leaky["layer"] == LAYERS[-1] and leaky["share_outside"] == pytest.approx(0.25 / (TWO + 0.25 - 0.5))
    assert leaky["sentence"] == (
        f"On {leaky['dataset']}, a part's vector of leaky is not about that part alone: what it tells about other parts comes mostly from outside its own "
        "pixels (0.25 [0.22, 0.28] AUROC above a vector that cannot leak)"
    )
    assert "no leakage was found in local" in verdict(store, "local")["sentence"]
    assert "cannot be told" in verdict(store, "unsure")["sentence"]


def test_each_interval_has_its_sentence(store):
    cases = {
        "little": (0.02, 0.01, 0.03, 0.9, "leaks", "to a small part"),
        "partly": (0.1, 0.01, 0.2, 0.9, "leaks", "partly"),
        "mostly": (0.3, 0.2, 0.4, 0.7, "leaks", "mostly"),
        "below": (-0.05, -0.1, -0.01, 0.6, "none_found", "hardly more"),
        "wide": (0.02, -0.01, 0.05, 0.6, "cannot_be_told", "cannot be told"),
        "alone": (None, None, None, 0.6, "cannot_be_told", "no vector that cannot leak"),
    }
    stored = []
    for model, (value, low, high, cross, *_) in cases.items():
        common = {"dataset": "d", "model": model, "extractor": "single", "layer": 3, "probe": "ridge", "metric": "auroc", "n_attributes": 2,
                  "n_test": 50, "resamples": 100}  # fmt: skip
        stored += [common | {"measure": "cross", "value": cross, "ci_low": None, "ci_high": None, "versus": None},
                   common | {"measure": "excess_leakage", "value": value, "ci_low": low, "ci_high": high, "versus": "two_stage"}]  # fmt: skip
    store.replace_step("cases", "", "probed", {"leak_summary": arrow_table("leak_summary", stored)})
    found = {r["model"]: r for r in rows(store, "SELECT * FROM leakage_verdict WHERE run_id = 'cases'")}
    for model, (*_, verdict, said) in cases.items():
        assert found[model]["verdict"] == verdict and said in found[model]["sentence"]


def test_pairs_put_both_side_by_side(store):
    found = {
        (r["source_part"], r["owner_part"]): r
        for r in rows(store, f"SELECT * FROM leakage_pairs WHERE run_id = '{RUN}' AND model = 'leaky'")
    }
    assert len(found) == len(PARTS) ** 2
    assert found["wing", "beak"]["difference"] == pytest.approx(0.35) and not found["wing", "beak"]["is_own"]
    assert found["wing", "wing"]["difference"] == 0 and found["wing", "wing"]["is_own"]


def test_controls_come_in_order_with_those_that_read_no_features(store):
    found = rows(store, f"SELECT * FROM leakage_controls WHERE run_id = '{RUN}' AND model = 'local'")
    names = [r["extractor"] for r in found]
    assert names[:3] == ["single", "two_stage", "whole"] and names[-2:] == ["label_only", "label_shuffle"]
    assert {r["extractor"]: r["cross"] for r in found if r["extractor"] in CONTROLS} == CONTROLS
    assert {r["extractor"]: r["layer"] for r in found}["label_only"] == -1


def test_masking_has_its_verdicts(store):
    found = {r["predictor"]: r for r in rows(store, f"SELECT * FROM masking_response WHERE run_id = '{RUN}'")}
    assert {name: r["verdict"] for name, r in found.items()} == {
        "pointing": "local",
        "blind": "not_local",
        "askew": "reversed",
        "unclear": "cannot_be_told",
    }
    for name, (own, other, *score) in PREDICTORS.items():
        assert (found[name]["own"], found[name]["other"]) == (own, other)
        assert [found[name][c] for c in ("locality_score", "locality_low", "locality_high")] == score
    assert "it hardly matters which part is hidden" in found["blind"]["sentence"]


def test_discovery_means_run_over_seeds(store):
    found = {r["arch"]: r for r in rows(store, f"SELECT * FROM discovery WHERE run_id = '{RUN}'")}
    for which, arch in enumerate(("single", "two_stage")):
        assert found[arch]["seeds"] == 2 and found[arch]["ari"] is None
        for metric in ("nmi", "keypoint_error", "pointing"):
            assert found[arch][metric] == pytest.approx(METRICS[metric][which])


def test_less_is_better_for_an_error_and_other_metrics_have_no_best():
    def cell(arch, metric, value):
        return {"variant": "", "step": "s", "dataset": "d", "model": "m", "arch": arch, "slots": 3, "routing": "fixed", "metric": metric,
                "value": value}  # fmt: skip

    made = [cell(a, m, v) for a, v in (("single", 0.4), ("two_stage", 0.3)) for m in ("nmi", "keypoint_error", "cross")]
    (board,) = boards(made)
    assert board["metrics"] == ["nmi", "keypoint_error", "cross"] and board["best"] == {
        "nmi": 0.4,
        "keypoint_error": 0.3,
    }


def test_the_order_of_the_page(pages):
    titles = ["Do part vectors know the whole object?", "Leakage by depth", "Which part knows which", "Controls",
              "What part vectors depend on, without labels", "The parts", "Do concepts look at their part?", "Parts found from attributes",
              "What the slots look at", "Where it comes from"]  # fmt: skip
    assert re.findall(r"<h2[^>]*><bdi>(.*?)</bdi>", pages[RUN]) == titles
    assert re.findall(r"<h2[^>]*><bdi>(.*?)</bdi>", pages["bare"]) == [titles[4], titles[5], titles[-1]]


@pytest.mark.parametrize(
    "said",
    ["comes mostly from outside its own pixels", "no leakage was found in local", "definitions of this project",
     "Most of all, the vector of wing tells about beak: 0.90 against 0.55", "shuffled labels: must give 0.5", "one class among the test pictures",
     "outside the cut", "it hardly matters which part is hidden", "locality 0.86 [0.80, 0.90]",
     "gave no value for 1 of 3 questions, mostly: neither yes nor no", "2 seeds, sd 0.1", "★ 61.5", "★ 8.5", "it shows the mask",
     "[0.51, 0.71]", "300 pictures of 41 originals", "300 pictures, 6 attributes", "pictures of one original, such as one drawing in several colours, are drawn together",
     "n 200 of 23 originals", "100 pictures of 31 originals", "100 pictures, step"],
)  # fmt: skip
def test_what_must_be_there(pages, said):
    assert said in Outline(pages[RUN]).text


def test_two_stage_zero_is_shown_as_exactly_that(pages):
    dependence = Outline(pages["bare"]).text.partition("without labels")[2]
    assert "at most 0.45" in dependence and re.search(r"at most 0\D", dependence)


def test_pictures_and_charts(pages):
    assert pages[RUN].count("data:image/jpeg") == 3 * 2 + 2 * 2
    assert pages[RUN].count("<svg") == 3 + 3 * 3 + 4  # curves, sheets of three models, masking
    assert len(re.findall(r'class="swatch" style="background:#[0-9a-f]{6}"', pages[RUN])) == 3 * 3


def test_hostile_words_make_no_element_and_no_style(pages):
    page = Outline(pages["hostile"])
    assert not {"script", "iframe", "object", "embed", "form"} & set(page.tags)
    assert not [a for a in page.attributes if a[1].startswith("on")]
    assert not [v for _, name, v in page.attributes if name in ("src", "href") and not v.startswith(("data:", "#"))]
    assert all(
        re.fullmatch(r"background:#[0-9a-f]{6}", v) for t, name, v in page.attributes if (t, name) == ("span", "style")
    )
    assert "\u202e" not in pages["hostile"] and "\x07" not in pages["hostile"]


def test_tables_have_heads_with_scopes(pages):
    page = Outline(pages[RUN])
    assert page.tags.count("thead") == page.tags.count("table") > 12
    assert page.tags.count("th") == sum(tag == "th" and name == "scope" for tag, name, _ in page.attributes)


def test_a_colour_that_is_none_leaves_the_legend():
    row = {"m": 1, "sample_id": "a", "overlay": b"x", "names": ["one", "two"], "colours": ["#12ab34", "red;x:y"]}
    (found,) = overlays([row], ["m"])
    assert found["legend"] == [("one", "#12ab34")]
    assert found["pictures"] == [{"sample_id": "a", "picture": None, "overlay": "eA=="}]


def test_figures_are_rounded_honestly():
    assert [figure(v) for v in (None, 0.0, 0.214, -0.25, 0.004, 1.0)] == [
        "\u2013",
        "0",
        "0.21",
        "\u22120.25",
        "0.004",
        "1.00",
    ]
    assert figure_interval(-0.1, 0.2) == "[\u22120.10, 0.20]" and figure_interval(None, 1) == "\u2013"


def test_a_heat_map_leaves_out_what_is_missing_and_tells_signs_apart():
    cells = [
        {"row": "a", "column": "b", "value": 0.3},
        {"row": "b", "column": "b", "value": -0.3},
        {"row": "b", "column": "a", "value": None},
    ]
    drawn = charts.heat_map(cells, reach=(0.0, 0.5), signed=True)
    assert drawn.count("0.30") == 2 and "\u22120.30" in drawn and "var(--bad)" in drawn
    assert "var(--bad)" not in charts.heat_map(cells, reach=(0.0, 0.5))
    many = [{"row": f"{i}", "column": f"{j}", "value": 0.77} for i in range(20) for j in range(20)]
    assert "0.77" not in charts.heat_map(many, reach=(0.5, 1.0))


def test_the_terminal_shows_three_short_tables(store):
    text = printed(leakage_tables(store, RUN))
    line = next(line for line in text.splitlines() if line.lstrip("│ ").startswith("leaky") and "leaks" in line)
    assert "0.25" in line and "[0.22, 0.28]" in line and "0.80" in line
    assert "none found" in text and "cannot be told" in text and "other parts matter more" in text
    assert "two_stage, 3 slots, fixed" in text and "61.50" in text
    assert leakage_tables(store, "no run") is None
    assert "\x07" not in printed(leakage_tables(store, "hostile"))
