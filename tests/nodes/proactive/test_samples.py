"""Rows of samples, and the cases that are played from them."""

from __future__ import annotations

import pickle
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings

from results.tables import arrow_table
from runner.artifacts import ProactiveSamples
from runner.errors import DataError
from runner.nodes.proactive.records import SCENARIOS, Record
from runner.nodes.proactive.samples import SingleTurnEnv, by_scenario, cases_of, question_type, record_of, sample_row
from tests.nodes.proactive.material import record, records


def samples_of(rows: list[dict[str, Any]]) -> ProactiveSamples:
    about = {"name": "t", "source": "made", "scenarios": [], "licences": {}, "notes": [], "filter": None}
    return ProactiveSamples(about, [], arrow_table("pb_samples", by_scenario(rows)))


@settings(max_examples=60, deadline=None)
@given(records())
def test_a_row_holds_the_whole_record(one: Record) -> None:
    row = samples_of([sample_row(one, source_id="s", visible=[0.0, 0.5], drawn_with="cup")]).samples.to_pylist()[0]
    assert record_of(row) == one
    case = cases_of(samples_of([row]))[0]
    assert case.record == one
    assert (case.source_id, case.split, case.drawn_with) == ("s", "test", "cup")
    assert row["max_turns"] == case.env.max_turns
    shown = {case.env.frame(state).uri for state in case.env.ask_path()} | {case.env.frame(case.env.initial()).uri}
    assert shown <= {*row["uris"]}


def test_only_kept_samples_of_the_split_are_played_by_scenario() -> None:
    rows = [sample_row(record(s, i), source_id="s", kept=i != 2, split="train" if i == 3 else "test")
            for i in (1, 2, 3, 4) for s in reversed(SCENARIOS)]  # fmt: skip
    cases = cases_of(samples_of(rows))
    assert [(c.record.scenario, c.record.sample_id) for c in cases] == [(s, i) for s in SCENARIOS for i in ("1", "4")]
    assert [c.record.sample_id for c in cases_of(samples_of(rows), split="train", scenarios=["QD"])] == ["3"]


def test_a_limit_draws_the_same_samples_of_each_scenario_whoever_asks() -> None:
    rows = [sample_row(record(s, i), source_id="s") for s in ("ROD", "QD") for i in range(30)]
    drawn = cases_of(samples_of(rows), limit=5, seed=3)
    assert Counter(c.record.scenario for c in drawn) == {"ROD": 5, "QD": 5}
    names = [(c.record.scenario, c.record.sample_id) for c in drawn]
    other = cases_of(samples_of(rows), limit=5, seed=3, scenarios=["QD"], match="strict")
    assert [(c.record.scenario, c.record.sample_id) for c in other] == names[5:]
    assert [n for n in names if n[0] == "ROD"] != [n for n in [(c.record.scenario, c.record.sample_id)
        for c in cases_of(samples_of(rows), limit=5, seed=4)] if n[0] == "ROD"]  # fmt: skip


def test_a_scenario_without_samples_is_an_error() -> None:
    rows = [sample_row(record("ROD", 1), source_id="s"), sample_row(record("QD", 1), source_id="s", kept=False)]
    with pytest.raises(DataError, match="none of QD that is kept"):
        cases_of(samples_of(rows), scenarios=["ROD", "QD"])
    with pytest.raises(DataError, match="split 'train'"):
        cases_of(samples_of(rows), split="train")


def test_a_sample_of_one_known_frame_ends_after_one_answer() -> None:
    row = sample_row(record("QD", 1, n=2), source_id="s", max_turns=1)
    env = cases_of(samples_of([row]))[0].env
    assert isinstance(pickle.loads(pickle.dumps(env)), SingleTurnEnv)
    assert isinstance(env.clone(), SingleTurnEnv)
    assert len(env.ask_path()) == 1
    state = env.initial()
    kinds = {option.kind: i for i, option in enumerate(env.shown(state)) if option.valid}
    asked, told = env.advance(state, kinds["ask"]), env.advance(state, kinds["category"])
    assert (asked.action_verdict, asked.next_state, asked.stop_reason) == ("correct", None, "exhausted")
    assert told.success


def test_a_sample_of_one_known_frame_has_no_reference() -> None:
    whole, single = (
        sample_row(record("QD", 1), source_id="s"),
        sample_row(record("QD", 2, n=2), source_id="s", max_turns=1),
    )
    assert len(cases_of(samples_of([whole]), mode="reference")) == 1
    with pytest.raises(DataError, match=r"QD/\S+ one frame is known"):
        cases_of(samples_of([whole, single]), mode="reference")


@pytest.mark.parametrize(
    ("scenario", "question", "kind"),
    [
        ("VSOD", "How many people are in the video?", "number"),
        ("VSOD", "Who is speaking?", "speaker"),
        ("VSOD", "What event is shown?", "event"),
        ("CIT", "What is the person doing?", "action"),
        ("CIT", "What is the main object?", "object"),
        ("QD", "What is drawn?", None),
    ],
)
def test_kinds_of_questions(scenario: str, question: str, kind: str | None) -> None:
    assert question_type(record(scenario, prompt=question)) == kind
