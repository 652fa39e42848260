"""A sweep of cuts and training: what is the same in several variants stands once, in the page and in the terminal."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_lvlm import RUN, lvlm_run, steps
from test_report import Outline, printed

from results.console_lvlm import lvlm_tables
from results.report import render
from results.store import ResultsStore
from results.sweeps import Sweep
from results.tables import arrow_table

GRID = {f"cut={c},train={t}": {"cut": c, "train": t, "seed": 0} for c in (10, 2) for t in ("all", "lora")}
"""Variants in the order of the run, which is not that of the alphabet of numbers."""
SHARED = ("images", "items", "scores", "answers 0", "cut", "answers 1", "recover", "answers 2", "compared")


def told(params):
    """Rows by step: the cut depends on one parameter, training and what follows on both; the rest on none."""
    found = {step: steps()[step] for step in SHARED}
    more = 0.0 if params["cut"] == 10 else 0.25
    trained = more + (0.0 if params["train"] == "all" else 0.125)
    found["cut"]["prune_model"][-1] |= {"removed_fraction": 0.5 + more}
    found["answers 1"]["vqa_answer"][0] |= {"answer": f"after {more}"}
    found["recover"]["recovery_step"][-1] |= {"loss": 100 + trained}
    found["answers 2"]["vqa_answer"][0] |= {"answer": f"trained {trained}"}
    found["answers 2"]["vqa_score"][0] |= {"value": 0.5 + trained, "share": 0.5 + trained}
    cut, recovered = found["compared"]["bench_aggregate"]
    cut["avg_ratio_of_means"] = 50 + 100 * more
    recovered["avg_ratio_of_means"] = 80 + 8 * trained
    return found


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    made = ResultsStore(tmp_path_factory.mktemp("sweep") / "results.duckdb")
    run = lvlm_run()
    run["variants"] = [{"variant": v, "step": "", "params": p} for v, p in GRID.items()]
    made.replace_run(run)
    for variant, params in GRID.items():
        for step, tables in told(params).items():
            made.replace_step(RUN, variant, step, {n: arrow_table(n, rows) for n, rows in tables.items()})
    return made


@pytest.fixture(scope="module")
def page(store):
    return render(store, RUN)


def part(page, title):
    """A part of the page, from its heading to the next."""
    return re.split(r"<h2", page.split(f"<bdi>{title}</bdi></h2>")[1])[0]


def words(html):
    return " ".join(Outline(html).text.split())


def test_models_of_a_sweep_stand_in_one_table_by_variant(page):
    html = part(page, "What was removed")
    table = html.split("</table>")[0]
    lines = [words(row) for row in re.findall(r"<tr>.*?</tr>", table, re.S)]
    assert len(lines) == 1 + 2 + 4 and "Lost and won back" not in html
    assert [words(cell) for cell in re.findall(r"<th scope=.row.>.*?</th>", table)] == ["cut=10", "cut=10,train=all", "cut=10,train=lora", "cut=2", "cut=2,train=all", "cut=2,train=lora"]  # fmt: skip
    assert "50.0" in lines[1] and "worse" in lines[1] and "75.0" in lines[4]
    assert "6 models" in words(html).replace("\u202f", " ")


def test_a_cut_is_drawn_once(page):
    html = part(page, "What was removed")
    heads = [words(h) for h in re.findall(r"<h3>.*?</h3>", html)]
    assert heads == ["half step cut · cut=10", "half step cut · cut=2"]
    assert html.count("filled ones stay") == 2


def test_what_no_parameter_changes_has_no_setting(page):
    heads = [words(h) for h in re.findall(r"<h3>.*?</h3>", part(page, "What the model can do without"))]
    assert len(heads) == 2 + 1 and all("cut=" not in h for h in heads)
    assert len(re.findall(r"<tr><th scope=.row", part(page, "How training went"))) == 4
    assert len(re.findall(r"<tr><th scope=.row", part(page, "Time and memory"))) == 1


def test_questions_stand_once_with_a_column_a_model(page):
    html = part(page, "Questions and answers")
    assert html.count("<details") == 1 and html.count('<th scope="row">') == 4
    assert len(re.findall(r'<th scope="col">', html)) == 3 + 1 + 2 + 4
    assert all(html.count(f"{name} {value}<") == 1 for name, value in (("after", "0.25"), ("trained", "0.375")))


def test_scores_and_what_is_left_stand_once(page):
    scores = part(page, "Questions about pictures")
    assert len(re.findall("<h3>", scores)) == 2
    assert len(re.findall(r"<tr>\s*<th scope=.row", scores.split("</table>")[0])) == 1 + 1 + 4
    left = part(page, "What is left of the original")
    assert len(re.findall(r"<tr>\s*<th scope=.row", left.split("</table>")[0])) == 6 and 'class="summary"' not in left


def test_the_terminal_says_it_once(store):
    text = printed(lvlm_tables(store, RUN))
    cut = [line for line in text.splitlines() if "half (cut=" in line and "of 6" in line]
    assert [re.search(r"\((.*?)\)", line)[1] for line in cut] == ["cut=10", "cut=2"]
    assert sum("whole" in line and "shapes" in line for line in text.splitlines()) == 1


def test_few_models_are_told_in_sentences_under_their_settings(store):
    run = lvlm_run(run_id="few")
    run["variants"] = [{"variant": v, "step": "", "params": p} for v, p in GRID.items()]
    store.replace_run(run)
    for variant, params in GRID.items():
        tables = {n: arrow_table(n, rows) for n, rows in told(params)["cut"].items()}
        store.replace_step("few", variant, "cut", tables)
    html = part(render(store, "few"), "What was removed")
    found = [words(p) for p in re.findall(r'<p class="summary">.*?</p>', html)]
    assert [p.split(":")[0] for p in found] == ["cut=10", "cut=2"] and "75.0 % fewer" in found[1]


@given(st.sets(st.sampled_from(sorted(GRID)), min_size=1))
def test_a_setting_names_exactly_its_variants(held):
    sweep = Sweep.of({"variant": v, "params": p} for v, p in GRID.items())
    label = sweep.setting(sorted(held), [*GRID])
    if label in ("", *GRID) or label == " or ".join(sorted(held)):
        meant = {*GRID} if not label else set(label.split(" or "))
    else:
        name, _, values = label.partition("=")
        meant = {v for v, p in GRID.items() if str(p[name]) in values.split(" or ")}
    assert meant == held
