"""Text as it may reach a terminal."""

from hypothesis import given
from hypothesis import strategies as st

from runner.shown import on_one_line, shown

ANY = st.text(st.characters(categories=["L", "N", "P", "S", "Z", "C"]))


@given(ANY)
def test_nothing_that_is_shown_can_steer(text: str) -> None:
    assert not set(shown(text)) & set("\x00\x07\x08\x0b\x0c\r\x1b\x7f\x85\x9b\u200f\u202e\u2028\u2066")
    assert "\n" not in on_one_line(text) and "\t" not in on_one_line(text)
    shown(text).encode("utf8")


@given(ANY)
def test_what_was_shown_is_shown_the_same_again(text: str) -> None:
    assert shown(shown(text)) == shown(text)


def test_ordinary_words_stay_as_they_are() -> None:
    assert shown("Größe 大 [bold]\n\tx") == "Größe 大 [bold]\n\tx"
    assert shown("a\x1b[31m\u202eb\udcff") == "a\\x1b[31m\\u202eb\\udcff"
    assert on_one_line("a\nb") == "a\\nb"
