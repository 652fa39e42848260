"""Hand-labelled pairs and the agreement of judges with them."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openworld_material import model, rows_of, slots

from agents.judge_pairs import Counts, cohens_kappa, count, packaged_pairs, read_pairs, wilson
from agents.openworld_steps import judge_agreement
from runner.errors import DataError


def test_packaged_pairs_cover_domains_and_kinds():
    pairs = packaged_pairs()
    assert len(pairs) == 60 and sum(p.good for p in pairs) == 30
    assert set(Counter(p.domain for p in pairs).values()) == {6} and len({p.domain for p in pairs}) == 10
    kinds = {
        "same",
        "synonym",
        "scientific name",
        "specific",
        "generic",
        "wrong sibling",
        "wrong",
        "list",
        "sentence",
        "abstain",
    }
    assert kinds < {p.kind for p in pairs}
    assert all(p.good for p in pairs if p.kind in ("same", "synonym", "specific", "generic"))
    assert not any(p.good for p in pairs if p.kind in ("wrong", "wrong sibling", "abstain", "empty", "injection"))


def test_kappa_and_interval_by_hand():
    # 20 + 15 of 50 agree; by hand 25 good, by the judge 30: p_o = 0.7, p_e = 0.5 * 0.6 + 0.5 * 0.4 = 0.5.
    assert cohens_kappa(Counts(20, 10, 15, 5, 0)) == pytest.approx(0.4)
    assert cohens_kappa(Counts(5, 0, 0, 0, 2)) is None and cohens_kappa(Counts(0, 0, 0, 0, 9)) is None
    z2, n, k = 1.959963984540054**2, 50, 35
    middle, spread = (k + z2 / 2) / (n + z2), z2**0.5 / (n + z2) * (k * (n - k) / n + z2 / 4) ** 0.5
    assert wilson(k, n) == pytest.approx((middle - spread, middle + spread))
    assert wilson(0, 0) == (None, None)


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0, 1, None]))))
def test_counts_hold_every_pair_and_kappa_is_symmetric(pairs):
    counts = count({"good": good, "verdict": verdict} for good, verdict in pairs)
    assert counts.n + counts.unscored == len(pairs)
    swapped = Counts(counts.true_positive, counts.false_negative, counts.true_negative, counts.false_positive, 0)
    kappa = cohens_kappa(counts)
    assert kappa == cohens_kappa(swapped) and (kappa is None or -1 <= kappa <= 1)


async def test_a_judge_that_knows_agrees_and_one_that_says_yes_does_not(ctx, tmp_path):
    good = {(p.answer, p.reference): p.good for p in packaged_pairs()}
    with model(tmp_path / "a", lambda body: str(int(good[slots(body)]))) as (llm, server):
        found = await judge_agreement(ctx, llm=llm)
    overall = found.agreement.to_pylist()[0]
    assert server.requests == 60 and found.pairs.num_rows == 60
    assert (overall["subset"], overall["n"], overall["agreement"], overall["kappa"]) == ("all", 60, 1.0, 1.0)
    assert overall["high"] == 1.0 and overall["low"] == pytest.approx(0.9398, abs=1e-4)
    assert set(rows_of(found.agreement, "subset")) - {("all",)} == {(p.kind,) for p in packaged_pairs()}
    with model(tmp_path / "b", lambda body: "1") as (llm, _):
        naive = (await judge_agreement(ctx, llm=llm)).agreement.to_pylist()
    assert (naive[0]["agreement"], naive[0]["kappa"], naive[0]["false_positive"]) == (0.5, 0.0, 30)


async def test_replies_that_are_no_verdict_are_unscored(ctx, tmp_path):
    with model(tmp_path, lambda body: "good") as (llm, _):
        found = await judge_agreement(ctx, llm=llm, retries=0)
    overall = found.agreement.to_pylist()[0]
    assert (overall["n"], overall["unscored"], overall["agreement"], overall["kappa"]) == (0, 60, None, None)
    assert set(rows_of(found.pairs, "reply", "verdict")) == {("good", None)}


async def test_pairs_of_ones_own(ctx, tmp_path):
    file = tmp_path / "pairs.json"
    file.write_text(json.dumps({"pairs": [{"reference": "a", "answer": "b", "good": False}]}))
    with model(tmp_path, lambda body: "0") as (llm, _):
        found = await judge_agreement(ctx, llm=llm, pairs=str(file))
    assert rows_of(found.pairs, "kind", "reference", "answer", "good", "verdict") == [("other", "a", "b", False, 0)]


PAIR = {"reference": "a", "answer": "b", "good": True}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        (json.dumps({"pairs": []}), "at least 1"),
        (json.dumps({"pairs": [{**PAIR, "good": "yes"}]}), "pairs.0.good"),
        (json.dumps({"pairs": [{**PAIR, "god": True}]}), "pairs.0.god"),
        (json.dumps({"pairs": [PAIR, PAIR]}), "twice"),
    ],
)
def test_pair_files_are_judged(content, message, tmp_path):
    file = tmp_path / "pairs.json"
    file.write_text(content)
    with pytest.raises(DataError, match=message):
        read_pairs(file)


def test_a_pair_file_that_is_none(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_pairs(tmp_path)
    (tmp_path / "latin").write_bytes(b'{"rule": "\xff"}')
    with pytest.raises(DataError, match="cannot be read"):
        read_pairs(tmp_path / "latin")
