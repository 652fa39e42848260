"""Artifacts of samples and episodes for the tests of scoring: records of ``material``, played by scripted policies or by hand."""

from results.tables import arrow_table
from runner.artifacts.proactive import ProactiveEpisodes, ProactiveSamples
from runner.nodes.proactive.env import Outcome
from runner.nodes.proactive.episodes import Episode, Turn, play
from runner.nodes.proactive.exact import uniform_value
from runner.nodes.proactive.matching import Match, verdicts_of
from runner.nodes.proactive.policies import scripted
from runner.nodes.proactive.records import SCENARIOS
from runner.nodes.proactive.rows import episode_rows
from runner.nodes.proactive.samples import cases_of, sample_row
from tests.nodes.proactive.material import record


def samples(scenarios=SCENARIOS, count=4, n=5, drawn_with=lambda i: None):
    """``count`` samples a scenario with ``n`` frames."""
    rows = [
        sample_row(record(name, i, n), source_id="album", drawn_with=drawn_with(i))
        for name in scenarios
        for i in range(count)
    ]
    return ProactiveSamples({"name": "made"}, [], arrow_table("pb_samples", rows))


def artifact(label, mode, episodes, judgements=(), identity=None, **settings):
    """Episodes as a step returns them."""
    rows = episode_rows(label, mode, settings, episodes)
    return ProactiveEpisodes(
        {"name": label, "identity": identity or label, "kind": "scripted"}, label, {"mode": mode, **settings},
        arrow_table("pb_episodes", rows["pb_episodes"]), arrow_table("pb_turns", rows["pb_turns"]),
        arrow_table("pb_judgements", [{"model": label} | row for row in judgements]),
    )  # fmt: skip


def played(of, name, *, label=None, draws=1, k=None, mode="mcqa", options="native", **told):
    """A scripted policy on all samples."""
    cases = cases_of(of, mode=mode, options=options)
    episodes = play(cases, scripted(name, k=k), draws=draws)
    return artifact(label or name, mode, episodes, options=options, **told)


def exact_uniform(of, label="exact uniform"):
    """Uniform guessing as an exact evaluation: expected values, and probabilities on the way."""
    episodes = []
    for case in cases_of(of):
        env = case.env
        shown = [(state, env.shown(state)) for state in env.ask_path()]
        turns = tuple(
            Turn(s, env.frame(s), options, None, None, probabilities=(1 / len(options),) * len(options))
            for s, options in shown
        )
        episodes.append(Episode(case, 0, turns, None, False, "ok", expected=uniform_value(env)))
    return artifact(label, "exact", episodes)


def on_every_frame(of, asks, knows, label="frames"):
    """Mode ``frames``: asks at a place where ``asks(place)``, else names what ``knows(place)`` lets it name, right or wrong."""
    return artifact(label, "frames", [_frames(case, asks, knows) for case in cases_of(of)])


def _frames(case, asks, knows):
    env, turns = case.env, []
    for state in env.ask_path():
        place = env.place(state)
        named = _category(case.record, env.shown(state), knows(place))
        request = next((i for i, option in enumerate(env.shown(state)) if option.kind == "ask"), named)
        forced = env.shown(state, forced=True)
        chosen = [
            (False, env.shown(state), request if asks(place) else named),
            (True, forced, _category(case.record, forced, knows(place))),
        ]
        for compelled, shown, index in chosen:
            outcome = judged(env, state, shown, index)
            turns.append(Turn(state, env.frame(state), shown, shown[index].text, outcome, forced=compelled))
    return Episode(case, 0, tuple(turns), None, bool(turns[-1].outcome.success), "ok")


def _category(of, shown, right):
    return next(i for i, option in enumerate(shown) if option.kind == "category" and (option.text == of.answer) == right)  # fmt: skip


def judged(env, state, shown, index):
    """The outcome of choosing an option, of forced categories too."""
    if shown == env.shown(state):
        return env.advance(state, index)
    found = verdicts_of(Match(index, "constrained"), shown)
    success = found.category == "correct"
    return Outcome(found.match, found.action, found.category, None, None, "success" if success else "wrong_category", success, True, False)  # fmt: skip


def values(scores, label, mode="mcqa", scenario="macro", column="value"):
    """Metric -> value of one model and scenario."""
    rows = scores.metrics.to_pylist()
    return {r["metric"]: r[column] for r in rows if (r["model"], r["mode"], r["scenario"]) == (label, mode, scenario)}
