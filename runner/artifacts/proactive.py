"""Episodes in which a picture is not enough, and asking reveals more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from runner.steps import Artifact, Folder, Rows, Table


@dataclass(frozen=True)
class ProactiveSamples(Artifact):
    """Samples of the proactive scenarios.

    ``about``: ``{"name", "source" (``made``, ``published``), "scenarios": [keys in order], "licences": {scenario: text}, "notes": [...],
    "filter": text or None}``. ``corpus``: source specs from which the frames' bytes can be read (as in ``Datasets``). ``samples``, by
    scenario, then as found; ``record`` holds the sample in the published layout, ``uris`` its frames in order.
    """

    about: dict[str, Any]
    corpus: list[dict[str, Any]]
    samples: Annotated[Table, Rows("pb_samples")]


@dataclass(frozen=True)
class ProactiveEpisodes(Artifact):
    """Episodes of one model, scripted policy or person.

    ``model``: ``{"name", "identity", "kind" (``chat``, ``lvlm``, ``scripted``, ``person``), "small", "notes"}``; ``label``: how the results call
    it; ``settings``: everything else that changes the answers, ``mode`` among it.
    """

    model: dict[str, Any]
    label: str
    settings: dict[str, Any]
    episodes: Annotated[Table, Rows("pb_episodes")]
    turns: Annotated[Table, Rows("pb_turns")]
    judgements: Annotated[Table, Rows("pb_judgements")]


@dataclass(frozen=True)
class ProactiveScores(Artifact):
    """Scores of several models on the same samples, each beside the exact value of uniform guessing."""

    settings: dict[str, Any]
    metrics: Annotated[Table, Rows("pb_metrics")]
    by_turn: Annotated[Table, Rows("pb_by_turn")]
    curves: Annotated[Table, Rows("pb_curves")]
    compared: Annotated[Table, Rows("pb_compared")]


@dataclass(frozen=True)
class GrpoLvlm(Artifact):
    """A model trained to ask. ``adapter``: folder of peft on the model it was trained from; ``checkpoint``: the whole model with it merged
    (empty unless asked for). ``summary``: data, counts, seconds, last rewards."""

    adapter: Folder
    checkpoint: Folder
    steps: Annotated[Table, Rows("grpo_steps")]
    rollouts: Annotated[Table, Rows("grpo_rollouts")]
    summary: dict[str, Any]
