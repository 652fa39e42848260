"""Models made smaller and their training: views, page, charts, terminal."""

import re

import pytest
from synthetic_audit import hostile
from synthetic_lvlm import LAYERS, REMOVED, RUN, store_lvlm
from test_report import Outline, printed

from results.console_lvlm import lvlm_tables
from results.report import charts_lvlm, render
from results.report.sections.pruning import card
from results.report.words import byte_size
from results.store import ResultsStore

CUT = ("scores", "cut", "plan", "recover", "compared", "speed")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    made = ResultsStore(tmp_path_factory.mktemp("pruning") / "results.duckdb")
    store_lvlm(made, only=CUT)
    store_lvlm(made, hostile, "hostile", only=CUT)
    store_lvlm(made, run_id="unmeasured", only=("plan",))
    return made


@pytest.fixture(scope="module")
def pages(store):
    return {run: render(store, run) for run in (RUN, "hostile", "unmeasured")}


def squeezed(text):
    """Without spaces: cells of a table follow each other without any."""
    return re.sub(r"\s", "", text)


def rows(store, sql):
    return store.query(sql).to_pylist()


def test_rounds_of_a_stage_become_one_row_a_block(store):
    found = rows(store, f"SELECT * FROM layer_importance WHERE run_id = '{RUN}' AND step = 'cut'")
    assert [r["layer"] for r in found] == [*range(LAYERS)]
    assert [r["layer"] for r in found if r["removed"]] == list(REMOVED)
    assert {r["layer"]: r["relative"] for r in found if r["layer"] < 3} == pytest.approx({0: 1.0, 1: 1.0, 2: 0.25})


def test_importance_is_relative_to_the_largest_of_its_criterion(store):
    found = rows(store, f"SELECT * FROM layer_importance WHERE run_id = '{RUN}' AND step = 'scores'")
    by = {(r["criterion"], r["layer"]): r for r in found}
    assert [by["block_influence", i]["relative"] for i in range(LAYERS)] == pytest.approx(
        [(i + 1) / 6 for i in range(LAYERS)]
    )
    assert (
        by["random", 0]["score"] is None
        and by["random", 0]["rank"] == LAYERS - 1
        and by["random", 0]["removed"] is None
    )


def test_a_cut_model_stands_beside_its_original(store):
    (half,) = rows(store, f"SELECT * FROM pruned_models WHERE run_id = '{RUN}' AND model = 'half'")
    assert (half["layers"], half["layers_original"], half["layers_removed"], half["foreseen"]) == (4, 6, [2, 4], False)
    assert (half["heads"], half["heads_original"], half["neurons"], half["neurons_original"]) == (14, 24, 300, 600)
    assert (half["params_llm"], half["params_llm_original"], half["bytes"], half["retained"]) == (500, 1000, 3000, 0.5)
    assert half["sentence"] == (
        "half has 50.0 % fewer parameters in its language model (25.0 % of the whole model): 2 of 6 blocks removed, the others narrower; "
        "it keeps 50 % of the original's score (95 % interval 41 to 59 %)"
    )


def test_what_is_only_foreseen_says_so(store, pages):
    (planned,) = rows(store, f"SELECT * FROM pruned_models WHERE run_id = '{RUN}' AND model = 'planned'")
    assert (
        planned["foreseen"]
        and planned["layers"] == 4
        and planned["layers_removed"] is None
        and planned["heads"] is None
    )
    assert "would have 50.0 % fewer" in planned["sentence"] and "is not known" in planned["sentence"]
    text = Outline(pages["unmeasured"]).text
    assert (
        "Which blocks go, only scores on data can tell" in text
        and "What the cut costs in quality was not measured" in text
    )
    assert pages["unmeasured"].count("<svg") == 0


def test_curves_are_means_over_stretches_of_steps(store):
    found = rows(store, f"SELECT * FROM recovery_curve WHERE run_id = '{RUN}'")
    assert len(found) == 40 and (
        found[0]["first_step"],
        found[0]["last_step"],
        found[0]["loss"],
        found[0]["tokens"],
    ) == (1, 3, 2.0, 30)
    assert (found[1]["first_step"], found[1]["last_step"], found[1]["loss"], found[1]["lr"]) == (4, 5, 4.5, 1e-3 / 5)
    assert found[-1]["last_step"] == 100 and sum(r["seconds"] for r in found) == 50.0


@pytest.mark.parametrize(
    "said",
    ["half has 50.0 % fewer parameters", "After the cut alone: half keeps 50 %", "After training on top: half, trained keeps 88 %", "2 and 4, counted from 0",
     "foreseen, not cut", "3.0 kB", "how far a block turns the hidden state", "drawn by lot: the control", "1.5 GB", "1 234 tokens", "stage 1 4 700 30.0 %",
     "100 2.00 2.00 99.50 1 000 50.0 s", "the original 6 1 000"],
)  # fmt: skip
def test_what_must_be_there(pages, said):
    assert squeezed(said) in squeezed(Outline(pages[RUN]).text)


def test_charts_of_the_page(pages):
    assert pages[RUN].count("<svg") == 2 + 2 + 1  # strip and widths; importance of two steps; one curve
    titles = re.findall(r"<h2[^>]*><bdi>(.*?)</bdi>", pages[RUN])
    assert titles[:4] == ["What was removed", "What the model can do without", "How training went", "Time and memory"]


def test_a_strip_marks_what_went():
    drawn = charts_lvlm.block_strip([True, False, True])
    assert drawn.count("var(--bad)") == 1 and drawn.count('fill="var(--link)"') == 2
    assert "var(--bad)" not in charts_lvlm.block_strip([True, True])


def test_blocks_of_one_width_have_no_chart_of_widths():
    same = {"layers_kept": [0, 1], "heads_kept": [4, 4], "neurons_kept": [8, 8]}
    less = {"layers_kept": [1], "heads_kept": [2], "neurons_kept": [8]}
    assert card([same, {**same, "layers_kept": [1], "heads_kept": [4], "neurons_kept": [8]}])["widths"] is None
    made = card([same, less])
    assert made["widths"] and [(r["layer"], r["what"], r["share"]) for r in made["shares"]] == [
        (1, "attention heads", 0.5),
        (1, "neurons", 1.0),
    ]


def test_curves_leave_out_what_was_not_measured():
    points = [{"name": "ce", "step": s, "value": v} for s, v in ((1, 2.0), (2, None), (3, 1.0))]
    assert charts_lvlm.curve_chart(points).count("var(--link)") > 0
    assert "NaN" not in charts_lvlm.curve_chart(points)


def test_sizes_have_units():
    assert [byte_size(n) for n in (None, 0, 999, 1000, 999_960, 284_200_000, 1_500_000_000)] == [
        "\u2013",
        "0 B",
        "999 B",
        "1.0 kB",
        "1.0 MB",
        "284.2 MB",
        "1.5 GB",
    ]


def test_hostile_words_make_no_element(pages):
    page = Outline(pages["hostile"])
    assert not {"script", "iframe", "object", "embed", "form"} & set(page.tags)
    assert not [a for a in page.attributes if a[1].startswith("on")]
    assert "\u202e" not in pages["hostile"] and "\x07" not in pages["hostile"]


def test_tables_have_heads_with_scopes(pages):
    page = Outline(pages[RUN])
    assert page.tags.count("thead") == page.tags.count("table") > 6
    assert page.tags.count("th") == sum(tag == "th" and name == "scope" for tag, name, _ in page.attributes)


def test_the_terminal_shows_the_cut(store):
    line = next(
        line
        for line in printed(lvlm_tables(store, RUN)).splitlines()
        if line.lstrip("│ ").startswith("half ") and "of 6" in line
    )
    assert "4 of 6" in line and "50.0 %" in line and "3.0 kB" in line
