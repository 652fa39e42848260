"""Episodes as strips of pictures: what was shown, said and chosen turn by turn, and how it ended."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from results.report.page import Part, Request, Section
from results.report.scoreboard import pictured
from results.report.sections.proactive import scenario_place
from results.report.sections.vqa import grouped
from results.sweeps import VARIANTS, Sweep

if TYPE_CHECKING:
    from results.store import Reader

Row = dict[str, Any]

TABLES = frozenset(["pb_turns"])
MOST_STRIPS = 48
MOST_TURNS = 8
ENDS = {
    "wrong_category": "named the wrong category", "abstain": "said that it cannot tell", "invalid_ask": "asked for what does not help",
    "unreadable": "said nothing of what was shown", "exhausted": "used up all turns", "error": "failed", "success": "named the right category",
}  # fmt: skip
"""Endings, failures first: in this order they are shown."""
KINDS = {
    "ask_valid": "asks for what helps", "ask_invalid": "asks for what does not help", "abstain": "abstains", "category_true": "right category",
    "category_false": "wrong category",
}  # fmt: skip
ACTIONS = {"left": "moved left", "right": "moved right", "rewind": "rewound", "wait": "waited", "next": "next picture", "up": "moved up", "down": "moved down", "farther": "moved farther"}  # fmt: skip

# Of each model, mode and scenario first one episode of every ending, failures before successes; then every model's first before any second one.
CHOSEN = """
WITH pictured AS (
    SELECT run_id, variant, step, model, episode_id, count(thumbnail) AS pictures FROM pb_turns WHERE run_id = $run GROUP BY ALL
), ended AS (
    SELECT e.*, coalesce(p.pictures, 0) > 0 AS seen, list_position($ends::VARCHAR[], e.stop_reason) AS kind
    FROM pb_episodes e
    LEFT JOIN pictured p USING (run_id, variant, step, model, episode_id)
    WHERE e.run_id = $run AND e.mode NOT IN ('frames', 'exact', 'reference', 'oeg')
), ranked AS (
    SELECT *, row_number() OVER (PARTITION BY variant, step, model, mode, scenario, kind ORDER BY seen DESC, hash(sample_id), draw) AS again
    FROM ended
), placed AS (
    SELECT *, row_number() OVER (PARTITION BY variant, step, model, mode, scenario ORDER BY again, NOT seen, kind, hash(sample_id), draw) AS place FROM ranked
)
SELECT variant, step, model, mode, scenario, sample_id, draw, episode_id, stop_reason, kind, status, failure, interventions::BIGINT AS met, place
FROM placed
WHERE place <= $each
ORDER BY place, variant, scenario, step, model
LIMIT $most
"""
TURNS = """
SELECT t.variant, t.step, t.model, t.episode_id, t.turn, t.frame, t.said, t.chose, t.matched_kind, t.action, t.next_frame, t.question, t.truth, p.thumbnail,
       count(*) OVER (PARTITION BY t.variant, t.step, t.model, t.episode_id) AS turns
FROM proactive_turns_read t
JOIN pb_turns p USING (run_id, variant, step, model, episode_id, turn, forced)
WHERE run_id = $run AND NOT t.forced AND list_contains($chosen::VARCHAR[], concat_ws(chr(31), t.variant, t.step, t.model, t.episode_id))
QUALIFY row_number() OVER (PARTITION BY t.variant, t.step, t.model, t.episode_id ORDER BY t.turn) < $most OR t.turn = max(t.turn) OVER (PARTITION BY t.variant, t.step, t.model, t.episode_id)
ORDER BY t.variant, t.step, t.model, t.episode_id, t.turn
"""
COUNTS = """
SELECT stop_reason, count(*) AS episodes FROM pb_episodes
WHERE run_id = $run AND mode NOT IN ('frames', 'exact', 'reference', 'oeg') GROUP BY ALL
"""


@dataclass(frozen=True)
class Found:
    """Chosen episodes, their turns, and how many ended in each way."""

    sweep: Sweep
    chosen: list[Row]
    turns: list[Row]
    counts: list[Row]


def collect(read: Reader, request: Request) -> Found | None:
    """The rows, or None where no episode was played turn by turn."""
    of_run: dict[str, Any] = {"run": request.run_id}
    each = max(1, request.examples // 2)
    chosen = read(CHOSEN, {**of_run, "ends": list(ENDS), "each": each, "most": MOST_STRIPS}).to_pylist()
    if not chosen:
        return None
    names = ["\x1f".join(_key(row)) for row in chosen]
    turns = read(TURNS, {**of_run, "chosen": names, "most": MOST_TURNS}).to_pylist()
    sweep = Sweep.of(read(VARIANTS, of_run).to_pylist())
    return Found(sweep, chosen, turns, read(COUNTS, of_run).to_pylist())


def parts(found: Found) -> list[Part]:
    """One part, scenario by scenario."""
    counts = {r["stop_reason"]: r["episodes"] for r in found.counts}
    variables = {
        "scenarios": list(scenarios(found)), "ends": ENDS, "kinds": KINDS, "actions": ACTIONS, "most_turns": MOST_TURNS, "shown": len(found.chosen),
        "of": sum(counts.values()), "counts": [(words, counts[kind]) for kind, words in ENDS.items() if kind in counts],
    }  # fmt: skip
    return [Part("proactive-episodes", "Episodes", "proactive_episodes.html.jinja", variables)]


def scenarios(found: Found) -> Iterator[Row]:
    """Strips by scenario, models side by side; episodes that are the same in several variants stand once."""
    turns: dict[tuple[str, ...], list[Row]] = {}
    for row in found.turns:
        turns.setdefault(_key(row), []).append(pictured(row))
    told = [{**row, "turns": turns.get(_key(row), [])} for row in found.chosen]
    once = found.sweep.once(told, ("step", "model", "episode_id"))
    order = sorted(once, key=lambda r: (scenario_place(r["scenario"]), r["model"], r["mode"], r["place"], r["setting"]))
    for place, own in grouped(order, ("scenario",)):
        yield {**place, "strips": [strip(row) for row in own], "repeated": _repeated(own)}


def strip(row: Row) -> Row:
    """One episode with what all its turns share; ``gaps``: turns before which some are left out, with how many."""
    turns = row["turns"]
    first = turns[0] if turns else {}
    gaps = {b["turn"]: b["turn"] - a["turn"] - 1 for a, b in pairwise(turns) if b["turn"] > a["turn"] + 1}  # fmt: skip
    return {**row, "question": first.get("question"), "truth": first.get("truth"), "gaps": gaps, "pictures": any(t["data"] for t in turns)}  # fmt: skip


def _repeated(rows: Iterable[Row]) -> bool:
    """Whether a model stands there in several steps, so that the step must be told."""
    who = {(r["model"], r["step"]) for r in rows}
    return len({model for model, _ in who}) < len(who)


def _key(row: Row) -> tuple[str, ...]:
    return row["variant"], row["step"], row["model"], row["episode_id"]


SECTIONS = (Section("proactive episodes", TABLES, collect, parts),)
