"""The views on heads of a vision transformer, and what the report shows of them."""

import re

import pytest
from synthetic_audit import hostile
from synthetic_heads import HEADS, LAYERS, RANK, RUN, WORDS, heads, store_heads
from test_report import Outline

from results.report import render
from results.store import ResultsStore


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    made = ResultsStore(tmp_path_factory.mktemp("heads") / "results.duckdb")
    store_heads(made)
    store_heads(made, hostile, "hostile")
    return made


def rows(store, sql):
    return store.query(sql).to_pylist()


def test_concept_lists_hold_active_atoms_alone_in_falling_order(store):
    told = rows(store, f"SELECT * FROM sith_concept_lists WHERE run_id = '{RUN}'")
    assert len(told) == len(LAYERS) * HEADS * RANK * 3
    for row in told:
        if row["concepts"] is None:
            assert (row["n_active"], row["fidelity"], row["written"]) == (0, None, None)
            continue
        assert len(row["concepts"]) == row["n_active"] == row["k"] - 1
        assert row["coefficients"] == sorted(row["coefficients"], reverse=True)
        assert row["written"].startswith(f"0.30 {row['concepts'][0]}, 0.25")


def test_head_scores_leave_out_directions_without_a_code(store):
    found = {
        (r["layer"], r["head"]): r
        for r in rows(store, f"SELECT * FROM sith_head_scores WHERE run_id = '{RUN}' AND k = 5")
    }
    assert {place: (r["directions"], r["explained"]) for place, r in found.items()} == {
        (4, 0): (RANK, RANK - 1), (4, 1): (RANK, RANK), (5, 0): (RANK, RANK), (5, 1): (RANK, RANK)
    }  # fmt: skip
    assert found[5, 0]["fidelity_mean"] == pytest.approx(0.5 + 0.01 * 2.5)
    assert found[4, 0]["fidelity_max"] == pytest.approx(0.5 + 0.01 * 4)


def test_coherence_counts_what_has_no_score(store):
    found = {(r["layer"], r["head"]): r for r in rows(store, f"SELECT * FROM sith_coherence WHERE run_id = '{RUN}'")}
    assert [found[4, 0][k] for k in ("n", "unscored", "empty")] == [RANK - 1, 0, 1]
    assert [found[5, 1][k] for k in ("n", "unscored", "empty")] == [RANK - 1, 1, 0]
    assert found[4, 1]["score_mean"] == pytest.approx((1 + 2 + 3 + 4 + 5 + 1) / 6)


def test_the_page_shows_lists_spectra_judges_and_edits(store):
    page = render(store, RUN)
    text = Outline(page).text
    for layer in LAYERS:
        assert f"Layer {layer}" in text
    assert "What the heads write" in text and any(word in text for word in WORDS)
    assert page.count("<svg") == len(LAYERS)
    edits = text[text.index("directions changed") :]
    assert "layer 4, head 0, 0" in edits and "layer 4, head 0, 2" not in edits  # unchanged directions are not edits
    assert f"{2 * len(LAYERS) * HEADS} directions changed" in text
    assert "no concept" in text


def test_the_page_shows_effects_once_and_pictures_along_the_strongest_directions(store):
    page = render(store, RUN)
    text = Outline(page).text
    assert "place: land against water" in text and "water against land" not in text  # its mirror image
    assert page.count("data:image/jpeg") == 12 * 3
    strongest = text.partition("whether what the words say")[2]
    assert strongest.index("Layer 5, head 1, direction 0") < strongest.index("Layer 5, head 1, direction 1")


def test_the_code_with_coherence_and_the_smallest_list_is_shown(store):
    """COMP at K = 3 has two active concepts a direction; the other settings stand in the table of settings."""
    text = Outline(render(store, RUN)).text
    first = next(row for row in heads()[1]["told"]["sith_code"] if row["method"] == "comp")
    assert first["n_active"] == 2
    assert re.search(r"0\.30 [a-z]+, 0\.25 [a-z]+ ?46\.0 ?of 90\.0", text)
    assert "nnomp" in text


def test_hostile_words_stay_text(store):
    page = render(store, "hostile")
    assert "<script" not in page and "onerror=alert(1)>" not in page
    assert not {"script", "iframe", "object"} & set(Outline(page).tags)
