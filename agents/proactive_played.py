"""Episodes that a person played, as an artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from results.tables import arrow_table
from runner.artifacts.proactive import ProactiveEpisodes
from runner.nodes.proactive.rows import episode_id, episode_rows

if TYPE_CHECKING:
    from runner.models.base import ChatModel
    from runner.nodes.proactive.episodes import Episode, Turn

PERSON = "person"


def artifact(
    episodes: Sequence[Episode], model: ChatModel | None, label: str | None, settings: Mapping[str, Any]
) -> ProactiveEpisodes:
    """Rows of a person's episodes (mode ``person``), or of a model's whose user a person was (mode ``oeg_multiturn``, judged by them)."""
    mode = PERSON if model is None else "oeg_multiturn"
    name = label or (PERSON if model is None else model.name[:80])
    told = {"hint": settings["hint"], "match": "robust" if model is None else "judge"}
    rows = episode_rows(name, mode, told, episodes)
    judged = [] if model is None else [_judgement(name, e, t) for e in episodes for t in e.turns]
    about = {
        "name": name, "identity": PERSON if model is None else model.name, "kind": PERSON if model is None else "chat", "small": False,
        "notes": [] if model is None else ["a person was the user and said what the answers come down to"],
    }  # fmt: skip
    return ProactiveEpisodes(
        about, name, {**settings, "mode": mode, "match": told["match"]},
        arrow_table("pb_episodes", rows["pb_episodes"]), arrow_table("pb_turns", rows["pb_turns"]), arrow_table("pb_judgements", judged),
    )  # fmt: skip


def _judgement(label: str, episode: Episode, turn: Turn) -> dict[str, Any]:
    """What the person read in an answer: a request that helps, or the right name."""
    assert turn.outcome is not None
    bits = [int(turn.outcome.action_verdict == "correct"), int(turn.outcome.category_verdict == "correct")]
    refs = ["a request that helps", episode.case.record.answer.rstrip(".")]
    return {
        "model": label, "episode_id": episode_id(episode, False), "turn": turn.state.turn + 1, "refs": refs, "n_proactive": 1,
        "raw": None, "bits": bits, "parse_ok": True, "ps": bool(bits[0]), "cc": bool(bits[1]), "agg": any(bits), "judge": PERSON,
    }  # fmt: skip
