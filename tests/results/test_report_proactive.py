"""Asking for help: views, verdicts, page."""

import base64
import re

import pytest
from synthetic_audit import picture
from synthetic_proactive import (
    ACC,
    DISCRIMINATION,
    OPTIONS,
    RUN,
    SCENARIOS,
    STORIES,
    UNIFORM,
    episode,
    metric,
    sample,
    turn,
)
from test_report import Outline

from results.report import render
from results.tables import arrow_table

WORDS = {
    "careful": "asks when it should",
    "hasty": "guesses",
    "shy": "abstains",
    "eager": "asks always",
    "mute": "unreadable",
}


@pytest.fixture(scope="module")
def pages(asking):
    return {run: render(asking, run) for run in (RUN, "hostile")}


def put(store, **tables):
    store.replace_step("other", "", "step", {name: arrow_table(name, rows) for name, rows in tables.items()})


def rows(store, sql):
    return store.query(sql).to_pylist()


def squeezed(text):
    """Without spaces: cells of a table follow each other without any."""
    return re.sub(r"\s", "", text)


def part(page, title):
    """A part of the page, from its heading to the next."""
    return re.split(r"<h2", page.split(f"<bdi>{title}</bdi></h2>")[1])[0]


def plain(html):
    return " ".join(Outline(html).text.split())


def named(text):
    return text


# --- views


def test_the_scoreboard_has_a_row_a_model_mode_and_scenario(asking):
    found = rows(asking, f"SELECT * FROM proactive_scoreboard WHERE run_id = '{RUN}'")
    played = {(r["model"], r["scenario"]): r for r in found if r["mode"] == "mcqa"}
    assert set(played) == {(m, s) for m in ACC for s in (*SCENARIOS, "macro")}
    for (model, scenario), row in played.items():
        assert (row["acc"], row["acc_low"], row["acc_high"]) == ACC[model]
        assert (row["uniform_acc"], row["n"], row["n_error"]) == (
            UNIFORM[scenario],
            40 if scenario == "macro" else 20,
            1,
        )
    assert played["careful", "QD"]["gap"] == 20.0 and played["mute", "QD"]["gap"] is None
    (told,) = [r for r in found if r["mode"] == "oeg" and r["scenario"] == "QD"]
    assert (told["ps"], told["cc"], told["agg"], told["n"], told["acc"]) == (50.0, 25.0, 75.0, 4, None)


def test_only_intervals_that_leave_chance_out_are_beside_it(asking):
    """By hand: 20 [12, 30] against 5.71 and 20; 0 [0, 8] against both."""
    found = {
        (r["model"], r["scenario"]): r["beside_chance"]
        for r in rows(asking, f"SELECT * FROM proactive_scoreboard WHERE run_id = '{RUN}' AND mode = 'mcqa'")
    }
    assert [found["hasty", s] for s in SCENARIOS] == ["above", "cannot_be_told"]
    assert [found["shy", s] for s in SCENARIOS] == ["cannot_be_told", "below"]


def test_the_reference_of_its_own_mode_stands_in(other):
    put(other, pb_metrics=[metric(named, "m", "mcqa", "QD", "acc", 30.0, 20.0, 40.0, 50), metric(named, "m", "reference", "QD", "acc", 80.0, 70.0, 88.0, 50)])  # fmt: skip
    found = {r["mode"]: r for r in rows(other, "SELECT * FROM proactive_scoreboard")}
    assert (found["mcqa"]["reference_acc"], found["mcqa"]["reference_low"], found["mcqa"]["gap"]) == (80.0, 70.0, 50.0)
    assert found["reference"]["reference_acc"] is None


def test_chance_itself_is_neither_above_nor_below_it(other):
    """Sums in another order differ in the last digit."""
    third = 100 / 3
    near = third * (1 + 1e-15)
    put(other, pb_metrics=[metric(named, "uniform", "exact", "QD", "acc", near, near, near, 6, 0, third)])
    assert [r["beside_chance"] for r in rows(other, "SELECT beside_chance FROM proactive_scoreboard")] == [
        "cannot_be_told"
    ]


def first_turns(model, n=40, discrimination=None, invalid=0.0, **shares):
    """Metrics and first turn of one model in QD."""
    told = {**dict.fromkeys(("asked", "abstained", "predicted", "unreadable"), 0.0), **shares}
    found = [metric(named, model, "mcqa", "QD", f"first_{k}", v, v, v, n) for k, v in told.items()]
    found.append(metric(named, model, "mcqa", "QD", "first_turn_acc", shares.get("right", 0.0), 0.0, 9.0, n))
    if discrimination:
        found.append(metric(named, model, "frames", "QD", "discrimination", *discrimination, n))
    kinds = dict.fromkeys(("asked", "abstained", "correct", "wrong", "unreadable"), 0.0)
    return found, {"model": model, "mode": "mcqa", "scenario": "QD", "turn": 1, "alive": n, "invalid": invalid, **kinds}


VERDICTS = (
    ({"asked": 90.0, "discrimination": (30.0, 1.0, 60.0)}, "asks_when_it_should"),
    ({"asked": 90.0, "discrimination": (30.0, -1.0, 60.0)}, "asks"),
    ({"asked": 90.0, "discrimination": (20.0, 10.0, 24.0)}, "asks_always"),
    ({"asked": 60.0, "discrimination": (20.0, 10.0, 24.0)}, "asks_regardless"),
    ({"asked": 60.0}, "asks"),
    ({"asked": 60.0, "invalid": 0.31, "discrimination": (50.0, 40.0, 60.0)}, "asks_in_vain"),
    ({"abstained": 50.0, "predicted": 50.0}, "abstains"),
    ({"predicted": 60.0, "asked": 40.0}, "guesses"),
    ({"predicted": 60.0, "right": 50.0}, "knows_at_once"),
    ({"unreadable": 50.0, "asked": 50.0}, "unreadable"),
    ({"asked": 40.0, "abstained": 30.0, "predicted": 30.0}, "mixed"),
    ({"asked": 100.0, "discrimination": (90.0, 80.0, 99.0), "n": 9}, "too_few"),
)


def test_verdicts_follow_the_thresholds_that_are_told(other):
    played = {f"m{i}": first_turns(f"m{i}", **shares) for i, (shares, _) in enumerate(VERDICTS)}
    put(
        other,
        pb_metrics=[row for found, _ in played.values() for row in found],
        pb_by_turn=[first for _, first in played.values()],
    )
    found = {row["model"]: (row["verdict"], row["n"]) for row in rows(other, "SELECT * FROM proactive_asking")}
    assert found == {f"m{i}": (verdict, shares.get("n", 40)) for i, (shares, verdict) in enumerate(VERDICTS)}


def test_sentences_carry_numbers_with_intervals_and_n(asking):
    found = {r["model"]: r["sentence"] for r in rows(asking, f"SELECT model, sentence FROM proactive_asking WHERE run_id = '{RUN}' AND scenario = 'macro'")}  # fmt: skip
    assert found["careful"] == (
        "careful asks when it should: at the first picture it asks 90 % of the time (95 % interval 81 to 99 %, n = 40), "
        "75 points more than at the most telling one (60 to 86, n = 40)"
    )
    assert found["shy"].startswith("shy abstains: ") and "points" not in found["shy"]


def test_both_ends_of_the_way_stand_beside_the_verdict(asking):
    found = {
        r["model"]: r
        for r in rows(asking, f"SELECT * FROM proactive_asking WHERE run_id = '{RUN}' AND scenario = 'QD'")
    }
    assert (found["careful"]["under_asking"], found["careful"]["over_asking"]) == (0.0, 0.0)
    assert (found["eager"]["under_asking"], found["eager"]["over_asking"]) == (0.0, 100.0)
    assert found["hasty"]["under_asking"] == pytest.approx(95.0) and found["shy"]["under_asking"] is None


def test_a_turn_says_what_it_led_to(asking):
    found = rows(asking, f"SELECT * FROM proactive_turns_read WHERE run_id = '{RUN}' AND model = 'careful' AND mode = 'mcqa' AND episode_id = 'ROD/s1'")  # fmt: skip
    assert [r["led_to"] for r in found] == ["left to frame 1", "left to frame 2", "wrong_category"]
    assert [r["chose"] for r in found] == [OPTIONS[0][0]] * 2 + ["Dog."]
    assert {(r["question"], r["truth"]) for r in found} == {("What is hidden?", "Cat.")}


def test_all_models_of_a_sample_stand_side_by_side(asking):
    found = {(r["scenario"], r["sample_id"]): r for r in rows(asking, f"SELECT * FROM proactive_episodes_side_by_side WHERE run_id = '{RUN}'")}  # fmt: skip
    assert set(found) == {(s, name) for s in SCENARIOS for name in ("s0", "s1")}
    row = found["ROD", "s1"]
    assert (row["episodes"], row["successes"], row["errors"]) == (len(STORIES) + 1, 1, 1) and row["solved_by"] == [
        "hasty"
    ]
    assert "mute: error" in row["how"] and f"shy: invalid_ask after 0 met ({OPTIONS[1][0]})" in row["how"]


def test_samples_of_two_sources_are_not_mixed(other):
    """The same name in two sets: the turn's source says which question was asked."""
    sets = [{**sample(named, "QD", "s0"), "source_id": s, "question": f"of {s}"} for s in ("one", "two")]
    played = {**turn(named, "m", "QD", "s0", ("abstain",), 0), "source_id": "two"}
    put(other, pb_samples=sets, pb_episodes=[episode(named, "m", "QD", "s0", ("abstain",))], pb_turns=[played])
    assert [r["question"] for r in rows(other, "SELECT question FROM proactive_turns_read")] == ["of two"]
    assert [r["question"] for r in rows(other, "SELECT question FROM proactive_episodes_side_by_side")] == ["of two"]


def test_training_stretches_are_means_and_collapse_is_seen(asking):
    found = rows(asking, f"SELECT * FROM grpo_curve WHERE run_id = '{RUN}'")
    assert {r["model"]: r["collapsed"] for r in found} == {"careful": False, "eager": True}
    first = next(r for r in found if r["model"] == "careful")
    assert first["steps"] == 3 and first["reward"] == pytest.approx(0.2 + 0.5 * 2 / 100)
    assert first["reward_low"] < first["reward"] < first["reward_high"] and sum(r["steps"] for r in found) == 200


SHORT = [{"model": "m", "train_step": step, "reward_mean": 0.5, "share_ask": 1.0} for step in (1, 2)]


def test_short_trainings_are_not_called_collapsed(other):
    put(other, grpo_steps=SHORT)
    assert {r["collapsed"] for r in rows(other, "SELECT collapsed FROM grpo_curve")} == {False}


def test_asking_while_training_is_told_by_what_could_be_seen(asking):
    found = {(r["train_step"], r["seen"]): r for r in rows(asking, f"SELECT * FROM grpo_seen WHERE run_id = '{RUN}'")}
    assert {key: (r["asked"], r["correct"]) for key, r in found.items()} == {
        (1, False): (0.0, 0.0), (100, False): (1.0, 0.0), (1, True): (0.0, 1.0), (100, True): (0.0, 1.0),
    }  # fmt: skip
    assert {(r["answers"], r["n"]) for r in found.values()} == {(8, 1)}


# --- the page


def test_the_order_of_the_page(pages):
    titles = ["Does it ask for help?", "In its own words", "Side by side on the same samples", "Does it ask when it would be wrong?", "Turn by turn",
              "Episodes", "Training to ask"]  # fmt: skip
    found = re.findall(r"<h2[^>]*><bdi>(.*?)</bdi>", pages[RUN])
    assert found == [*titles, "Where it comes from"]


@pytest.mark.parametrize(
    "said",
    ["In 4 samples a question is asked", "mute has 2 episodes of 4 that failed and count nowhere (the picture cannot be read)", "far below a published model",
     "chance exact 12.9 0.30 met 5.7", "▲ 70.0 60.0\u201380.0 1.25 met [1.12, 1.38] clear 90.0 80.0\u201396.0 n 40, 1 failed",
     "+75 +60 to +86 n 40", "1 could not be read from its reply", "ROD an object behind blocks that can be moved test 3 2 3 by 4 probes",
     "2 requests that were met", "✗ failed: the picture cannot be read", "eager asks always. In the last 2 steps 100 % of its answers ask",
     "careful 100 less than half 100 % 21\u2013100 % 0 % 1 8", "mean of scenarios requests an episode 1.20 [0.90, 1.50] more 20",
     "cannot be told", "careful QD 10 % 90 % 32 % 90 % 80\u2013100 % 10 %"],
)  # fmt: skip
def test_what_must_be_there(pages, said):
    assert squeezed(said) in squeezed(Outline(pages[RUN]).text)


@pytest.mark.parametrize(("model", "word"), WORDS.items())
def test_every_model_has_its_word(pages, model, word):
    html = part(pages[RUN], "Does it ask for help?")
    lines = [plain(row) for row in re.findall(r"<tr>.*?</tr>", html, re.S)]
    assert any(line.startswith(model) and word in line for line in map(str.strip, lines)), lines


def test_a_strip_shows_every_turn_with_its_picture(pages):
    html = part(pages[RUN], "Episodes")
    strips = re.findall(r'<ol class="pictures film">.*?</ol>', html, re.S)
    played = [story for stories in STORIES.values() for story in stories if story]
    assert sorted(s.count("<img") for s in strips) == sorted(len(SCENARIOS) * [len(story) for story in played])
    own = base64.b64encode(picture("RODs10", True)).decode()
    assert own in html and html.count("alt=") == html.count("<img")
    assert "→ moved left" in plain(html) and "“mumble”" in plain(html)


def test_failures_come_before_successes(pages):
    html = part(pages[RUN], "Episodes")
    first = html.split("</details>")[0]
    told = re.findall(r"<h3><bdi>careful</bdi>.*?</h3>\s*<p>.*?</p>", first, re.S)
    assert ["✗" in t for t in told] == [True, False]


def test_hostile_words_make_no_element(pages):
    page = Outline(pages["hostile"])
    assert not {"script", "iframe", "object", "embed", "form"} & set(page.tags)
    assert not [a for a in page.attributes if a[1].startswith("on")]
    assert not [v for _, name, v in page.attributes if name in ("src", "href") and not v.startswith(("data:", "#"))]
    assert "\u202e" not in pages["hostile"] and "\x07" not in pages["hostile"]


def test_tables_have_heads_with_scopes_and_charts_have_words(pages):
    page = Outline(pages[RUN])
    assert page.tags.count("thead") == page.tags.count("table") > 9
    assert page.tags.count("th") == sum(tag == "th" and name == "scope" for tag, name, _ in page.attributes)
    labelled = [v for tag, name, v in page.attributes if tag == "div" and name == "aria-label"]
    assert len(labelled) == pages[RUN].count("<svg") >= len(DISCRIMINATION) + len(STORIES) + 1


# --- runs that hold little


def test_a_run_of_samples_alone_says_that_nothing_was_played(other):
    put(other, pb_samples=[sample(named, "QD", "s0")])
    page = render(other, "other")
    assert "No episode was played" in page and "Episodes" not in re.findall(r"<h2[^>]*><bdi>(.*?)</bdi>", page)


def test_one_long_episode_without_scores_or_pictures(other):
    story = (*["ask_valid"] * 29, "abstain")
    put(other, pb_episodes=[episode(named, "m", "QD", "s0", story)],
        pb_turns=[{**turn(named, "m", "QD", "s0", story, i), "thumbnail": None} for i in range(30)])  # fmt: skip
    page = render(other, "other")
    text, html = plain(page), part(page, "Episodes")
    assert "1 episode was played" in text and "proactive.score" in text and "1 of 1 episode" in text
    assert "<img" not in page and "I cannot tell." in text
    assert re.findall(r"<small>(\d+)\. frame", html) == [*"1234567", "30"] and "22 turns left out" in plain(html)


def test_a_run_in_which_everything_failed(other):
    put(other, pb_samples=[sample(named, "QD", "s0")], pb_episodes=[episode(named, "m", "QD", "s0", ())],
        pb_metrics=[metric(named, "m", "mcqa", s, "acc", None, None, None, 0, 1) for s in ("QD", "macro")],
        grpo_steps=SHORT)  # fmt: skip
    page = render(other, "other")
    text = plain(page)
    assert "asks always" not in part(page, "Training to ask")
    assert (
        "m has 1 episode of 1 that failed" in text
        and "failed: the picture cannot be read" in text
        and "1 failed" in text
    )
    assert "nan" not in text.lower() and "None" not in text


def test_twenty_models_stay_readable(other):
    names = [f"model {i}" for i in range(20)]
    shared = {"metric": [], "turn": []}
    for i, name in enumerate(names):
        shared["metric"] += [
            metric(named, name, "mcqa", s, "acc", 4.0 * i, 4.0 * i, 4.0 * i + 9, 20, 0, 20.0)
            for s in (*SCENARIOS, "macro")
        ]
        found, first = first_turns(name, asked=100.0)
        shared["metric"] += found
        shared["turn"].append(first)
    put(other, pb_metrics=shared["metric"], pb_by_turn=shared["turn"])
    page = render(other, "other")
    html = part(page, "Does it ask for help?")
    board = html.split("Choosing from a list, turn by turn</h3>")[1].split("</table>")[0]
    order = re.findall(r"<bdi>(model \d+)</bdi>", board)
    assert order == names[::-1]  # highest first
    assert part(page, "Turn by turn").count("<svg") == 12 and "The first 12 of 20 models" in plain(page)


def test_many_episodes_are_bounded_and_every_model_is_shown(other):
    models = [f"model {i}" for i in range(20)]
    played = [(m, f"s{i}") for m in models for i in range(6)]
    put(other, pb_episodes=[episode(named, m, "QD", s, ("category_false",)) for m, s in played],
        pb_turns=[{**turn(named, m, "QD", s, ("category_false",), 0), "thumbnail": None} for m, s in played])  # fmt: skip
    html = part(render(other, "other"), "Episodes")
    assert html.count('<div class="example">') == 48 and {m for m in models if f"<bdi>{m}</bdi>" in html} == set(models)
