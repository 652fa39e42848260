"""Scores from episodes: closed forms of uniform guessing, what failures and draws do, pairs, curves, refusals."""

import json

import numpy as np
import pytest

from results.tables import arrow_table
from runner.artifacts.proactive import ProactiveSamples
from runner.context import local_context
from runner.errors import DataError, UsageError
from runner.nodes.proactive import score_steps
from runner.nodes.proactive.curves import PLACES, stretch_of
from runner.nodes.proactive.env import make_env
from runner.nodes.proactive.episodes import Episode, play
from runner.nodes.proactive.policies import scripted
from runner.nodes.proactive.records import SCENARIOS
from runner.nodes.proactive.samples import cases_of
from runner.nodes.proactive.score_reading import KINDS
from runner.nodes.proactive.uniform import uniform_columns
from tests.nodes.proactive.material import record
from tests.nodes.proactive.score_material import artifact, exact_uniform, on_every_frame, played, samples, values


@pytest.fixture
def score(tmp_path):
    def run(of, *episodes, **settings):
        return score_steps.score(local_context(tmp_path, seed=7), samples=of, episodes=list(episodes), **settings)

    return run


def test_uniform_guessing_beside_a_model_is_the_closed_form(score):
    """ROD, 14 frames, 7 options: no success at first, then 1/7 a turn while 2/7 ask. QD of 5 strokes, 6 options."""
    found = values(score(samples(("ROD",), n=14), played(samples(("ROD",), n=14), "abstain")), "abstain", scenario="ROD", column="uniform")  # fmt: skip
    ask = 2 / 7
    turns = sum(ask**t for t in range(14))
    assert found["acc"] == pytest.approx(100 * sum(ask**t / 7 for t in range(1, 14)), abs=1e-10)
    assert found["psr"] == pytest.approx(turns - 1, abs=1e-12)
    assert found["exhausted"] == pytest.approx(100 * ask**13, abs=1e-12)
    assert found["first_turn_acc"] == pytest.approx(100 / 7)
    assert (found["asked"], found["abstained"], found["predicted"]) == pytest.approx((200 / 7, 100 / 7, 400 / 7))
    assert found["predicted_right"] == pytest.approx(100 * (turns - 1) / 7 / turns)
    assert found["success_per_request"] == pytest.approx(found["acc"] / (turns - 1))
    assert found["unreadable"] is None
    drawn = values(score(samples(("QD",)), played(samples(("QD",)), "abstain")), "abstain", scenario="QD", column="uniform")  # fmt: skip
    lengths = [(1 / 6) ** t for t in range(5)]
    assert drawn["acc"] == pytest.approx(100 * sum(lengths) / 6)
    assert drawn["asked_invalid"] == pytest.approx(100 * lengths[4] / 6 / sum(lengths))
    assert drawn["asked_valid"] == pytest.approx(100 * sum(lengths[:4]) / 6 / sum(lengths))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_uniform_expectations_are_what_playing_gives(scenario):
    """Kinds of turns by simulation, within four standard errors."""
    env = make_env(record(scenario, 1, 6))
    case = cases_of(samples((scenario,), count=1, n=6))
    expected = uniform_columns(env)
    episodes = play(case, scripted("uniform"), draws=600)
    counts = np.array([[sum(k == kind for k in _kinds(e)) for kind in KINDS] for e in episodes], float)
    error = np.maximum(counts.std(0) / np.sqrt(len(episodes)), 1e-3)
    assert (np.abs(counts.mean(0) - expected[7:13]) <= 4 * error).all()


def _kinds(episode):
    from runner.nodes.proactive.env import option_kind

    return [option_kind(turn.options[turn.outcome.match.index]) for turn in episode.turns]


def test_an_exact_evaluation_of_uniform_guessing_equals_what_stands_beside_it(score):
    of = samples(n=6)
    scores = score(of, exact_uniform(of))
    for scenario in (*SCENARIOS, "macro"):
        mine, beside = (values(scores, "exact uniform", "exact", scenario, c) for c in ("value", "uniform"))
        known = {name for name, value in beside.items() if value is not None}
        assert {"acc", "psr", "asked_at_first", "first_turn_acc", "success_per_request"} <= known
        assert ("discrimination" in known) == (scenario != "COCO")
        assert {name: mine[name] for name in known} == pytest.approx({name: beside[name] for name in known}, abs=1e-9)
    first = {row["scenario"]: row for row in scores.by_turn.to_pylist()}["ROD"]
    assert (first["turn"], first["alive"], first["asked"], first["wrong"]) == (1, 4, pytest.approx(2 / 7), pytest.approx(4 / 7))  # fmt: skip
    over = [row for row in scores.curves.to_pylist() if row["scenario"] == "VSOD"]
    assert {row["place"] for row in over} >= {0.0, 1.0}
    assert [row["forced_correct"] for row in over] == pytest.approx([0.25] * len(over))
    assert [row["over_asking"] for row in over] == pytest.approx([2 / 7] * len(over))
    assert [row["under_asking"] for row in over] == pytest.approx([5 / 7] * len(over))


def test_scripted_policies_score_as_they_must(score):
    of = samples(n=6)
    scores = score(of, played(of, "oracle"), played(of, "always_ask"), played(of, "abstain"), played(of, "uniform", draws=2))  # fmt: skip
    told = {label: values(scores, label) for label in ("oracle", "always_ask", "abstain", "uniform")}
    assert (told["oracle"]["acc"], told["always_ask"]["acc"], told["abstain"]["acc"]) == (100, 0, 0)
    assert (told["abstain"]["psr"], told["abstain"]["abstained"], told["abstain"]["first_abstained"]) == (0, 100, 100)
    assert values(scores, "always_ask", scenario="ROD")["psr"] == 5
    assert values(scores, "always_ask", scenario="ROD")["exhausted"] == 100
    for found in told.values():
        assert sum(found[name] for name in ("asked", "abstained", "predicted", "unreadable")) == pytest.approx(100)
        assert found["asked_valid"] + found["asked_invalid"] == pytest.approx(found["asked"])
    by_scenario = [values(scores, "uniform", scenario=name)["acc"] for name in SCENARIOS]
    assert told["uniform"]["acc"] == pytest.approx(np.mean(by_scenario))
    assert values(scores, "uniform", scenario="QD", column="n")["acc"] == 8


def test_by_turn_follows_those_that_still_play(score):
    of = samples(("QD",), n=4)
    rows = score(of, played(of, "ask_k", k=2)).by_turn.to_pylist()
    assert [(r["turn"], r["alive"], r["asked"], r["correct"]) for r in rows] == [(1, 4, 1, 0), (2, 4, 1, 0), (3, 4, 0, 1)]  # fmt: skip


def test_failed_episodes_move_nothing_and_are_counted(score):
    of = samples(("QD", "COCO"))
    whole = played(of, "oracle")
    cases = cases_of(of)
    episodes = play(cases, scripted("oracle"))
    broken = [Episode(e.case, 0, (), "error", False, "error", failure="gone") if i < 2 else e for i, e in enumerate(episodes)]  # fmt: skip
    scores = score(of, artifact("half", "mcqa", broken), whole)
    assert values(scores, "half") == values(scores, "oracle")
    assert values(scores, "half", column="n_error")["acc"] == 2
    assert values(scores, "half", scenario="QD", column="n")["acc"] == 2
    lost = score(of, artifact("lost", "mcqa", [Episode(e.case, 0, (), "error", False, "error") for e in episodes]))
    assert values(lost, "lost")["acc"] is None
    assert values(lost, "lost", column="n_error")["acc"] == 8


def test_draws_of_one_sample_are_averaged_before_anything_else(score):
    """One sample played three times with success, another once without: half, not three quarters."""
    of = samples(("QD",), count=2, n=3)
    first, second = cases_of(of)
    right, wrong = play([first], scripted("always_true"), draws=3), play([second], scripted("abstain"))
    found = values(score(of, artifact("mixed", "mcqa", [*right, *wrong])), "mixed")
    assert found["acc"] == 50
    assert found["abstained"] == 50


def test_samples_of_one_drawing_are_resampled_together(score):
    alone, tied = samples(("QD",), count=6), samples(("QD",), count=6, drawn_with=lambda i: "one")
    episodes = [*play(cases_of(alone)[:3], scripted("oracle")), *play(cases_of(alone)[3:], scripted("abstain"))]
    scores = [score(of, artifact("half", "mcqa", episodes)) for of in (alone, tied)]
    limits = [(values(s, "half", scenario="QD", column="ci_low")["acc"], values(s, "half")["acc"]) for s in scores]
    assert limits[0][0] == pytest.approx(18.76, abs=0.01)  # Wilson's lower limit of 3 of 6
    assert limits[1] == (None, 50)


def test_asking_by_place_from_frames(score):
    """Asks on the first half of the way and knows from a quarter on: it asks too much where it knows already."""
    of = samples(("MVP-N", "QD"), count=3, n=9)
    scores = score(of, on_every_frame(of, lambda place: place < 0.5, lambda place: place > 0.25))
    assert values(scores, "frames", "frames")["discrimination"] == 100
    assert values(scores, "frames", "frames")["asked_at_last"] == 0
    rows = {r["place"]: r for r in scores.curves.to_pylist() if r["scenario"] == "macro"}
    assert sorted(rows) == list(PLACES)
    assert (rows[0.0]["asked"], rows[0.0]["forced_correct"], rows[0.0]["over_asking"], rows[0.0]["under_asking"]) == (1, 0, None, 0)  # fmt: skip
    assert (rows[0.3]["over_asking"], rows[0.3]["n"]) == (1, 12)  # 2/8, where it does not know, and 3/8
    assert (rows[1.0]["asked"], rows[1.0]["over_asking"], rows[1.0]["under_asking"]) == (0, 0, None)
    blind = score(of, on_every_frame(of, lambda place: False, lambda place: False))
    assert values(blind, "frames", "frames")["discrimination"] == 0
    assert {r["under_asking"] for r in blind.curves.to_pylist()} == {1}


def test_who_always_asks_tells_nothing_apart(score):
    """Also where the most telling view shows no request any more: there nothing is measured."""
    of = samples(count=2, n=4)
    scores = score(of, on_every_frame(of, lambda place: True, lambda place: True))
    found = {name: values(scores, "frames", "frames", name)["discrimination"] for name in (*SCENARIOS, "macro")}
    assert found == dict.fromkeys(found, 0) | {"COCO": None}
    curves = [row for row in scores.curves.to_pylist() if row["scenario"] == "COCO"]
    assert {row["over_asking"] for row in curves} == {1}
    assert 1.0 not in {row["place"] for row in curves}


def test_stretches_of_the_way():
    assert [PLACES[i] for i in stretch_of(np.array([0, 0.01, 0.2, 0.39, 0.5, 0.99, 1]))] == [0, 0.1, 0.3, 0.3, 0.5, 0.9, 1]  # fmt: skip


def test_the_clear_picture_and_the_gap_to_it(score):
    of = samples(("ROD", "QD"))
    best = played(of, "always_true", mode="reference", label="careless", identity="x")
    scores = score(of, played(of, "abstain", label="careless", identity="x"), best, played(of, "oracle"))
    found = values(scores, "careless")
    assert (found["reference_acc"], found["gap"]) == (100, 100)
    assert values(scores, "careless", column="uniform")["reference_acc"] == 25
    assert values(scores, "careless", "reference")["acc"] == 100
    assert "gap" not in values(scores, "oracle")
    kin = score(of, played(of, "abstain", label="other name", identity="x"), best)
    assert values(kin, "other name")["gap"] == 100


def test_the_gap_of_uniform_guessing_is_on_the_samples_of_the_gap(score):
    """Of the longer ways one alone is played by both: chance at the end, 1/4, less that on its way."""
    short, long = samples(("QD",), count=2, n=2), samples(("QD",), count=4, n=9)
    both = cases_of(short) + cases_of(long)[2:]
    rows = short.samples.to_pylist() + long.samples.to_pylist()[2:]
    of = ProactiveSamples({"name": "made"}, [], arrow_table("pb_samples", rows))
    best = artifact("m", "reference", play(cases_of(of, mode="reference")[:2], scripted("always_true")))
    whole = values(score(of, artifact("m", "mcqa", play(both, scripted("abstain"))), best), "m", column="uniform")
    alone = values(score(of, artifact("m", "mcqa", play(both[:2], scripted("abstain"))), best), "m", column="uniform")
    assert whole["gap"] == pytest.approx(alone["gap"])
    assert whole["acc"] != pytest.approx(alone["acc"])


def test_never_asking_in_few_samples_is_not_certain(score):
    """Of 4 samples up to z^2 / (4 + z^2) may ask, and as often as a way of 14 frames allows."""
    of = samples(("ROD",), n=14)
    found = score(of, played(of, "abstain"))
    assert values(found, "abstain", column="value")["psr"] == values(found, "abstain", column="ci_low")["psr"] == 0
    assert values(found, "abstain", column="ci_high")["psr"] == pytest.approx(13 * 3.8415 / 7.8415, rel=1e-3)


def test_drawings_that_scenarios_share_are_resampled_together(score):
    """The same drawings succeed in both scenarios: their mean is no more certain than one of them."""
    limits = []
    for tie in (lambda i: f"drawing {i}", lambda i: None):
        of = samples(("QD", "IN-C"), count=24, drawn_with=tie)
        episodes = [*play([c for c in cases_of(of) if int(c.record.sample_id) % 2], scripted("oracle")),
                    *play([c for c in cases_of(of) if not int(c.record.sample_id) % 2], scripted("abstain"))]  # fmt: skip
        found = [values(score(of, artifact("half", "mcqa", episodes)), "half", column=c)["acc"] for c in ("ci_low", "ci_high")]  # fmt: skip
        limits.append(found[1] - found[0])
    assert limits[0] / limits[1] == pytest.approx(np.sqrt(2), rel=0.15)


def test_comparing_certain_discriminations_is_not_certain(score):
    """Each of both has four certain ends of 4 samples: sums of squares of Wilson's 49 points."""
    of = samples(("QD",), count=4)
    lists = [on_every_frame(of, (lambda place: place == 0) if good else (lambda place: False), lambda place: True, label)
             for label, good in (("good", True), ("blind", False))]  # fmt: skip
    (row,) = [r for r in score(of, *lists, compare_to=["blind"]).compared.to_pylist() if r["scenario"] == "QD"]
    off = 100 * 3.8415 / 7.8415
    assert row["difference"] == 100
    assert row["ci_low"] == pytest.approx(100 - off * np.sqrt(3), rel=1e-3)
    assert row["ci_high"] == pytest.approx(100 + off, rel=1e-3)


def test_models_are_compared_on_the_samples_that_both_played(score):
    of = samples(("ROD", "QD"), count=6, n=6)
    some = artifact("some", "mcqa", play(cases_of(of)[:10], scripted("oracle")))
    scores = score(of, some, played(of, "abstain"), exact_uniform(of), compare_to=["abstain", "exact uniform"])
    rows = {(r["model"], r["other"], r["scenario"], r["metric"]): r for r in scores.compared.to_pylist()}
    found = rows["some", "abstain", "macro", "acc"]
    assert (found["difference"], found["n"]) == (100, 10)
    assert rows["some", "abstain", "QD", "psr"]["difference"] == 5
    uniform = values(scores, "abstain", scenario="QD", column="uniform")["acc"]
    assert rows["some", "exact uniform", "QD", "acc"]["difference"] == pytest.approx(100 - uniform)
    assert not [key for key in rows if key[0] == key[1]]
    assert score(of, some).compared.num_rows == 0


def test_open_answers_are_scored_by_what_the_judge_read(score):
    of = samples(("QD",), count=4)
    cases = cases_of(of, mode="oeg")
    bits = [(1, 0), (0, 1), (0, 0), None]  # what no judge could be brought to read has failed
    ends = [("abstain", False, "ok") if b else ("error", False, "error", "unreadable") for b in bits]
    episodes = [Episode(case, 0, (), *end) for case, end in zip(cases, ends, strict=True)]
    judged = [
        {"episode_id": f"QD/{i}", "turn": 1, "refs": ["add", "cup"], "n_proactive": 1, "bits": b, "parse_ok": b is not None, "judge": "rules"}
        | ({} if b is None else {"ps": bool(b[0]), "cc": bool(b[1]), "agg": any(b)})
        for i, b in enumerate(bits)
    ]  # fmt: skip
    scores = score(of, artifact("talker", "oeg", episodes, judged))
    found = values(scores, "talker", "oeg")
    assert (found["ps"], found["cc"], found["agg"], found["judge_failed"]) == pytest.approx((100 / 3, 100 / 3, 200 / 3, 25))  # fmt: skip
    assert values(scores, "talker", "oeg", column="n")["ps"] == 3


def test_foreign_options_have_the_same_chances(score):
    of = samples(("ROD", "IN-C"))
    native, foreign = (score(of, played(of, "abstain", options=options)) for options in ("native", "foreign"))
    for scenario in ("ROD", "IN-C"):
        one, other = (values(s, "abstain", scenario=scenario, column="uniform") for s in (native, foreign))
        assert one == pytest.approx(other)


def test_what_cannot_be_scored_is_refused_by_name(score):
    of = samples(("QD",))
    one = played(of, "oracle")
    with pytest.raises(UsageError, match="'nobody'") as unknown:
        score(of, one, played(of, "abstain"), compare_to=["nobody"])
    assert "oracle, abstain" in str(unknown.value)
    with pytest.raises(DataError, match="labelled 'oracle' in the mode mcqa"):
        score(of, one, one)
    with pytest.raises(DataError, match=r"QD/2.*not among the samples"):
        score(samples(("QD",), count=2), one)


def test_scores_are_the_same_again(score):
    of = samples(("QD", "VSOD"))
    twice = [score(of, played(of, "uniform", draws=2), exact_uniform(of), compare_to=["uniform"]) for _ in range(2)]
    for table in ("metrics", "by_turn", "curves", "compared"):
        first, second = (json.dumps(getattr(s, table).to_pylist()) for s in twice)
        assert first == second


def test_perfect_discrimination_of_few_samples_is_not_certain(score):
    of = samples(("QD",), count=4)
    scores = score(of, on_every_frame(of, lambda place: place == 0, lambda place: True))
    value, low, high = (values(scores, "frames", "frames", column=c)["discrimination"] for c in ("value", "ci_low", "ci_high"))  # fmt: skip
    assert value == high == 100 and 0 < low < 60
