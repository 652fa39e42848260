"""Samples as rows of ``pb_samples``, and the cases that are played from them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from runner.data.sampling import sampled
from runner.errors import DataError
from runner.nodes.proactive.env import ProactiveEnv, make_env
from runner.nodes.proactive.episodes import Case
from runner.nodes.proactive.records import SCENARIOS, Record, frame_uris, parse_record, record_json

if TYPE_CHECKING:
    from runner.artifacts.proactive import ProactiveSamples

Row = dict[str, Any]


class SingleTurnEnv(ProactiveEnv):
    """A sample of which one frame is known, as the published training rows are: judged as ever, over after one answer."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.max_turns = 1


def sample_row(
    record: Record,
    *,
    source_id: str,
    split: str = "test",
    kept: bool = True,
    visible: Sequence[float] | None = None,
    drawn_with: str | None = None,
    max_turns: int | None = None,
) -> Row:
    """A row of ``pb_samples``. ``max_turns``: 1 where only one frame is known; None: as the scenario has it."""
    uris = frame_uris(record)
    return {
        "scenario": record.scenario, "sample_id": record.sample_id, "split": split, "question_type": question_type(record),
        "question": record.prompt, "answer": record.answer, "categories": [*record.categories], "options": [*record.options],
        "n_frames": record.num_images, "max_turns": max_turns or make_env(record).max_turns, "kept": kept,
        "probe_hits": None, "n_probes": None, "source_id": source_id, "uris": [*uris],
        "visible": None if visible is None else [*visible], "drawn_with": drawn_with,
        "record": json.dumps(record_json(record), ensure_ascii=False),
    }  # fmt: skip


_QUESTION_WORDS: Mapping[str, Sequence[tuple[str, Sequence[str]]]] = {
    "VSOD": (("number", ("how many", "number of")), ("speaker", ("speak", "who ", "name"))),
    "CIT": (("action", ("action", "doing", "happening", "performing")),),
}
_OTHER_QUESTIONS: Mapping[str, str] = {"VSOD": "event", "CIT": "object"}


def question_type(record: Record) -> str | None:
    """What a sample of VSOD (speaker, number, event) or CIT (action, object) asks about, by words of its question [ours: samples do
    not say]; None elsewhere."""
    question = record.prompt.casefold()
    for name, words in _QUESTION_WORDS.get(record.scenario, ()):
        if any(word in question for word in words):
            return name
    return _OTHER_QUESTIONS.get(record.scenario)


def record_of(row: Mapping[str, Any]) -> Record:
    """The sample of a row of ``pb_samples``."""
    return parse_record(row["scenario"], json.loads(row["record"]), sample_name(row))


def by_scenario(rows: Iterable[Row]) -> list[Row]:
    """Rows by scenario in their usual order, else as they come."""
    return sorted(rows, key=lambda row: SCENARIOS.index(row["scenario"]))


def cases_of(
    samples: ProactiveSamples,
    *,
    scenarios: Sequence[str] | None = None,
    split: str = "test",
    limit: int | None = None,
    seed: int = 0,
    **settings: Any,
) -> list[Case]:
    """The samples that the filter keeps, ready to be played: by scenario, at most ``limit`` of each, drawn by ``seed`` and sample.

    ``settings`` are ``make_env``'s (``mode``, ``match``, ``options``, ``hint``, ``texts``, ``rewards``); ``seed`` is its too.
    Raises ``DataError`` where a scenario or the whole split has no sample, or the most telling frame is to be shown of a sample of which
    one frame is known.
    """
    rows = chosen_rows(samples.samples.to_pylist(), scenarios, split, limit, seed)
    if settings.get("mode") == "reference":
        _refuse_single_frames(rows)
    return [case_of(row, seed=seed, **settings) for row in rows]


def _refuse_single_frames(rows: Iterable[Row]) -> None:
    single = (row for row in rows if row["max_turns"] == 1 and make_env(record_of(row)).max_turns > 1)
    first = next(single, None)
    if first is not None:
        raise DataError(
            f"of the sample {sample_name(first)} one frame is known, and not whether it is the most telling one: there is no reference to show",
            hint="play training rows with mode: mcqa, or name samples with all their frames",
        )


def case_of(row: Mapping[str, Any], **settings: Any) -> Case:
    """One row of ``pb_samples`` with its environment."""
    env = make_env(record_of(row), **settings)
    if row["max_turns"] == 1 and env.max_turns > 1:
        env = SingleTurnEnv(env.record, env.settings, env.texts)
    return Case(row["source_id"], env.record, env, row["drawn_with"], row["split"])


def chosen_rows(
    rows: Iterable[Row], scenarios: Sequence[str] | None, split: str, limit: int | None, seed: int
) -> list[Row]:
    """Kept rows of a split, by scenario, at most ``limit`` of each. Raises ``DataError`` where one that is asked for has none."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row["kept"] and row["split"] == split:
            found.setdefault(row["scenario"], []).append(row)
    missing = [name for name in scenarios or () if name not in found]
    if missing or not found:
        raise DataError(
            f"the samples have none of {' and '.join(missing) or 'any scenario'} that is kept in the split {split!r}",
            hint=f"There are kept samples of {', '.join(sorted(found)) or 'no scenario'} there; see `scenarios:`, `split:` and `filter:`.",
        )
    wanted = [name for name in SCENARIOS if name in (scenarios or found)]
    return [row for name in wanted for row in sampled(found[name], limit, seed, sample_name)]


def sample_name(row: Mapping[str, Any]) -> str:
    """``SCENARIO/SAMPLE``."""
    return f"{row['scenario']}/{row['sample_id']}"
