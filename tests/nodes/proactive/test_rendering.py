"""The text of a turn, and the texts that samples do not hold."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import UsageError
from runner.nodes.proactive.env import Frame, Observation, make_env
from runner.nodes.proactive.matching import normal_form
from runner.nodes.proactive.records import SCENARIOS, Record, is_abstention
from runner.nodes.proactive.rendering import as_data, option_line, render
from runner.nodes.proactive.texts import load_texts
from tests.nodes.proactive.material import record, records

FRAME = Frame("a.png", None, 0)


def test_the_parts_stand_in_order() -> None:
    env = make_env(record("VSOD"), hint=True)
    lines = render(env.observation(env.initial())).split("\n")
    texts = env.texts
    assert lines[0] == f"{texts.prefaces['VSOD']} What is it? {texts.hints['VSOD']}"
    assert lines[1] == texts.announce and lines[-1] == texts.only_one
    assert lines[2:5] == ["A. I cannot answer.", "B. Rewind the video.", "C. Wait for the occlusion to disappear."]
    assert render(env.observation(env.initial()), short_answer=False).split("\n") == lines[:-1]


def test_open_questions_list_nothing() -> None:
    env = make_env(record("QD"), mode="oeg", hint=True)
    assert render(env.observation(env.initial())) == f"What is it? {env.texts.open_hint}"


@given(records())
def test_a_rendered_line_names_its_option_again(one: Record) -> None:
    env = make_env(one)
    for i, option in enumerate(env.shown(env.initial())):
        assert option_line(i, option.text) in render(env.observation(env.initial())).split("\n")
        assert env.advance(env.initial(), option_line(i, option.text)).match.index == i


@given(st.text(max_size=80), st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=9))
def test_whatever_a_sample_says_stays_on_its_line(question: str, options: list[str]) -> None:
    text = render(Observation(FRAME, "", question, "", tuple(options), 1))
    assert len(text.split("\n")) == len(options) + 3 and len(text.splitlines()) == len(options) + 3


@pytest.mark.parametrize("mark", ["<image>", "<|im_end|>", "</s>", "[INST]", "[/INST]"])
def test_marks_of_templates_are_broken_up(mark: str) -> None:
    assert mark not in as_data(f"a {mark} b", 100) and as_data("a < b", 100) == "a < b"


def test_foreign_requests_are_enough_for_every_scenario() -> None:
    texts = load_texts()
    forms = [normal_form(text) for texts in texts.foreign.values() for text in texts]
    assert "" not in forms and not any(is_abstention(t) for some in texts.foreign.values() for t in some)
    for scenario in SCENARIOS:
        make_env(record(scenario), options="foreign")
        assert scenario in texts.references and scenario in texts.hints


def test_own_texts_replace_by_key(tmp_path: Path) -> None:
    path = tmp_path / "texts.yaml"
    path.write_text("announce: 'Choose:'\nprefaces: {CIT: Look.}\n")
    found, ours = load_texts(path), load_texts()
    assert found.announce == "Choose:" and found.prefaces == {"VSOD": ours.prefaces["VSOD"], "CIT": "Look."}
    assert found.hints == ours.hints


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("colour: red", "colour"),
        ("prefaces: {XYZ: a}", "no scenario 'XYZ'"),
        ("announce: [1]", "announce"),
        ("abstain: [Maybe.]", "must contain"),
        ("- a", "expected texts by key"),
        ("a: &x b\nc: *x", "aliases"),
        ("a: [", "is not YAML"),
        ("a: " + "x" * 100_001, "larger than"),
        ("announce: ''", "announce"),
    ],
)
def test_wrong_files_of_texts_are_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "texts.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=says):
        load_texts(path)
    with pytest.raises(UsageError, match="cannot be read"):
        load_texts(tmp_path / "absent.yaml")
