"""Specs made at random: sound ones compile, spoilt ones say where, and nothing ever ends in a traceback."""

import json
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spec_vocabulary import PROVIDERS, STEPS

from runner.errors import SpecError
from runner.spec import CompiledSpec, compile_text, problems_json, render_problems

NAMES = st.from_regex(r"[a-z][a-z0-9_-]{0,6}", fullmatch=True).filter(lambda name: name != "params")


@dataclass(frozen=True)
class Line:
    """One line of a spec: ``fields`` of an entry, written in flow style."""

    section: str
    name: str
    fields: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return f"  {self.name}: {{{', '.join(f'{key}: {value}' for key, value in self.fields)}}}"


@st.composite
def sound_specs(draw: st.DrawFn) -> list[Line]:
    """Models and a random acyclic graph of steps, each line valid, written in random order."""
    names = iter(draw(st.lists(NAMES, min_size=14, max_size=14, unique=True)))
    llm, clip, subject = next(names), next(names), next(names)
    lines = [
        Line("models", llm, (("provider", "chat"), ("model", "q"), ("temperature", draw(st.sampled_from(["0", "0.5", "1e-3"]))))),
        Line("models", clip, (("provider", "clip"), ("name", "x"))),
        Line("models", subject, (("provider", "zero_shot"), ("encoder", f"${clip}"))),
    ]  # fmt: skip
    steps: list[tuple[str, str]] = []

    def of(kind: str) -> str:
        return draw(st.sampled_from([name for name, uses in steps if uses in kind.split()]))

    def add(uses: str, *fields: tuple[str, str]) -> None:
        name = next(names)
        lines.append(Line("steps", name, (("uses", uses), *fields)))
        steps.append((name, uses))

    add("t.propose", ("llm", f"${llm}"), ("task", '"what is it"'), ("classes", "[cat, dog]"))
    add("t.caption", ("ideas", f"${of('t.propose')}"))
    add("t.search", ("encoder", f"${clip}"), ("queries", f"${of('t.caption')}"), ("k", str(draw(st.integers(1, 1000)))))
    add("t.judge", ("classifier", f"${subject}"), ("images", f"${of('t.search')}"))
    for uses in draw(st.lists(st.sampled_from(("t.few", "t.judge", "t.compare", "t.search")), max_size=7)):
        if uses == "t.few":
            add(uses, ("images", f"${of('t.search t.few')}"))
        elif uses == "t.judge":
            add(uses, ("classifier", f"${subject}"), ("table", f"${of('t.caption t.judge t.search')}.captions"))
        elif uses == "t.compare":
            add(uses, ("parts", f"[${of('t.caption t.judge')}, ${of('t.judge t.compare')}]"))
        else:
            add(uses, ("encoder", f"${clip}"), ("queries", f"${of('t.propose')}.targets"), ("rate", "0.25"))
    return draw(st.permutations(lines))


def written(lines: list[Line]) -> tuple[str, dict[str, int]]:
    """The spec's text and the line of each entry."""
    rows, places = ["name: generated"], {}
    for section in ("models", "steps"):
        rows.append(f"{section}:")
        for line in (line for line in lines if line.section == section):
            rows.append(str(line))
            places[line.name] = len(rows)
    return "\n".join(rows) + "\n", places


def compiled(text: str) -> CompiledSpec:
    return compile_text(text, "spec.yaml", "/nowhere", steps=STEPS, providers=PROVIDERS)


@given(sound_specs())
@settings(deadline=None)
def test_a_sound_spec_compiles_in_an_order_that_respects_every_reference(lines: list[Line]) -> None:
    (variant,) = compiled(written(lines)[0]).variants
    order = list(variant.steps)
    assert sorted(order) == sorted(line.name for line in lines if line.section == "steps")
    for node in variant.steps.values():
        assert all(order.index(other) < order.index(node.name) for other in node.depends_on)
        named = [r for r in node.references.values() if not isinstance(r, (tuple, dict)) and r.kind == "step"]
        assert {r.name for r in named} <= set(node.depends_on)


def _misspelt_field(fields: list[list[str]], index: int) -> None:
    fields[index][0] += "x"


def _wrong_value(fields: list[list[str]], index: int) -> None:
    fields[index][1] = "{strange: [thing]}"


def _dangling(fields: list[list[str]], index: int) -> None:
    fields[index][1] = "$no-such-name-anywhere"


def _extra(fields: list[list[str]], index: int) -> None:
    fields.insert(index, ["zzz", "1"])


def _missing(fields: list[list[str]], index: int) -> None:
    del fields[0]


SPOILERS = (_misspelt_field, _wrong_value, _dangling, _extra, _missing)


@given(sound_specs(), st.data())
@settings(deadline=None)
def test_a_spoilt_line_is_named(lines: list[Line], data: st.DataObject) -> None:
    spoilt = data.draw(st.integers(0, len(lines) - 1))
    fields = [list(pair) for pair in lines[spoilt].fields]
    data.draw(st.sampled_from(SPOILERS))(fields, data.draw(st.integers(0, len(fields) - 1)))
    line = Line(lines[spoilt].section, lines[spoilt].name, tuple((key, value) for key, value in fields))
    text, places = written([*lines[:spoilt], line, *lines[spoilt + 1 :]])
    with pytest.raises(SpecError) as caught:
        compiled(text)
    assert places[line.name] in {problem.position.line for problem in caught.value.problems}


def _only_spec_errors(text: str, overrides: tuple[str, ...] = ()) -> None:
    try:
        compile_text(text, "spec.yaml", "/nowhere", overrides, steps=STEPS, providers=PROVIDERS)
    except SpecError as error:
        assert error.problems
        assert all(problem.position.line >= 1 and problem.position.column >= 1 for problem in error.problems)
        render_problems(error)
        json.dumps(problems_json(error))


SNIPPETS = st.sampled_from(
    ["name: a", "models:", "steps:", "params:", "sweep:", "seed: 1", "  ", "- ", "a: ", "{", "}", "[", "]", ",", ": ", "\n",
     "$a", "$params.a", "$$", "&a ", "*a", "<<: ", "uses: t.few", "provider: chat", "images: ", "!!int ", "'", '"', "#", "|",
     ">", "\t", "\0", "\ud800", "~", "1e-4", "---\n", "...\n", "%YAML 1.2\n", "? ", "\u2028", "\ufeff"]
)  # fmt: skip


@given(st.text(max_size=80) | st.lists(SNIPPETS, max_size=25).map("".join))
@settings(max_examples=300, deadline=None)
def test_any_text_compiles_or_is_refused(text: str) -> None:
    _only_spec_errors(text)


VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats()
    | st.sampled_from(["$a", "$b.c", "$params.p", "$params", "$", "$$x", "t.few", "chat", "x", "", "~nobody/x", "$params.p.q"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["a", "b", "p", "uses", "provider", "images", "kind", "corpus", "parts", "seed"]), inner, max_size=4),
    max_leaves=10,
)  # fmt: skip
TOP = [
    "name",
    "description",
    "profile",
    "params",
    "sweep",
    "seed",
    "models",
    "steps",
    "results",
    "budget",
    "fail_on",
    "other",
]


@given(
    st.dictionaries(st.sampled_from(TOP), VALUES),
    st.lists(st.sampled_from(["a=1", "seed=x", "p=[", "p", "=", "p={a: $b}"])),
)
@settings(max_examples=300, deadline=None)
def test_any_document_of_the_right_words_compiles_or_is_refused(document: dict[str, Any], overrides: list[str]) -> None:
    _only_spec_errors(json.dumps(document).replace("NaN", ".nan").replace("Infinity", ".inf"), tuple(overrides))


@given(sound_specs(), st.data())
@settings(deadline=None)
def test_a_sound_spec_with_characters_changed_compiles_or_is_refused(lines: list[Line], data: st.DataObject) -> None:
    text = written(lines)[0]
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        text = (
            text[:at]
            + data.draw(st.sampled_from(list("$.:,[]{}&*!|>'\"#@%\t\n x0-~")))
            + text[at + data.draw(st.integers(0, 2)) :]
        )
    _only_spec_errors(text)
