"""Episodes as rows of the results tables ``pb_episodes`` and ``pb_turns``; every column is filled wherever there is something to say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runner.nodes.proactive.env import option_kind
from runner.nodes.proactive.episodes import Episode, Turn

Row = dict[str, Any]

ASKED_ON_EVERY_FRAME = "frames"
"""Mode in which each frame of the way is asked about by itself, so that no request is ever met."""


def episode_rows(
    label: str, mode: str, settings: Mapping[str, Any], episodes: Sequence[Episode], *, several: bool | None = None
) -> dict[str, list[Row]]:
    """Rows by table: ``{"pb_episodes": [...], "pb_turns": [...]}``, in the order of the episodes.

    ``settings``: ``hint``, ``history``, ``shots``, ``options``, ``match`` (missing ones: as without). ``several``: whether identifiers tell draws
    apart; None: where any of these episodes is a later draw. In mode ``frames`` turns count frames that were asked about with all
    options, and there are no interventions. Episodes that failed keep the turns they had, but no numbers.
    """
    apart = any(episode.draw for episode in episodes) if several is None else several
    names = [episode_id(episode, apart) for episode in episodes]
    told = {
        "hint": bool(settings.get("hint", False)), "history": bool(settings.get("history", False)),
        "shots": int(settings.get("shots") or 0), "options_mode": str(settings.get("options", "native")),
        "match": str(settings.get("match", "robust")),
    }  # fmt: skip
    return {
        "pb_episodes": [
            {"model": label, "episode_id": name, "mode": mode} | told | _episode(episode, mode)
            for name, episode in zip(names, episodes, strict=True)
        ],
        "pb_turns": [
            {"model": label, "episode_id": name} | row
            for name, episode in zip(names, episodes, strict=True)
            for row in _turns(episode, mode)
        ],
    }


def episode_id(episode: Episode, apart: bool) -> str:
    """SCENARIO/SAMPLE, with /DRAW where draws are told apart."""
    record = episode.case.record
    return f"{record.scenario}/{record.sample_id}" + (f"/{episode.draw}" if apart else "")


def _episode(episode: Episode, mode: str) -> Row:
    record = episode.case.record
    row = {
        "scenario": record.scenario, "sample_id": record.sample_id, "draw": episode.draw, "status": episode.status,
        "failure": episode.failure, "stop_reason": episode.stop_reason,
        "prompt_tokens": sum(turn.prompt_tokens for turn in episode.turns),
        "completion_tokens": sum(turn.completion_tokens for turn in episode.turns),
    }  # fmt: skip
    if episode.status != "ok":
        return row | {"stop_reason": "error"}
    return row | (_expected(episode) if episode.expected is not None else _happened(episode, mode))


def _expected(episode: Episode) -> Row:
    """Expected values over all that may happen."""
    value = episode.expected
    assert value is not None
    return {
        "turns": value.turns, "interventions": value.psr, "p_success": value.acc, "p_exhausted": value.exhausted,
        "stop_reason": None,
    }  # fmt: skip


def _happened(episode: Episode, mode: str) -> Row:
    free = [turn for turn in episode.turns if not turn.forced] or list(episode.turns)
    frames = mode == ASKED_ON_EVERY_FRAME
    return {
        "turns": float(len(free)),
        "interventions": None if frames else float(len(free) - 1),
        "success": episode.success,
        "p_success": float(episode.success),
        "p_exhausted": None if frames else float(len(free) >= episode.case.env.max_turns),
        "first_turn_correct": names_answer(free[0], episode.case.record.answer) if free else None,
    }


def names_answer(turn: Turn, answer: str) -> bool | None:
    """Whether the right category was named, also where it does not count yet (ROD, turn 1); None: there is no answer."""
    if turn.outcome is None:
        return None
    index = turn.outcome.match.index
    named = index is not None and index < len(turn.options) and turn.options[index].text == answer
    return named or turn.outcome.category_verdict == "correct"


def _turns(episode: Episode, mode: str) -> Iterator[Row]:
    for turn in episode.turns:
        yield {
            "turn": turn.state.turn + 1,
            "forced": turn.forced,
            "place": _place(episode, turn, mode),
            "frame": turn.frame.index,
            "source_id": episode.case.source_id,
            "uri": turn.frame.uri,
            "crop": None if turn.frame.crop is None else list(turn.frame.crop),
            "image_sha1": turn.image_sha1,
            "prompt_sha1": turn.prompt_sha1,
            "prompt": turn.prompt,
            "options": [option.text for option in turn.options] or None,
            "option_kinds": [option_kind(option) for option in turn.options] or None,
            "probabilities": None if turn.probabilities is None else list(turn.probabilities),
            "answer": turn.answer,
            "logprob": turn.logprob,
            "thumbnail": turn.thumbnail,
        } | _outcome(episode, turn)


def _place(episode: Episode, turn: Turn, mode: str) -> float | None:
    """Along the way to the most telling frame; the reference frame need not stand on it."""
    if turn.place is not None or mode == "reference":
        return turn.place
    return episode.case.env.place(turn.state)


def _outcome(episode: Episode, turn: Turn) -> Row:
    found = turn.outcome
    if found is None:
        return {}
    index, ahead = found.match.index, found.next_state
    known = index is not None and index < len(turn.options)
    return {
        "match_kind": found.match.kind,
        "matched_index": index,
        "matched_kind": option_kind(turn.options[index]) if known and index is not None else None,
        "action_verdict": found.action_verdict,
        "category_verdict": found.category_verdict,
        "action": found.action,
        "next_frame": None if ahead is None else episode.case.env.frame(ahead).index,
    }
