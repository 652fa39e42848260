"""Which shown option an answer names. Pure functions on texts, linear in the length of the answer.

Three modes. ``strict`` follows the rules of the published evaluation (arXiv 2603.19466, official package 0.1.1) with all their quirks, so that
its numbers can be reproduced. ``robust`` (ours) reads what a person would read and says when an answer names several options. ``constrained``
is for answers that were chosen from a list and takes nothing else. Options are lettered A, B, ... in the order shown.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence
from string import ascii_uppercase
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from runner.nodes.proactive.options import Option

MatchMode = Literal["strict", "robust", "constrained"]
MatchKind = Literal["letter", "text", "both", "constrained", "mismatch", "conflict", "ambiguous"]
Verdict = Literal["correct", "wrong", "mismatch"]

MAX_READ = 20_000
"""Characters of an answer that ``robust`` reads, from its end: there the conclusion stands."""


class Match(NamedTuple):
    """``index``: the option named, from 0, or None; ``kind``: how it was named, or why none is (``mismatch``: nothing shown is named,
    ``conflict``: letter and text name different options, ``ambiguous``: several options are named)."""

    index: int | None  # type: ignore[assignment]  # a field of this name stands where tuples have a method
    kind: MatchKind


class Verdicts(NamedTuple):
    """``action``: of what was chosen among the options that are no categories, ``category``: among the categories."""

    match: Match
    action: Verdict
    category: Verdict


_NOTHING = Match(None, "mismatch")


def match(answer: str | None, options: Sequence[Option] | Sequence[str], mode: MatchMode = "robust") -> Match:
    """The option that ``answer`` names among those shown, in order.

    ``strict`` needs to know which options are valid, since there text and letter may feed different verdicts: with plain texts the text
    goes before the letter, with ``Option`` it is the option that decides the turn. Raises ValueError for an unknown mode.
    """
    if mode == "strict":
        return _strict(answer, _judged(options)).match
    texts = [option if isinstance(option, str) else option.text for option in options]
    if mode == "robust":
        return _robust(answer, texts)
    if mode == "constrained":
        return _constrained(answer, texts)
    raise ValueError(f"match must be strict, robust or constrained, not {mode!r}")


def verdicts(answer: str | None, options: Sequence[Option], mode: MatchMode = "robust") -> Verdicts:
    """Both verdicts on an answer: ``correct`` where a valid option is chosen, ``wrong`` where another one of the kind is.

    ``strict``: each verdict by text, else by letter, on its own, so both may be ``correct`` at once. Otherwise both follow from the one
    matched option.
    """
    if mode == "strict":
        return _strict(answer, _judged(options))
    return verdicts_of(match(answer, options, mode), options)


def verdicts_of(found: Match, options: Sequence[Option]) -> Verdicts:
    """The verdicts that follow from one matched option (also of a policy that names the option by its index)."""
    if found.index is None:
        return Verdicts(found, "mismatch", "mismatch")
    chosen = options[found.index]
    verdict: Verdict = "correct" if chosen.valid else "wrong"
    return Verdicts(found, "mismatch", verdict) if chosen.kind == "category" else Verdicts(found, verdict, "mismatch")


# --- strict ----------------------------------------------------------------------------------------------------------

_PREFIX = re.compile(r"^.*[A-Z]\.\s*")


class _Judged(NamedTuple):
    """What strict needs of an option: its letter is that of its place among all shown."""

    place: int
    normal: str
    valid: bool
    category: bool


def normal_form(text: str) -> str:
    """Published normal form: on the first line all up to the last capital with a full stop goes, and blanks after it; then lower case,
    stripped, without spaces."""
    return _PREFIX.sub("", text).lower().strip().replace(" ", "")


_option_normal = functools.lru_cache(maxsize=65536)(normal_form)


def strict_letter(text: str) -> str:
    """What stands before the first full stop, lower case, where it is one character; else nothing."""
    found = text.partition(".")[0].lower().strip()
    return found if len(found) == 1 else ""


def strict_problems(options: Sequence[str]) -> list[str]:
    """Why strict matching cannot tell these options apart, a sentence for each problem; empty: it can."""
    problems, seen = [], dict[str, str]()
    letters = ascii_uppercase[: len(options)].lower()
    for text in options:
        normal, shown = normal_form(text), repr(text[:80])
        if not normal:
            problems.append(f"option {shown} has an empty normal form: bare letters with a full stop would match it")
        elif normal in seen:
            problems.append(f"options {seen[normal]} and {shown} have the same normal form")
        letter = strict_letter(text)
        if letter and letter in letters:
            problems.append(f"option {shown} reads as the letter {letter.upper()} of an option")
        seen.setdefault(normal, shown)
    return problems


def _judged(options: Sequence[Option] | Sequence[str]) -> list[_Judged]:
    listed: Sequence[Option | str] = options
    return [_judge(i, option) for i, option in enumerate(listed)]


def _judge(place: int, option: Option | str) -> _Judged:
    """A plain text counts as an action that is not valid, so that of several text goes before letter."""
    if isinstance(option, str):
        return _Judged(place, _option_normal(option), False, False)
    return _Judged(place, _option_normal(option.text), option.valid, option.kind == "category")


def _strict(answer: str | None, options: Sequence[_Judged]) -> Verdicts:
    if answer is None:
        return Verdicts(_NOTHING, "mismatch", "mismatch")
    said, letter = normal_form(answer), strict_letter(answer)
    action, act = _strict_verdict(said, letter, [option for option in options if not option.category])
    category, cat = _strict_verdict(said, letter, [option for option in options if option.category])
    if category == "correct" or action == "correct":
        return Verdicts(cat if category == "correct" else act, action, category)
    # Of two wrong choices the one named by text is what was meant.
    by_text = act.kind in ("text", "both") or category == "mismatch"
    return Verdicts(act if by_text else cat, action, category)


def _strict_verdict(said: str, letter: str, options: Sequence[_Judged]) -> tuple[Verdict, Match]:
    by_text = [option for option in options if option.normal == said]
    by_letter = [
        option for option in options if letter and letter == ascii_uppercase[option.place : option.place + 1].lower()
    ]
    for found in (by_text, by_letter):
        if found:
            chosen = next((option for option in found if option.valid), found[0])
            kind: MatchKind = "letter" if found is by_letter else "both" if chosen in by_letter else "text"
            return ("correct" if chosen.valid else "wrong"), Match(chosen.place, kind)
    return "mismatch", _NOTHING


# --- constrained -----------------------------------------------------------------------------------------------------


def _constrained(answer: str | None, options: Sequence[str]) -> Match:
    """The option's text, its letter, or both as a line of the list shows them, exactly."""
    said = (answer or "").strip()
    forms = (
        list(options),
        [f"{ascii_uppercase[i : i + 1]}. {text}" for i, text in enumerate(options)],
        ascii_uppercase,
    )
    for form in forms:
        found = [i for i, text in enumerate(form[: len(options)]) if said and text.strip() == said]
        if found:
            return Match(found[0], "constrained") if len(found) == 1 else Match(None, "ambiguous")
    return _NOTHING


# --- robust ----------------------------------------------------------------------------------------------------------

_REASONING = re.compile(r"(?i)<(/?)(?:think|thinking|thought|reasoning)>|\[(/?)think\]")
_MARKUP = re.compile(r"[*`#~$]|\\text\b|(?<!\w)_+|_+(?!\w)|</?\w{1,12}>")
_CUE = re.compile(
    r"(?i)(?<!cannot )(?<!n't )(?<!not )\b(?:answer|choice)\b(?:[ \t]+(?:is|would[ \t]be|should[ \t]be))?[ \t]*[\"']?[ \t]*[:=]?|\\boxed\b"
    r"|\bi(?:'d|'ll|[ \t]+would|[ \t]+will)?[ \t]+(?:choose|pick|select|go[ \t]with)\b"
)
_OPENING = r"[ \t(\[{\"'>-]{0,8}(?:[Oo]ption[ \t]{1,4}[(\[]?)?"
_LEADING = re.compile(
    rf"^{_OPENING}([A-Za-z])(?:[)\]}}\"']{{0,4}}(?:[.,:]?[ \t]{{0,8}}$|[.:](?=\s))|[)\]](?=\s|$)|[ \t]{{1,4}}[-\u2013\u2014](?=\s))[ \t]*",
    re.MULTILINE,
)
_REASONED = re.compile(
    rf"{_OPENING}([A-Za-z])[)\]}}\"']{{0,4}}[.,:;]?[ \t]{{1,8}}(?:[-\u2013\u2014][ \t]{{1,8}})?(?:because|since)\b",
    re.IGNORECASE,
)
_TRAILING = re.compile(r"(?<=[.,:;!])\s{1,8}[(\[]?([A-Z])[)\]]?[.!]?\s{0,8}\Z")
_INLINE = re.compile(r"(?<!\w)[(\[]([A-Z])[)\]](?!\w)|\b[Oo]ption[ \t]{1,4}[(\[]?([A-Z])(?![\w'])")
_BARE = re.compile(r"(?<![\w'])(?![AI][ \t]+[a-z])([A-Z])(?![\w'])")
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_SENTENCE_END = re.compile(r"[.!?;\n]")
_NEGATIONS = frozenset(("not", "never", "neither", "nor", "cannot", "without", "instead", "rather", "excluding"))
_QUOTES = str.maketrans({"\u2019": "'", "\u2018": "'", "\u201c": '"', "\u201d": '"', "\u02bc": "'"})
_TAIL = 24
"""Characters at the end that hold a letter on its own."""
_REACH = 3
"""Words before a mention in which a negation undoes it."""


def _robust(answer: str | None, options: Sequence[str]) -> Match:
    """Whole answer, then what follows the last "answer is", then everything that is named anywhere."""
    whole = _same(answer.strip(), options) if answer else []
    if len(whole) == 1 and _letter_index(answer or "", len(options)) in (None, whole[0]):
        return Match(whole[0], "text")
    text = _readable(answer or "")
    found = _lettered_line(text, options)
    if found is None:
        cued = _after_cue(text)
        found = _named(cued, options, bare=True) if cued else _reasoned(text, len(options))
    return _named(text, options, bare=False) if found.kind == "mismatch" else found


def without_reasoning(text: str) -> str:
    """The text without blocks of reasoning; a block never closed runs to the end, one never opened began at the start."""
    kept, inside, start = list[str](), False, 0
    for tag in _REASONING.finditer(text):
        closes = "/" in (tag[1], tag[2])
        if closes and not inside:
            kept.clear()
        elif not inside:
            kept.append(text[start : tag.start()])
        inside, start = not closes, tag.end()
    return "".join(kept) + ("" if inside else text[start:])


def _readable(answer: str) -> str:
    """Without reasoning, markup and invisible characters, wide and styled letters as plain ones; its last ``MAX_READ`` characters."""
    text = unicodedata.normalize("NFKC", without_reasoning(answer)[-MAX_READ:]).translate(_QUOTES)[-MAX_READ:]
    text = "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cf", "Cc"))
    return _MARKUP.sub("", text).strip()


def _forms(text: str) -> tuple[str, str, str]:
    """The text as it is, without differences of case, blanks and form, and as its words."""
    folded = " ".join(unicodedata.normalize("NFKC", text).translate(_QUOTES).casefold().split()).rstrip(" .")
    return text.strip(), folded, " ".join(_WORD.findall(folded))


_option_forms = functools.lru_cache(maxsize=65536)(_forms)


def _same(said: str, options: Sequence[str]) -> list[int]:
    """Options that are this text: to the letter, else but for case, blanks and form, else word by word."""
    for level, wanted in enumerate(_forms(said[:MAX_READ])):
        found = [i for i, option in enumerate(options) if wanted and _option_forms(option)[level] == wanted]
        if found:
            return found
    return []


def _letter_index(text: str, count: int) -> int | None:
    """Place of the letter that the text is, as in "B" or "(b)."."""
    found = _LEADING.match(text.strip())
    return _place(found[1], count) if found and not text.strip()[found.end() :] else None


def _place(letter: str, count: int) -> int | None:
    index = ascii_uppercase.find(letter.upper())
    return index if 0 <= index < count else None


def _lettered_line(text: str, options: Sequence[str]) -> Match | None:
    """The answer as a line of the list: letter, mark, and an option's text, nothing else; or the letter last. None where it is anything else."""
    leading, trailing = _LEADING.match(text), _TRAILING.search(text[-_TAIL:])
    parts = [(leading, text[leading.end() :])] if leading else []
    parts += [(trailing, text[: len(text) - len(trailing[0])])] if trailing else []
    for found, rest in parts:
        index, same = _place(found[1], len(options)), _same(rest, options)
        if index is not None and same:
            return Match(index, "both") if index in same else Match(None, "conflict")
    return None


def _reasoned(text: str, count: int) -> Match:
    """The letter at the beginning of an answer that goes on with a reason, whatever the reason names."""
    found = _REASONED.match(text)
    index = _place(found[1], count) if found else None
    return _NOTHING if index is None else Match(index, "letter")


def _after_cue(text: str) -> str:
    """The line that follows the last announcement of an answer."""
    last = next(iter(deque(_CUE.finditer(text), maxlen=1)), None)
    return text[last.end() :].lstrip(" \t\n\r:=({[\"'").partition("\n")[0] if last else ""


def _named(text: str, options: Sequence[str], *, bare: bool) -> Match:
    """What the text names by letters and by texts of options. ``bare``: a capital on its own counts as a letter."""
    letters = {index for index in _letters(text, len(options), bare) if index is not None}
    texts = set(_mentioned(text, options))
    if not letters and not texts:
        return _NOTHING
    if len(letters | texts) == 1:
        (index,) = letters | texts
        return Match(index, "both" if letters and texts else "letter" if letters else "text")
    return Match(None, "conflict" if len(letters) == 1 and len(texts) == 1 else "ambiguous")


def _letters(text: str, count: int, bare: bool) -> Iterator[int | None]:
    for pattern in (_LEADING, _INLINE, *([_BARE] if bare else [])):
        for found in pattern.finditer(text):
            group = found.lastindex or 1
            if not _negated(text, found.start(group)):
                yield _place(found[group], count)


def _mentioned(text: str, options: Sequence[str]) -> Iterator[int]:
    """Options whose words stand in the text in order; a mention inside a longer one, or after a negation, is none."""
    lowered = text.casefold()
    words = [(word.group(), word.start()) for word in _WORD.finditer(lowered)]
    joined = f" {' '.join(word for word, _ in words)} "
    offsets, position = [], 0
    for word, _ in words:
        offsets.append(position)
        position += len(word) + 1
    origins = [start for _, start in words]
    for needle in sorted({_option_forms(option)[2] for option in options} - {""}, key=len, reverse=True):
        joined, places = _taken(joined, f" {needle} ")
        if any(not _negated(lowered, origins[bisect_left(offsets, place)]) for place in places):
            yield from (i for i, option in enumerate(options) if _option_forms(option)[2] == needle)


def _taken(joined: str, needle: str) -> tuple[str, list[int]]:
    """Where the needle stands, and the text with those words blanked, so that shorter options are not found inside."""
    places, start = [], joined.find(needle)
    while start >= 0:
        places.append(start)
        start = joined.find(needle, start + len(needle) - 1)
    return (joined.replace(needle, f" {chr(0) * (len(needle) - 2)} ") if places else joined), places


def _negated(text: str, place: int) -> bool:
    """Whether one of the few words before ``place`` in its sentence takes back what is named there."""
    before = _SENTENCE_END.split(text[max(0, place - 48) : place])[-1]
    words = _WORD.findall(before.casefold())[-_REACH:]
    return any(word in _NEGATIONS or word.endswith("n't") for word in words)
