"""``runner play``: a person in the place of the model, or of its user, in the proactive episodes of a spec.

``play_spec`` writes the spec that is played: what makes the samples, a step ``proactive.play`` and the scores. ``play`` runs it, asks
what it waits for at the terminal, and goes on until nothing waits. Whoever leaves early goes on later by the same command.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from runner.errors import EXIT_WAITING, UsageError

if TYPE_CHECKING:
    from runner.graph import RunOutcome
    from runner.spec import CompiledSpec

Show = Literal["viewer", "terminal", "path"]
Question = Mapping[str, Any]

STEP = "proactive.play"
_KEPT = ("params", "models", "profile", "seed", "budget", "results")
_PLAYING = ("proactive.evaluate", "proactive.open", "proactive.exact", "proactive.scripted", "proactive.score")
_PLAYED, _SCORED = "played", "played_scores"


@dataclass(frozen=True)
class PlayRequest:
    """What the user said. ``role``: whose place the person takes; ``model``: name in the spec of the chat model beside a person who is
    the user; ``episodes``: of each scenario; ``scenarios``: none = all that the samples hold."""

    role: Literal["model", "user"] = "model"
    model: str | None = None
    episodes: int = 2
    scenarios: tuple[str, ...] = ()
    hint: bool = False


# --- the spec that is played -----------------------------------------------------------------------------------------


def play_spec(text: str, file: str, request: PlayRequest) -> str:
    """The spec to play. One that has a step ``proactive.play`` is played as it is.

    Raises ``UsageError`` where no step of the spec takes proactive samples, or a model is wanted that it does not have.
    """
    from runner.spec.source import Source
    from runner.spec.yaml12 import read

    spec = read(Source(file, text)).value()
    steps: dict[str, Any] = spec.get("steps") or {}
    if any(step.get("uses") == STEP for step in steps.values()):
        return text
    samples = _samples(steps, file)
    played: dict[str, Any] = {"uses": STEP, "samples": samples, "role": request.role, "limit": request.episodes}
    if request.scenarios:
        played["scenarios"] = list(request.scenarios)
    if request.hint:
        played["hint"] = True
    if request.role == "user":
        name = _model(spec.get("models") or {}, steps, request.model)
        played |= {"model": f"${name}", "label": f"{name}, helped by a person"[:80]}
    wanted = {
        _PLAYED: played,
        _SCORED: {"uses": "proactive.score", "samples": samples, "episodes": [f"${_PLAYED}"]},
    }
    needed = _needed(wanted, spec)
    made = {"name": f"{spec.get('name', 'proactive')}-play", **{k: spec[k] for k in _KEPT if k in spec}}
    made["models"] = {name: model for name, model in (spec.get("models") or {}).items() if name in needed}
    made["steps"] = {**{name: step for name, step in steps.items() if name in needed}, **wanted}
    if not made["models"]:
        del made["models"]
    made["params"] = {k: v for k, v in (made.get("params") or {}).items() if k in _params(made)}
    if not made["params"]:
        del made["params"]
    return yaml.safe_dump(made, sort_keys=False, allow_unicode=True)


def _samples(steps: Mapping[str, Any], file: str) -> str:
    """The reference to what models of the spec play."""
    for uses in _PLAYING:
        for step in steps.values():
            if step.get("uses") == uses and "samples" in step:
                return str(step["samples"])
    raise UsageError(f"{file}: no step plays proactive episodes", hint="play specs/proactive.yaml")


def _model(models: Mapping[str, Any], steps: Mapping[str, Any], wanted: str | None) -> str:
    if wanted is not None:
        if wanted not in models:
            raise UsageError(f"--model {wanted}: the spec has no such model; it has {', '.join(models) or 'none'}")
        return wanted
    asked = ("proactive.open", "proactive.evaluate")
    found = [str(s["model"]).lstrip("$") for uses in asked for s in steps.values() if s.get("uses") == uses]
    if not found:
        raise UsageError("no model of the spec plays: a person who is the user needs one", hint="name it: --model NAME")
    return found[0]


def _needed(wanted: Any, spec: Mapping[str, Any]) -> set[str]:
    """Names of the models and steps that are referred to, directly or through others."""
    known = {**(spec.get("models") or {}), **(spec.get("steps") or {})}
    needed: set[str] = set()
    waiting = list(_references(wanted))
    while waiting:
        name = waiting.pop()
        if name in known and name not in needed:
            needed.add(name)
            waiting += _references(known[name])
    return needed


def _references(value: Any) -> Iterable[str]:
    if isinstance(value, str) and value.startswith("$"):
        yield value[1:].split(".")[0]
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


def _params(value: Any) -> set[str]:
    """Names of the params that are used anywhere below."""
    if isinstance(value, str):
        return {value.removeprefix("$params.")} if value.startswith("$params.") else set()
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return set[str]().union(*(_params(one) for one in inner))


def fitting(overrides: Iterable[str], text: str) -> list[str]:
    """The overrides (``k=20``) whose params the spec to play still has."""
    known = _params(yaml.safe_load(text))
    return [one for one in overrides if one.partition("=")[0].strip() in known]


# --- the conversation ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Terminal:
    """Where a person is asked. ``say`` prints a line, ``ask`` reads one (None: the person leaves), ``picture`` shows a file."""

    say: Callable[[str], None]
    ask: Callable[[], str | None]
    picture: Callable[[Path], None]


def play(spec: CompiledSpec, terminal: Terminal) -> RunOutcome:
    """Run the spec, asking at the terminal whatever it waits for; the last outcome, still waiting where the person left."""
    from runner.graph import Workspace, resume_run, run_spec
    from runner.graph.progress import Quiet

    workspace = Workspace(spec.results.parent).create()
    try:
        outcome = run_spec(spec, workspace)
        while outcome.exit_code == EXIT_WAITING:
            answers = _answers(outcome, terminal)
            if answers is None:
                terminal.say("what was said is kept: the same command goes on")
                return outcome
            outcome = resume_run(workspace, outcome.run_id, answers, sink=Quiet())
        return outcome
    finally:
        workspace.close()


def _answers(outcome: RunOutcome, terminal: Terminal) -> Any:
    """The answer, or one by step where several ask; None where the person leaves."""
    found: dict[str, str] = {}
    for asked in outcome.questions:
        answer = put(asked["question"], terminal)
        if answer is None:
            return None
        label = f"{asked['step']} [{asked['variant']}]" if asked["variant"] else asked["step"]
        found[label] = answer
    return found if len(found) > 1 else next(iter(found.values()))


def put(question: Question, terminal: Terminal) -> str | None:
    """Show one turn and read what the person says; None where they leave."""
    if question.get("kind") != "proactive.turn":
        raise UsageError("the run waits for another kind of answer", hint="see `runner status` and `runner resume`")
    for line in _told(question):
        terminal.say(line)
    if question.get("problem"):
        terminal.say(f"  ! {question['problem']}")
    else:
        terminal.picture(Path(question["picture"]))
    for line in _shown(question):
        terminal.say(line)
    return terminal.ask()


def _told(question: Question) -> Iterable[str]:
    """How the episode before ended, and where this one stands."""
    last = question.get("last")
    if last and not question.get("problem"):
        yield f"{'right' if last['success'] else 'not right'}: it was {last['answer']} ({last['stop_reason']})"
        yield ""
    yield (
        f"--- {question['scenario']}, episode {question['episode']} of {question['of']}, turn {question['turn']} "
        f"of at most {question['max_turns']}"
    )
    yield from (f"    before: {line}" for line in question["said"])


def _shown(question: Question) -> Iterable[str]:
    yield question["text"]
    if question["role"] == "user":
        yield f"  the model says: {question['answer']}"
        yield "What do you do?"
    yield from (f"  {choice['key']}. {choice['text']}" for choice in question["choices"])


def terminal(show: Show | None) -> Terminal:
    """The person at this process' terminal. ``show``: where pictures appear; None: the viewer where there is a desktop."""
    import typer

    from runner.shown import shown

    def ask() -> str | None:
        try:
            typed = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            return None
        return None if typed.casefold() in {"q", "quit"} else typed

    where = show or ("viewer" if _has_desktop() else "terminal")

    def picture(path: Path) -> None:
        typer.echo(f"[picture: {path}]")
        if where == "viewer":
            typer.launch(str(path))
        elif where == "terminal":
            from runner.shown_pictures import print_picture

            print_picture(path)

    return Terminal(lambda line: typer.echo(shown(line)), ask, picture)


def _has_desktop() -> bool:
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
