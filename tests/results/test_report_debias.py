"""The views on debiasing, and what the report shows of it."""

import pytest
from synthetic_audit import hostile
from synthetic_debias import FOLDS, GROUPS, METHODS, RUN, N, store_debias
from test_report import Outline, printed

from results.console_debias import debias_tables
from results.report import render
from results.report.sections.debias import pairs
from results.store import ResultsStore


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    made = ResultsStore(tmp_path_factory.mktemp("debias") / "results.duckdb")
    store_debias(made)
    store_debias(made, hostile, "hostile")
    store_debias(made, run_id="bare", thumbnails=False)
    store_debias(made, run_id="clustered", clusters=7)
    return made


def rows(store, sql):
    return store.query(sql).to_pylist()


def test_the_scoreboard_prefers_intervals_by_picture(store):
    found = {
        r["method"]: r
        for r in rows(store, f"SELECT * FROM debias_scoreboard WHERE run_id = '{RUN}' AND task = 'zero_shot'")
    }
    assert set(found) == set(METHODS)
    for method, (accuracy, worst) in METHODS.items():
        row = found[method]
        assert (row["accuracy"], row["worst_group"]) == (accuracy, worst)
        assert (row["worst_group_low"], row["worst_group_high"]) == pytest.approx((worst - 0.05, worst + 0.05))
        assert (row["ci_kind"], row["n"], row["kl"]) == ("by_image", N, None)
    retrieved = rows(store, f"SELECT * FROM debias_scoreboard WHERE run_id = '{RUN}' AND task = 'retrieval'")
    assert {r["ci_kind"] for r in retrieved} == {"published"} and all(r["accuracy"] is None for r in retrieved)


def test_intervals_by_cluster_come_before_all_others(store):
    sql = "SELECT * FROM debias_scoreboard WHERE run_id = 'clustered' AND task = 'zero_shot'"
    for row in rows(store, sql):
        assert (row["ci_kind"], row["n"]) == ("by_cluster", 7)
        assert row["worst_group_high"] - row["worst_group_low"] == pytest.approx(0.16)
    clustered, single = (" ".join(Outline(render(store, run)).text.split()) for run in ("clustered", RUN))
    assert "by cluster, n 7" in clustered and "40 pictures in 7 clusters" in clustered and "by picture" not in clustered
    assert f"by picture, n {N}" in single and "by cluster" not in single


def test_groups_pool_the_halves_and_mark_the_worst(store):
    found = rows(store, f"SELECT * FROM debias_groups WHERE run_id = '{RUN}' AND method = 'vanilla'")
    assert len(found) == len(GROUPS)
    assert {r["answers"] for r in found} == {sum(N + f for f in range(FOLDS))}
    assert [(r["target"], r["value"]) for r in found if r["worst"]] == [("waterbird", "land")]


@pytest.mark.parametrize(
    ("metric", "difference", "low", "high", "better"),
    [("worst_group", 0.1, 0.02, 0.2, True), ("worst_group", -0.1, -0.2, -0.02, False), ("gap", -0.1, -0.2, -0.02, True),
     ("gap", 0.1, 0.02, 0.2, False), ("accuracy", 0.1, -0.02, 0.2, None)],
)  # fmt: skip
def test_a_change_is_for_the_better_only_beyond_chance(metric, difference, low, high, better):
    row = {"variant": "", "step": "c", "dataset": "d", "attribute": "a", "first": "x", "second": "y", "metric": metric,
           "difference": difference, "ci_low": low, "ci_high": high, "n": 5, "clusters": None}  # fmt: skip
    assert next(pairs([row]))["metrics"][metric]["better"] is better


def test_the_page_shows_before_and_after_groups_pictures_and_texts(store):
    page = render(store, RUN)
    text = Outline(page).text
    assert "+14" in text and "+5 to +22" in text
    assert "Who is found by a search" in text and "0.075" in text  # KL of sem_bi
    assert "4 gained, 2 lost" in text and page.count("data:image/jpeg") == 6
    assert "a photo of the sea 0" in text and "small, of this project" in text
    assert page.count("<svg") == 1  # worst groups; retrieval has none
    assert "data:image/jpeg" not in render(store, "bare")


def test_hostile_words_stay_text(store):
    page = render(store, "hostile")
    assert "<script" not in page and "onerror=alert(1)>" not in page
    assert not {"script", "iframe", "object"} & set(Outline(page).tags)


def test_the_terminal_shows_scores_and_what_changed(store):
    text = printed(debias_tables(store, RUN))
    assert "birds, place (zero-shot, step scored)" in text and "birds, place (retrieval, step found)" in text
    line = next(line for line in text.splitlines() if "sem_bi" in line and "45.0" in line)
    assert "40.0\u201350.0" in line
    assert "0.075" in text and "0.065 to 0.085" in text  # a divergence is no share
    assert "after: sem_bi" in text and "+14.0" in text and "5.0\u201322.0" in text
    assert debias_tables(store, "no run") is None
    assert "\x07" not in printed(debias_tables(store, "hostile"))
