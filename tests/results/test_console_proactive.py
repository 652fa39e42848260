"""Asking for help, in the terminal."""

import pytest
from synthetic_proactive import RUN, episode, metric, metrics, proactive_run
from test_report import printed

from results.console_proactive import proactive_tables
from results.tables import arrow_table


@pytest.fixture(scope="module")
def told(asking):
    """What is printed of both runs."""
    return {run: printed(proactive_tables(asking, run)) for run in (RUN, "hostile")}


def put(store, **tables):
    store.replace_step("other", "", "step", {name: arrow_table(name, rows) for name, rows in tables.items()})


def lines(text, *words):
    return [line for line in text.splitlines() if all(word in line for word in words)]


def test_scores_stand_beside_chance_with_interval_and_counts(told):
    text = told[RUN]
    (line,) = lines(text, "careful", "asks when it should")
    assert all(word in line for word in ("70.0", "60.0\u201380.0", "12.9", "1.25", "[1.12, 1.38]", " 40 ", " 1│"))
    assert lines(text, "hasty", "20.0 (12.0\u201330.0, 20)") and lines(text, "chance", "5.7", "20.0")


def test_own_words_comparisons_and_training(told):
    text = told[RUN]
    assert lines(text, "careful", "50.0", "25.0", "75.0", "30.0\u201370.0")
    assert lines(text, "careful", "hasty", "points of accuracy", "+50", "+38 to +61", "more", "20")
    assert lines(text, "careful", "hasty", "requests an episode", "1.20", "[0.90, 1.50]")
    (stuck,) = lines(text, "eager", "100 %".replace(" ", "\u202f"), "0.50")
    assert "asks always" in stuck and len(lines(text, "careful", "0.21", "0.70")) == 1


def test_a_run_without_episodes_has_no_table(asking, other):
    put(other)
    assert proactive_tables(asking, "no run") is None and proactive_tables(other, "other") is None


def test_episodes_that_were_not_scored_are_counted(other):
    put(other, pb_episodes=[episode(str, "m", "QD", "s0", ()), episode(str, "m", "QD", "s1", ("abstain",))])
    assert "2 episodes, 1 failed; proactive.score scores them" in printed(proactive_tables(other, "other"))


def test_scores_that_nothing_is_known_of_are_empty(other):
    put(other, pb_metrics=[metric(str, "m", "mcqa", "macro", "acc", 0.0, None, None, 1, 3)])
    text = printed(proactive_tables(other, "other"))
    assert lines(text, "m ", "0.0", " 1 ", " 3│") and "None" not in text and "nan" not in text


def test_models_of_a_sweep_carry_their_setting_where_they_differ(other):
    run, tables = proactive_run(run_id="sweep"), {}
    run["variants"] = [{"variant": f"rate={r}", "step": "", "params": {"rate": r, "seed": 0}} for r in (1, 2)]
    for rate in (1, 2):
        changed = metric(str, "trained", "mcqa", "macro", "acc", 10.0 * rate, 5.0, 30.0, 9)
        tables[f"rate={rate}"] = {"pb_metrics": arrow_table("pb_metrics", [*metrics(str, "hasty"), changed])}
    other.replace_run(run)
    other.replace_steps("sweep", [(variant, "step", found) for variant, found in tables.items()])
    text = printed(proactive_tables(other, "sweep"))
    other.delete_run("sweep")
    assert len(lines(text, "hasty", "[0.05, 0.06]")) == 1 and "hasty (" not in text
    assert lines(text, "trained (rate=1)", "10.0") and lines(text, "trained (rate=2)", "20.0")


def test_many_models_are_cut(other):
    put(other, pb_metrics=[metric(str, f"m{i}", "mcqa", "macro", "acc", float(i), 0.0, 50.0, 9) for i in range(30)])
    text = printed(proactive_tables(other, "other"))
    assert "(the first 24 of 30)" in text and lines(text, "m29") and not lines(text, "m0 ")


def test_hostile_names_steer_nothing(told):
    text = told["hostile"]
    assert "\x07" not in text and "\u202e" not in text and "<script>" in text
