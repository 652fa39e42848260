"""Every class of error as a pair of files: a spec that is wrong, and exactly what is said about it.

Lines `# --set k=20` at the top of a spec are given as overrides. `REWRITE_GOLDEN=1 pytest tests/spec/test_error_texts.py`
writes the texts anew; read the difference before committing it.
"""

import os
from pathlib import Path

import pytest
from spec_vocabulary import PROVIDERS, STEPS

from runner.errors import SpecError
from runner.spec import compile_text, problems_json, render_problems

FOLDER = Path(__file__).parents[1] / "golden" / "spec_errors"
CASES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def refusal(name: str) -> SpecError:
    text = (FOLDER / f"{name}.yaml").read_text("utf8")
    overrides = [line.removeprefix("# --set ") for line in text.splitlines() if line.startswith("# --set ")]
    with pytest.raises(SpecError) as caught:
        compile_text(text, f"{name}.yaml", FOLDER, overrides, steps=STEPS, providers=PROVIDERS)
    return caught.value


@pytest.mark.parametrize("name", CASES)
def test_the_text_is_the_golden_one(name: str) -> None:
    said = render_problems(refusal(name)) + "\n"
    golden = FOLDER / f"{name}.txt"
    if os.environ.get("REWRITE_GOLDEN"):
        golden.write_text(said, "utf8")
    assert said == golden.read_text("utf8")


@pytest.mark.parametrize("name", CASES)
def test_every_problem_is_placed_inside_the_text_and_free_of_jargon(name: str) -> None:
    error = refusal(name)
    lines = (FOLDER / f"{name}.yaml").read_text("utf8").split("\n")
    assert error.exit_code == 2
    assert error.problems == sorted(error.problems, key=lambda p: p.position)
    for problem in error.problems:
        assert problem.position.file in (f"{name}.yaml", "--set")
        if problem.position.file != "--set":
            assert 1 <= problem.position.column <= len(lines[problem.position.line - 1]) + 1
        assert not any(word in problem.message for word in ("Input should", "pydantic", "None", "\0", "dict", "str "))


def test_no_text_without_its_spec() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.txt")) == CASES


def test_json_tells_the_same() -> None:
    error = refusal("many_at_once")
    said = problems_json(error)
    assert [p["message"] for p in said] == [p.message for p in error.problems]
    assert said[0] == {
        "code": "unknown-field",
        "message": 'unknown field "descripton"',
        "file": "many_at_once.yaml",
        "line": 2,
        "column": 1,
        "path": ["descripton"],
        "suggestion": "description",
        "allowed": "name, description, profile, params, sweep, seed, models, steps, results, budget, fail_on",
    }


def test_color_only_adds_escapes() -> None:
    import re

    error = refusal("many_at_once")
    colored = render_problems(error, color=True)
    assert "\x1b[" in colored
    assert re.sub(r"\x1b\[\d*m", "", colored) == render_problems(error)


def test_a_flood_of_problems_is_cut_but_counted() -> None:
    steps = "".join(f"  s{n}: {{uses: t.nothing}}\n" for n in range(150))
    with pytest.raises(SpecError) as caught:
        compile_text(f"name: n\nsteps:\n{steps}", "flood.yaml", FOLDER, steps=STEPS, providers=PROVIDERS)
    said = render_problems(caught.value)
    assert said.count("flood.yaml:") == 100
    assert said.endswith("... and 50 more\n\n150 problems")
    assert len(problems_json(caught.value)) == 150
