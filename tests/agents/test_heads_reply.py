"""Reading scores and themes: forms that real models use, and everything that is no decision."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.heads_reply import THEME_CHARACTERS, Reading, clean_theme, read_reply


@pytest.mark.parametrize(
    ("text", "score", "theme"),
    [
        ("Theme: red things\nScore: 4", 4, "red things"),
        ("Score: 4\nTheme: red things.", 4, "red things"),
        ("**Theme:** *red things*\n\n**Score:** **4**", 4, "red things"),
        ("## Theme - red\n## Score - 4\n", 4, "red"),
        ("theme: [red]\nSCORE: [4]", 4, "red"),
        ("Theme: <none>\nScore: <1>", 1, None),
        ("Theme: None\nScore: 2/5", 2, None),
        ("Score: 3 out of 5, since two fit.", 3, None),
        ("Safety Score: 5", 5, None),
        ("Score (1-5): 2", 2, None),
        ("The score ranges widely.\nScore = 3", 3, None),
        ("Score:\n4", 4, None),
        ("I would give a score of 4.", 4, None),
        ("Score: 4. Five of 6 concepts fit.", 4, None),
        ("Theme: water, score: 5", 5, "water"),
        ('```json\n{"theme": "lakes", "score": 5}\n```', 5, "lakes"),
        ("<think>Score: 1? No, Score: 2.</think>\nTheme: boats\nScore: 5", 5, "boats"),
        ("Score: 2\nSo: Score: 2", 2, None),
        ("\uff14", 4, None),
        (" 3/5\n", 3, None),
        ("Theme: film score\nScore: 3", 3, "film score"),
    ],
)
def test_forms_that_models_use(text, score, theme):
    assert read_reply(text) == Reading(score, theme)


@pytest.mark.parametrize(
    "text",
    [
        "", "none", "Theme: red", "Score: high", "Score: 0", "Score: 6", "Score: 45", "Score: -1", "Score -1",
        "Score: 4.5", "Score: 4,5", "Score: 3-4", "Score: 3 to 4", "Score: [3] or 4", "Score: 3/10", "Score: 8 out of 10",
        "Score: 4th", "Score: 80%", "Score: 5 %", "Score: 2\nScore: 4", "4 concepts fit", "there are 3", "12", "underscore: 3",
        "my score\n5 concepts", "Score: 3 \u2013 4",
    ],
)  # fmt: skip
def test_what_is_no_decision_is_refused_with_a_reason(text):
    with pytest.raises(ValueError, match=r"score|number from 1 to 5"):
        read_reply(text)


@given(st.text(max_size=300))
def test_any_text_gives_a_score_from_1_to_5_or_a_reason(text):
    for reply in (text, f"Score: {text}", f"Theme: {text}\nScore: 3"):
        try:
            found = read_reply(reply)
        except ValueError as error:
            assert str(error)
        else:
            assert found.score in range(1, 6) and len(found.theme or "") <= THEME_CHARACTERS
            assert "\n" not in (found.theme or "")


@given(st.integers(1, 5), st.sampled_from(["Score: {}", "**Score**: {}/5", "score=({})", "Score: {} out of 5."]))
def test_every_score_is_read_in_every_form(score, form):
    assert read_reply(form.format(score)).score == score


def test_a_flood_of_text_is_read_quickly_from_its_end():
    assert read_reply("score (" * 200_000 + "\nScore: 3").score == 3
    assert read_reply("<think>" * 100_000 + "Score: 1</think>Score: 2").score == 2


def test_themes_are_one_bounded_line():
    assert clean_theme("  a\n\tb  ") == "a b" and clean_theme("N/A.") is None and clean_theme(None) is None
    assert len(clean_theme("x" * 500)) == THEME_CHARACTERS
